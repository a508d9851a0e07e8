"""The Assuan conversation with a pinentry: commands out, data and verdicts in.

One line each way, ``D`` lines before ``OK`` or ``ERR`` (the Assuan manual, and
pinentry's own). Law: an answer leaves this module as a ``Secret`` only, and no
error holds one. pinentry always gets a time limit: with one it ends its dialog
cleanly at SIGALRM, screen and terminal modes included.
"""

from __future__ import annotations

import re
import signal
import subprocess
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Final

import trio

from pamfs.errors import CannotAskError, DeclinedError
from pamfs.model import Secret
from pamfs.sessions.prompts.tether import tethered

# gpg-error(1) numbers: the source is in the upper bits, the code in these.
_CODE_BITS: Final = 0xFFFF
_SAID_NO: Final = frozenset(
    {
        62,  # GPG_ERR_TIMEOUT
        99,  # GPG_ERR_CANCELED
        114,  # GPG_ERR_NOT_CONFIRMED
        198,  # GPG_ERR_FULLY_CANCELED
    }
)
_NUMBER: Final = re.compile(r"[0-9]{1,10}")
# Assuan: a line is at most 1000 bytes with its end.
_LONGEST_LINE: Final = 990
_START_S: Final = 10.0
_END_S: Final = 1.0
_AGAIN_S: Final = 0.05


class Assuan:
    """A pinentry that was started."""

    def __init__(self, process: trio.Process) -> None:
        self._process = process
        self._rest = b""
        self.is_shown = False  # whether it holds a screen and a keyboard

    async def hear_greeting(self) -> None:
        """Wait for the first ``OK``."""
        await self._answer("the greeting")

    async def tell(self, command: str, argument: str) -> None:
        """Send a setting; raise ``CannotAskError`` if it is refused."""
        await self._send(command, argument)
        await self._answer(command)

    async def option(self, name: str, value: str = "") -> None:
        """Set an option; one that this flavor does not know is left."""
        await self._send("OPTION", f"{name}={value}" if value else name)
        try:
            await self._answer("OPTION")
        except CannotAskError:
            if self._process.returncode is not None:
                raise

    async def get_pin(self) -> Secret:
        """Return what was typed; raise ``DeclinedError`` if it was cancelled."""
        self.is_shown = True
        await self._send("GETPIN")
        return Secret(await self._answer("GETPIN"))

    async def _send(self, command: str, argument: str = "") -> None:
        line = f"{command} {escape(argument)}" if argument else command
        cut = line.encode()[:_LONGEST_LINE]
        assert self._process.stdin is not None  # noqa: S101 - started with a pipe
        try:
            await self._process.stdin.send_all(cut + b"\n")
        except trio.BrokenResourceError:
            raise CannotAskError("pinentry has ended") from None

    async def _answer(self, command: str) -> str:
        data = b""
        while True:
            word, _, rest = (await self._line()).partition(b" ")
            if word == b"D":
                data += rest
                continue
            self.is_shown = False
            if word == b"OK":
                return unescape(data)
            if word == b"ERR":
                raise _error_of(rest.decode(errors="replace"), command)

    async def _line(self) -> bytes:
        assert self._process.stdout is not None  # noqa: S101 - started with a pipe
        while b"\n" not in self._rest:
            more = await self._process.stdout.receive_some()
            if not more:
                raise CannotAskError("pinentry has ended")
            self._rest += more
        line, _, self._rest = self._rest.partition(b"\n")
        return line


@asynccontextmanager
async def started(
    command: Sequence[str],
    environment: Mapping[str, str],
    on_torn: Callable[[], object] = lambda: None,
) -> AsyncIterator[Assuan]:
    """Start a pinentry, and end it whatever happens.

    ``on_torn`` is called if it was killed while it showed a question.
    """
    with tethered(command) as (argv, tether):
        # Not a session of its own: its leader would take the terminal over.
        process = await trio.lowlevel.open_process(
            argv,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=environment,
            pass_fds=(tether,),
        )
        assuan = Assuan(process)
        try:
            with trio.move_on_after(_START_S) as patience:
                await assuan.hear_greeting()
            if patience.cancelled_caught:
                raise CannotAskError(f"{command[0]} does not start")
            yield assuan
        finally:
            with trio.CancelScope(shield=True):
                await _end(process)
            if assuan.is_shown and (process.returncode or 0) < 0:
                on_torn()


async def _end(process: trio.Process) -> None:
    assert process.stdin is not None  # noqa: S101 - started with a pipe
    assert process.stdout is not None  # noqa: S101
    await process.stdin.aclose()
    with trio.move_on_after(_END_S):
        while process.poll() is None:
            # Again: one that comes just before it waits for a key is forgotten.
            process.send_signal(signal.SIGALRM)
            with trio.move_on_after(_AGAIN_S):
                await process.wait()
    if process.returncode is None:
        process.kill()
        await process.wait()
    await process.stdout.aclose()


def escape(text: str) -> str:
    """Return ``text`` fit for one line of Assuan."""
    return re.sub(r"[%\r\n]", lambda found: f"%{ord(found[0]):02X}", text)


def unescape(data: bytes) -> str:
    """Return the text of ``D`` lines."""
    raw = re.sub(rb"%([0-9A-Fa-f]{2})", lambda found: bytes([int(found[1], 16)]), data)
    return raw.decode("utf-8", "surrogateescape")


def _error_of(rest: str, command: str) -> CannotAskError | DeclinedError:
    number, _, words = rest.partition(" ")
    if _NUMBER.fullmatch(number) and int(number) & _CODE_BITS in _SAID_NO:
        return DeclinedError(f"the question was declined: {words}")
    return CannotAskError(f"pinentry: {command}: {words or number}")
