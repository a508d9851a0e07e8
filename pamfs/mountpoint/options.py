"""The words after ``-o``, of ours and of fstab's."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from pamfs.errors import PamfsError
from pamfs.logs import LEVELS


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


# For mount(8), systemd and fstab, not for us.
_FOR_OTHERS: Final = _words(
    "_netdev nofail noauto auto user users nouser owner group rw exec"
    " defaults async atime relatime strictatime nomand"
)
_FOR_KERNEL: Final = _words(
    "ro nodev nosuid noexec noatime nodiratime default_permissions"
)
# What a FUSE mount never has; "defaults" would mean them too, and does no harm.
_NEVER: Final = _words("dev suid")
_FOR_OTHERS_PREFIX: Final = ("x-", "X-", "comment=")
_LARGEST_ID: Final = (1 << 32) - 2  # the last one means "no change"
SOURCE_PREFIX: Final = "pamfs:"


class OptionError(PamfsError):
    """A mount option is unknown, or its value is wrong."""


@dataclass(frozen=True, slots=True)
class MountOptions:
    """How a file system is mounted.

    ``extra`` goes to the kernel as it is. ``uid`` and ``gid`` are whose files
    with ``owner = "me"`` are; ``None`` means the mounting user's.
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
    if not word or word in _FOR_OTHERS or word.startswith(_FOR_OTHERS_PREFIX):
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
    except RuntimeError:  # ~name of nobody who is known here
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
    near = difflib.get_close_matches(word, [*ours, *_FOR_OTHERS], n=1)
    return f"did you mean {near[0]!r}?" if near else "known: " + ", ".join(ours)
