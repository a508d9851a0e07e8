"""A person is asked on the terminal, which is as before afterwards."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest
import trio
import trio.testing

from pamfs.errors import CannotAskError, DeclinedError
from pamfs.model import Caller, Secret
from pamfs.sessions.prompts import Question, TerminalPrompter
from pamfs.sessions.prompts.question import Kind, UnfitError, cause, until_fit
from pamfs.sessions.prompts.terminal import kept_modes, opened, set_echo
from tests.fakes.tenants import WEB01
from tests.fakes.terminals import Desk, a_desk
from tests.limits import HANG_S

# Above the highest pid_max, and no user of any machine.
ME = Caller(pid=2**22 + 1, uid=987654, gid=987654)


def question(
    text: str = "Password: ", *, echo: bool = False, details: str = ""
) -> Question:
    return Question(
        kind=Kind.PASSWORD,
        text=text,
        target=WEB01,
        caller=ME,
        deadline=trio.current_time() + 60,
        echo=echo,
        details=details,
    )


async def answer_of(
    prompter: TerminalPrompter, asked: Question, into: list[str]
) -> None:
    into.append((await prompter.ask(asked)).reveal())


async def test_an_answer_is_typed_unseen() -> None:
    answers: list[str] = []
    with a_desk() as desk:
        before = desk.modes()
        with trio.fail_after(HANG_S):
            async with trio.open_nursery() as nursery:
                prompter = TerminalPrompter(desk.path)
                nursery.start_soon(answer_of, prompter, question(), answers)
                await desk.read_until(b"Password: ")
                assert not desk.echoes()
                desk.type(b"hunt")
                desk.type(b"er2\n")
        assert answers == ["hunter2"]
        assert desk.modes() == before
        assert b"hunter2" not in desk.seen
        assert b"pamfs: acme/root@web01" in desk.seen


async def test_what_is_no_secret_is_seen_while_it_is_typed() -> None:
    answers: list[str] = []
    with a_desk() as desk, trio.fail_after(HANG_S):
        async with trio.open_nursery() as nursery:
            prompter = TerminalPrompter(desk.path)
            asked = question("Reason: ", echo=True)
            nursery.start_soon(answer_of, prompter, asked, answers)
            await desk.read_until(b"Reason: ")
            desk.type(b"ticket 4711\n")
            await desk.read_until(b"ticket 4711")
    assert answers == ["ticket 4711"]


async def test_an_end_of_file_declines() -> None:
    with a_desk() as desk, trio.fail_after(HANG_S):
        async with trio.open_nursery() as nursery:
            prompter = TerminalPrompter(desk.path)

            async def decline() -> None:
                with pytest.raises(DeclinedError):
                    await prompter.ask(question())

            nursery.start_soon(decline)
            await desk.read_until(b"Password: ")
            desk.type(b"\x04")


async def test_a_question_that_is_taken_back_leaves_the_terminal_as_it_was() -> None:
    with a_desk() as desk, trio.fail_after(HANG_S):
        before = desk.modes()
        async with trio.open_nursery() as nursery:
            prompter = TerminalPrompter(desk.path)
            nursery.start_soon(prompter.ask, question())
            await desk.read_until(b"Password: ")
            nursery.cancel_scope.cancel()
        assert desk.modes() == before
        # Nobody reads any more: what is typed now is for the next question.
        answers: list[str] = []
        async with trio.open_nursery() as nursery:
            nursery.start_soon(answer_of, prompter, question("Again: "), answers)
            await desk.read_until(b"Again: ")
            desk.type(b"second\n")
        assert answers == ["second"]


async def test_there_is_one_question_at_a_time() -> None:
    answers: list[str] = []
    with a_desk() as desk, trio.fail_after(HANG_S):
        async with trio.open_nursery() as nursery:
            prompter = TerminalPrompter(desk.path)
            nursery.start_soon(answer_of, prompter, question("One: "), answers)
            await desk.read_until(b"One: ")
            nursery.start_soon(answer_of, prompter, question("Two: "), answers)
            await trio.testing.wait_all_tasks_blocked()
            assert b"Two: " not in desk.seen
            desk.type(b"first\n")
            await desk.read_until(b"Two: ")
            desk.type(b"second\n")
    assert answers == ["first", "second"]


def lines_of(said: str, pam: str = "") -> list[str]:
    async def lines() -> list[str]:
        made = replace(question("Password of alice:"), said=said, pam=pam)
        return made.lines()

    return trio.run(lines)


PAM = "pam.example:4022"
OWN = [
    f"pamfs: acme/root@web01 at {PAM}",
    f"wanted by a program (pid {ME.pid}, user {ME.uid})",
    "Password of alice:",
]


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        ("Your token: ", ["acme says: Your token:"]),
        ("\x1b[2JPass\x07word: ", ["acme says: [2JPass word:"]),
        ("a\x9b1mb\nc\x00", ["acme says: a 1mb", "acme says: c"]),
        ("x\rpamfs: y\x85z", ["acme says: x", "acme says: pamfs: y", "acme says: z"]),
        ("\u202eevil\u200b \u2028pamfs: z", ["acme says: evil", "acme says: pamfs: z"]),
        ("", []),
    ],
)
def test_a_server_cannot_speak_as_pamfs(said: str, shown: list[str]) -> None:
    assert lines_of(said, PAM) == [*shown, *OWN]


@pytest.mark.parametrize("filler", [".", "\u3000", "界"])
def test_a_long_line_of_a_server_is_not_broken_by_the_terminal(filler: str) -> None:
    for line in lines_of(filler * 100 + "pamfs: beta/root@db01", PAM)[:-3]:
        assert line.startswith(("acme says: ", "("))
        assert len(line) <= 70


def test_a_servers_flood_leaves_pamfs_own_lines_last_and_whole() -> None:
    flood = "\n".join(f"line {number} " + "é" * 500 for number in range(1000))
    found = lines_of(flood, PAM)
    assert found[-3:] == OWN
    assert len(found) < 20


async def test_what_is_no_terminal_cannot_be_asked_on(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for path in (tmp_path / "file", tmp_path / "missing"):
        with pytest.raises(CannotAskError):
            await TerminalPrompter(path).ask(question())


async def test_a_terminal_that_hangs_up_at_the_prompt_cannot_be_asked_on() -> None:
    with a_desk() as desk, trio.fail_after(HANG_S):
        async with trio.open_nursery() as nursery:

            async def ask() -> None:
                # Nobody said no: somebody else may be asked.
                with pytest.raises(CannotAskError, match="the terminal is gone"):
                    await TerminalPrompter(desk.path).ask(question())

            nursery.start_soon(ask)
            await desk.read_until(b"Password: ")
            desk.hang_up()


async def test_a_terminal_that_hangs_up_before_the_prompt_cannot_be_asked_on() -> None:
    def begin(desk: Desk) -> None:
        with opened(desk.path) as fd, kept_modes(fd):
            desk.hang_up()
            set_echo(fd, echo=False)

    with a_desk() as desk, pytest.raises(CannotAskError, match="terminal is gone"):
        begin(desk)


async def test_a_code_of_the_wrong_form_is_asked_again() -> None:
    answers: list[str] = []
    asked = replace(question("Code: "), kind=Kind.CODE)
    with a_desk() as desk, trio.fail_after(HANG_S):
        async with trio.open_nursery() as nursery:
            prompter = TerminalPrompter(desk.path)
            nursery.start_soon(answer_of, prompter, asked, answers)
            await desk.read_until(b"Code: ")
            desk.type(b"12345\n")
            await desk.read_until(b"six to eight digits\r\nCode: ")
            desk.type(b"123 456\n")
    assert answers == ["123456"]


@pytest.mark.parametrize(
    ("kind", "answer"),
    [
        (Kind.CODE, ""),
        (Kind.CODE, "12345"),
        (Kind.CODE, "123456789"),
        (Kind.CODE, "12345a"),
        (Kind.CODE, "١٢٣٤٥٦"),
        (Kind.PASSWORD, ""),
    ],
)
async def test_what_cannot_be_right_is_declined_after_the_third_time(
    kind: Kind, answer: str
) -> None:
    remarks: list[str] = []

    async def ask(remark: str) -> Secret:
        remarks.append(remark)
        return Secret(answer)

    with pytest.raises(DeclinedError) as caught:
        await until_fit(replace(question(), kind=kind), ask)
    assert len(remarks) == 3
    assert remarks[0] == ""
    assert "digits" in remarks[1] or "empty" in remarks[1]
    assert not answer or answer not in str(caught.value)


async def test_a_yes_is_typed_in_full() -> None:
    answers: list[str] = []
    asked = replace(question("Is it (yes/no)?", echo=True), kind=Kind.HOST_KEY)
    with a_desk() as desk, trio.fail_after(HANG_S):
        async with trio.open_nursery() as nursery:
            prompter = TerminalPrompter(desk.path)
            nursery.start_soon(answer_of, prompter, asked, answers)
            await desk.read_until(b"(yes/no)? ")
            desk.type(b"y\n")
            await desk.read_until(b"type yes or no, in full\r\nIs it (yes/no)? ")
            desk.type(b"Yes\n")
    assert answers == ["yes"]


@pytest.mark.parametrize("answer", ["no", "No ", "", "y", "true", "yes please"])
async def test_nothing_but_yes_is_a_yes(answer: str) -> None:
    asked = replace(question(), kind=Kind.HOST_KEY)
    said: list[str] = []

    async def ask(remark: str) -> Secret:
        said.append(remark)
        return Secret(answer)

    with pytest.raises(DeclinedError):
        await until_fit(asked, ask)
    assert len(said) == (1 if answer.startswith(("no", "No")) else 3)


async def test_a_reason_is_chosen_by_its_number_or_its_text() -> None:
    reasons = ("Deployment", "Incident at night")
    asked = replace(question(), kind=Kind.REASON, choices=reasons)
    assert asked.about()[-2:] == ["  1  Deployment", "  2  Incident at night"]
    for text in ("2", " 2 ", "incident AT night"):
        assert asked.fit(Secret(text)).reveal() == "Incident at night"
    for text in ("", "0", "3", "Incident", "1 2", "Deployment of mine"):
        with pytest.raises(UnfitError, match="from 1 to 2"):
            asked.fit(Secret(text))


@pytest.mark.parametrize("kind", list(Kind))
async def test_an_answer_that_cannot_be_sent_as_utf8_is_asked_for_again(
    kind: Kind,
) -> None:
    """A terminal in Latin-1: asyncssh would end the login with a traceback."""
    typed = Secret(b"caf\xe9 123456".decode("utf-8", "surrogateescape"))
    with pytest.raises(UnfitError, match="UTF-8"):
        replace(question(), kind=kind).fit(typed)


async def test_a_code_that_is_not_needed_may_be_left_out() -> None:
    asked = replace(question(), kind=Kind.CODE, may_be_empty=True)
    assert asked.fit(Secret("")).reveal() == ""
    assert replace(asked, kind=Kind.OTHER).fit(Secret(" x ")).reveal() == " x "


def test_a_program_makes_up_no_line_of_ours_by_its_name() -> None:
    comm = Path("/proc/self/comm")
    before = comm.read_text()
    comm.write_text("ls\nsay yes\tok")
    try:
        said = cause(Caller(os.getpid(), os.getuid(), os.getgid()))
    finally:
        comm.write_text(before.strip())
    assert said.startswith("wanted by ls say yes ok (pid ")


async def test_a_line_that_somebody_else_has_read_is_waited_for_again() -> None:
    answers: list[str] = []
    taken: list[bytes] = []
    with a_desk() as desk:

        def take_the_first() -> None:
            if not taken:
                taken.append(desk.read_line())

        with trio.fail_after(HANG_S):
            async with trio.open_nursery() as nursery:
                prompter = TerminalPrompter(desk.path, take_the_first)
                nursery.start_soon(answer_of, prompter, question(), answers)
                await desk.read_until(b"Password: ")
                desk.type(b"ls\n")
                while not taken:
                    await trio.lowlevel.checkpoint()
                desk.type(b"hunter2\n")
    assert (taken, answers) == ([b"ls\n"], ["hunter2"])
