"""Logs in to a proxy as the configuration says: the real dialer of the pool.

    Connector(bridge, nursery, prompter=build_chain(...), codes=Codes(...))

One SSH connection with one SFTP channel per session. The trio side decides and
knows the secrets (``conversation``), the asyncio side talks (``transport.ssh.dial``).
Law: what a cancelled login has opened is closed, and no secret outlives it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path

import asyncssh
import trio

from pamfs.config import TenantConfig
from pamfs.errors import CannotAskError, LoginError
from pamfs.model import Secret, Target
from pamfs.sessions.accounts import Account, Accounts
from pamfs.sessions.answers import Answers
from pamfs.sessions.conversation import Conversation
from pamfs.sessions.dial import Attempt
from pamfs.sessions.otp import Codes
from pamfs.sessions.patience import Limit
from pamfs.sessions.prompts import Prompter
from pamfs.transport.base import RemoteTree
from pamfs.transport.bridge import Bridge
from pamfs.transport.ssh.dial import hush
from pamfs.transport.ssh.host_keys import HostKeys
from pamfs.transport.ssh.login import Plan
from pamfs.transport.wires import Wire, WireLink, Wires


class SshLink:
    """One open session; a ``sessions.dial.Link``."""

    lease_expires_at: float | None = None  # SSH does not say (PAM.md 1.4)

    def __init__(self, link: WireLink, forget_codes: Callable[[], object]) -> None:
        self._link = link
        self._forget_codes = forget_codes

    @property
    def tree(self) -> RemoteTree:
        """Return the files behind it."""
        return self._link.tree

    @property
    def host_key(self) -> str:
        """Return the fingerprint of the proxy's host key."""
        return self._link.host_key

    async def renew(self) -> None:
        """Return None: the proxy's session is the lease, and it has no longer one."""
        await trio.lowlevel.checkpoint()

    async def wait_lost(self) -> str:
        """Wait until the connection or its file channel is gone; return why."""
        return await self._link.wait_lost()

    async def close(self) -> None:
        """Hang up; return when the connection is gone."""
        try:
            await self._link.close()
        finally:
            self._forget_codes()


class Connector:
    """Makes logins over ``bridge``; what outlives one runs in ``nursery``."""

    def __init__(
        self,
        bridge: Bridge,
        nursery: trio.Nursery,
        *,
        prompter: Prompter,
        codes: Codes,
    ) -> None:
        self._wires = Wires(bridge, nursery)
        self._answers = Answers(prompter)
        self._codes = codes
        self._accounts = Accounts()
        hush()

    async def pardon(self, tenant: TenantConfig, target: Target) -> None:
        """Let the account of ``target`` be tried at once, whatever it refused."""
        await self._codes.tries.pardon(self._account(tenant, target).name)

    def begin(self, attempt: Attempt) -> SshLogin:
        """Return a login that has done nothing yet; raise if no wire serves it."""
        wire = self._wires.of(attempt.target)
        account = self._account(attempt.tenant, attempt.target)
        conversation = Conversation(attempt, self._answers, self._codes, account)
        return SshLogin(attempt, conversation, wire)

    def _account(self, tenant: TenantConfig, target: Target) -> Account:
        account = self._accounts.of(tenant, target)
        self._codes.tries.note_former(account.name, account.former)
        return account


class SshLogin:
    """One attempt; a ``sessions.dial.Login``."""

    def __init__(
        self, attempt: Attempt, conversation: Conversation, wire: Wire
    ) -> None:
        self._attempt = attempt
        self._conversation = conversation
        self._wire = wire
        self._keys: Sequence[asyncssh.SSHKeyPair] = ()
        self._agent = ""

    async def ask(self) -> None:
        """Get the keys: a passphrase is no secret of the account's."""
        key = self._attempt.tenant.key
        if key is not None and key.file is not None:
            self._keys = await self._load_keys(key.file)
        elif key is not None:
            self._agent = os.environ.get("SSH_AUTH_SOCK", "")
            if not self._agent:
                raise CannotAskError("key = { agent = true }: no SSH_AUTH_SOCK is set")

    async def obtain_code(self) -> None:
        """Get the password and the one-time code that go out unasked."""
        await self._conversation.check_rest()
        await self._conversation.prepare_password()
        await self._conversation.prepare_code()
        await self._conversation.begin()

    async def open(self) -> SshLink:
        """Dial, log in, and open the file channel; more than once if it may help."""
        link = await self._dial_until_settled()
        self._forget()
        return SshLink(link, self._conversation.forget_codes)

    async def close(self) -> None:
        """Let go of every secret: there is no connection that has one as its name."""
        try:
            with trio.CancelScope(shield=True):
                await self._conversation.end()
        finally:
            self._forget()
            self._conversation.forget_codes()

    def _forget(self) -> None:
        self._conversation.forget()
        self._keys = ()

    async def _dial_until_settled(self) -> WireLink:
        while True:
            try:
                link = await self._dial_once()
            except LoginError as exc:
                error = await self._conversation.refused(exc)
                if error is not None:
                    raise error from None
                await self._prepare_again(exc)
            else:
                # The login is made: what is learned of it must not undo it.
                with trio.CancelScope(shield=True):
                    await self._conversation.accepted()
                return link

    async def _prepare_again(self, refusal: LoginError) -> None:
        try:
            await self._conversation.prepare_password()
            await self._conversation.prepare_code()
            await self._conversation.begin()
        except LoginError:
            # That there is no second answer is no excuse for a soon third try.
            raise self._conversation.explain(refusal) from None

    async def _dial_once(self) -> WireLink:
        self._attempt.patience.use(Limit.CONNECT)
        plan = self._plan()
        await trio.to_thread.run_sync(plan.host_keys.read)
        attempt = self._attempt
        return await self._wire.open(
            plan, self._conversation, attempt.tenant, attempt.target
        )

    def _plan(self) -> Plan:
        tenant = self._attempt.tenant
        methods = ["publickey"] if self._keys or self._agent else []
        methods.append("keyboard-interactive")
        if tenant.password is not None:
            methods.append("password")
        return Plan(
            host=tenant.proxy_host,
            port=tenant.proxy_port,
            user_name=self._conversation.user_name(),
            methods=methods,
            host_keys=HostKeys(tenant),
            keepalive_s=tenant.keepalive_s,
            scrub=self._conversation.scrub,
            on_answered=self._attempt.answered,
            keys=self._keys,
            agent=self._agent,
            old_algorithms=tenant.old_algorithms,
        )

    async def _load_keys(self, file: Path) -> Sequence[asyncssh.SSHKeyPair]:
        try:
            return await _read_keys(file, None)
        except asyncssh.KeyEncryptionError:
            passphrase = await self._conversation.passphrase(str(file))
        try:
            return await _read_keys(file, passphrase)
        except asyncssh.KeyEncryptionError as exc:
            # A wrong passphrase, or a library that is missing for this format.
            raise CannotAskError(f"{file}: {exc}") from None


async def _read_keys(
    file: Path, passphrase: Secret | None
) -> Sequence[asyncssh.SSHKeyPair]:
    """Return the key in ``file``, and its certificate if there is one beside it."""

    def read() -> Sequence[asyncssh.SSHKeyPair]:
        text = passphrase.reveal() if passphrase else None
        key = asyncssh.read_private_key(str(file), text)
        certificate = file.with_name(f"{file.name}-cert.pub")
        certificates = [str(certificate)] if certificate.exists() else []
        return asyncssh.load_keypairs([key], certlist=certificates)

    try:
        # In a thread: to make a key of a passphrase takes a while on purpose.
        return await trio.to_thread.run_sync(read)
    except OSError as exc:
        raise CannotAskError(f"{file}: {exc.strerror}") from None
    except asyncssh.KeyImportError as exc:
        if passphrase is None and "assphrase" in str(exc):
            raise asyncssh.KeyEncryptionError(str(exc)) from None
        raise CannotAskError(f"{file}: {exc}") from None
