"""The implementations as one fixture; a connection is made once in a session."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest

from pamfs.transport.base import Capabilities
from tests.contracts.implementations import (
    Fake,
    Implementation,
    sftp_over_asyncssh,
    sftp_over_openssh,
)
from tests.fakes.openssh import SFTP_SERVER
from tests.fakes.remote import Device
from tests.fakes.servers import ReadsLittle

# -P makes a server of before 2008: names, and no extension that matters here.
OLD = "posix-rename,hardlink,fsync,statvfs,fstatvfs,lsetstat,limits"

GCM = "aes128-gcm@openssh.com"


@contextmanager
def _fake(folder: Path, device: Device) -> Iterator[Fake]:
    del folder
    yield Fake(device)


MAKERS: dict[str, Callable[[Path], AbstractContextManager[Implementation]]] = {
    "fake": lambda folder: _fake(folder, Device()),
    "fake that masks": lambda folder: _fake(folder, Device(umask=0o077)),
    "fake of the full wire": lambda folder: _fake(
        folder, Device(has_whole_seconds=False, shows_nlink=True)
    ),
    "fake without extensions": lambda folder: _fake(
        folder, Device(capabilities=Capabilities())
    ),
    "asyncssh": sftp_over_asyncssh,
    "asyncssh that reads little": lambda folder: sftp_over_asyncssh(
        folder, ReadsLittle
    ),
    "openssh": sftp_over_openssh,
    "openssh by the short way": lambda folder: sftp_over_openssh(
        folder, encryption_algs=GCM
    ),
    "openssh that masks": lambda folder: sftp_over_openssh(
        folder, f"{SFTP_SERVER} -u 0077"
    ),
    "openssh without extensions": lambda folder: sftp_over_openssh(
        folder, f"{SFTP_SERVER} -P {OLD}"
    ),
}


@pytest.fixture(scope="session", params=list(MAKERS))
def implementation(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Implementation]:
    folder = tmp_path_factory.mktemp("device")
    with MAKERS[request.param](folder) as made:
        yield made


_numbers = itertools.count()


@pytest.fixture
def folder_name() -> str:
    return f"folder{next(_numbers)}"
