"""A terminal proxy that follows a script: for what the lab is too honest to do.

It runs on the asyncio side of a bridge and notes what was offered and answered.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import asyncssh

from pamfs.transport.bridge import Bridge

Round = Sequence[str]


@dataclass
class Script:
    """What the proxy asks, in rounds, and the answers that let somebody in.

    ``steps`` are authentication methods in order; each but the last ends in a
    failure that names the next, with ``says_partial`` as RFC 4252 has it.
    """

    files: Path
    steps: Sequence[str] = ("keyboard-interactive",)
    password: str = "hunter2"
    rounds: Sequence[Round] = (("Password: ",),)
    answers: Sequence[Round] = (("hunter2",),)
    instructions: str = ""
    says_partial: bool = True
    refusal_banner: str = ""
    opens_files: bool = True
    last_words: str = ""
    # How often keyboard-interactive is refused without a question, as OpenSSH does
    # with ``UsePAM no``.
    refuses_unasked: int = 0
    # How long a person takes to approve a right password on a phone.
    approval_takes_s: float = 0.0
    # Where the connection is lost, one login after the other: "begin" as it begins,
    # "answer" in place of what an answer gets, "files" as the file session opens.
    cuts: list[str] = field(default_factory=list)
    host_key: asyncssh.SSHKey = field(
        default_factory=lambda: asyncssh.generate_private_key("ssh-ed25519")
    )
    seen: list[tuple[str, str]] = field(default_factory=list)
    connections: list[asyncssh.SSHServerConnection] = field(default_factory=list)
    open_connections: int = 0

    def offered(self, what: str) -> list[str]:
        return [text for kind, text in self.seen if kind == what]

    def cuts_at(self, moment: str) -> bool:
        """Lose the latest connection, if it is time."""
        if self.cuts[:1] != [moment]:
            return False
        self.cuts.pop(0)
        self.connections[-1].abort()
        return True


class ScriptedProxy(asyncssh.SSHServer):
    """One connection of somebody who logs in."""

    def __init__(self, script: Script) -> None:
        self._script = script
        self._steps = list(script.steps)
        self._round = 0
        self._conn: asyncssh.SSHServerConnection | None = None

    def connection_made(self, conn: asyncssh.SSHServerConnection) -> None:
        self._conn = conn
        self._script.connections.append(conn)
        self._script.open_connections += 1

    def connection_lost(self, exc: Exception | None) -> None:
        del exc
        self._script.open_connections -= 1

    def begin_auth(self, username: str) -> bool:
        self._script.seen.append(("user", username))
        self._script.cuts_at("begin")
        return True

    def public_key_auth_supported(self) -> bool:
        return "publickey" in self._steps[:1] or "any" in self._steps

    def password_auth_supported(self) -> bool:
        return "password" in self._steps[:1] or "any" in self._steps

    def kbdint_auth_supported(self) -> bool:
        return "keyboard-interactive" in self._steps[:1] or "any" in self._steps

    def validate_public_key(self, username: str, key: asyncssh.SSHKey) -> bool:
        del username
        self._script.seen.append(("key", key.get_fingerprint()))
        return False

    async def validate_password(self, username: str, password: str) -> bool:
        del username
        self._script.seen.append(("password", password))
        await asyncio.sleep(self._script.approval_takes_s)
        return self._passed(is_right=password == self._script.password)

    def get_kbdint_challenge(self, username: str, lang: str, submethods: str) -> Any:
        del username, lang, submethods
        self._round = 0
        self._script.seen.append(("begun", ""))
        if len(self._script.offered("begun")) <= self._script.refuses_unasked:
            return False
        return self._challenge()

    def validate_kbdint_response(self, username: str, responses: Sequence[str]) -> Any:
        del username
        self._script.seen += [("answer", text) for text in responses]
        self._script.seen.append(("answered", ""))
        if self._script.cuts_at("answer"):
            return False
        if tuple(responses) != tuple(self._script.answers[self._round]):
            return self._passed(is_right=False)
        self._round += 1
        if self._round < len(self._script.rounds):
            return self._challenge()
        return self._passed(is_right=True)

    def _challenge(self) -> Any:
        prompts = [(prompt, False) for prompt in self._script.rounds[self._round]]
        return "", self._script.instructions, "", prompts

    def _passed(self, *, is_right: bool) -> bool:
        assert self._conn is not None
        if not is_right:
            if self._script.refusal_banner:
                self._conn.send_auth_banner(self._script.refusal_banner)
            return False
        self._steps.pop(0)
        if not self._steps:
            return True
        self._conn.send_userauth_failure(self._script.says_partial)
        return False

    def session_requested(self) -> asyncssh.SSHServerSession[bytes] | bool:
        if self._script.opens_files:
            return False
        return SaysNo(self._script.last_words)


class SaysNo(asyncssh.SSHServerSession[bytes]):
    """Grants the subsystem, says its last words on stderr, and ends."""

    def __init__(self, last_words: str) -> None:
        self._last_words = last_words
        self._chan: asyncssh.SSHServerChannel[bytes] | None = None

    def connection_made(self, chan: asyncssh.SSHServerChannel[bytes]) -> None:
        self._chan = chan

    def subsystem_requested(self, subsystem: str) -> bool:
        return subsystem == "sftp" and bool(self._last_words)

    def session_started(self) -> None:
        assert self._chan is not None
        self._chan.write_stderr(self._last_words.encode())
        self._chan.exit(1)


@asynccontextmanager
async def scripted(bridge: Bridge, script: Script) -> AsyncIterator[int]:
    """Run the proxy on the asyncio side; the value is its port."""

    def files_at(chan: asyncssh.SSHServerChannel[bytes]) -> asyncssh.SFTPServer:
        script.cuts_at("files")
        return asyncssh.SFTPServer(chan, chroot=str(script.files).encode())

    more: dict[str, Callable[..., Any]] = {}
    if script.opens_files:
        more["sftp_factory"] = files_at

    async def listen() -> asyncssh.SSHAcceptor:
        return await asyncssh.create_server(
            lambda: ScriptedProxy(script),
            "127.0.0.1",
            0,
            server_host_keys=[script.host_key],
            encoding=None,
            **more,
        )

    async def close(acceptor: asyncssh.SSHAcceptor) -> None:
        acceptor.close()
        for conn in script.connections:
            conn.abort()
            await conn.wait_closed()
        await acceptor.wait_closed()

    acceptor = await bridge.call(listen)
    try:
        yield acceptor.get_port()
    finally:
        await bridge.call(lambda: close(acceptor))
