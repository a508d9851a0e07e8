"""The SSH keys of one login: the one in a file, or those of an SSH agent."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

import asyncssh
import trio

from pamfs.config import LoginConfig
from pamfs.errors import CannotAskError
from pamfs.model import Secret
from pamfs.trusted_files import UntrustedFileError, check_private

AskPassphrase = Callable[[str], Awaitable[Secret]]


class LoginKeys:
    """The keys that a login offers; ``agent`` is the socket of an SSH agent, or ""."""

    def __init__(self, login: LoginConfig) -> None:
        self._key = login.key
        self.pairs: Sequence[asyncssh.SSHKeyPair] = ()
        self.agent = ""

    def __bool__(self) -> bool:
        return bool(self.pairs or self.agent)

    async def load(self, passphrase: AskPassphrase) -> None:
        """Load the keys; ask for a passphrase if needed. Raises ``CannotAskError``."""
        key = self._key
        if key is not None and key.file is not None:
            self.pairs = await _load(key.file, passphrase)
        elif key is not None:
            self.agent = os.environ.get("SSH_AUTH_SOCK", "")
            if not self.agent:
                raise CannotAskError(
                    "key = { agent = true }: SSH_AUTH_SOCK is not set; start an"
                    " ssh-agent before the mount, or use key = { file = ... }"
                )

    def forget(self) -> None:
        """Drop the keys of the file."""
        self.pairs = ()


async def _load(
    file: Path, ask_passphrase: AskPassphrase
) -> Sequence[asyncssh.SSHKeyPair]:
    try:
        return await _read(file, None)
    except asyncssh.KeyEncryptionError:
        passphrase = await ask_passphrase(str(file))
    try:
        return await _read(file, passphrase)
    except asyncssh.KeyEncryptionError as exc:
        # A wrong passphrase, or a missing library for this format.
        raise CannotAskError(f"{file}: {exc}") from None


async def _read(file: Path, passphrase: Secret | None) -> Sequence[asyncssh.SSHKeyPair]:
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
