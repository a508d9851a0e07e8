"""A proxy that is not known is asked about, once, where the program is."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.limits import HANG_S
from tests.mount.harness import Place
from tests.mount.mounts import mounted, running_lab
from tests.mount.terminals import Seat, a_seat
from tests.mount.test_asking import PINENTRIES, Asking, answer_all, answer_plainly
from tests.mount.waiting import wait_until


def known_to(made: Asking) -> Path:
    return made.place.folder / "known_hosts"


@contextmanager
def a_stranger(place: Place, pinentry: str, known: str = "") -> Iterator[Asking]:
    """Mount a lab whose key is not in the file that its configuration names."""
    with running_lab(place) as lab:
        file = place.folder / "known_hosts"
        file.write_text(known.replace("PROXY", address_of(lab.folder)))
        text = (lab.folder / "config-prompt.toml").read_text()
        text = text.replace('host_keys = "strict"\n', "")
        text = text.replace(f'"{lab.folder}/known_hosts"', f'"{file}"')
        config = lab.folder / "stranger.toml"
        config.write_text(f'{text}\n[prompts]\npinentry = "{pinentry}"\n')
        config.chmod(0o600)
        for path in (config, file):
            os.chown(path, place.account.uid, place.account.gid)
        with mounted(place, config) as mount:
            yield Asking(place, lab, mount, pinentry)


def address_of(lab: Path) -> str:
    return (lab / "known_hosts").read_text().split()[0]


def fingerprint(made: Asking) -> str:
    command = ["ssh-keygen", "-lf", str(made.lab.folder / "known_hosts")]
    done = subprocess.run(command, check=True, capture_output=True, timeout=HANG_S)
    return done.stdout.decode().split()[1]


def a_key(file: Path) -> str:
    command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "", "-f", str(file)]
    subprocess.run(command, check=True, timeout=HANG_S)
    return " ".join(file.with_suffix(".pub").read_text().split()[:2])


def key_lines(text: str) -> list[str]:
    return [" ".join(line.split()[:3]) for line in text.splitlines()]


def logins(made: Asking) -> list[object]:
    return [*made.lab.events("auth_ok"), *made.lab.events("auth_failed")]


@pytest.fixture(params=PINENTRIES)
def stranger(request: pytest.FixtureRequest, place: Place) -> Iterator[Asking]:
    with a_stranger(place, request.param) as made:
        yield made


def wait_for_question(seat: Seat, made: Asking) -> None:
    seat.read_until(b"is not known")
    seat.read_until(fingerprint(made).encode())
    seat.read_until(b"(yes/no)?")


def test_a_yes_at_the_prompt_lets_the_proxy_in_for_good(stranger: Asking) -> None:
    with a_seat(stranger.place) as seat:
        before = seat.modes()
        ls = seat.start(["ls", stranger.folder()])
        wait_for_question(seat, stranger)
        assert logins(stranger) == []
        seat.type("\r")  # no button says yes: it is typed
        seat.read_until(b"type yes or no, in full")
        seat.type("yes\r")
        answer_all(seat, stranger)
        seat.read_until(b"hostname")
        assert ls.wait(HANG_S) == 0
        assert seat.modes() == before
        real = (stranger.lab.folder / "known_hosts").read_text()
        assert key_lines(known_to(stranger).read_text()) == key_lines(real)
        assert stranger.place.pamfs("lock", stranger.mount.point).code == 0
        again = seat.start(["ls", stranger.folder()])
        seat.read_until(b"alice:")
        assert b"is not known" not in seat.seen
        seat.type("\x03")
        again.wait(HANG_S)


def test_a_no_at_the_prompt_logs_nobody_in(stranger: Asking) -> None:
    with a_seat(stranger.place) as seat:
        ls = seat.start(["ls", stranger.folder()])
        wait_for_question(seat, stranger)
        seat.type("no\r")
        seat.read_until(b"Permission denied")
        assert ls.wait(HANG_S) != 0
    assert logins(stranger) == []
    assert known_to(stranger).read_text() == ""
    assert stranger.prompts() == []


def test_ctrl_c_at_the_question_leaves_the_target_closed(stranger: Asking) -> None:
    with a_seat(stranger.place) as seat:
        before = seat.modes()
        ls = seat.start(["ls", stranger.folder()])
        wait_for_question(seat, stranger)
        seat.type("\x03")
        assert ls.wait(HANG_S) != 0
        assert seat.modes() == before
        wait_until(lambda: not stranger.prompts(), "the prompt closes")
    assert stranger.state() == "absent"
    assert logins(stranger) == []


def test_a_changed_key_is_refused_and_nobody_may_accept_it(place: Place) -> None:
    other = a_key(place.folder / "other")
    known = f"PROXY {other}\n"
    with a_stranger(place, "pinentry-tty", known) as made, a_seat(place) as seat:
        python = place.account.python
        unlock = seat.start([python, "-m", "pamfs", "unlock", made.folder()])
        for answer in (made.password(), made.code()):
            seat.read_until(b"alice:")
            assert b"is not known" not in seat.seen
            seat.type(f"{answer}\n")
        seat.read_until(b"has changed")
        assert unlock.wait(HANG_S) == 11
        assert "has changed" in made.last_error()
        assert logins(made) == []
        assert made.place.start(["ls", made.folder()]).code != 0
        assert known_to(made).read_text().endswith(f"{other}\n")


def test_with_nobody_to_ask_it_says_what_to_type(place: Place) -> None:
    with a_stranger(place, "pinentry-tty") as made:
        done = place.start(["ls", made.folder()], timeout_s=HANG_S)
        assert b"Permission denied" in done.err
        said = made.last_error()
        assert fingerprint(made) in said
        assert "ssh-keyscan -p " in said
        assert f">> {known_to(made)}" in said
        assert "pamfs unlock " in said
        assert logins(made) == []


def test_at_the_control_socket_a_yes_is_typed_in_full(place: Place) -> None:
    with a_stranger(place, "pinentry-tty") as made, a_seat(place) as seat:
        python = place.account.python
        unlock = seat.start([python, "-m", "pamfs", "unlock", made.folder()])
        seat.read_until(fingerprint(made).encode())
        seat.read_until(b"(yes/no)?")
        seat.type("y\n")
        seat.read_until(b"in full")
        seat.read_until(b"(yes/no)?")
        assert logins(made) == []
        seat.type("yes\n")
        answer_plainly(seat, made)
        assert unlock.wait(HANG_S) == 0
        assert len(key_lines(known_to(made).read_text())) == 1


def test_at_the_control_socket_a_no_declines(place: Place) -> None:
    with a_stranger(place, "pinentry-tty") as made, a_seat(place) as seat:
        python = place.account.python
        unlock = seat.start([python, "-m", "pamfs", "unlock", made.folder()])
        seat.read_until(b"(yes/no)?")
        seat.type("no\n")
        seat.read_until(b"declined")
        assert unlock.wait(HANG_S) == 11
        assert logins(made) == []
        assert known_to(made).read_text() == ""
