"""The contract of ``RemoteTree``, held against one running server."""

from __future__ import annotations

from typing import Final

import trio

from tests.contracts.implementations import Sftp
from tests.contracts.test_remote import PROMISES
from tests.limits import PROGRAM_S
from tests.menagerie.outcomes import outcome_of

# rclone loses such a name once it has read the folder again, which it does each second
# (facts/servers.md#names): whether a promise meets that depends on the time it takes.
VARIES: Final = frozenset({("rclone-full", "names_are_bytes")})


async def hold(sftp: Sftp, name: str) -> None:
    """Hold the promise called ``name`` in a folder of its own."""
    folder = sftp.new_folder(name)  # first: it dials again after a lost connection
    with trio.fail_after(PROGRAM_S):
        async with trio.open_nursery() as nursery:
            await PROMISES[name](sftp.new_tree(nursery), folder)


async def found(sftp: Sftp, name: str) -> str:
    """Return what became of one promise."""
    error: BaseException | None = None
    try:
        await hold(sftp, name)
    except Exception as exc:  # noqa: BLE001 - it is what the caller wants to know
        error = exc
    return outcome_of(error)
