"""Renaming over an existing name where the server has no way to.

SFTP version 3's own RENAME refuses an existing name. What was there is set
aside first and put back if the rename fails: at every moment at least one of
the two files has a name, and nothing is removed before the new one is in place.
If the session is lost in between, the log names where the old file is.
"""

from __future__ import annotations

import errno
import logging
import secrets
import stat
from typing import Final, Protocol

import trio

from pamfs.errors import PamfsError, RemoteError
from pamfs.model import RemotePath
from pamfs.transport import diagnosis
from pamfs.transport.base import RemoteTree

log = logging.getLogger(__name__)

# How long the steps in between may take, come what may: stopping there would
# leave the name without a file.
SWAP_S: Final = 30.0


class RenameToNew(Protocol):
    """A rename that fails with EEXIST if the new name exists."""

    async def __call__(self, old: RemotePath, new: RemotePath) -> None:
        """Rename ``old`` to ``new``."""
        ...


async def rename_over(
    tree: RemoteTree, rename_to_new: RenameToNew, old: RemotePath, new: RemotePath
) -> None:
    """Rename ``old`` to ``new`` with the meaning of rename(2), but not atomically."""
    try:
        await rename_to_new(old, new)
    except RemoteError as exc:
        if exc.code != errno.EEXIST:
            raise
    else:
        return
    if old == new:
        return
    # rename(2)'s own refusals first: nothing moves for a rename that cannot be.
    code = await diagnosis.explain_rename(tree, old, new, errno.EEXIST)
    if code != errno.EEXIST:
        raise RemoteError(code, "rename")
    folder = diagnosis.parent_of(new).rstrip(b"/")
    aside = RemotePath(folder + b"/.pamfs-" + secrets.token_hex(8).encode())
    try:
        with trio.fail_after(SWAP_S, shield=True):
            await _swap_in(rename_to_new, old, new, aside)
    except (PamfsError, trio.TooSlowError) as exc:
        if not isinstance(exc, RemoteError):
            # No traceback: a lost session is no bug.
            text = "rename of %r: what was there may be at %r: %s"
            log.log(logging.ERROR, text, new, aside, exc)
        raise
    await _remove(tree, aside)


async def _swap_in(
    rename_to_new: RenameToNew, old: RemotePath, new: RemotePath, aside: RemotePath
) -> None:
    await rename_to_new(new, aside)
    try:
        await rename_to_new(old, new)
    except RemoteError:
        await rename_to_new(aside, new)
        raise


async def _remove(tree: RemoteTree, aside: RemotePath) -> None:
    # The rename has happened: what goes wrong from here on is not its failure.
    try:
        with trio.fail_after(SWAP_S, shield=True):
            if stat.S_ISDIR((await tree.lstat(aside)).mode):
                await tree.rmdir(aside)
            else:
                await tree.unlink(aside)
    except (PamfsError, trio.TooSlowError) as exc:
        log.warning("what a rename replaced is left at %r: %s", aside, exc)
