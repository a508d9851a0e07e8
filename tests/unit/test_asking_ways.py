"""Who is asked, how, and what is said when nobody can be."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
import trio
import trio.testing

from pamfs.config import Prompting, PromptWay
from pamfs.errors import CannotAskError, DeclinedError
from pamfs.model import Caller, Secret
from pamfs.sessions.prompts import (
    ChainPrompter,
    ControlPrompter,
    ControlPrompters,
    Question,
    build_chain,
)
from pamfs.sessions.prompts.control_prompter import Message
from pamfs.sessions.prompts.pinentry import CallerTerminalPrompter, DesktopPrompter
from pamfs.sessions.prompts.programs import AskpassPrompter
from pamfs.sessions.prompts.question import Kind
from tests.fakes.people import FakePerson
from tests.fakes.tenants import WEB01, WEB02
from tests.fakes.terminals import a_desk
from tests.limits import HANG_S

ANSWER = "an-answer-of-this-test"
GONE = 2**22 + 1  # above the highest pid_max


def question(caller: Caller | None = None, **changes: object) -> Question:
    made = Question(
        kind=Kind.PASSWORD,
        text="Password:",
        target=WEB01,
        caller=caller or Caller(os.getpid(), os.getuid(), os.getgid()),
        deadline=trio.current_time() + 30,
    )
    return replace(made, **changes)  # type: ignore[arg-type]


@dataclass
class Ledger:
    """An ``Audit``."""

    records: list[tuple[str, object]] = field(default_factory=list)

    def record(self, event: str, **facts: object) -> None:
        assert ANSWER not in str(facts)
        self.records.append((event, facts["way"]))


def chain(*people: tuple[str, FakePerson]) -> tuple[ChainPrompter, Ledger]:
    ledger = Ledger()
    return ChainPrompter(people, lambda target: f"unlock {target}", ledger), ledger


async def test_the_first_that_can_ask_asks() -> None:
    able = FakePerson({Kind.PASSWORD: ANSWER})
    last = FakePerson({Kind.PASSWORD: "other"})
    asker, _ = chain(("a", FakePerson()), ("b", able), ("c", last))
    assert (await asker.ask(question())).reveal() == ANSWER
    assert not last.asked


async def test_a_refusal_is_not_taken_to_somebody_else() -> None:
    no = FakePerson({Kind.PASSWORD: DeclinedError("no")})
    last = FakePerson({Kind.PASSWORD: ANSWER})
    asker, ledger = chain(("a", no), ("b", last))
    with pytest.raises(DeclinedError):
        await asker.ask(question())
    assert not last.asked
    assert ("prompt_declined", "a") in ledger.records


async def test_nobody_means_the_line_to_type() -> None:
    asker, ledger = chain(("a", FakePerson()))
    with pytest.raises(
        CannotAskError, match=f"password of {WEB01}; type: unlock {WEB01}"
    ):
        await asker.ask(question())
    assert ledger.records == []


async def test_a_mount_without_anybody_asks_nobody(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("INVOCATION_ID", raising=False)
    asker = build_chain(Prompting(), ControlPrompters(), str, is_foreground=False)
    caller = Caller(GONE, os.getuid(), os.getgid())
    with pytest.raises(CannotAskError):
        await asker.ask(question(caller))


@contextmanager
def program(confined: Sequence[str] = (), **environment: str) -> Iterator[Caller]:
    """Run a program of this user, without a terminal, started by ``confined``."""
    child = subprocess.Popen(
        [*confined, "/bin/sh", "-c", "echo; read -r _"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        start_new_session=True,
        env={"PATH": os.environ["PATH"], **environment},
    )
    assert child.stdout is not None
    child.stdout.readline()
    try:
        yield Caller(child.pid, os.getuid(), os.getgid())
    finally:
        child.communicate(b"\n", timeout=HANG_S)


PINENTRY = """#!/bin/sh
echo OK
while read -r command rest; do
    [ "$command" = GETPIN ] && [ -n "$TYPED" ] && echo "D $TYPED"
    echo OK
done
"""


@pytest.mark.parametrize(("typed", "is_yes"), [("", False), ("yes", True)])
async def test_an_enter_on_the_desktop_is_no_yes(
    tmp_path: Path, typed: str, is_yes: bool
) -> None:
    pinentry = tmp_path / "pinentry"
    pinentry.write_text(PINENTRY.replace("$TYPED", typed))
    pinentry.chmod(0o700)
    prompter = DesktopPrompter(str(pinentry))
    with program(DISPLAY=":1") as caller, trio.fail_after(HANG_S):
        asked = question(caller, kind=Kind.HOST_KEY, echo=True)
        if is_yes:
            assert (await prompter.ask(asked)).reveal() == "yes"
        else:
            with pytest.raises(DeclinedError, match="in full"):
                await prompter.ask(asked)


RECORDING = """#!/bin/sh
echo OK
while read -r line; do
    echo "$line" >>{record}
    [ "$line" = GETPIN ] && echo "D x"
    echo OK
done
"""


async def test_a_servers_words_cut_nothing_of_pamfs_off_in_a_dialog(
    tmp_path: Path,
) -> None:
    pinentry, record = tmp_path / "pinentry", tmp_path / "record"
    pinentry.write_text(RECORDING.format(record=record))
    pinentry.chmod(0o700)
    said = "\n".join(f"<b>pamfs: password for {'é' * 200}</b>%0A" for _ in range(50))
    with program(DISPLAY=":1") as caller, trio.fail_after(HANG_S):
        asked = question(caller, said=said, pam="pam.example:4022")
        await DesktopPrompter(str(pinentry)).ask(asked)
    lines = record.read_text().splitlines()
    (described,) = (line for line in lines if line.startswith("SETDESC "))
    *server, head, cause = described.removeprefix("SETDESC ").split("%0A")
    assert head == f"pamfs: {WEB01} at pam.example:4022"
    assert cause.startswith("wanted by ")
    assert len(described.encode()) <= 1000  # Assuan's line
    assert server
    marks = (f"{WEB01.tenant} says: ", "(")  # the last counts what was left out
    assert all(line.startswith(marks) for line in server)
    assert "<" not in described


ALL_THAT_LOOK = (CallerTerminalPrompter(), DesktopPrompter(), AskpassPrompter("false"))


@pytest.mark.parametrize("asker", ALL_THAT_LOOK, ids=lambda a: type(a).__name__)
async def test_another_user_is_never_asked(
    asker: CallerTerminalPrompter | DesktopPrompter | AskpassPrompter,
) -> None:
    with program(DISPLAY=":99") as caller:
        for other in (replace(caller, uid=caller.uid + 1), Caller(1, 1, 1)):
            with pytest.raises(CannotAskError):
                await asker.ask(question(other))


async def test_a_program_without_terminal_or_desktop_is_not_asked() -> None:
    with program() as caller:
        for asker in ALL_THAT_LOOK:
            with pytest.raises(CannotAskError):
                await asker.ask(question(caller))


def askpass(folder: Path, script: str) -> str:
    path = folder / "askpass"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o700)
    return str(path)


async def test_ssh_askpass_of_the_mount_asks_on_the_callers_desktop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = tmp_path / "told"
    named = askpass(tmp_path, f'echo "$1 $DISPLAY" >{told}; echo {ANSWER}')
    monkeypatch.setenv("SSH_ASKPASS", named)
    with program(DISPLAY=":99", TOKEN="x") as caller:
        assert (await AskpassPrompter().ask(question(caller))).reveal() == ANSWER
    assert "Password: :99" in told.read_text()


async def test_the_callers_ssh_askpass_is_not_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran = tmp_path / "ran"
    monkeypatch.delenv("SSH_ASKPASS", raising=False)
    named = askpass(tmp_path, f"touch {ran}; echo {ANSWER}")
    with (
        program(DISPLAY=":99", SSH_ASKPASS=named) as caller,
        pytest.raises(CannotAskError, match="no SSH_ASKPASS"),
    ):
        await AskpassPrompter().ask(question(caller))
    assert not ran.exists()


CONFINED = {
    "no new privileges": ("setpriv", "--no-new-privs"),
    "fewer capabilities": ("setpriv", "--bounding-set=-net_raw"),
    "another mount namespace": ("unshare", "--mount"),
    "another user namespace": ("unshare", "--user", "--map-root-user"),
    "another root": ("chroot", "/usr"),
}


@pytest.mark.skipif(os.getuid() != 0, reason="only root may confine in all these ways")
@pytest.mark.parametrize("way", CONFINED)
async def test_a_confined_program_chooses_nothing_that_runs_outside(
    way: str, tmp_path: Path
) -> None:
    ran = tmp_path / "ran"
    program_there = askpass(tmp_path, f"touch {ran}; echo {ANSWER}")
    with program(CONFINED[way], DISPLAY=":99") as caller:
        for asker in (AskpassPrompter(program_there), DesktopPrompter(program_there)):
            with pytest.raises(CannotAskError):
                await asker.ask(question(caller))
    assert not ran.exists()


async def test_an_askpass_that_fails_declines(tmp_path: Path) -> None:
    with program(DISPLAY=":99") as caller:
        asker = AskpassPrompter(askpass(tmp_path, "exit 1"))
        with pytest.raises(DeclinedError):
            await asker.ask(question(caller))
        with pytest.raises(CannotAskError):
            await AskpassPrompter(str(tmp_path / "missing")).ask(question(caller))


async def test_an_askpass_is_ended_when_nobody_waits_any_more(tmp_path: Path) -> None:
    with a_desk() as desk, program(DISPLAY=":99") as caller, trio.fail_after(HANG_S):
        script = f"echo began >{desk.path}; exec sleep 60"
        asker = AskpassPrompter(askpass(tmp_path, script))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(asker.ask, question(caller))
            await desk.read_until(b"began")
            nursery.cancel_scope.cancel()


class Visitor:
    """A ``Talk`` whose person is this test."""

    def __init__(self) -> None:
        self.shown: list[Message] = []
        self.say, self._heard = trio.open_memory_channel[Message | None](10)

    async def send(self, message: Message) -> None:
        await trio.lowlevel.checkpoint()
        self.shown.append(message)

    async def receive(self) -> Message | None:
        return await self._heard.receive()

    def number(self) -> object:
        return self.shown[-1]["question"]


async def answered(desk: ControlPrompter, asked: Question, into: list[str]) -> None:
    try:
        into.append((await desk.ask(asked)).reveal())
    except (CannotAskError, DeclinedError) as exc:
        into.append(type(exc).__name__)


async def test_the_first_answer_counts_and_the_others_see_it_withdrawn() -> None:
    desk, answers = ControlPrompter(), list[str]()
    one, two = Visitor(), Visitor()
    async with trio.open_nursery() as nursery:
        await nursery.start(desk.attend, one, None)
        await nursery.start(desk.attend, two, None)
        nursery.start_soon(answered, desk, question(), answers)
        await trio.testing.wait_all_tasks_blocked()
        number = one.number()
        assert two.number() == number
        await two.say.send({"answer": number, "text": ANSWER})
        await trio.testing.wait_all_tasks_blocked()
        assert answers == [ANSWER]
        assert one.shown[-1] == {"withdrawn": number}
        assert two.shown[-1] != {"withdrawn": number}
        nursery.cancel_scope.cancel()


async def test_a_seat_for_one_target_sees_and_answers_no_other() -> None:
    desk, answers = ControlPrompter(), list[str]()
    one, two = Visitor(), Visitor()
    async with trio.open_nursery() as nursery:
        await nursery.start(desk.attend, one, WEB01)
        with pytest.raises(CannotAskError):
            await desk.ask(question(target=WEB02))
        await nursery.start(desk.attend, two, WEB02)
        nursery.start_soon(answered, desk, question(), answers)
        await trio.testing.wait_all_tasks_blocked()
        assert two.shown == []
        await two.say.send({"answer": one.number(), "text": "stolen"})
        await two.say.send({"answer": "x"})
        await trio.testing.wait_all_tasks_blocked()
        assert answers == []
        await one.say.send({"decline": one.number()})
        await trio.testing.wait_all_tasks_blocked()
        assert answers == ["DeclinedError"]
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("last_word", ["hang up", "cannot"])
async def test_when_the_last_seat_gives_up_somebody_else_is_tried(
    last_word: str,
) -> None:
    desk, answers, visitor = ControlPrompter(), list[str](), Visitor()
    async with trio.open_nursery() as nursery:
        await nursery.start(desk.attend, visitor, None)
        nursery.start_soon(answered, desk, question(), answers)
        await trio.testing.wait_all_tasks_blocked()
        is_end = last_word == "hang up"
        await visitor.say.send(None if is_end else {"cannot": visitor.number()})
        await trio.testing.wait_all_tasks_blocked()
        assert answers == ["CannotAskError"]
        nursery.cancel_scope.cancel()


async def test_who_sits_down_later_sees_what_is_being_asked() -> None:
    desk, answers = ControlPrompter(), list[str]()
    early, late = Visitor(), Visitor()
    async with trio.open_nursery() as nursery:
        await nursery.start(desk.attend, early, None)
        nursery.start_soon(answered, desk, question(), answers)
        await trio.testing.wait_all_tasks_blocked()
        await nursery.start(desk.attend, late, None)
        await late.say.send({"answer": early.number(), "text": ANSWER})
        await trio.testing.wait_all_tasks_blocked()
        assert answers == [ANSWER]
        nursery.cancel_scope.cancel()


async def test_a_wrong_form_is_shown_as_a_new_question_with_a_remark() -> None:
    desk, answers, visitor = ControlPrompter(), list[str](), Visitor()
    async with trio.open_nursery() as nursery:
        await nursery.start(desk.attend, visitor, None)
        nursery.start_soon(answered, desk, question(kind=Kind.CODE), answers)
        await trio.testing.wait_all_tasks_blocked()
        first = visitor.number()
        await visitor.say.send({"answer": first, "text": "1"})
        await trio.testing.wait_all_tasks_blocked()
        assert visitor.number() != first
        assert "digits" in str(visitor.shown[-1]["remark"])
        await visitor.say.send({"answer": visitor.number(), "text": "123456"})
        await trio.testing.wait_all_tasks_blocked()
        assert answers == ["123456"]
        nursery.cancel_scope.cancel()


def test_whoever_unlocks_is_asked_whatever_the_order_says() -> None:
    async def ask() -> Secret:
        control, visitor = ControlPrompters(), Visitor()
        prompting = Prompting(order=(PromptWay.SYSTEMD,))
        asker = build_chain(prompting, control, str, is_foreground=False)
        async with trio.open_nursery() as nursery:
            await nursery.start(control.unlock.attend, visitor, WEB01)

            async def answer() -> None:
                await trio.testing.wait_all_tasks_blocked()
                message = {"answer": visitor.number(), "text": ANSWER}
                await visitor.say.send(message)

            nursery.start_soon(answer)
            secret = await asker.ask(question())
            nursery.cancel_scope.cancel()
        return secret

    assert trio.run(ask).reveal() == ANSWER
