"""Whether a mount can be made here, said in one line before anything starts."""

from __future__ import annotations

import errno
import os
import shutil
import stat
import subprocess
import threading
from pathlib import Path
from typing import Final

from pamfs.errors import PamfsError
from pamfs.mountpoint.options import MountOptions
from pamfs.mountpoint.table import find_mount

_DEVICE: Final = Path("/dev/fuse")
_FUSE_CONF: Final = Path("/etc/fuse.conf")
# The second for a request that was under way when the connection ended.
_GONE: Final = frozenset((errno.ENOTCONN, errno.ECONNABORTED))
_LOOK_S: Final = 5.0
_UNMOUNT_S: Final = 30.0


class MountpointError(PamfsError):
    """The mount point is missing, in use, or not empty."""


class NoFuseError(PamfsError):
    """The machine has no FUSE, or does not let this user mount."""


def prepare(mountpoint: Path, options: MountOptions) -> bool:
    """Raise unless ``mountpoint`` (a real path) can be mounted on.

    Returns whether a dead mount of ours was cleaned away first.
    """
    check_fuse(options)
    was_dead = _make_free(mountpoint)
    check_folder(mountpoint)
    return was_dead


def check_fuse(options: MountOptions) -> None:
    """Raise ``NoFuseError`` if the kernel or the set-up does not let us."""
    try:
        os.close(os.open(_DEVICE, os.O_RDWR | os.O_CLOEXEC))
    except FileNotFoundError:
        raise NoFuseError(f"there is no {_DEVICE} (modprobe fuse)") from None
    except OSError as exc:
        raise NoFuseError(f"{_DEVICE} cannot be opened: {exc.strerror}") from None
    if os.geteuid() == 0:
        return
    if shutil.which("fusermount3") is None:
        raise NoFuseError("there is no fusermount3 (apt install fuse3)")
    if options.allow_other and not _others_allowed():
        raise NoFuseError(
            f"allow_other is not permitted: root has to write user_allow_other"
            f" into {_FUSE_CONF}"
        )


def check_folder(mountpoint: Path) -> None:
    """Raise ``MountpointError`` unless it is an empty folder that we may use."""
    try:
        found = mountpoint.stat()
        if not stat.S_ISDIR(found.st_mode):
            raise MountpointError(f"{mountpoint} is no folder")
        with os.scandir(mountpoint) as names:
            is_empty = next(names, None) is None
    except FileNotFoundError:
        raise MountpointError(f"{mountpoint} does not exist (mkdir it)") from None
    except OSError as exc:
        raise MountpointError(f"{mountpoint}: {exc.strerror}") from None
    if not is_empty:
        raise MountpointError(f"{mountpoint} is not empty")
    if not os.access(mountpoint, os.W_OK):
        # fusermount3 asks for it: nobody covers a folder that is not theirs.
        raise MountpointError(f"{mountpoint} is not writable for you")


def is_dead(mountpoint: Path) -> bool:
    """Whether the daemon behind a mount is gone; a stuck one is not dead.

    Waits at most five seconds: the look is made in a thread that may stay behind.
    It opens the folder, because a ``stat`` may be answered from the kernel's cache.
    """
    answer: list[int] = []

    def look() -> None:
        try:
            flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
            os.close(os.open(mountpoint, flags))
            answer.append(0)
        except OSError as exc:
            answer.append(exc.errno or 0)

    looking = threading.Thread(target=look, daemon=True)
    looking.start()
    looking.join(_LOOK_S)
    return bool(_GONE.intersection(answer))


def clean_up(mountpoint: Path) -> None:
    """Detach a dead mount; raise ``MountpointError`` if that fails."""
    program = shutil.which("fusermount3")
    command = [program, "-u", "-z"] if program else ["umount", "-l"]
    try:
        done = subprocess.run(  # noqa: S603 - our words, and the path after "--"
            [*command, "--", str(mountpoint)],
            capture_output=True,
            check=False,
            stdin=subprocess.DEVNULL,
            timeout=_UNMOUNT_S,
        )
    except (OSError, subprocess.TimeoutExpired) as exc:
        raise MountpointError(f"{mountpoint}: cannot detach: {exc}") from exc
    if done.returncode:
        said = done.stderr.decode(errors="replace").strip().replace("\n", "; ")
        raise MountpointError(f"{mountpoint}: cannot detach the dead mount: {said}")


def _make_free(mountpoint: Path) -> bool:
    entry = find_mount(mountpoint)
    if entry is None:
        return False
    if not entry.is_ours:
        what = f"{entry.source} ({entry.fstype})"
        raise MountpointError(f"{mountpoint} is a mount point already: {what}")
    if not is_dead(mountpoint):
        raise MountpointError(
            f"{mountpoint} is mounted already (pamfs umount {mountpoint})"
        )
    clean_up(mountpoint)
    return True


def _others_allowed() -> bool:
    try:
        lines = _FUSE_CONF.read_text(errors="replace").splitlines()
    except OSError:
        return False
    return any(line.strip() == "user_allow_other" for line in lines)
