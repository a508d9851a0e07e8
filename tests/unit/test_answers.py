"""Each kind of source gives its answer, or says what is wrong with it."""

from __future__ import annotations

import sys
import types
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from pamfs.config import AnswerSource, SourceKind
from pamfs.errors import CannotAskError, DeclinedError
from pamfs.sessions.answers import Answers
from pamfs.sessions.prompts import Question
from pamfs.sessions.prompts.question import Kind
from tests.fakes.people import FakePerson
from tests.fakes.tenants import ME, WEB01


def question(within_s: float = 10, kind: Kind = Kind.PASSWORD) -> Question:
    return Question(
        kind=kind,
        text="Password:",
        target=WEB01,
        caller=ME,
        deadline=trio.current_time() + within_s,
    )


async def fetch(kind: SourceKind, value: str = "", within_s: float = 10) -> str:
    source = AnswerSource(kind, value)
    secret = await Answers(FakePerson()).fetch(source, question(within_s))
    return secret.reveal()


def private(path: Path) -> Path:
    path.touch(mode=0o600)
    return path


@pytest.mark.parametrize(
    ("content", "answer"),
    [
        (b"hunter2\n", "hunter2"),
        (b"hunter2", "hunter2"),
        (b"hunter2\r\n", "hunter2"),
        (b"hunter2\n\n", "hunter2\n"),
        (b" two words ", " two words "),
        ("pässwörd\n".encode(), "pässwörd"),
    ],
)
async def test_a_file_loses_one_newline_and_nothing_else(
    content: bytes, answer: str, tmp_path: Path
) -> None:
    private(tmp_path / "password").write_bytes(content)
    assert await fetch(SourceKind.FILE, str(tmp_path / "password")) == answer


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620])
async def test_a_file_that_was_opened_to_others_is_refused_at_the_next_read(
    mode: int, tmp_path: Path
) -> None:
    file = private(tmp_path / "password")
    file.write_bytes(b"hunter2")
    assert await fetch(SourceKind.FILE, str(file)) == "hunter2"
    file.chmod(mode)
    with pytest.raises(CannotAskError, match="chmod 600"):
        await fetch(SourceKind.FILE, str(file))


async def test_a_command_that_others_could_change_is_not_run(tmp_path: Path) -> None:
    command = tmp_path / "command"
    command.write_text(f"#!/bin/sh\ntouch {tmp_path}/ran; echo hunter2\n")
    command.chmod(0o775)
    with pytest.raises(CannotAskError, match="its group may write it"):
        await fetch(SourceKind.COMMAND, str(command))
    assert not (tmp_path / "ran").exists()


async def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(CannotAskError, match="nothing-here: No such file"):
        await fetch(SourceKind.FILE, str(tmp_path / "nothing-here"))


async def test_a_file_that_is_no_text_is_refused_without_being_quoted(
    tmp_path: Path,
) -> None:
    private(tmp_path / "password").write_bytes(b"secret\xff")
    with pytest.raises(CannotAskError, match="no UTF-8") as caught:
        await fetch(SourceKind.FILE, str(tmp_path / "password"))
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"\n"])
async def test_an_empty_answer_is_no_answer(content: bytes, tmp_path: Path) -> None:
    private(tmp_path / "password").write_bytes(content)
    with pytest.raises(CannotAskError, match="empty"):
        await fetch(SourceKind.FILE, str(tmp_path / "password"))


async def test_a_command_answers_on_its_output() -> None:
    assert await fetch(SourceKind.COMMAND, "printf 'hun%s\\n' ter2") == "hunter2"


async def test_a_command_that_fails_is_told_by_its_first_line() -> None:
    command = "sh -c 'echo hunter2; echo no such entry >&2; echo more >&2; exit 3'"
    with pytest.raises(CannotAskError) as caught:
        await fetch(SourceKind.COMMAND, command)
    text = str(caught.value)
    assert text.endswith("sh: exit status 3: no such entry")
    assert "hunter2" not in text


async def test_a_command_that_is_missing_is_named() -> None:
    with pytest.raises(CannotAskError, match="no-such-program: No such file"):
        await fetch(SourceKind.COMMAND, "no-such-program --show")


async def test_a_command_that_hangs_is_ended_at_the_deadline() -> None:
    with pytest.raises(CannotAskError, match="no answer within"):
        await fetch(SourceKind.COMMAND, "sleep 60", within_s=0.05)


async def test_the_environment_answers_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACME_PASSWORD", "hunter2")
    assert await fetch(SourceKind.ENV, "ACME_PASSWORD") == "hunter2"
    with pytest.raises(CannotAskError, match="has no GLOBEX_PASSWORD"):
        await fetch(SourceKind.ENV, "GLOBEX_PASSWORD")


async def test_a_systemd_credential_is_a_file_in_its_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CREDENTIALS_DIRECTORY", raising=False)
    with pytest.raises(CannotAskError, match="not run by systemd"):
        await fetch(SourceKind.CREDENTIAL, "acme")
    private(tmp_path / "acme").write_text("hunter2")
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    assert await fetch(SourceKind.CREDENTIAL, "acme") == "hunter2"
    for name in ("../acme", "..", ""):
        with pytest.raises(CannotAskError, match="no name of a credential"):
            await fetch(SourceKind.CREDENTIAL, name)


def keyring_with(entries: dict[tuple[str, str], str]) -> types.ModuleType:
    module = types.ModuleType("keyring")
    vars(module)["get_password"] = lambda service, user: entries.get((service, user))
    return module


async def test_a_keyring_answers_by_service_and_user(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    entries = {("pam.acme", "alice"): "hunter2", ("pamfs", "bob"): "hunter3"}
    monkeypatch.setitem(sys.modules, "keyring", keyring_with(entries))
    assert await fetch(SourceKind.KEYRING, "pam.acme/alice") == "hunter2"
    assert await fetch(SourceKind.KEYRING, "bob") == "hunter3"
    with pytest.raises(CannotAskError, match=r"has no pam\.acme/carol"):
        await fetch(SourceKind.KEYRING, "pam.acme/carol")


async def test_a_seed_comes_from_the_real_keyring_with_a_file_behind_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keyring = pytest.importorskip("keyring")
    backends = pytest.importorskip("keyrings.alt.file")
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    before = keyring.get_keyring()
    keyring.set_keyring(backends.PlaintextKeyring())
    try:
        await trio.to_thread.run_sync(
            keyring.set_password, "pam.acme", "alice", "JBSWY3DPEHPK3PXP"
        )
        assert await fetch(SourceKind.KEYRING, "pam.acme/alice") == "JBSWY3DPEHPK3PXP"
    finally:
        keyring.set_keyring(before)
    file = tmp_path / "python_keyring/keyring_pass.cfg"
    assert await trio.Path(file).exists()


async def test_a_keyring_that_fails_is_not_quoted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    module = types.ModuleType("keyring")

    def fail(_service: str, user: str) -> str:
        raise RuntimeError(f"locked; the seed of {user} is JBSWY3DPEHPK3PXP")

    vars(module)["get_password"] = fail
    monkeypatch.setitem(sys.modules, "keyring", module)
    with pytest.raises(CannotAskError, match="failed: RuntimeError") as caught:
        await fetch(SourceKind.KEYRING, "pam.acme/alice")
    assert "JBSWY" not in str(caught.value)


async def test_a_keyring_that_is_not_installed_is_said_clearly(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "keyring", None)
    with pytest.raises(CannotAskError, match="keyring is not installed"):
        await fetch(SourceKind.KEYRING, "pam.acme/alice")


async def test_a_plain_value_is_itself() -> None:
    assert await fetch(SourceKind.VALUE, "ticket 4711") == "ticket 4711"


async def test_a_person_is_asked_and_may_answer_nothing(
    autojump_clock: MockClock,
) -> None:
    person = FakePerson({Kind.CODE: ""})
    asked = question(kind=Kind.CODE)
    source = AnswerSource(SourceKind.PROMPT)
    assert (await Answers(person).fetch(source, asked)).reveal() == ""
    assert person.asked == [asked]
    assert trio.current_time() < asked.deadline <= autojump_clock.current_time() + 10


async def test_a_person_who_says_nothing_in_time_has_declined(
    autojump_clock: MockClock,
) -> None:
    began = trio.current_time()
    person = FakePerson({Kind.PASSWORD: "too late"}, takes_s=9999)
    with pytest.raises(DeclinedError, match="in time"):
        await Answers(person).ask(question(within_s=120))
    assert autojump_clock.current_time() - began == pytest.approx(120)
