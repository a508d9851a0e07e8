"""Logs in to a proxy as the configuration says: the real dialer of the pool.

    Connector(bridge, nursery, prompter=build_chain(...), codes=Codes(...))

One SSH connection with one SFTP channel per session. The trio side decides and
knows the secrets (``conversation``), the asyncio side talks (``transport.ssh.dial``).
Law: what a cancelled login has opened is closed, and no secret outlives it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from functools import partial
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
from pamfs.transport.backcall import Backcall
from pamfs.transport.bridge import Bridge
from pamfs.transport.channels import Further
from pamfs.transport.sftp import SftpTree
from pamfs.transport.ssh.dial import dial, hush
from pamfs.transport.ssh.host_keys import HostKeys
from pamfs.transport.ssh.login import Dialed, LoginClient, Plan


class SshLink:
    """One open session; a ``sessions.dial.Link``."""

    lease_expires_at: float | None = None  # SSH does not say (PAM.md 1.4)

    def __init__(
        self,
        bridge: Bridge,
        dialed: Dialed,
        tree: SftpTree,
        forget_codes: Callable[[], object],
    ) -> None:
        self._bridge = bridge
        self._dialed = dialed
        self._forget_codes = forget_codes
        self.host_key = dialed.host_key
        self.tree = tree

    async def renew(self) -> None:
        """Return None: the proxy's session is the lease, and it has no longer one."""
        await trio.lowlevel.checkpoint()

    async def wait_lost(self) -> str:
        """Wait until the connection or its file channel is gone; return why."""
        return await self._bridge.call(self._dialed.wait_lost)

    async def close(self) -> None:
        """Hang up; return when the connection is gone."""
        try:
            await self._bridge.call(self._dialed.hang_up)
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
        self._bridge = bridge
        self._nursery = nursery
        self._answers = Answers(prompter)
        self._codes = codes
        self._accounts = Accounts()
        self._single: set[str] = set()  # proxies that allow one channel only
        hush()

    async def pardon(self, tenant: TenantConfig, target: Target) -> None:
        """Let the account of ``target`` be tried at once, whatever it refused."""
        await self._codes.tries.pardon(self._account(tenant, target).name)

    def begin(self, attempt: Attempt) -> SshLogin:
        """Return a login that has done nothing yet."""
        account = self._account(attempt.tenant, attempt.target)
        conversation = Conversation(attempt, self._answers, self._codes, account)
        login = SshLogin(attempt, conversation, self._bridge, self._nursery)
        login.single = self._single
        return login

    def _account(self, tenant: TenantConfig, target: Target) -> Account:
        account = self._accounts.of(tenant, target)
        self._codes.tries.note_former(account.name, account.former)
        return account


class SshLogin:
    """One attempt; a ``sessions.dial.Login``."""

    def __init__(
        self,
        attempt: Attempt,
        conversation: Conversation,
        bridge: Bridge,
        nursery: trio.Nursery,
    ) -> None:
        self._attempt = attempt
        self._conversation = conversation
        self._bridge = bridge
        self._nursery = nursery
        self._keys: Sequence[asyncssh.SSHKeyPair] = ()
        self._agent = ""
        self.single: set[str] = set()

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
        dialed = await self._dial_until_settled()
        self._forget()
        forget_codes = self._conversation.forget_codes
        tenant = self._attempt.tenant
        proxy = f"{tenant.proxy_host}:{tenant.proxy_port}"
        further = Further(dialed.open_channel, tenant.channels, proxy, self.single)
        tree = SftpTree(
            self._bridge, dialed.files, self._nursery, further, tenant.quirks
        )
        tree.call_device(str(self._attempt.target))
        return SshLink(self._bridge, dialed, tree, forget_codes)

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

    async def _dial_until_settled(self) -> Dialed:
        while True:
            try:
                dialed = await self._dial_once()
            except LoginError as exc:
                error = await self._conversation.refused(exc)
                if error is not None:
                    raise error from None
                await self._prepare_again(exc)
            else:
                # The login is made: what is learned of it must not undo it.
                with trio.CancelScope(shield=True):
                    await self._conversation.accepted()
                return dialed

    async def _prepare_again(self, refusal: LoginError) -> None:
        try:
            await self._conversation.prepare_password()
            await self._conversation.prepare_code()
            await self._conversation.begin()
        except LoginError:
            # That there is no second answer is no excuse for a soon third try.
            raise self._conversation.explain(refusal) from None

    async def _dial_once(self) -> Dialed:
        self._attempt.patience.use(Limit.CONNECT)
        plan = self._plan()
        await trio.to_thread.run_sync(plan.host_keys.read)
        back = Backcall(self._bridge, self._nursery)
        client = LoginClient(plan, self._conversation, back)
        try:
            return await self._bridge.call(partial(dial, plan, client))
        finally:
            back.close()

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
