"""The mount point: mount options, the kernel's table of mounts, checks before a mount.

Law: the table is read from ``/proc/self/mountinfo``, and no mount point is accessed for
it: a ``stat`` of a mount whose daemon hangs does not return. Only ``is_dead`` opens a
mount point, in a thread of its own.
"""

from __future__ import annotations

import difflib
import errno
import os
import re
import shutil
import stat
import subprocess
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from pamfs.errors import PamfsError
from pamfs.logs import LEVELS


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


# Words for mount(8), systemd and fstab: accepted and ignored.
_IGNORED: Final = _words(
    "_netdev nofail noauto auto user users nouser owner group rw exec"
    " defaults async atime relatime strictatime nomand"
)
_FOR_KERNEL: Final = _words(
    "ro nodev nosuid noexec noatime nodiratime default_permissions"
)
# A FUSE mount never has these. "defaults" implies them, and is ignored.
_NEVER: Final = _words("dev suid")
_IGNORED_PREFIX: Final = ("x-", "X-", "comment=")
_LARGEST_ID: Final = (1 << 32) - 2  # the last one means "no change"
SOURCE_PREFIX: Final = "pamfs:"


class OptionError(PamfsError):
    """A mount option is unknown, or its value is wrong."""


@dataclass(frozen=True, slots=True)
class MountOptions:
    """How a file system is mounted.

    ``extra`` goes to the kernel unchanged. With ``owner = "me"`` files belong to
    ``uid`` and ``gid``; ``None`` means the mounting user's.
    """

    allow_other: bool = False
    # GLib and KDE treat only the literal fuse.sshfs as remote:
    # facts/peers.md#remote-file-systems.
    subtype: str = "sshfs"
    fsname: str = SOURCE_PREFIX
    log: Path | None = None
    log_level: str = "info"
    uid: int | None = None
    gid: int | None = None
    foreground: bool = False
    extra: tuple[str, ...] = ()


def parse_options(texts: Sequence[str], *, name: str = "") -> MountOptions:
    """Return the options in ``texts``, each ``OPT[,OPT...]``; the last one wins.

    ``name`` is what ``df`` shows unless ``fsname`` says otherwise. Raises
    ``OptionError`` with the option and what would be right.
    """
    plain = re.sub(r"[^A-Za-z0-9_.-]", "_", name)
    options = MountOptions(fsname=SOURCE_PREFIX + plain)
    for text in texts:
        for word in text.split(","):
            options = _with_option(options, word.strip())
    return options


def _with_option(options: MountOptions, word: str) -> MountOptions:
    if not word or word in _IGNORED or word.startswith(_IGNORED_PREFIX):
        return options
    if word in _NEVER:
        raise OptionError(
            f"the mount option {word!r} is not possible: no device file and no set-id"
            " program of a device is ever used as such here (nodev, nosuid);"
            " leave it out"
        )
    if word == "allow_other":
        return replace(options, allow_other=True)
    if word in _FOR_KERNEL:
        return replace(options, extra=(*options.extra, word))
    key, equals, value = word.partition("=")
    if key not in _VALUED:
        raise OptionError(f"unknown mount option {word!r} ({_known(key)})")
    if not equals or not value:
        raise OptionError(f"the mount option {key!r} needs a value: {key}=...")
    try:
        return _VALUED[key](options, value)
    except ValueError as exc:
        raise OptionError(f"{key}={value!a}: {exc}") from None


def _with_subtype(options: MountOptions, value: str) -> MountOptions:
    if not re.fullmatch(r"[A-Za-z0-9_.-]+", value):
        raise ValueError("letters, digits, '.', '_' and '-'")
    return replace(options, subtype=value)


def _with_fsname(options: MountOptions, value: str) -> MountOptions:
    if not value.isprintable():
        raise ValueError("printable characters only")
    # The prefix is how a dead mount of ours is recognized.
    name = SOURCE_PREFIX + value.removeprefix(SOURCE_PREFIX)
    return replace(options, fsname=name)


def _with_log(options: MountOptions, value: str) -> MountOptions:
    try:
        return replace(options, log=Path(value).expanduser().absolute())
    except RuntimeError:  # ~name of a user who does not exist
        raise ValueError("there is no such home") from None


def _with_log_level(options: MountOptions, value: str) -> MountOptions:
    if value not in LEVELS:
        raise ValueError(f"known are {', '.join(LEVELS)}")
    return replace(options, log_level=value)


def _id(value: str) -> int:
    if not value.isascii() or not value.isdigit() or int(value) > _LARGEST_ID:
        raise ValueError(f"a number from 0 to {_LARGEST_ID}")
    return int(value)


_VALUED: Final[Mapping[str, Callable[[MountOptions, str], MountOptions]]] = {
    "subtype": _with_subtype,
    "fsname": _with_fsname,
    "log": _with_log,
    "log_level": _with_log_level,
    "uid": lambda options, value: replace(options, uid=_id(value)),
    "gid": lambda options, value: replace(options, gid=_id(value)),
}


def _known(word: str) -> str:
    ours = ["allow_other", *_VALUED, *sorted(_FOR_KERNEL)]
    near = difflib.get_close_matches(word, [*ours, *_IGNORED], n=1)
    return f"did you mean {near[0]!r}?" if near else "known: " + ", ".join(ours)


_TABLE: Final = Path("/proc/self/mountinfo")
_LINKS_AT_MOST: Final = 40  # as the kernel: path_resolution(7)


@dataclass(frozen=True, slots=True)
class MountEntry:
    """One line of ``/proc/self/mountinfo``, proc(5)."""

    mountpoint: Path
    fstype: str
    source: str
    uid: int | None

    @property
    def is_ours(self) -> bool:
        """Whether it is a mount of pamfs; its daemon may be dead."""
        is_fuse = self.fstype == "fuse" or self.fstype.startswith("fuse.")
        return is_fuse and self.source.startswith(SOURCE_PREFIX)

    @property
    def is_yours(self) -> bool:
        """Whether this user may control its daemon."""
        return os.geteuid() in {0, self.uid}


def read_table(text: str | None = None) -> Iterator[MountEntry]:
    """Yield what is mounted; later ones cover earlier ones on the same folder."""
    if text is None:
        text = os.fsdecode(_TABLE.read_bytes())
    for line in text.splitlines():
        before, dash, after = line.partition(" - ")
        place, kind = before.split(" "), after.split(" ")
        if not dash or len(place) < 5 or len(kind) < 3:  # noqa: PLR2004 - proc(5)
            continue
        owner = re.search(r"(?:^|,)user_id=(\d+)", kind[2])
        yield MountEntry(
            Path(_unescape(place[4])),
            kind[0],
            _unescape(kind[1]),
            int(owner[1]) if owner else None,
        )


def find_mount(mountpoint: Path) -> MountEntry | None:
    """Return what is mounted on exactly this folder (a real path), on top."""
    found = [entry for entry in read_table() if entry.mountpoint == mountpoint]
    return found[-1] if found else None


def mounts_of_pamfs() -> list[MountEntry]:
    """Return the pamfs mounts of all users."""
    return [entry for entry in read_table() if entry.is_ours]


def own_mounts() -> list[MountEntry]:
    """Return the pamfs mounts of this user; for root, of all users."""
    return [entry for entry in mounts_of_pamfs() if entry.is_yours]


def real_mountpoint(path: Path) -> Path:
    """Return the path as the kernel's table names it.

    The last component is only asked whether it is a link (``readlink`` does not
    reach a FUSE daemon for a folder); what is above it is resolved.
    """
    for _ in range(_LINKS_AT_MOST):
        absolute = os.path.abspath(path)  # noqa: PTH100 - no ".." after a mount
        parent, name = os.path.split(absolute)
        whole = os.path.join(os.path.realpath(parent), name)  # noqa: PTH118
        try:
            target = os.readlink(whole)  # noqa: PTH115
        except OSError:
            return Path(whole)
        path = Path(os.path.dirname(whole), target)  # noqa: PTH120
    return path


def _unescape(text: str) -> str:
    raw = re.sub(
        rb"\\([0-3][0-7]{2})", lambda m: bytes([int(m[1], 8)]), os.fsencode(text)
    )
    return os.fsdecode(raw)


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

    Returns whether a dead mount of pamfs was detached first.
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
            raise MountpointError(f"{mountpoint} is not a folder")
        with os.scandir(mountpoint) as names:
            is_empty = next(names, None) is None
    except FileNotFoundError:
        raise MountpointError(
            f"{mountpoint} does not exist (make it with mkdir)"
        ) from None
    except OSError as exc:
        raise MountpointError(f"{mountpoint}: {exc.strerror}") from None
    if not is_empty:
        raise MountpointError(f"{mountpoint} is not empty")
    if not os.access(mountpoint, os.W_OK):
        # fusermount3 requires it: a user may mount only on a folder of their own.
        raise MountpointError(f"{mountpoint} is not writable for this user")


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
        raise MountpointError(f"{mountpoint} is already a mount point: {what}")
    if not is_dead(mountpoint):
        raise MountpointError(
            f"{mountpoint} is already mounted (pamfs umount {mountpoint})"
        )
    clean_up(mountpoint)
    return True


def _others_allowed() -> bool:
    try:
        lines = _FUSE_CONF.read_text(errors="replace").splitlines()
    except OSError:
        return False
    return any(line.strip() == "user_allow_other" for line in lines)
