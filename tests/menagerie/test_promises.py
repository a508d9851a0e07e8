"""What ``RemoteTree`` promises, over each real server.

A server need not keep all of them. What it does not keep is in ``seen.json``, and
a promise that is not there is kept.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.contracts.implementations import Sftp
from tests.contracts.test_remote import PROMISES
from tests.menagerie import table
from tests.menagerie.clients import implementation_of
from tests.menagerie.outcomes import KEPT
from tests.menagerie.promised import VARIES, found
from tests.menagerie.servers import KINDS

SEEN = table.load()
# One of each implementation; `make menagerie` has them all.
CORE = ("proftpd-hiddenstores", "rclone-full", "erlang", "conch", "paramiko")


@pytest.fixture(scope="session", params=CORE)
def server(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[str, Sftp]]:
    kind = KINDS[request.param]
    with implementation_of(kind, tmp_path_factory.mktemp("server")) as made:
        yield kind.name, made


@pytest.mark.parametrize("name", PROMISES)
async def test_it_keeps_its_promise_or_is_known_not_to(
    name: str, server: tuple[str, Sftp]
) -> None:
    kind, sftp = server
    how = await found(sftp, name)
    is_known = name in SEEN[kind]["promises"] or (kind, name) in VARIES
    assert how == KEPT or is_known, f"{how}, where it was kept before"
