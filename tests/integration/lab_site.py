"""A lab to test, people to log in to it, and a way to play a story against it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import asyncssh
import pyotp

from pamfs.lab.devices import BULK
from pamfs.lab.policy import wall_clock
from pamfs.lab.runtime import Lab, running
from pamfs.lab.spec import (
    CredentialSpec,
    DeviceSpec,
    LabSpec,
    OperatorSpec,
    TenantSpec,
)
from pamfs.model import Secret

PASSWORD, SEED = "right horse", pyotp.random_base32()
WITHIN_S = 30.0


def spec(**more: Any) -> LabSpec:
    def credential(name: str, device: str = "web01", **policy: Any) -> CredentialSpec:
        return CredentialSpec(name=name, device=device, **policy)

    alice = OperatorSpec(name="alice", password=Secret(PASSWORD), seed=Secret(SEED))
    acme = TenantSpec(
        name="acme",
        operators=(alice,),
        credentials=(
            credential("root"),
            credential("code", needs_code=True),
            credential("reason", needs_reason=True),
            credential("both", needs_code=True, needs_reason=True),
            credential("held", needs_approval=True),
            credential("late", needs_approval=True, approval_limit_s=0.2),
            credential("one", single_session=True),
            credential("short", lease_s=0.5),
            credential("ro", may_upload=False),
            credential("wo", may_download=False),
            credential("sshd", "real01"),
        ),
    )
    devices = more.pop("devices", (DeviceSpec(name="web01"),))
    return LabSpec(tenants=(acme,), devices=devices, **more)


def code(steps: int = 0) -> str:
    """Return a code that serves now; each of -1, 0 and 1 serves once."""
    return pyotp.TOTP(SEED).generate_otp(int(wall_clock() // 30) + steps)


class Person(asyncssh.SSHClient):
    """Answers what the proxy asks, and remembers what it said."""

    def __init__(self, answers: dict[str, str]) -> None:
        self.answers = answers
        self.asked: list[str] = []
        self.banner = ""
        self.farewell: Exception | None = None
        self.gone = asyncio.Event()

    def auth_banner_received(self, msg: str, lang: str) -> None:
        del lang
        self.banner += msg

    def kbdint_auth_requested(self) -> str | None:
        return "" if self.answers else None

    def kbdint_challenge_received(
        self,
        name: str,
        instructions: str,
        lang: str,
        prompts: Sequence[tuple[str, bool]],
    ) -> list[str]:
        del name, instructions, lang
        self.asked += [prompt for prompt, _ in prompts]
        return [self.answers[prompt] for prompt, _ in prompts]

    def connection_lost(self, exc: Exception | None) -> None:
        self.farewell = exc
        self.gone.set()


@dataclass
class Site:
    """A running lab, and ways to log in to it."""

    lab: Lab

    def connect(
        self, user: str, person: Person | None = None, **more: Any
    ) -> AbstractAsyncContextManager[asyncssh.SSHClientConnection]:
        options: dict[str, Any] = {
            "known_hosts": str(self.lab.folder / "known_hosts"),
            "client_keys": None,
            "agent_path": None,
            "config": None,
            **BULK,
            **more,
        }
        options.pop("encoding")
        factory = {"client_factory": lambda: person} if person else {}
        return asyncssh.connect(
            "127.0.0.1", self.lab.port, username=user, **factory, **options
        )

    def login(
        self, user: str, **more: Any
    ) -> AbstractAsyncContextManager[asyncssh.SSHClientConnection]:
        return self.connect(user, password=PASSWORD, **more)

    def events(self, name: str) -> list[dict[str, Any]]:
        return [e for e in self.lab.audit_events() if e["event"] == name]


Story = Callable[[Site], Awaitable[None]]


class Play:
    """Plays a story against a new lab in ``folder``, within a time limit."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def __call__(self, story: Story, chosen: LabSpec | None = None) -> None:
        asyncio.run(self._run(story, chosen or spec()))

    async def _run(self, story: Story, chosen: LabSpec) -> None:
        async with (
            asyncio.timeout(WITHIN_S),
            running(self._folder / "lab", chosen) as lab,
        ):
            await story(Site(lab))


async def motd(conn: asyncssh.SSHClientConnection) -> bytes:
    """Read the one file that every first device has, through a new SFTP session."""
    async with conn.start_sftp_client(path_encoding=None) as sftp:
        async with sftp.open(b"/etc/motd", "rb") as file:
            data: bytes = await file.read()
        return data


async def refusal(attempt: Coroutine[Any, Any, Any]) -> Exception:
    try:
        await attempt
    except (OSError, asyncssh.Error) as exc:
        return exc
    raise AssertionError("it was not refused")
