"""Every failure that pamfs can explain, each with the errno that a program gets.

The class has the errno, the instance has the facts; no message is parsed later.

Law: ``ENOSYS`` never appears here. The kernel remembers one such answer and sends no
further request of that kind for the life of the mount; ``EOPNOTSUPP`` fails only once.
``docs/errno.md`` lists which errno a program gets when; a test compares them.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from enum import Enum


class PamfsError(Exception):
    """A failure with an errno and one line for a person."""

    code: int = errno.EIO


class ConfigError(PamfsError):
    """The configuration is wrong: which file, which key, what would be right."""

    code = errno.EINVAL

    def __init__(self, where: str, problem: str, hint: str = "") -> None:
        super().__init__(f"{where}: {problem}" + (f" ({hint})" if hint else ""))
        self.where = where
        self.problem = problem
        self.hint = hint


class NameRefusedError(PamfsError):
    """A path component that is no target, or could break out of the grammar."""

    code = errno.ENOENT


class RemoteError(PamfsError):
    """The device answered a request with an error of its own."""

    def __init__(self, code: int, operation: str, detail: str = "") -> None:
        super().__init__(
            f"{operation}: {errno.errorcode.get(code, code)}"
            + (f" ({detail})" if detail else "")
        )
        self.code = code
        self.operation = operation


class ServerFaultError(RemoteError):
    """An answer that contradicts what can be seen: asking again makes it no better."""


class MissingError(RemoteError):
    """A name is not there, and that counts as true for ``timeout_s``."""

    code = errno.ENOENT

    def __init__(self, timeout_s: float) -> None:
        super().__init__(errno.ENOENT, "lookup")
        self.timeout_s = timeout_s


class SessionLostError(PamfsError):
    """The session ended while a request was under way."""

    code = errno.EIO


class ProtocolBrokenError(SessionLostError):
    """The session ended because the server answered what its protocol does not allow.

    A new login leads to the same server: it is not tried again and again.
    """


class CutRenameError(SessionLostError):
    """The session ended while the file to be replaced was at ``aside``, or nearly."""

    def __init__(self, aside: bytes) -> None:
        super().__init__(f"rename: the replaced file may be at {aside!r}")
        self.aside = aside


class LoginError(PamfsError):
    """A session could not be opened; the target cools down."""

    code = errno.EACCES


class Blame(Enum):
    """Which part of the login the PAM's message names as wrong."""

    UNSAID = "unsaid"
    CODE = "code"
    PASSWORD = "password"  # noqa: S105 - a word, not a secret
    ACCOUNT = "account"  # locked, disabled: no answer helps


class LoginRefusedError(LoginError):
    """The PAM refused the login: wrong password or code, or no permission.

    ``rest_s`` is how long nothing may be tried again at least.
    """

    code = errno.EACCES

    def __init__(
        self, text: str, blame: Blame = Blame.UNSAID, *, rest_s: float = 0.0
    ) -> None:
        super().__init__(text)
        self.blame = blame
        self.rest_s = rest_s


class HostKeyError(LoginError):
    """The proxy showed a host key that is not the known one."""

    code = errno.EACCES


class CannotAskError(LoginError):
    """An answer is needed, and no way to ask a person works."""

    code = errno.EACCES


class NobodyToAskError(CannotAskError):
    """The program that caused the login has no terminal or desktop to ask on.

    Another program may have one. ``job`` is the process group, None if it has ended.
    """

    code = errno.EACCES

    def __init__(self, text: str, uid: int = -1, job: int | None = None) -> None:
        super().__init__(text)
        self.uid = uid
        self.job = job


class UnknownProxyError(NobodyToAskError):
    """The proxy's host key is unknown and nobody can confirm it; no login was tried."""

    code = errno.EACCES


class DeclinedError(LoginError):
    """The question was declined."""

    code = errno.EACCES


class LoginClosedError(LoginError):
    """The target was locked while its login was under way."""

    code = errno.EACCES


class PasswordExpiredError(LoginError):
    """The operator's PAM password has expired and must be changed first."""

    code = errno.EKEYEXPIRED


class CredentialBusyError(LoginError):
    """Another session holds the credential, and the PAM allows only one."""

    code = errno.EBUSY


class LoginTimeoutError(LoginError):
    """The login, or an approval it waits for, took longer than allowed."""

    code = errno.ETIMEDOUT


class ApprovalPendingError(LoginTimeoutError):
    """The approval is pending; the next access continues the same request."""


class VaultError(LoginRefusedError):
    """The vault's REST interface refused; ``code`` says what kind of refusal."""

    def __init__(self, what: str, code: int) -> None:
        super().__init__(what)
        self.code = code


class UnreachableError(LoginError):
    """The proxy or the device did not answer."""

    code = errno.EHOSTUNREACH


class NoDescriptorError(LoginError):
    """The process, or the machine, has no file descriptor left for a login.

    Nothing was refused: no account counts it, and the target does not cool down.
    """

    code = errno.EMFILE

    def __init__(self, text: str, code: int = errno.EMFILE) -> None:
        super().__init__(text)
        self.code = code


class CutLoginError(UnreachableError):
    """The connection was lost in a login, in place of an answer.

    ``meant`` is what it means of a proxy that refuses by hanging up, which cannot be
    told apart. ``is_unanswered``: a secret was sent, and may have been counted.
    """

    def __init__(self, text: str, meant: LoginError, *, is_unanswered: bool) -> None:
        super().__init__(text)
        self.meant = meant
        self.is_unanswered = is_unanswered


class NoFileTransferError(LoginError):
    """The login worked, but the PAM does not grant file transfer."""

    code = errno.EACCES


class NoWireError(LoginError):
    """The target's name has a protocol that pamfs does not support."""

    code = errno.EPROTONOSUPPORT


class NotListedError(PamfsError):
    """The vault's list of a tenant's targets is not available.

    ``code`` is that of the failure: an empty folder would mean that there are none.
    """

    code = errno.EHOSTUNREACH

    def __init__(self, tenant: str, why: str, code: int = errno.EHOSTUNREACH) -> None:
        super().__init__(f"{tenant}: the vault's list of targets is not known: {why}")
        self.code = code


class GuardRefusedError(PamfsError):
    """The guard refused a login for this program; other programs are not affected."""

    code = errno.EACCES

    def __init__(
        self, target: str, program: str = "", pid: int = 0, why: str = ""
    ) -> None:
        super().__init__(f"{target}: not opened for {program} (pid {pid}): {why}")
        self.program = program
        self.pid = pid


class CoolingError(PamfsError):
    """The target failed a moment ago and may not be dialled again yet."""

    code = errno.EHOSTUNREACH

    def __init__(self, target: str, seconds_left: float, cause: LoginError) -> None:
        super().__init__(f"{target} cools down for {seconds_left:.0f} s: {cause}")
        # A refused password stays EACCES while cooling: the cause has not changed.
        self.code = cause.code
        self.cause = cause


def first_failure(exc: BaseException) -> BaseException:
    """Return the first error of a group, or ``exc`` itself.

    The text of a group only counts its members: no message may show it.
    """
    while isinstance(exc, BaseExceptionGroup):
        exc = exc.exceptions[0]
    return exc


@contextmanager
def ungrouped() -> Iterator[None]:
    """Raise the first error of a group in its place, as the callers expect it."""
    try:
        yield
    except ExceptionGroup as group:
        raise first_failure(group) from group
