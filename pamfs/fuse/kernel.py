"""Control of the kernel: dropping its caches, unmounting, and the limits of the mount.

Law of caches: after check-in nothing of a target may be readable: pages, attributes and
names are dropped. The calls may block on pages that a request holds, so they run in a
thread and never in a handler (pyfuse3, ``invalidate_inode``). A page that a request
under way is about to fill is locked: the kernel waits for the answer, then drops it. A
page that a program has mapped is unmapped, and the next touch asks us again
(docs/leases.md).

Law of paths: the process that serves a mount never accesses a path below the mount
point. The request would wait for the thread that has to answer it
(facts/peers.md#waiting-processes). So other programs unmount and sync, and the kernel's
limits are changed through ``/proc`` and ``/sys``.
"""

from __future__ import annotations

import contextlib
import logging
import os
import select
import shutil
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

import pyfuse3
import trio

from pamfs.descriptors import SPARE
from pamfs.model import Ino, Name
from pamfs.vfs.names.inodes import Inode

log = logging.getLogger(__name__)

Entries = Sequence[tuple[Ino, Name]]

# How long unmounting waits for pages that a pending read keeps locked, in seconds.
_CLOSE_WITHIN_S: Final = 5.0


class KernelCaches:
    """Drops what the kernel has cached."""

    def __init__(self, nursery: trio.Nursery) -> None:
        self._nursery = nursery
        self._under_way = 0
        self._is_closed = False
        self._dropped = trio.Event()

    def drop(self, inodes: Sequence[Inode]) -> None:
        """Have the kernel forget the content and names of ``inodes``, soon."""
        inos = [inode.ino for inode in inodes]
        # A directory's name expires with its TTL and holds no data. Dropped at once, a
        # shell would lose its working directory.
        names = [
            (parent.ino, name)
            for inode in inodes
            if not inode.is_dir
            for parent, name in inode.names
        ]
        if inos and not self._is_closed:
            self._under_way += 1
            self._nursery.start_soon(self._drop, inos, names)

    async def wait_dropped(self) -> None:
        """Wait until the kernel has forgotten everything that it was to forget."""
        while self._under_way:
            await self._dropped.wait()

    async def close(self) -> None:
        """Wait for running calls, then make none.

        Without a mount they would end the process.
        """
        with trio.move_on_after(_CLOSE_WITHIN_S):
            await self.wait_dropped()
        self._is_closed = True

    async def _drop(self, inos: Sequence[Ino], names: Entries) -> None:
        try:
            await trio.to_thread.run_sync(
                self._drop_all, inos, names, abandon_on_cancel=True
            )
        except Exception:
            # A background task of ours must not end the mount.
            log.exception("the kernel could not be made to forget a target")
        finally:
            self._under_way -= 1
            self._dropped.set()
            self._dropped = trio.Event()

    def _drop_all(self, inos: Sequence[Ino], names: Entries) -> None:
        for ino in inos:
            if self._is_closed:
                return
            # The kernel may have forgotten it by itself.
            with contextlib.suppress(OSError):
                pyfuse3.invalidate_inode(pyfuse3.InodeT(ino))
        for parent, name in names:
            if self._is_closed:
                return
            with contextlib.suppress(OSError):
                pyfuse3.invalidate_entry(
                    pyfuse3.InodeT(parent), pyfuse3.FileNameT(bytes(name))
                )


# Time limit in seconds: umount and sync wait for the kernel, which waits for this
# process.
_WITHIN_S: Final = 30.0
# sh(1): the program cannot be run.
_CANNOT_RUN: Final = 126


async def detach(mountpoint: Path, *, is_lazy: bool) -> str | None:
    """Unmount; return None, or the reason for the failure in one line."""
    fusermount = shutil.which("fusermount3")
    program = [fusermount, "-u"] if fusermount else ["umount"]
    lazy = ["-z" if fusermount else "-l"] if is_lazy else []
    done = await _run([*program, *lazy, "--", str(mountpoint)])
    if done is None:
        return f"{mountpoint}: unmounting did not end within {_WITHIN_S:g} s"
    if done.returncode == 0:
        return None
    said = done.stderr.decode(errors="replace").strip().splitlines()
    reason = said[-1] if said else f"{program[0]} ended with {done.returncode}"
    if "busy" in reason:
        return f"{mountpoint}: in use: a program has an open file or its folder there"
    return f"{mountpoint}: {reason}"


async def sync_pages(mountpoint: Path) -> None:
    """Have the kernel write what programs changed through memory maps."""
    done = await _run(["sync", "-f", "--", str(mountpoint)])
    if done is not None and done.returncode == _CANNOT_RUN:
        log.warning("sync: %s", done.stderr.decode())


async def _run(command: list[str]) -> subprocess.CompletedProcess[bytes] | None:
    try:
        with trio.move_on_after(_WITHIN_S), SPARE.lent():
            return await trio.run_process(
                command, check=False, capture_stderr=True, stdin=subprocess.DEVNULL
            )
    except OSError as exc:
        why = f"{exc.strerror}".encode()
        return subprocess.CompletedProcess(command, _CANNOT_RUN, b"", why)
    return None


_DEVICE: Final = "/dev/fuse"
_DESCRIPTORS: Final = Path("/proc/self/fd")


def connection_watch() -> Callable[[], bool]:
    """Return what says whether the kernel has unmounted what pyfuse3 serves.

    poll(2) reports an error on the descriptor of the connection then. A mount that was
    detached lazily is served on, as long as programs have files open.
    """
    poll = select.poll()
    for entry in _DESCRIPTORS.iterdir():
        with contextlib.suppress(OSError):
            if os.fspath(entry.readlink()) == _DEVICE:
                poll.register(int(entry.name), 0)  # errors are always reported
    return lambda: bool(poll.poll(0))


_TABLE: Final = Path("/proc/self/mountinfo")
_CONNECTIONS: Final = Path("/sys/fs/fuse/connections")
_BACKING: Final = Path("/sys/class/bdi")
# The kernel's 12 and 9 hold for all targets of the mount together
# (facts/peers.md#requests-in-flight).
LIMITS: Final = {"max_background": 256, "congestion_threshold": 192}
# With the kernel's 128 KiB a read is split into four requests, each with its own turn
# through the kernel. A larger value makes random access to a memory map read too much.
READ_AHEAD_KB: Final = 512
# Characters that mountinfo writes in octal: proc(5).
_ESCAPES: Final = str.maketrans({c: f"\\{ord(c):03o}" for c in " \t\n\\"})


def raise_limits(
    mountpoint: Path,
    table: Path = _TABLE,
    connections: Path = _CONNECTIONS,
    backing: Path = _BACKING,
) -> None:
    """Let the kernel have more and larger requests under way than its default.

    The files of the connection belong to the mounting user and exist where fusectl is
    mounted; only root can write the file of the readahead.
    """
    try:
        number = connection_of(mountpoint, os.fsdecode(table.read_bytes()))
    except OSError as exc:
        log.debug("the limits stay as they are: %s", exc)
        return
    wanted = {connections / str(number) / name: limit for name, limit in LIMITS.items()}
    wanted[backing / f"0:{number}" / "read_ahead_kb"] = READ_AHEAD_KB
    for path, limit in wanted.items():
        try:
            _write(path, limit)
        except OSError as exc:
            log.debug("%s stays as it is: %s", path.name, exc)


def _write(path: Path, limit: int) -> None:
    # Not created if it is missing: without fusectl the folder is a plain one.
    fd = os.open(path, os.O_WRONLY)
    try:
        os.write(fd, b"%d\n" % limit)
    finally:
        os.close(fd)


def connection_of(mountpoint: Path, table: str) -> int | None:
    """Return the number of the FUSE connection on top of ``mountpoint``.

    It is the minor device number, the third field of the line: proc(5).
    """
    shown = str(mountpoint).translate(_ESCAPES)
    lines = [line.split(" ") for line in table.splitlines()]
    found = [fields[2] for fields in lines if fields[4:5] == [shown]]
    return int(found[-1].partition(":")[2]) if found else None
