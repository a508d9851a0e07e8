"""The client's side of an SSH login: keys, passwords, prompts, banners.

asyncssh calls ``LoginClient``. The secrets are on the trio side, so each question is
passed to the ``Responder`` there (``bridge.TrioCalls``).

Laws:

* Only the keys of ``Plan`` and the responder's answers are offered. After the responder
  has raised an error, nothing more is offered.
* The server decides how often it asks, so each login has a limit (``PromptLimits``): a
  server that asks in a loop cannot keep a login open or use up more tries.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Generic, Protocol, TypeVar

import asyncssh

from pamfs.config import OldAlgorithm, TenantConfig
from pamfs.errors import (
    CannotAskError,
    LoginError,
    LoginRefusedError,
    PamfsError,
    PasswordExpiredError,
    ProtocolBrokenError,
)
from pamfs.model import Secret
from pamfs.transport.base import LoginTry, Prompts, Responder
from pamfs.transport.bridge import Make, TrioCalls
from pamfs.transport.ssh.algorithms import use_sha2
from pamfs.transport.ssh.host_keys import HostKeyVerifier
from pamfs.transport.ssh.keys import LoginKeys
from pamfs.transport.ssh.refusals import tidy

if TYPE_CHECKING:
    from asyncssh.public_key import KeyPairListArg

V = TypeVar("V")

HANG_UP_WITHIN_S: Final = 3.0
# How a connection ends when the line fails, without a word of the server.
LINE_FAILURES: Final = (OSError, asyncssh.ConnectionLost, asyncssh.MACError)
# The longest known login has five rounds: password, choice of the second factor, code,
# reason, ticket. A server that asks on could wear a person down to an answer.
MOST_ROUNDS: Final = 5
# A round without a question is a notice. A server that waits for an approval on a phone
# sends one every few seconds.
MOST_NOTICES: Final = 100


@dataclass(frozen=True, slots=True)
class Plan:
    """Where and as whom to log in, and what may be offered.

    ``agent`` is the socket of the SSH agent whose keys are offered, or empty.
    """

    host: str
    port: int
    user_name: Secret
    methods: Sequence[str]
    host_keys: HostKeyVerifier
    keepalive_s: float
    scrub: Callable[[str], str]
    on_answered: Callable[[], object]
    keys: Sequence[asyncssh.SSHKeyPair] = field(default=(), repr=False)
    agent: str = ""
    old_algorithms: Collection[OldAlgorithm] = ()
    is_name_secret: bool = False  # it holds a one-time code


def plan_of(tenant: TenantConfig, keys: LoginKeys, one: LoginTry) -> Plan:
    """Return the plan of one try."""
    proxy = tenant.proxy
    methods = ["publickey"] if keys else []
    methods.append("keyboard-interactive")
    if tenant.login.password is not None:
        methods.append("password")
    return Plan(
        host=proxy.host,
        port=proxy.port,
        user_name=one.user_name,
        methods=methods,
        host_keys=HostKeyVerifier(proxy),
        keepalive_s=proxy.keepalive_s,
        scrub=one.scrub,
        on_answered=one.on_answered,
        keys=keys.pairs,
        agent=keys.agent,
        is_name_secret=one.is_name_secret,
        old_algorithms=proxy.old_algorithms,
    )


class PromptLimits:
    """Counts the keyboard-interactive rounds of one login, and limits them.

    After each refusal asyncssh tries the first method of the server's list again.
    OpenSSH with ``UsePAM no`` offers keyboard-interactive and refuses it without a
    question: without this limit that would use up ``MaxAuthTries``.
    """

    def __init__(self) -> None:
        self._begun = 0
        self._rounds = 0
        self._notices = 0
        self._was_asked = True
        self._methods: Sequence[str] = ()

    def begin(self, methods: Sequence[str]) -> bool:
        """Whether to begin keyboard-interactive, given the server's list ``methods``.

        No if the last one was refused without a question and the list is the same. A
        changed list means that another step of the login has passed.
        """
        is_useless = not self._was_asked and methods == self._methods
        if is_useless or self._begun == MOST_ROUNDS:
            return False
        self._begun += 1
        self._was_asked = False
        self._methods = methods
        return True

    def note_round(self, *, has_prompts: bool) -> None:
        """Count a round; raise ``LoginRefusedError`` if there are too many."""
        if has_prompts:
            self._was_asked = True
            self._rounds += 1
        else:
            self._notices += 1
        if self._rounds > MOST_ROUNDS or self._notices > MOST_NOTICES:
            raise LoginRefusedError(
                f"the proxy asked again after {self._rounds - has_prompts} rounds of"
                f" questions and {self._notices} notices: the login was ended"
            )


class LoginClient(asyncssh.SSHClient):
    """asyncssh's callbacks for one connection, from its first packet to its loss."""

    def __init__(self, plan: Plan, responder: Responder, trio_calls: TrioCalls) -> None:
        self._plan = plan
        self._responder = responder
        self._trio_calls = trio_calls
        self._keys = list(plan.keys)
        self._agent: asyncssh.SSHAgentClient | None = None
        self.connection: asyncssh.SSHClientConnection | None = None
        self._limits = PromptLimits()
        self.failure: LoginError | None = None
        self.has_begun = False
        # Whether a secret went out and the server has not answered since.
        self.is_unanswered = False
        self.is_cut = False  # the line failed
        self.notices: list[str] = []
        self.loss = ""
        self.bad_reply = ""  # why asyncssh ended the file channel

    def validate_host_public_key(
        self, host: str, addr: str, port: int, key: asyncssh.SSHKey
    ) -> bool:
        """Whether to accept a key that is not among the known ones."""
        del host, port
        return self._plan.host_keys.judge(addr, key)

    def connection_made(self, conn: asyncssh.SSHClientConnection) -> None:
        """Keep the connection: it has the methods that the server offers."""
        self.connection = conn

    def connection_lost(self, exc: Exception | None) -> None:
        """Keep the reason."""
        self.loss = tidy([self._plan.scrub(str(exc or ""))]) or "connection closed"
        self.is_cut = isinstance(exc, LINE_FAILURES)

    def auth_banner_received(self, msg: str, lang: str) -> None:
        """Keep the banner: it may say why a login is refused."""
        del lang
        self.notices.append(msg)

    def begin_auth(self, username: str) -> None:
        """Report that the proxy answered and that its key was accepted."""
        del username
        self.has_begun = True
        self.is_unanswered = self._plan.is_name_secret
        self._trio_calls.post(self._plan.on_answered)

    def auth_completed(self) -> None:
        """Note that the login was accepted."""
        self.is_unanswered = False

    async def public_key_auth_requested(self) -> KeyPairListArg | None:
        """Offer the keys, once."""
        self.is_unanswered = False
        keys, self._keys = self._keys, []
        if self._plan.agent and self._agent is None:
            keys += await self._agent_keys()
        use_sha2(keys, self._plan.old_algorithms)
        self.is_unanswered = bool(keys)
        return keys or None

    def scrub(self, text: str) -> str:
        """Return ``text`` without what is secret in this login."""
        return self._plan.scrub(text)

    def note_bad_reply(self, reason: str) -> None:
        """Keep why asyncssh ends a file channel: a reply that makes no sense."""
        self.bad_reply = tidy([reason])

    def end_login(self) -> None:
        """Close the connection to the SSH agent."""
        if self._agent is not None:
            self._agent.close()

    async def _agent_keys(self) -> Sequence[asyncssh.SSHKeyPair]:
        try:
            self._agent = await asyncssh.connect_agent(self._plan.agent)
            return await self._agent.get_keys()
        except (OSError, ValueError) as exc:
            self.failure = CannotAskError(f"the agent at {self._plan.agent}: {exc}")
            return ()

    async def password_auth_requested(self) -> str | None:
        """Answer a request for the password."""
        self.is_unanswered = False
        secret = await self._ask(self._responder.password)
        self.is_unanswered = secret is not None
        return None if secret is None else secret.reveal()

    def password_change_requested(self, prompt: str, lang: str) -> tuple[str, str]:
        """Refuse: passwords are changed in the PAM."""
        del lang
        said = tidy([self._plan.scrub(prompt)])
        self.failure = PasswordExpiredError(f"the password must be changed: {said}")
        refused: tuple[str, str] = NotImplemented  # asyncssh's value for a refusal
        return refused

    def kbdint_auth_requested(self) -> str | None:
        """Begin keyboard-interactive, unless the limits forbid it."""
        self.is_unanswered = False
        if self.failure or self.connection is None:
            return None
        methods = self.connection.get_server_auth_methods()
        return "" if self._limits.begin(methods) else None

    async def kbdint_challenge_received(
        self, name: str, instructions: str, lang: str, prompts: Prompts
    ) -> list[str] | None:
        """Answer one round of prompts. A round without prompts is a notice."""
        del lang
        self.is_unanswered = False
        said = "\n".join(filter(None, (name.strip(), instructions.strip())))
        try:
            self._limits.note_round(has_prompts=bool(prompts))
        except LoginError as exc:
            self.failure = exc
            return None
        if not prompts:
            self.notices.append(said)
            return []
        secrets = await self._ask(lambda: self._responder.reply(said, prompts))
        self.is_unanswered = bool(secrets)
        return None if secrets is None else [secret.reveal() for secret in secrets]

    async def _ask(self, make: Callable[[], Awaitable[V | None]]) -> V | None:
        if self.failure:
            return None
        try:
            return await self._trio_calls.call(make)
        except LoginError as exc:
            self.failure = exc
        except PamfsError as exc:
            self.failure = LoginRefusedError(str(exc))
        return None


class Channel(Protocol):
    """A file channel of a connection; used on the asyncio side."""

    def exit(self) -> None:
        """Close it."""
        ...

    async def wait_closed(self) -> None:
        """Wait until it is closed."""
        ...


C = TypeVar("C", bound=Channel)


@dataclass(frozen=True, slots=True)
class Dialed(Generic[C]):
    """An open connection with one file channel; used on the asyncio side."""

    connection: asyncssh.SSHClientConnection
    files: C
    client: LoginClient
    open_channel: Make[C]

    @property
    def host_key(self) -> str:
        """Return the fingerprint of the key that the server showed."""
        key = self.connection.get_server_host_key()
        return key.get_fingerprint() if key else ""

    async def wait_lost(self) -> str:
        """Wait until the channel or the connection is gone; return why.

        Raises ``ProtocolBrokenError`` if that is because a reply made no sense.
        """
        await self.files.wait_closed()
        if self.client.bad_reply:
            why = f"the server broke the SFTP protocol: {self.client.bad_reply}"
            raise ProtocolBrokenError(why)
        return self.client.loss or "the proxy closed the file session"

    async def hang_up(self) -> None:
        """Close channel and connection; return when the connection is gone."""
        self.files.exit()
        self.connection.close()
        try:
            async with asyncio.timeout(HANG_UP_WITHIN_S):
                await self.connection.wait_closed()
        except TimeoutError:
            self.connection.abort()
            await self.connection.wait_closed()
