"""An unmount waits for what is to be stored, and for nothing else."""

from __future__ import annotations

from tests.limits import HANG_S
from tests.mount.accounts import Account
from tests.mount.harness import own_place
from tests.mount.waiting import wait_until
from tests.reliability.programs import noise, ran
from tests.reliability.sites import by_pamfs, openssh_site

MIB = 1 << 20


def test_reads_of_a_killed_program_hold_no_unmount_up(ordinary: Account) -> None:
    """The proxy freezes in the middle of a read, whose program is killed.

    The kernel reads ahead, and keeps these requests when the program has ended.
    """
    with (
        own_place(ordinary) as place,
        openssh_site(place) as site,
        by_pamfs(site) as mount,
    ):
        noise(mount.device / "f", 64 * MIB).chmod(0o644)
        assert ran(place, ["ls", mount.folder]).code == 0
        before = site.line.carried
        script: list[str | bytes] = [
            "sh",
            "-c",
            'exec cat "$0" >/dev/null',
            mount.there("f"),
        ]
        reader = place.open(script)
        try:
            wait_until(lambda: site.line.carried > before + MIB, "it reads")
            site.line.freeze()
        finally:
            reader.kill()
            reader.communicate(timeout=HANG_S)
        python = place.account.python
        done = ran(place, [python, "-m", "pamfs", "umount", mount.point], HANG_S)
        site.line.thaw()
        assert done.code == 0, done
        assert "the session was lost" not in mount.log.read_text()
