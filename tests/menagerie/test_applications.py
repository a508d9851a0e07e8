"""The applications on a mount over each kind of server: it works, or it says so."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.menagerie import table
from tests.menagerie.applications import (
    APPLICATIONS,
    Site,
    State,
    mounted_site,
    outcome,
)
from tests.menagerie.servers import KINDS

SEEN = table.load()
# One of each implementation, and the OpenSSH of hardened systems.
CORE = (
    "openssh-p-fstat",
    "openssh-without-pam",
    "proftpd-hiddenstores",
    "rclone-off",
    "rclone-full",
    "erlang",
    "conch",
    "dropbear",
    "paramiko",
)
SOME = ("cp -a", "rsync --inplace", "sqlite", "truncate", "append", "overwrite")
# rclone answers some reads of a file that is being written with no data, which is EIO;
# sqlite needs such a read in some runs.
VARIES = frozenset({("rclone-full", "sqlite")})
CELLS = [
    pytest.param(kind, name, id=f"{kind}-{name.replace(' ', '-')}")
    for kind in CORE
    for name in SOME
]


@pytest.fixture(scope="module")
def site(request: pytest.FixtureRequest) -> Iterator[Site]:
    with mounted_site(KINDS[request.param]) as made:
        yield made


@pytest.mark.parametrize(("site", "name"), CELLS, indirect=["site"], scope="module")
def test_it_works_or_is_refused(
    name: str, site: Site, request: pytest.FixtureRequest
) -> None:
    kind = request.node.callspec.params["site"]
    known, note = SEEN[kind]["applications"].get(name, (State.WORKS, ""))
    if known == State.WRONG:
        reason = f"{kind} stores something else, and pamfs cannot tell yet: {note}"
        request.applymarker(pytest.mark.xfail(reason=reason, strict=False))
    seen = outcome(APPLICATIONS[name], site)
    assert seen.state != State.WRONG, seen.note
    may_be_refused = known != State.WORKS or (kind, name) in VARIES
    assert seen.state == State.WORKS or may_be_refused, seen.note
