"""Logs in to a proxy over the wire of the target (today: SFTP over SSH), as configured.

    SshLogins(bridge, nursery, prompter=build_chain(...), codes=Codes(...))

One SSH connection with one SFTP channel per session, and further channels when they
help. The trio side decides and knows the secrets (``login.secrets``), the asyncio side
talks (``transport.ssh.dial``). Law: what a cancelled login has opened is closed, and no
secret outlives the login.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import asyncssh
import trio

from pamfs.errors import CannotAskError, LoginError
from pamfs.model import Secret
from pamfs.sessions.account.codes import Codes
from pamfs.sessions.account.turn import Account
from pamfs.sessions.answers import Answers
from pamfs.sessions.attempt import Attempt, Limit, Link
from pamfs.sessions.login.secrets import LoginSecrets
from pamfs.sessions.prompts import Prompter
from pamfs.transport.bridge import Bridge
from pamfs.transport.ssh.dial import hush
from pamfs.transport.ssh.host_keys import HostKeyVerifier
from pamfs.transport.ssh.login import Plan
from pamfs.transport.wires import Wire, WireLink, Wires
from pamfs.trusted_files import UntrustedFileError, check_private


class SshLogins:
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
        hush()

    async def pardon(self, account: Account) -> None:
        """Forget the refusals of ``account`` that are on disk."""
        self._note_former(account)
        await self._codes.ledger.pardon(account.key)

    def begin(self, attempt: Attempt, account: Account) -> SshLogin:
        """Return a login that has done nothing yet; raise if no wire serves it."""
        wire = self._wires.of(attempt.target)
        self._note_former(account)
        login_secrets = LoginSecrets(attempt, self._answers, self._codes, account)
        return SshLogin(attempt, login_secrets, wire)

    def _note_former(self, account: Account) -> None:
        self._codes.ledger.note_former(account.key, account.former_keys)


class SshLogin:
    """One attempt; a ``steps.ProxyLogin``."""

    def __init__(
        self, attempt: Attempt, login_secrets: LoginSecrets, wire: Wire
    ) -> None:
        self._attempt = attempt
        self._secrets = login_secrets
        self._wire = wire
        self._keys: Sequence[asyncssh.SSHKeyPair] = ()
        self._agent = ""

    async def load_keys(self) -> None:
        """Load the keys; a passphrase is no secret of the account's."""
        key = self._attempt.tenant.login.key
        if key is not None and key.file is not None:
            self._keys = await self._load_keys(key.file)
        elif key is not None:
            self._agent = os.environ.get("SSH_AUTH_SOCK", "")
            if not self._agent:
                raise CannotAskError(
                    "key = { agent = true }: SSH_AUTH_SOCK is not set; start an"
                    " ssh-agent before the mount, or use key = { file = ... }"
                )

    async def obtain_secrets(self) -> None:
        """Get the password and the one-time code that go out unasked."""
        await self._secrets.check_back_off()
        await self._prepare()

    async def _prepare(self) -> None:
        await self._secrets.prepare_password()
        await self._secrets.prepare_code()
        await self._secrets.begin()

    async def dial(self) -> Link:
        """Dial, log in, and open the file channel; more than once if it may help."""
        wire_link = await self._dial_until_settled()
        self._forget()
        link = Link(wire_link.tree, wire_link.host_key, wire_link.wait_lost)
        link.on_close(wire_link.close)
        link.on_close(self._forget_codes)
        return link

    async def _forget_codes(self) -> None:
        self._secrets.forget_codes()

    async def close(self) -> None:
        """Drop every secret; without a connection no user name holds a code."""
        try:
            with trio.CancelScope(shield=True):
                await self._secrets.end()
        finally:
            self._forget()
            self._secrets.forget_codes()

    def _forget(self) -> None:
        self._secrets.forget()
        self._keys = ()

    async def _dial_until_settled(self) -> WireLink:
        while True:
            try:
                link = await self._dial_once()
            except LoginError as exc:
                error = await self._secrets.refused(exc)
                if error is not None:
                    raise error from None
                await self._prepare_again(exc)
            else:
                # The login succeeded: noting that must not undo it.
                with trio.CancelScope(shield=True):
                    await self._secrets.accepted()
                return link

    async def _prepare_again(self, refusal: LoginError) -> None:
        try:
            await self._prepare()
        except LoginError:
            # The refusal counts, whatever stopped the second answer.
            raise self._secrets.explain(refusal) from None

    async def _dial_once(self) -> WireLink:
        self._attempt.deadline.use(Limit.CONNECT)
        plan = self._plan()
        await trio.to_thread.run_sync(plan.host_keys.read)
        attempt = self._attempt
        files = attempt.tenant.files
        return await self._wire.open(plan, self._secrets, files, attempt.target)

    def _plan(self) -> Plan:
        proxy = self._attempt.tenant.proxy
        methods = ["publickey"] if self._keys or self._agent else []
        methods.append("keyboard-interactive")
        if self._attempt.tenant.login.password is not None:
            methods.append("password")
        return Plan(
            host=proxy.host,
            port=proxy.port,
            user_name=self._secrets.user_name(),
            methods=methods,
            host_keys=HostKeyVerifier(proxy),
            keepalive_s=proxy.keepalive_s,
            scrub=self._secrets.scrub,
            on_answered=self._attempt.answered,
            keys=self._keys,
            agent=self._agent,
            is_name_secret=self._secrets.has_code_in_name,
            old_algorithms=proxy.old_algorithms,
        )

    async def _load_keys(self, file: Path) -> Sequence[asyncssh.SSHKeyPair]:
        try:
            return await _read_keys(file, None)
        except asyncssh.KeyEncryptionError:
            passphrase = await self._secrets.passphrase(str(file))
        try:
            return await _read_keys(file, passphrase)
        except asyncssh.KeyEncryptionError as exc:
            # A wrong passphrase, or a missing library for this format.
            raise CannotAskError(f"{file}: {exc}") from None


async def _read_keys(
    file: Path, passphrase: Secret | None
) -> Sequence[asyncssh.SSHKeyPair]:
    """Return the key in ``file``, and its certificate if there is one beside it."""

    def read() -> Sequence[asyncssh.SSHKeyPair]:
        check_private(file)
        text = passphrase.reveal() if passphrase else None
        key = asyncssh.read_private_key(str(file), text)
        certificate = file.with_name(f"{file.name}-cert.pub")
        certificates = [str(certificate)] if certificate.exists() else []
        return asyncssh.load_keypairs([key], certlist=certificates)

    try:
        # In a thread: deriving a key from a passphrase is slow on purpose.
        return await trio.to_thread.run_sync(read)
    except OSError as exc:
        raise CannotAskError(f"{file}: {exc.strerror}") from None
    except UntrustedFileError as exc:
        raise CannotAskError(str(exc)) from None
    except asyncssh.KeyImportError as exc:
        if passphrase is None and "assphrase" in str(exc):
            raise asyncssh.KeyEncryptionError(str(exc)) from None
        raise CannotAskError(f"{file}: {exc}") from None
