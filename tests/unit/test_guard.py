"""Who may open a closed target: programs, what is allowed, what is told."""

from __future__ import annotations

import logging
import shlex

import pytest
import trio
from trio.testing import MockClock

from pamfs.config import Guarding
from pamfs.config.tables import REFUSED_PROGRAMS
from pamfs.errors import GuardRefusedError
from pamfs.model import Caller, Target
from pamfs.sessions.guard import KEPT, QUIET_S
from tests.conftest import LogLedger
from tests.fakes.dialer import FakeDialer
from tests.fakes.guarded import WEB03, Site
from tests.fakes.pools import pool_of
from tests.fakes.tenants import WEB01, WEB02


@pytest.fixture
def site() -> Site:
    return Site()


@pytest.fixture
def refusals(expect_log: LogLedger) -> LogLedger:
    """Announce that the log will name a refusal."""
    expect_log("not opened for")
    return expect_log


# -- programs that never may -----------------------------------------------------


@pytest.mark.usefixtures("refusals")
@pytest.mark.parametrize(
    "program",
    [
        "updatedb",
        "updatedb.mlocate",
        "updatedb.plocate",
        "plocate",
        "tracker-miner-fs-3",
        "tracker-extract-3",
        "localsearch-3",
        "localsearch-extractor-3",
        "baloo_file",
        "baloo_file_extractor",
        "ffmpegthumbnailer",
        "totem-video-thumbnailer",
        "gdk-pixbuf-thumbnailer",
        "tumblerd",
        "gvfsd-trash",
        "gvfsd-metadata",
        "gvfs-udisks2-volume-monitor",
        "systemd-tmpfiles",
        "systemd-userwork",
        "df",
        "starship",
    ],
)
async def test_a_crawler_opens_nothing(
    site: Site, program: str, autojump_clock: MockClock
) -> None:
    assert not await site.enters(site.machine.run(program))


@pytest.mark.usefixtures("refusals")
async def test_a_name_that_the_kernel_cut_is_still_known(
    site: Site, autojump_clock: MockClock
) -> None:
    caller = site.machine.run("gvfs-udisks2-volume-monitor")
    site.machine.command_lines.clear()
    assert site.machine.find(caller.pid).names == ("gvfs-udisks2-vo",)
    assert not await site.enters(caller)


@pytest.mark.usefixtures("refusals")
async def test_a_crawler_written_in_python_is_known_by_its_own_name(
    site: Site, autojump_clock: MockClock
) -> None:
    for start in (
        ("python3", "/usr/bin/cover-thumbnailer", "in"),
        ("/usr/bin/kioworker", "/usr/lib/qt6/plugins/kf6/kio/thumbnail.so", "x"),
    ):
        assert not await site.enters(site.machine.run(*start))
    assert await site.enters(site.machine.run("python3", "-m", "thumbnail"), WEB02)


@pytest.mark.usefixtures("refusals")
async def test_what_a_crawler_starts_is_the_crawlers(
    site: Site, autojump_clock: MockClock
) -> None:
    tumbler = site.machine.run("tumblerd")
    helper = site.machine.run("sh", "-c", "convert x", parent=tumbler)
    assert not await site.enters(site.machine.run("convert", parent=helper))
    (refusal,) = site.guard.refusals()
    assert refusal.why == "tumblerd, which started it, never opens a target"


@pytest.mark.parametrize("program", ["systemd-run", "systemd-inhibit", "systemd-cat"])
async def test_who_only_starts_a_program_is_no_crawler(
    site: Site, program: str, autojump_clock: MockClock
) -> None:
    starter = site.machine.run(program)
    assert await site.enters(site.machine.run("restic", parent=starter))


async def test_a_service_is_no_crawler_because_systemd_started_it(
    site: Site, autojump_clock: MockClock
) -> None:
    systemd = site.machine.run("systemd")
    assert await site.enters(site.machine.run("restic", "backup", parent=systemd))


@pytest.mark.parametrize("program", ["cat", "vim", "nautilus", "restic", "sshd", "du"])
async def test_any_other_program_enters(
    site: Site, program: str, autojump_clock: MockClock
) -> None:
    assert await site.enters(site.machine.run(program))


async def test_who_cannot_be_seen_enters_and_is_judged_by_what_it_does(
    site: Site, refusals: LogLedger, autojump_clock: MockClock
) -> None:
    del refusals
    unseen = Caller(pid=0, uid=1000, gid=1000)
    assert await site.enters(unseen)
    await trio.sleep(10)
    site.lists(unseen)
    assert not await site.enters(unseen, WEB02)


@pytest.mark.usefixtures("refusals")
async def test_both_lists_can_be_changed(autojump_clock: MockClock) -> None:
    site = Site(
        Guarding(
            refused_programs=(*REFUSED_PROGRAMS, "cat"),
            allowed_programs=("tumblerd",),
        )
    )
    assert not await site.enters(site.machine.run("cat"))
    assert not await site.enters(site.machine.run("updatedb"))
    tumbler = site.machine.run("tumblerd")
    assert await site.enters(tumbler)
    assert await site.enters(site.machine.run("sh", parent=tumbler), WEB02)


async def test_an_allowed_program_may_be_started_by_anybody(
    autojump_clock: MockClock,
) -> None:
    site = Site(Guarding(allowed_programs=("convert",)))
    tumbler = site.machine.run("tumblerd")
    assert await site.enters(site.machine.run("convert", parent=tumbler))


# -- what was allowed ----------------------------------------------------------------


@pytest.mark.parametrize("may_walk", [("*",), ("find",), ("f?nd", "du")])
async def test_a_walk_that_is_allowed_enters_all(
    may_walk: tuple[str, ...], autojump_clock: MockClock
) -> None:
    site = Site(Guarding(may_walk=may_walk))
    find = site.machine.run("find")
    site.lists(find)
    for target in (WEB01, WEB02):
        cat = site.machine.child(find, "cat", str(target))
        assert await site.enters(cat, target)
        assert await site.enters(find, target)


async def test_everybody_is_also_who_cannot_be_seen(autojump_clock: MockClock) -> None:
    site = Site(Guarding(may_walk=("*",)))
    unseen = Caller(pid=0, uid=1000, gid=1000)
    site.lists(unseen)
    assert await site.enters(unseen)


@pytest.mark.usefixtures("refusals")
async def test_what_one_program_may_another_may_not(autojump_clock: MockClock) -> None:
    site = Site(Guarding(may_walk=("restic",)))
    find = site.machine.run("find")
    site.lists(find)
    assert not await site.enters(find)


@pytest.mark.usefixtures("refusals")
async def test_a_crawler_that_may_walk_is_a_crawler_all_the_same(
    autojump_clock: MockClock,
) -> None:
    site = Site(Guarding(may_walk=("*",)))
    assert not await site.enters(site.machine.run("updatedb"))


# -- what is told --------------------------------------------------------------------


async def test_a_refusal_says_who_why_and_what_to_do(
    site: Site, expect_log: LogLedger, autojump_clock: MockClock
) -> None:
    walker = site.machine.run("find")
    expect_log(
        rf"^acme/root@web01: not opened for find \(pid {walker.pid}\): it walks"
        r" through the targets of acme \(pamfs unlock /mnt/acme/root@web01, or"
        r' \[guard\] traversal = \["find"\]\)$'
    )
    site.lists(walker)
    for target in (WEB01, WEB02):
        assert not await site.enters(walker, target)
    (refusal,) = site.guard.refusals()
    assert (refusal.program, refusal.pid, refusal.uid) == ("find", walker.pid, 1000)
    assert (refusal.at, refusal.times) == (trio.current_time(), 2)
    assert refusal.target == str(WEB02)
    assert refusal.why == "it walks through the targets of acme"
    assert 'traversal = ["find"]' in refusal.how
    assert "pamfs unlock /mnt/acme/root@web02" in refusal.how
    assert [event for event, _ in site.records.kept] == ["guard_refused"] * 2
    assert site.records.kept[0][1] == {
        "target": str(WEB01),
        "program": "find",
        "pid": walker.pid,
        "uid": 1000,
        "why": "it walks through the targets of acme",
    }


@pytest.mark.usefixtures("refusals")
async def test_what_to_do_can_be_pasted_into_a_shell(
    autojump_clock: MockClock,
) -> None:
    site = Site()
    walker = site.machine.run("find")
    backup = Target("acme", "svc-backup", "fs02", "corp", "ssh", 2222)
    site.lists(walker)
    assert not await site.enters(walker, backup)
    (refusal,) = site.guard.refusals()
    line, _, _ = refusal.how.partition(", or [guard]")
    where = r"/mnt/acme/corp\svc-backup@fs02{ssh.2222}"
    assert shlex.split(line) == ["pamfs", "unlock", where]


@pytest.mark.usefixtures("refusals")
async def test_only_the_last_refusals_are_kept(
    site: Site, autojump_clock: MockClock
) -> None:
    for number in range(KEPT + 3):
        await site.enters(site.machine.run(f"updatedb{number}"))
    kept = [refusal.program for refusal in site.guard.refusals()]
    assert kept == [f"updatedb{number}" for number in range(3, KEPT + 3)]


async def test_the_log_names_a_program_once_and_again_after_a_while(
    site: Site,
    refusals: LogLedger,
    caplog: pytest.LogCaptureFixture,
    autojump_clock: MockClock,
) -> None:
    del refusals
    for wait_s in (1, 1, QUIET_S + 1, 1):
        await trio.sleep(wait_s)
        await site.enters(site.machine.run("df"))
    named = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert len(named) == 2
    assert [refusal.times for refusal in site.guard.refusals()] == [4]


@pytest.mark.usefixtures("refusals")
async def test_a_name_cannot_forge_a_line_of_the_log(
    site: Site, autojump_clock: MockClock
) -> None:
    caller = site.machine.run("df")
    site.machine.command_lines[caller.pid] = [b"df\n\x1b[31mroot"]
    await site.enters(caller)
    assert site.guard.refusals()[0].program == "df??[31mroot"


# -- in the pool -----------------------------------------------------------------------


@pytest.mark.usefixtures("refusals")
async def test_what_is_open_is_served_to_everybody(
    site: Site, autojump_clock: MockClock
) -> None:
    dialer = FakeDialer()
    crawler, cat = site.machine.run("tumblerd"), site.machine.run("cat")
    async with pool_of(dialer) as pool:
        pool.guard_with(site.guard)
        with pytest.raises(GuardRefusedError):
            async with pool.lend(WEB01, crawler):
                pass
        assert dialer.dials == 0
        for caller in (cat, crawler):
            async with pool.lend(WEB01, caller) as tree:
                assert tree is dialer.links[0].tree
        assert dialer.dials == 1
        with pytest.raises(GuardRefusedError):
            async with pool.lend(WEB02, crawler):
                pass
        assert [refusal.pid for refusal in pool.refusals()] == [crawler.pid]


@pytest.mark.usefixtures("refusals")
async def test_a_walk_is_refused_before_and_after_a_target_is_open(
    site: Site, autojump_clock: MockClock
) -> None:
    dialer = FakeDialer()
    async with pool_of(dialer) as pool:
        pool.guard_with(site.guard)
        async with pool.lend(WEB02, site.machine.run("cat")):
            pass
        find = site.machine.run("find")
        pool.note_listing("acme", find)
        for target in (WEB01, WEB02, WEB03):
            try:
                async with pool.lend(target, find):
                    assert target is WEB02
            except GuardRefusedError:
                assert target is not WEB02
        assert dialer.dials == 1


@pytest.mark.parametrize(("looks_s", "enters"), [(0.5, False), (1.5, True)])
async def test_time_in_an_open_target_is_no_pause_and_no_walk_of_its_own(
    site: Site,
    expect_log: LogLedger,
    autojump_clock: MockClock,
    *,
    looks_s: float,
    enters: bool,
) -> None:
    if not enters:
        expect_log("not opened for nautilus")
    dialer = FakeDialer()
    files = site.machine.run("nautilus")
    async with pool_of(dialer) as pool:
        pool.guard_with(site.guard)
        async with pool.lend(WEB01, site.machine.run("cat")):
            pass
        pool.note_listing("acme", files)
        await trio.sleep(looks_s)
        async with pool.lend(WEB01, files):
            await trio.sleep(5)
        try:
            async with pool.lend(WEB02, files):
                assert enters
        except GuardRefusedError:
            assert not enters
        assert dialer.dials == 1 + enters


@pytest.mark.usefixtures("refusals")
async def test_a_refusal_does_not_make_a_target_cool_down(
    site: Site, autojump_clock: MockClock
) -> None:
    dialer = FakeDialer()
    async with pool_of(dialer) as pool:
        pool.guard_with(site.guard)
        with pytest.raises(GuardRefusedError):
            async with pool.lend(WEB01, site.machine.run("df")):
                pass
        async with pool.lend(WEB01, site.machine.run("cat")):
            pass
        assert dialer.dials == 1
