"""Whoever is not to be asked is not, and a terminal stays its own program's."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.limits import HANG_S
from tests.mount.accounts import Account
from tests.mount.harness import Place, own_place
from tests.mount.mounts import kill_all, processes_naming
from tests.mount.terminals import Seat, a_seat
from tests.mount.test_asking import (
    PINENTRIES,
    Asking,
    answer_all,
    answer_plainly,
    asking,
    running,
)
from tests.mount.waiting import wait_until

NOBODY = 65534  # a second account, on every Linux


@contextmanager
def shared(place: Place) -> Iterator[tuple[Asking, Place]]:
    """Mount with ``allow_other``; yield it, and the place of another user."""
    account = place.account
    other = Account("nobody", NOBODY, NOBODY, account.python, account.python_path)
    options = ("allow_other",)
    with asking(place, "pinentry-tty", "", *options) as made, own_place(other) as far:
        place.folder.chmod(0o755)
        yield made, far


pytestmark = pytest.mark.skipif(
    os.getuid() != 0, reason="needs root, to be somebody else"
)


def test_another_users_program_is_not_asked_and_refused_at_once(place: Place) -> None:
    with shared(place) as (made, far), a_seat(far) as seat:
        ls = seat.start(["ls", made.folder()])
        seat.read_until(b"Permission denied")
        assert ls.wait(HANG_S) != 0
        assert b"alice" not in seat.seen + seat.read_rest()
        assert made.prompts() == []
        # It was refused here, and not by the kernel.
        assert "nobody can be asked" in made.last_error()
        assert made.lab.events("connection") == []


XATTRS = """
import os, sys
for path in sys.argv[1:]:
    print(*os.listxattr(path))
    try:
        print(os.getxattr(path, "user.pamfs.state"))
    except OSError as exc:
        print(exc.strerror)
"""


def test_another_user_sees_nothing_of_sessions_and_commands_none(place: Place) -> None:
    with shared(place) as (made, far):
        (daemon,) = made.mount.daemons()
        folder = made.folder().removesuffix(b"/etc")
        assert b"user.pamfs.state" in place.python(XATTRS, folder)
        told = far.python(XATTRS, folder, made.mount.point)
        assert told.split(b"\n") == [b"", b"No data available"] * 2 + [b""]
        for command in ("lock", "unlock", "status", "umount", "agent"):
            done = far.pamfs(command, made.mount.point)
            assert done.code == 1, done.text
            assert f"mounted by uid {place.account.uid}, not by you" in done.text
        assert made.mount.daemons() == {daemon}


def test_the_owner_is_asked_although_another_was_refused_just_now(
    place: Place,
) -> None:
    with shared(place) as (made, far), a_seat(far) as theirs, a_seat(place) as ours:
        assert theirs.start(["ls", made.folder()]).wait(HANG_S) != 0
        assert made.state() == "cooling"
        ls = ours.start(["ls", made.folder()])
        answer_all(ours, made)
        ours.read_until(b"hostname")
        assert ls.wait(HANG_S) == 0
        assert b"alice" not in theirs.read_rest()
        # What is open is open for everybody whom the mount lets in.
        again = theirs.start(["ls", made.folder()])
        theirs.read_until(b"hostname")
        assert again.wait(HANG_S) == 0
    assert len(made.lab.events("auth_ok")) == 1


@pytest.fixture(params=PINENTRIES)
def both(request: pytest.FixtureRequest, place: Place) -> Iterator[Asking]:
    with asking(place, request.param) as made:
        yield made


def stat_of(pid: int) -> list[str]:
    """Return state, parent, group, session, terminal, foreground group, ..."""
    text = Path(f"/proc/{pid}/stat").read_text()
    return text.rpartition(")")[2].split()


def wait_for_prompt(seat: Seat, made: Asking) -> int:
    seat.read_until(b"alice:")
    wait_until(made.prompts, "a pinentry asks")
    (pid,) = made.prompts()
    return pid


def test_who_waits_for_an_answer_can_be_killed(both: Asking) -> None:
    with a_seat(both.place) as seat:
        ls = seat.start(["ls", both.folder()])
        wait_for_prompt(seat, both)
        assert {stat_of(ls.pid)[0] for _ in range(200)} == {"S"}
        ls.send_signal(signal.SIGKILL)
        # Until its request is answered the kernel lets it go to no grave: so it is.
        assert ls.wait(HANG_S) == -signal.SIGKILL
        assert not Path(f"/proc/{ls.pid}").exists()
        wait_until(lambda: not both.prompts(), "the prompt closes")


def test_a_pinentry_takes_no_terminal_away(both: Asking) -> None:
    with a_seat(both.place) as seat:
        ls = seat.start(["ls", both.folder()])
        pinentry = wait_for_prompt(seat, both)
        _, _, _, session, terminal, *_ = stat_of(pinentry)
        assert session != str(pinentry)
        assert terminal == "0"
        _, _, group, _, _, foreground, *_ = stat_of(ls.pid)
        assert foreground == group
        seat.type("\x03")
        ls.wait(HANG_S)


@contextmanager
def no_mount_left(point: Path) -> Iterator[None]:
    """Take down what a failed test leaves mounted on ``point``."""
    try:
        yield
    finally:
        command = ["fusermount3", "-uzq", str(point)]
        subprocess.run(command, check=False, timeout=HANG_S)
        kill_all(processes_naming(point))


BACKGROUND = """\
{python} -m pamfs mount --foreground --config {config} {point} & mount=$!
until {python} -m pamfs status {point} >/dev/null 2>&1; do sleep 0.1; done
ls {folder}
echo code $?
{python} -m pamfs umount {point}
wait $mount
echo ended $?
"""


def test_a_mount_in_the_background_of_the_terminal_it_asks_on_goes_on(
    both: Asking,
) -> None:
    """Its own terminal stops whoever writes or reads there from the background."""
    point = both.place.folder / "second"
    point.mkdir()
    os.chown(point, both.place.account.uid, both.place.account.gid)
    script = BACKGROUND.format(
        python=both.place.account.python,
        config=both.lab.folder / "asking.toml",
        point=point,
        folder=os.fsdecode(both.folder()).replace(str(both.mount.point), str(point)),
    )
    with no_mount_left(point), a_seat(both.place) as seat:
        before = seat.modes()
        shell = seat.start(["sh", "-mc", script])
        seat.read_until(b"alice:")
        seat.type(f"{both.password()}\r")
        seat.read_until(b"code")
        seat.read_until(b"alice:")
        seat.type(f"{both.code()}\r")
        seat.read_until(b"eason")
        seat.type("ticket 4711\r")
        seat.read_until(b"hostname")
        seat.read_until(b"code 0")
        seat.read_until(b"ended 0")
        assert shell.wait(HANG_S) == 0
        assert seat.modes() == before
    assert len(both.lab.events("auth_ok")) == 1


@pytest.mark.parametrize("shell", ["exec ", ""], ids=["leader", "member"])
def test_a_mount_in_front_asks_on_its_own_terminal_and_ends_by_ctrl_c(
    shell: str, place: Place
) -> None:
    with asking(place, "pinentry-tty") as made:
        point = place.folder / "second"
        point.mkdir()
        os.chown(point, place.account.uid, place.account.gid)
        config = made.lab.folder / "asking.toml"
        line = f"{shell}{place.account.python} -m pamfs mount --foreground"
        line += f" --config {config} {point}; echo ended $?"
        far = os.fsdecode(made.folder()).replace(str(made.mount.point), str(point))
        with no_mount_left(point), a_seat(place) as seat:
            mount = seat.start(["sh", "-c", line])
            wait_until(lambda: place.pamfs("status", point).code == 0, "it is mounted")
            with running(place, ["ls", far]) as ls:
                answer_plainly(seat, made)
                assert ls.communicate(timeout=HANG_S)[0] == b"hostname\n"
            seat.type("\x03")
            assert mount.wait(HANG_S) in {0, 130, -2}
            assert place.pamfs("status", point).code == 7
    assert len(made.lab.events("auth_ok")) == 1
