"""Whoever touches a closed target is asked, on the very terminal it was done on."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import pyotp
import pytest

from tests.limits import HANG_S
from tests.mount.harness import Command, Place
from tests.mount.mounts import Lab, Mount, mounted, running_lab
from tests.mount.secret_search import assert_holds_no_secret, now_s, secrets_of
from tests.mount.terminals import Seat, a_seat, children_of
from tests.mount.waiting import wait_until

WITH_REASON = b"root@audit01"
PINENTRIES = ("pinentry-curses", "pinentry-tty")


@dataclass(frozen=True)
class Asking:
    """A mount that has everything to ask."""

    place: Place
    lab: Lab
    mount: Mount
    pinentry: str

    def folder(self) -> bytes:
        return self.mount.path(b"acme", WITH_REASON, b"etc")

    def operator(self) -> dict[str, object]:
        tenants = self.lab.facts["tenants"]
        assert isinstance(tenants, dict)
        found: dict[str, object] = next(iter(tenants["acme"]["operators"].values()))
        return found

    def password(self) -> str:
        return str(self.operator()["password"])

    def code(self) -> str:
        return pyotp.TOTP(str(self.operator()["seed"])).at(datetime.now(UTC))

    def prompts(self) -> list[int]:
        return children_of(self.mount.daemons(), self.pinentry)

    def state(self) -> object:
        targets = self.mount.status()["targets"]
        assert isinstance(targets, list)
        return targets[0]["state"] if targets else None

    def waiting(self) -> int:
        """Return how many programs wait in the kernel for this mount."""
        done = self.place.run(["sh", "-c", "ps -eo stat,args"]).decode()
        folder = self.folder().decode()
        rows = [line.split(None, 1) for line in done.splitlines()]
        return sum(
            1 for stat, args in rows if stat[0] in "DS" and args == f"ls {folder}"
        )

    def last_error(self) -> str:
        targets = self.mount.status()["targets"]
        assert isinstance(targets, list)
        return str(targets[0]["last_error"])


@contextmanager
def asking(
    place: Place, pinentry: str, more: str = "", *options: str
) -> Iterator[Asking]:
    """Mount a new lab that asks for password, code and reason."""
    with running_lab(place) as lab:
        config = lab.folder / "asking.toml"
        text = (lab.folder / "config-prompt.toml").read_text()
        config.write_text(f'{text}\n[prompts]\npinentry = "{pinentry}"\n{more}')
        config.chmod(0o600)
        os.chown(config, place.account.uid, place.account.gid)
        with mounted(place, config, *options) as mount:
            yield Asking(place, lab, mount, pinentry)


@pytest.fixture(params=PINENTRIES)
def both(request: pytest.FixtureRequest, place: Place) -> Iterator[Asking]:
    with asking(place, request.param) as made:
        yield made


@pytest.fixture
def one(place: Place) -> Iterator[Asking]:
    with asking(place, "pinentry-tty") as made:
        yield made


def answer_all(seat: Seat, made: Asking) -> None:
    seat.read_until(b"alice:")
    wait_until(made.prompts, "a pinentry asks")
    seat.type(f"{made.password()}\r")
    seat.read_until(b"code")
    seat.read_until(b"alice:")
    seat.type(f"{made.code()}\r")
    seat.read_until(b"eason")
    seat.type("ticket 4711\r")


def test_ls_is_asked_on_its_own_terminal_and_then_lists(both: Asking) -> None:
    with a_seat(both.place) as seat:
        before = seat.modes()
        ls = seat.start(["ls", both.folder()])
        answer_all(seat, both)
        seat.read_until(b"hostname")
        assert ls.wait(HANG_S) == 0
        assert seat.modes() == before
        assert both.password().encode() not in seat.read_rest()
    assert len(both.lab.events("auth_ok")) == 1
    assert both.prompts() == []


def test_ctrl_c_at_the_prompt_returns_to_the_shell_at_once(both: Asking) -> None:
    with a_seat(both.place) as seat:
        before = seat.modes()
        ls = seat.start(["ls", both.folder()])
        seat.read_until(b"alice:")
        wait_until(both.prompts, "a pinentry asks")
        seat.type("\x03")
        assert ls.wait(HANG_S) != 0
        assert seat.modes() == before
        wait_until(lambda: not both.prompts(), "the prompt closes")
    assert both.lab.events("connection") == []
    assert both.state() == "absent"


def test_a_killed_caller_takes_the_prompt_along(both: Asking) -> None:
    with a_seat(both.place) as seat:
        before = seat.modes()
        ls = seat.start(["ls", both.folder()])
        seat.read_until(b"alice:")
        wait_until(both.prompts, "a pinentry asks")
        ls.send_signal(signal.SIGKILL)
        assert ls.wait(HANG_S) == -signal.SIGKILL
        wait_until(lambda: not both.prompts(), "the prompt closes")
        assert seat.modes() == before
    assert both.lab.events("connection") == []


def test_a_pinentry_that_is_killed_gives_its_screen_back(place: Place) -> None:
    with asking(place, "pinentry-curses") as made, a_seat(place) as seat:
        before = seat.modes()
        ls = seat.start(["ls", made.folder()])
        seat.read_until(b"\x1b[?1049h")
        seat.read_until(b"alice:")
        os.kill(made.prompts()[0], signal.SIGKILL)
        for undone in (b"\x1b[?1049l", b"\x1b[?1l"):
            seat.read_until(undone)
        seat.read_until(b"alice:")  # a line is read instead
        seat.type("\x03")
        assert ls.wait(HANG_S) != 0
        assert seat.modes() == before


def test_five_digits_are_no_code_and_are_asked_again_in_the_same_prompt(
    both: Asking,
) -> None:
    with a_seat(both.place) as seat:
        ls = seat.start(["ls", both.folder()])
        seat.read_until(b"alice:")
        wait_until(both.prompts, "a pinentry asks")
        seat.type(f"{both.password()}\r")
        seat.read_until(b"code")
        seat.read_until(b"alice:")
        before = both.prompts()
        seat.type("12345\r")
        seat.read_until(b"digits")
        seat.read_until(b"alice:")
        assert both.prompts() == before
        seat.type(f"{both.code()}\r")
        seat.read_until(b"eason")
        seat.type("ticket 4711\r")
        assert ls.wait(HANG_S) == 0
    assert len(both.lab.events("connection")) == 1
    assert both.lab.events("auth_failed") == []


def test_forty_programs_at_once_are_one_prompt_and_one_login(one: Asking) -> None:
    with a_seat(one.place) as seat:
        line = 'for i in $(seq 40); do ls "$0" & done; wait'
        # One in front is asked, whoever of them comes first.
        shell = seat.start(["sh", "-c", line, one.folder()])
        answer_all(seat, one)
        for _ in range(40):
            seat.read_until(b"hostname")
        assert shell.wait(HANG_S) == 0
        assert b"alice:" not in seat.read_rest()
    assert len(one.lab.events("connection")) == 1
    assert len(one.lab.events("auth_ok")) == 1


def test_the_question_goes_to_who_still_waits(one: Asking) -> None:
    with a_seat(one.place) as first, a_seat(one.place) as second:
        impatient = first.start(["ls", one.folder()])
        first.read_until(b"alice:")
        patient = second.start(["ls", one.folder()])
        wait_until(lambda: one.waiting() > 1, "both wait")
        first.type("\x03")
        assert impatient.wait(HANG_S) != 0
        answer_all(second, one)
        second.read_until(b"hostname")
        assert patient.wait(HANG_S) == 0
    assert len(one.lab.events("connection")) == 1


def test_with_nobody_to_ask_it_is_refused_and_says_what_to_type(one: Asking) -> None:
    done = one.place.start(["ls", one.folder()], timeout_s=HANG_S)
    assert b"Permission denied" in done.err
    target = one.mount.point / "acme" / WITH_REASON.decode()
    assert f"pamfs unlock {target}" in one.last_error()
    assert one.lab.events("connection") == []


def test_a_program_without_a_terminal_does_not_keep_a_person_from_being_asked(
    one: Asking,
) -> None:
    assert one.place.start(["ls", one.folder()], timeout_s=HANG_S).code != 0
    assert one.state() == "cooling"
    with a_seat(one.place) as seat:
        line = 'cat "$0/hostname" & wait; cat "$0/hostname"'
        shell = seat.start(["sh", "-mc", line, one.folder()])
        seat.read_until(b"Permission denied")
        answer_all(seat, one)
        assert shell.wait(HANG_S) == 0
    assert len(one.lab.events("connection")) == 1


def test_a_job_in_the_background_does_not_take_the_keyboard(one: Asking) -> None:
    with a_seat(one.place) as seat:
        shell = seat.start(
            ["sh", "-mc", 'ls "$0" & wait $!; echo code $?', one.folder()]
        )
        seat.read_until(b"Permission denied")
        seat.read_until(b"code 2")
        assert shell.wait(HANG_S) == 0
    assert "pamfs unlock" in one.last_error()


def test_unlock_asks_on_its_own_terminal_even_while_the_target_cools(
    one: Asking,
) -> None:
    assert one.place.start(["ls", one.folder()]).code != 0
    assert one.state() == "cooling"
    with a_seat(one.place) as seat:
        before = seat.modes()
        python = one.place.account.python
        unlock = seat.start([python, "-m", "pamfs", "unlock", one.folder()])
        answer_plainly(seat, one)
        assert unlock.wait(HANG_S) == 0
        assert seat.modes() == before
        assert one.password().encode() not in seat.read_rest()
    assert one.place.run(["ls", one.folder()]) == b"hostname\n"
    assert one.place.pamfs("lock", one.mount.point / "acme/root@audit01").code == 0
    assert one.state() == "absent"
    assert len(one.lab.events("connection")) == 1


def test_unlock_that_is_interrupted_leaves_no_login_behind(one: Asking) -> None:
    with a_seat(one.place) as seat:
        before = seat.modes()
        python = one.place.account.python
        unlock = seat.start([python, "-m", "pamfs", "unlock", one.folder()])
        seat.read_until(b"alice:")
        seat.type("\x03")
        assert unlock.wait(HANG_S) == 130
        assert seat.modes() == before
        wait_until(lambda: one.state() == "absent", "the attempt ends")
    assert one.lab.events("connection") == []


def test_an_agent_answers_for_programs_without_a_terminal(one: Asking) -> None:
    with a_seat(one.place) as seat:
        python = one.place.account.python
        agent = seat.start([python, "-m", "pamfs", "agent", one.mount.point])
        seat.read_until(b"answering")
        with running(one.place, ["ls", one.folder()]) as ls:
            seat.read_until(b"wanted by ls")
            answer_plainly(seat, one)
            assert ls.communicate(timeout=HANG_S)[0] == b"hostname\n"
        closed = one.mount.path(b"acme", b"root@web01", b"etc")
        with running(one.place, ["ls", closed]):
            seat.read_until(b"root@web01")
            seat.read_until(b"alice:")
        seat.read_until(b"withdrawn")
        seat.type("\x03")
        assert agent.wait(HANG_S) == 130


def test_lock_and_unlock_name_what_is_no_target(one: Asking) -> None:
    done = one.place.pamfs("unlock", one.mount.point / "acme")
    assert done.code == 11
    assert "names no target" in done.text
    done = one.place.pamfs("lock", one.mount.point / "elsewhere")
    assert done.code == 1
    assert "no tenant 'elsewhere'" in done.text
    for command in ("lock", "unlock"):
        assert one.place.pamfs(command, one.place.folder).code == 7


def test_all_of_a_tenant_is_locked_at_once(place: Place) -> None:
    with running_lab(place) as lab, mounted(place, lab.config) as mount:
        place.run(["ls", mount.path(b"acme", b"root@web01", b"etc")])
        for path in (mount.point / "acme", mount.point):
            assert place.pamfs("lock", path).code == 0
            assert "'state': 'absent'" in str(mount.status()["targets"])


@contextmanager
def running(place: Place, command: Command) -> Iterator[subprocess.Popen[bytes]]:
    program = place.open(command)
    try:
        yield program
    finally:
        program.kill()
        program.communicate(timeout=HANG_S)


def answer_plainly(seat: Seat, made: Asking) -> None:
    """Answer what is asked without a pinentry."""
    seat.read_until(b"alice:")
    seat.type(f"{made.password()}\n")
    seat.read_until(b"alice:")
    seat.type(f"{made.code()}\n")
    seat.read_until(b"eason")
    seat.type("ticket 4711\n")


def test_nobody_in_a_conversation_shows_a_secret(place: Place) -> None:
    began_s = now_s()
    log, audit = place.folder / "debug.log", place.folder / "audit.jsonl"
    options = ("log_level=debug", f"log={log}")
    found: list[bytes] = []

    def look(made: Asking, *pids: int) -> None:
        for pid in {*made.mount.daemons(), *made.prompts(), *pids}:
            for name in ("cmdline", "environ"):
                with suppress(OSError):  # it has ended meanwhile
                    found.append(Path(f"/proc/{pid}/{name}").read_bytes())

    more = f'[audit]\nfile = "{audit}"\n'
    with asking(place, "pinentry-tty", more, *options) as made, a_seat(place) as seat:
        ls = seat.start(["ls", made.folder()])
        seat.read_until(b"alice:")
        wait_until(made.prompts, "a pinentry asks")
        look(made, ls.pid)
        seat.type(f"{made.password()}\r")
        seat.read_until(b"code")
        seat.read_until(b"alice:")
        wait_until(made.prompts, "a pinentry asks")
        look(made, ls.pid)
        seat.type(f"{made.code()}\r")
        seat.read_until(b"eason")
        seat.type("ticket 4711\r")
        assert ls.wait(HANG_S) == 0
        look(made)
        secrets = secrets_of(made.lab, began_s)
    found += [log.read_bytes(), audit.read_bytes()]
    assert len(found) >= 12
    assert b"prompt_answered" in found[-1]
    assert b"DEBUG" in found[-2]
    for text in found:
        assert_holds_no_secret(text, secrets)
