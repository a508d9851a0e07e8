"""What a mount does with a library in which one name is called differently.

    python -m tests.contracts.renamed_run FOLDER LIBRARY NAME...

For each name a process of its own imports the library renamed, checks it as a mount
does, logs in to asyncssh's own server and uses its files. One line of JSON for each
says how that ended. Forked, so that all else is imported once.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import traceback
from pathlib import Path
from typing import TYPE_CHECKING

import trio

from pamfs.model import AttrChange, RemotePath
from pamfs.private_names import LibraryError
from pamfs.transport.base import OpenMode
from tests.fakes.renaming import as_renamed
from tests.limits import HANG_S

if TYPE_CHECKING:
    from pamfs.transport.base import RemoteTree

DATA = bytes(range(256)) * 2048
NEW = OpenMode.READ | OpenMode.WRITE | OpenMode.CREATE | OpenMode.EXCLUSIVE


def outcome_of(folder: Path, library: str, name: str) -> dict[str, object]:
    """Return how a mount's work ends with ``library`` that has ``name`` no more."""
    module, dot, last = name.rpartition(".")
    if dot:
        # A public name as well, elsewhere: only this module loses it.
        delattr(importlib.import_module(module), last)
    else:
        as_renamed(library, name)
    from pamfs.transport.ssh import asyncssh_compat

    try:
        asyncssh_compat.check()
    except LibraryError as exc:
        return {"refused": str(exc)}
    return {"is_short": trio.run(work, folder)}


async def work(folder: Path) -> bool:
    """Log in, use files; return whether their data went the fast path."""
    from tests.contracts.renamed_site import logged_in

    with trio.fail_after(HANG_S):
        async with logged_in() as (tree, is_short):
            await use(tree, folder)
            return is_short


async def use(tree: RemoteTree, folder: Path) -> None:
    """Do what programs do; an assertion fails where it is not done right."""
    top = RemotePath(bytes(folder) + b"/d")
    one, two, link = (RemotePath(top + name) for name in (b"/1", b"/2", b"/l"))
    await tree.mkdir(top, 0o755)
    file, _ = await tree.open(one, NEW, 0o644)
    await file.write_at(0, DATA)
    await file.fsync()
    assert await file.read_at(0, len(DATA)) == DATA
    assert (await file.stat()).size == len(DATA)
    await file.close()
    (folder / "d/2").write_bytes(b"replaced")
    await tree.rename(one, two, replace=True)
    assert (await tree.link(two, one)).size == len(DATA)
    await tree.unlink(one)
    await tree.symlink(b"2", link)
    assert await tree.readlink(link) == b"2"
    assert (await tree.set_attrs(two, AttrChange(mode=0o600))).mode & 0o777 == 0o600
    assert {entry.name for entry in await tree.list_dir(top)} == {b"2", b"l"}
    assert (await tree.space(top)).blocks > 0
    assert (folder / "d/l").read_bytes() == DATA


def main() -> None:
    """Run each name in a fork, one after the other."""
    folder, library, *names = sys.argv[1:]
    for name in names:
        sys.stdout.flush()
        pid = os.fork()
        if not pid:
            place = Path(folder) / name
            place.mkdir()
            try:
                found = outcome_of(place, library, name)
            except BaseException:  # noqa: BLE001 - it is what the test shows
                found = {"failed": traceback.format_exc()}
            sys.stdout.write(json.dumps({"name": name, **found}) + "\n")
            sys.stdout.flush()
            os._exit(0)
        os.waitpid(pid, 0)


if __name__ == "__main__":
    main()
