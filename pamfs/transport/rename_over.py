"""Rename over an existing name, for servers that cannot do it in one request.

SFTP version 3's RENAME refuses an existing name (filexfer-02, 6.5). So the old file is
renamed to a name of ours, the new one takes its place, and then the old one is removed.

Law: at each moment both files have a name, and nothing is removed before the new one is
in place. If the second rename fails, the first is undone. If the session is lost in
between, the error says under which name the old file is: the next session finishes it.
"""

from __future__ import annotations

import errno
import logging
import secrets
import stat
from typing import Final, Protocol

import trio

from pamfs.errors import CutRenameError, RemoteError, SessionLostError
from pamfs.model import RemotePath
from pamfs.transport import diagnosis
from pamfs.transport.base import RemoteTree

log = logging.getLogger(__name__)

# Time limit for the swap, and for the removal, in seconds. They are shielded from
# cancellation, because stopping there would leave the name without a file.
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
    # First the refusals of rename(2): nothing is moved for a rename that must fail.
    code = await diagnosis.explain_rename(tree, old, new, errno.EEXIST)
    if code != errno.EEXIST:
        raise RemoteError(code, "rename")
    folder = diagnosis.parent_of(new).rstrip(b"/")
    aside = RemotePath(folder + b"/.pamfs-" + secrets.token_hex(8).encode())
    try:
        with trio.fail_after(SWAP_S, shield=True):
            await _swap_in(rename_to_new, old, new, aside)
    except SessionLostError as exc:
        raise CutRenameError(aside) from exc
    except trio.TooSlowError as exc:
        # No traceback: a silent device is no bug.
        text = "rename over %r failed: the old file may be at %r: %s"
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
    # The rename is done: a refusal from here on is logged, and is not its result.
    try:
        with trio.fail_after(SWAP_S, shield=True):
            if stat.S_ISDIR((await tree.lstat(aside)).mode):
                await tree.rmdir(aside)
            else:
                await tree.unlink(aside)
    except SessionLostError as exc:
        raise CutRenameError(aside) from exc
    except (RemoteError, trio.TooSlowError) as exc:
        log.warning(
            "a file that was replaced by a rename is left at %r: %s", aside, exc
        )
