"""What is recorded of files, names and prompts, and of whom."""

from __future__ import annotations

import os
import subprocess
from contextlib import suppress

import pytest
import trio

from pamfs.errors import DeclinedError, RemoteError
from pamfs.model import Caller, Name, Secret
from pamfs.processes import program_of
from pamfs.sessions.prompts import ChainPrompter, Question
from pamfs.sessions.prompts.question import Kind
from tests.fakes.heard import Heard
from tests.fakes.mounted import CALLER, WEB01, Mounted
from tests.fakes.mounted import mounted as mounted_tree
from tests.mount.waiting import wait_until


def listening() -> tuple[Mounted, Heard]:
    heard = Heard()
    return mounted_tree(audit=heard), heard


class TestFiles:
    async def test_a_close_says_how_much_went_through(self) -> None:
        mount, heard = listening()
        mount.fs.put(b"/f", b"hello")
        ino = (await mount.look(b"acme/root@web01/f")).ino
        files = mount.tree.files
        opened = await files.open(ino, os.O_RDWR, CALLER)
        await files.read(opened.fh, 0, 100)
        await files.write(opened.fh, 0, b"abc")
        await files.release(opened.fh)
        opening, closing = heard.records
        assert (opening["event"], opening["mode"]) == ("open", "rw")
        assert opening["path"] == "acme/root@web01/f"
        assert (opening["target"], opening["uid"]) == (str(WEB01), 1000)
        assert closing["event"] == "close"
        assert (closing["bytes_read"], closing["bytes_written"]) == (5, 3)

    async def test_a_program_that_has_ended_closes_what_it_opened(self) -> None:
        mount, heard = listening()
        mount.fs.put(b"/f", b"hello")
        ino = (await mount.look(b"acme/root@web01/f")).ino
        with subprocess.Popen(["sleep", "60"]) as sleep:  # noqa: ASYNC220 - no pipes
            # The kernel lets the parent go on a moment before it renames the child.
            wait_until(
                lambda: program_of(sleep.pid) == "sleep", "it is another program"
            )
            opener = Caller(sleep.pid, uid=1000, gid=1000)
            opened = await mount.tree.files.open(ino, os.O_RDONLY, opener)
            sleep.kill()
        await mount.tree.files.release(opened.fh)
        closing = heard.records[-1]
        assert (closing["event"], closing["program"]) == ("close", "sleep")

    async def test_changes_of_names_are_recorded(self) -> None:
        mount, heard = listening()
        home = (await mount.look(b"acme/root@web01")).ino
        names = mount.tree.directories
        await names.mkdir(home, Name(b"d"), 0o755, CALLER)
        old, new = (home, Name(b"d")), (home, Name(b"e"))
        await names.rename(old, new, CALLER, replace=True)
        await names.rmdir(home, Name(b"e"), CALLER)
        told = [(record["event"], record["path"]) for record in heard.records]
        below = "acme/root@web01"
        assert told == [
            ("mkdir", f"{below}/d"),
            ("rename", f"{below}/d"),
            ("rmdir", f"{below}/e"),
        ]
        assert heard.records[1]["to"] == f"{below}/e"

    async def test_what_failed_is_recorded_with_its_errno(self) -> None:
        mount, heard = listening()
        home = (await mount.look(b"acme/root@web01")).ino
        with pytest.raises(RemoteError):
            await mount.tree.directories.unlink(home, Name(b"none"), CALLER)
        (record,) = heard.records
        assert (record["event"], record["error"]) == ("unlink", "ENOENT")


class Answers:
    """A person who says the same thing to everybody, or no."""

    def __init__(self, answer: str | None) -> None:
        self.answer = answer

    async def ask(self, question: Question) -> Secret:
        """Be shown the question, and answer or decline."""
        await trio.lowlevel.checkpoint()
        question.on_shown()
        if self.answer is None:
            raise DeclinedError("no")
        return Secret(self.answer)


class TestPrompts:
    async def ask(self, answer: str | None) -> Heard:
        heard = Heard()
        chain = ChainPrompter([("desk", Answers(answer))], str, heard)
        question = Question(Kind.PASSWORD, "Password:", WEB01, CALLER, 60.0)
        with suppress(DeclinedError):
            await chain.ask(question)
        return heard

    async def test_an_answer_is_not_in_the_record_of_it(self) -> None:
        heard = await self.ask("hunter2")
        told = [record["event"] for record in heard.records]
        assert told == ["prompt_shown", "prompt_answered"]
        assert "hunter2" not in str(heard.records)
        assert heard.records[1]["kind"] == "password"

    async def test_a_no_is_recorded(self) -> None:
        heard = await self.ask(None)
        assert heard.records[-1]["event"] == "prompt_declined"
