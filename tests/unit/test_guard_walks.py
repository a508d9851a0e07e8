"""What is a walk, told as what programs do one after the other."""

from __future__ import annotations

import pytest
import trio
from trio.testing import MockClock

from pamfs.model import Caller, Target
from tests.conftest import LogLedger
from tests.fakes.guarded import WEB03, Site
from tests.fakes.tenants import WEB01, WEB02


@pytest.fixture
def site() -> Site:
    return Site()


@pytest.fixture
def refusals(expect_log: LogLedger) -> LogLedger:
    """Announce that the log will name a refusal."""
    expect_log("not opened for")
    return expect_log


@pytest.fixture
def shell(site: Site) -> Caller:
    """Return a shell that a person types into."""
    return site.machine.run("-bash", terminal=True)


@pytest.fixture
def script(site: Site) -> Caller:
    """Return a shell that runs a script at a terminal."""
    login = site.machine.run("-bash", terminal=True)
    return site.machine.run("bash", "/home/alice/nightly.sh", parent=login)


# -- walks -------------------------------------------------------------------------


@pytest.mark.usefixtures("refusals")
@pytest.mark.parametrize("program", ["find", "du", "grep", "nightly"])
async def test_who_lists_and_enters_at_once_walks(
    site: Site, program: str, autojump_clock: MockClock
) -> None:
    walker = site.machine.run(program)
    site.lists(walker)
    for target in (WEB01, WEB02, WEB03):
        await trio.sleep(0.01)
        assert not await site.enters(walker, target)


async def test_who_lists_and_looks_first_enters(
    site: Site, autojump_clock: MockClock
) -> None:
    files = site.machine.run("nautilus")
    for target in (WEB01, WEB02):
        site.lists(files)
        await trio.sleep(1.5)
        assert await site.enters(files, target)
        await trio.sleep(3)


@pytest.mark.usefixtures("refusals")
async def test_a_person_who_was_too_quick_once_may_try_again(
    site: Site, autojump_clock: MockClock
) -> None:
    files = site.machine.run("nautilus")
    site.lists(files)
    for _ in range(2):
        await trio.sleep(0.6)
        assert not await site.enters(files)
    await trio.sleep(0.6)
    assert await site.enters(files)


@pytest.mark.usefixtures("refusals")
async def test_a_walk_that_goes_on_is_no_pause(
    site: Site, autojump_clock: MockClock
) -> None:
    """Counting entries of each folder takes longer than a pause in the end."""
    files = site.machine.run("nautilus")
    site.lists(files)
    for number in range(20):
        await trio.sleep(0.3)
        target = Target("acme", "root", f"web{number:02}")
        assert not await site.enters(files, target)


@pytest.mark.usefixtures("refusals")
async def test_a_walk_through_an_open_target_goes_on_behind_it(
    site: Site, autojump_clock: MockClock
) -> None:
    walker = site.machine.run("python3", "walk.py")
    site.lists(walker)
    for _ in range(20):
        await trio.sleep(0.5)
        site.guard.arrives(walker)
        await trio.sleep(5)  # the device takes its time
        site.guard.leaves(walker)
    assert not await site.enters(walker, WEB02)


async def test_long_work_in_an_open_target_makes_nobody_a_walker(
    site: Site, autojump_clock: MockClock
) -> None:
    files = site.machine.run("nautilus")
    site.lists(files)
    await trio.sleep(1.5)
    for _ in range(20):
        site.guard.arrives(files)
        await trio.sleep(0.5)
        site.guard.leaves(files)
    assert await site.enters(files, WEB02)


@pytest.mark.usefixtures("refusals")
@pytest.mark.parametrize("program", ["find", "du", "grep", "rsync", "restic"])
async def test_no_pause_makes_a_person_of_find(
    site: Site, program: str, autojump_clock: MockClock
) -> None:
    walker = site.machine.run(program)
    site.lists(walker)
    await trio.sleep(100)  # a pager holds its output up
    assert not await site.enters(walker)


async def test_find_in_a_target_of_its_own_is_no_walk(
    site: Site, autojump_clock: MockClock
) -> None:
    assert await site.enters(site.machine.run("find", "/mnt/acme/root@web01"))


async def test_another_process_with_the_same_number_is_another(
    site: Site, autojump_clock: MockClock
) -> None:
    walker = site.machine.run("find")
    site.lists(walker)
    await trio.sleep(2)
    site.machine.end(walker)
    assert await site.enters(walker)


@pytest.mark.usefixtures("refusals")
async def test_what_find_starts_walks_with_it(
    site: Site, autojump_clock: MockClock
) -> None:
    find = site.machine.run("find", "/mnt", "-exec", "cat", "{}", ";")
    site.lists(find)
    for target in (WEB01, WEB02):
        cat = site.machine.child(find, "cat", str(target))
        assert not await site.enters(cat, target)


@pytest.mark.usefixtures("refusals")
async def test_what_find_feeds_walks_with_it(
    site: Site, shell: Caller, autojump_clock: MockClock
) -> None:
    find = site.machine.run("find", "/mnt", parent=shell)
    xargs = site.machine.run("xargs", "cat", parent=shell, job=find)
    site.lists(find)
    for target in (WEB01, WEB02):
        cat = site.machine.child(xargs, "cat", str(target))
        assert not await site.enters(cat, target)
        await trio.sleep(0.8)


@pytest.mark.usefixtures("refusals")
async def test_the_loop_of_a_script_is_a_walk(
    site: Site, script: Caller, autojump_clock: MockClock
) -> None:
    site.lists(script)  # for d in /mnt/acme/*
    for target in (WEB01, WEB02):
        cat = site.machine.child(script, "cat", str(target))
        assert not await site.enters(cat, target)


@pytest.mark.usefixtures("refusals")
async def test_a_script_that_looks_enters_one_target(
    site: Site, script: Caller, autojump_clock: MockClock
) -> None:
    site.lists(site.machine.child(script, "ls", "/mnt/acme"))
    let_in = []
    for target in (WEB01, WEB02, WEB03):
        cat = site.machine.child(script, "cat", str(target))
        let_in.append(await site.enters(cat, target, takes_s=5))
    assert let_in == [True, False, False]


async def test_a_script_enters_target_after_target_by_name(
    site: Site, script: Caller, autojump_clock: MockClock
) -> None:
    for target in (WEB01, WEB02, WEB03):
        cat = site.machine.child(script, "cat", f"/mnt/{target}/etc/motd")
        assert await site.enters(cat, target)


# -- a person at a shell -----------------------------------------------------------


async def test_a_completed_name_can_be_entered_at_once(
    site: Site, shell: Caller, autojump_clock: MockClock
) -> None:
    site.lists(shell)  # ls /mnt/acme/<TAB>
    await trio.sleep(0.1)
    ls = site.machine.run("ls", "/mnt/acme/root@web01/", parent=shell)
    assert await site.enters(ls, takes_s=20)


async def test_a_shell_may_enter_what_it_completed(
    site: Site, shell: Caller, autojump_clock: MockClock
) -> None:
    site.lists(shell)
    await trio.sleep(0.1)
    assert await site.enters(shell)  # cd /mnt/acme/root@web01/etc


async def test_command_after_command_may_enter_target_after_target(
    site: Site, shell: Caller, autojump_clock: MockClock
) -> None:
    for target in (WEB01, WEB02, WEB03):
        await trio.sleep(1.2)
        site.lists(shell)
        await trio.sleep(0.2)
        cat = site.machine.run("cat", str(target), parent=shell)
        assert await site.enters(cat, target, takes_s=5)


async def test_a_person_may_change_from_target_to_target(
    site: Site, shell: Caller, autojump_clock: MockClock
) -> None:
    for target in (WEB01, WEB02, WEB03):
        assert await site.enters(shell, target)  # cd /mnt/acme/root@web01/etc
        await trio.sleep(1.5)


@pytest.mark.usefixtures("refusals")
async def test_a_loop_typed_into_a_shell_enters_one_target(
    site: Site, shell: Caller, autojump_clock: MockClock
) -> None:
    site.lists(shell)  # for d in /mnt/acme/*; do cat $d/etc/motd; done
    let_in = []
    for target in (WEB01, WEB02, WEB03):
        cat = site.machine.run("cat", str(target), parent=shell)
        let_in.append(await site.enters(cat, target, takes_s=20))
    assert let_in == [True, False, False]


@pytest.mark.usefixtures("refusals")
async def test_a_pattern_typed_into_a_shell_enters_one_target(
    site: Site, shell: Caller, autojump_clock: MockClock
) -> None:
    site.lists(shell)  # cat /mnt/acme/*/etc/motd
    let_in = [await site.enters(shell, target) for target in (WEB01, WEB02, WEB03)]
    assert let_in == [True, False, False]


@pytest.mark.parametrize(
    "command", [("bash", "-c", "for d in *"), ("bash", "walk.sh"), ("bash",)]
)
async def test_a_shell_without_a_person_walks_like_any_other(
    site: Site, refusals: LogLedger, command: tuple[str, ...], autojump_clock: MockClock
) -> None:
    del refusals
    has_terminal = len(command) > 1
    login = site.machine.run("-bash", terminal=has_terminal)
    walker = site.machine.run(*command, parent=login)
    site.lists(walker)
    assert not await site.enters(walker)


# -- several targets at once ---------------------------------------------------------


async def test_a_copy_from_target_to_target_enters_both(
    site: Site, autojump_clock: MockClock
) -> None:
    paths = [f"/mnt/{target}/f" for target in (WEB01, WEB02)]
    cp = site.machine.run("cp", *paths)
    assert await site.enters(cp, WEB01)
    assert await site.enters(cp, WEB02)


async def test_a_backup_enters_all_that_it_was_told_of(
    site: Site, autojump_clock: MockClock
) -> None:
    targets = (WEB01, WEB02, WEB03)
    restic = site.machine.run("restic", *[f"/mnt/{target}" for target in targets])
    for target in targets:
        assert await site.enters(restic, target)


@pytest.mark.usefixtures("refusals")
async def test_who_enters_a_second_target_unasked_is_refused(
    site: Site, autojump_clock: MockClock
) -> None:
    """A file dialog looks at everything that was opened recently."""
    dialog = site.machine.run("gedit")
    assert await site.enters(dialog, WEB01, takes_s=20)
    assert not await site.enters(dialog, WEB02)
    assert await site.enters(dialog, WEB01)
    await trio.sleep(4)
    assert await site.enters(dialog, WEB02)


async def test_what_an_ended_process_entered_is_not_held_against_the_next(
    site: Site, autojump_clock: MockClock
) -> None:
    program = site.machine.run("gedit")
    assert await site.enters(program, WEB01)
    site.machine.end(program)
    assert await site.enters(program, WEB02)
