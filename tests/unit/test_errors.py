"""Every failure has an errno, and its facts."""

from __future__ import annotations

import errno
from collections.abc import Iterator

import pytest

import pamfs.tasks  # noqa: F401 - defines an error of its own
from pamfs import errors
from pamfs.errors import (
    ConfigError,
    CoolingError,
    LoginError,
    LoginRefusedError,
    PamfsError,
    RemoteError,
    UnreachableError,
    first_failure,
    ungrouped,
)


def descendants(cls: type[PamfsError]) -> Iterator[type[PamfsError]]:
    yield cls
    for child in cls.__subclasses__():
        yield from descendants(child)


@pytest.mark.parametrize("cls", sorted(set(descendants(PamfsError)), key=str))
def test_no_error_switches_an_operation_off_for_the_whole_mount(
    cls: type[PamfsError],
) -> None:
    assert cls.code in errno.errorcode
    assert cls.code != errno.ENOSYS


@pytest.mark.parametrize(
    ("cls", "code"),
    [
        (errors.NameRefusedError, errno.ENOENT),
        (errors.SessionLostError, errno.EIO),
        (errors.LoginRefusedError, errno.EACCES),
        (errors.HostKeyError, errno.EACCES),
        (errors.CannotAskError, errno.EACCES),
        (errors.DeclinedError, errno.EACCES),
        (errors.NoFileTransferError, errno.EACCES),
        (errors.PasswordExpiredError, errno.EKEYEXPIRED),
        (errors.CredentialBusyError, errno.EBUSY),
        (errors.LoginTimeoutError, errno.ETIMEDOUT),
        (errors.UnreachableError, errno.EHOSTUNREACH),
    ],
)
def test_a_failure_has_the_errno_of_the_design(
    cls: type[PamfsError], code: int
) -> None:
    assert cls("why").code == code


def test_a_configuration_error_says_where_and_what_would_be_right() -> None:
    error = ConfigError("c.toml: tenant.acme", "no proxy", 'proxy = "host:port"')
    assert str(error) == 'c.toml: tenant.acme: no proxy (proxy = "host:port")'
    assert (error.where, error.problem) == ("c.toml: tenant.acme", "no proxy")
    assert str(ConfigError("c.toml", "unreadable")) == "c.toml: unreadable"


def test_a_device_error_carries_the_devices_errno() -> None:
    error = RemoteError(errno.ENOTEMPTY, "rmdir", "3 entries")
    assert (error.code, error.operation) == (errno.ENOTEMPTY, "rmdir")
    assert str(error) == "rmdir: ENOTEMPTY (3 entries)"
    assert str(RemoteError(99999, "open")) == "open: 99999"


@pytest.mark.parametrize("cause", [LoginRefusedError("no"), UnreachableError("down")])
def test_a_cooling_target_answers_as_its_cause_did(cause: LoginError) -> None:
    error = CoolingError("acme/root@web01", 12.4, cause)
    assert error.code == cause.code
    assert error.cause is cause
    assert str(error) == f"acme/root@web01 cools down for 12 s: {cause}"


def test_the_first_error_of_a_group_stands_for_it() -> None:
    inner = UnreachableError("away")
    group = ExceptionGroup("two", [ExceptionGroup("one", [inner]), ValueError()])
    assert first_failure(group) is inner
    assert first_failure(inner) is inner
    with pytest.raises(UnreachableError, match="away"), ungrouped():
        raise group
