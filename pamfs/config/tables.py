"""The tables beside the tenants: ``[guard]``, ``[prompts]``, ``[audit]``; ``cache``.

Each has a frozen record with the defaults and one function that reads the table. The
lists of ``[guard]`` replace the built-in ones; the word ``@default`` in a list stands
for everything that is built in. Programs and names are patterns (fnmatch(3)).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Final

from pamfs.config.sections import Limits, Section, name_of_type, one_of

DEFAULT_WORD: Final = "@default"

# Programs that visit every folder without a person asking for it
# (facts/peers.md#crawlers-and-probes).
REFUSED_PROGRAMS: Final = (
    # indexes of the whole disk, and the programs that verify their results
    "updatedb*",
    "mlocate",
    "plocate",
    "slocate",
    "locate",
    "locate.findutils",
    # desktop search
    "tracker*",
    "localsearch*",
    "baloo*",
    "recollindex",
    "zeitgeist*",
    # previews
    "*thumbnailer*",
    "*thumbnail",
    "tumblerd",
    "evince-thumbnail*",
    "thumbnail.so",  # of KIO
    # the desktop's volume monitors, trash cans and watchers
    "gvfsd-trash",
    "trash.so",  # of KIO
    "gvfsd-metadata",
    "gvfsd-recent",
    # whole names: the kernel cuts them, and what is cut no pattern fits
    "gvfs-udisks2-volume-monitor",
    "gvfs-afc-volume-monitor",
    "gvfs-goa-volume-monitor",
    "gvfs-gphoto2-volume-monitor",
    "gvfs-mtp-volume-monitor",
    "udisksd",
    "udevadm",
    "gam_server",
    # what the machine looks after itself with
    "systemd-*",
    "df",
    "mountpoint",
    "findmnt",
    "fstrim",
    "tmpreaper",
    "tmpwatch",
    "logrotate",
    "node_exporter",
    "collectd",
    "telegraf",
    "netdata",
    "snmpd",
    "auditd",
    "clamd",
    "freshclam",
    # what paints a shell's prompt, each time it is shown
    "starship",
    "gitstatusd*",
    "oh-my-posh*",
    "powerline*",
)

# Match the patterns above, but run a command that a person typed.
ALLOWED_PROGRAMS: Final = (
    "systemd-run",
    "systemd-inhibit",
    "systemd-cat",
    "systemd-nspawn",
    "systemd-executor",
    "systemd-socket-activate",
)

# Programs that walk trees, at any pace. Not ls: a script that enters a target after ls
# does so on purpose.
WALKING_PROGRAMS: Final = (
    *("find", "fd", "fdfind", "bfs", "du", "gdu*", "ncdu", "dust", "dua", "tree"),
    *("baobab", "filelight", "qdirstat", "k4dirstat"),
    *("grep", "egrep", "fgrep", "rgrep", "ugrep", "rg", "ag", "ack", "sift", "diff"),
    *("cp", "mv", "rm", "rsync", "tar", "cpio", "pax", "zip", "7z", "7za", "rclone"),
    *("chmod", "chown", "chgrp", "setfacl", "getfacl", "restorecon", "setfiles"),
    *("restic", "borg", "kopia", "duplicity", "bup", "unison", "fpart", "csync2"),
    *("fdupes", "jdupes", "rdfind", "rmlint", "czkawka*", "md5deep", "hashdeep"),
    *("clamscan", "clamdscan", "rkhunter", "aide", "tripwire", "samhain"),
)

# Looked for in every folder by desktops, trash cans, shells and editors
# (facts/peers.md#crawlers-and-probes). While a target is closed they are not there.
PROBE_NAMES: Final = (
    ".hidden",
    ".directory",
    ".Trash",
    ".Trash-*",
    ".xdg-volume-info",
    "autorun.inf",
    ".autorun",
    "autorun",
    "autorun.sh",
    "BDMV",
    "VIDEO_TS",
    "VIDEO_TS.IFO",
    ".DS_Store",
    "._*",
    ".Spotlight-V100",
    ".localized",
    ".fseventsd",
    ".VolumeIcon.icns",
    "desktop.ini",
    "Desktop.ini",
    "Thumbs.db",
    "$RECYCLE.BIN",
    ".git",
    "HEAD",  # of a bare repository: git looks for one wherever it stands
    ".hg",
    ".svn",
    ".bzr",
    "_darcs",
    ".jj",
    ".pijul",
    ".fslckout",
    "_FOSSIL_",
    ".envrc",
    ".nvmrc",
    ".node-version",
    ".ruby-version",
    ".python-version",
    ".tool-versions",
    ".editorconfig",
)


@dataclass(frozen=True, slots=True)
class Guarding:
    """The settings of the guard.

    ``may_walk`` names the programs that may go through the targets of a tenant.
    Two accesses within ``pause_s`` are too close for a person who reads the result in
    between. A process that accesses a second closed target within ``burst_s`` is taken
    for a crawler.
    """

    refused_programs: tuple[str, ...] = REFUSED_PROGRAMS
    allowed_programs: tuple[str, ...] = ALLOWED_PROGRAMS
    walking_programs: tuple[str, ...] = WALKING_PROGRAMS
    may_walk: tuple[str, ...] = ()
    probe_names: tuple[str, ...] = PROBE_NAMES
    pause_s: float = 1.0
    burst_s: float = 3.0


def read_guarding(section: Section | None) -> Guarding:
    """Read ``[guard]``; without it, return the defaults."""
    if section is None:
        return Guarding()
    found = Guarding(
        refused_programs=_patterns(section, "refused_programs", REFUSED_PROGRAMS),
        allowed_programs=_patterns(section, "allowed_programs", ALLOWED_PROGRAMS),
        walking_programs=_patterns(section, "walking_programs", WALKING_PROGRAMS),
        may_walk=_read_traversal(section),
        probe_names=_patterns(section, "probe_names", PROBE_NAMES),
        pause_s=section.seconds("pause", Guarding().pause_s, Limits(0, 60)),
        burst_s=section.seconds("burst", Guarding().burst_s, Limits(0, 600)),
    )
    section.finish()
    return found


def _read_traversal(section: Section) -> tuple[str, ...]:
    match section.take("traversal"):
        case None | "refuse":
            return ()
        case "allow":
            return ("*",)
        case list():
            return _patterns(section, "traversal", ())
        case _:
            hint = '"refuse", "allow", or the programs that may, ["restic"]'
            section.report("traversal", "is not one of the choices", hint)
            return ()


def _patterns(section: Section, key: str, default: tuple[str, ...]) -> tuple[str, ...]:
    value = section.take(key)
    if value is None:
        return default
    if not isinstance(value, list):
        hint = f'for example {key} = ["{DEFAULT_WORD}", "name"]'
        section.report(key, f"is {name_of_type(value)}, not an array", hint)
        return default
    found: list[str] = []
    for word in value:
        if not isinstance(word, str) or not word or "/" in word or "\0" in word:
            section.report(
                key, f"{word!r} is not a name", 'a name without "/", for example "find"'
            )
            return default
        found += default if word == DEFAULT_WORD else [word]
    return tuple(found)


class PromptWay(Enum):
    """One way to ask a question."""

    CONTROL = "control"  # a running ``pamfs agent``
    TERMINAL = "terminal"  # of the program that wants in
    PINENTRY = "pinentry"  # on the desktop of that program
    ASKPASS = "askpass"
    SYSTEMD = "systemd"


@dataclass(frozen=True, slots=True)
class Prompting:
    """The ways that are tried, in order; ``None``: what is installed is found.

    ``pinentry`` and ``askpass`` are a program's name or path.
    """

    order: tuple[PromptWay, ...] = tuple(PromptWay)
    pinentry: str | None = None
    askpass: str | None = None


def read_prompting(section: Section | None) -> Prompting:
    """Read ``[prompts]``; without it, return the defaults."""
    if section is None:
        return Prompting()
    order = _read_order(section)
    pinentry, askpass = section.text("pinentry"), section.text("askpass")
    section.finish()
    return Prompting(order, pinentry, askpass)


def _read_order(section: Section) -> tuple[PromptWay, ...]:
    value = section.take("order")
    if value is None:
        return tuple(PromptWay)
    words = [way.value for way in PromptWay]
    if not isinstance(value, list):
        section.report(
            "order", "is not an array of texts", f"known: {', '.join(words)}"
        )
        return tuple(PromptWay)
    for word in value:
        if word not in words:
            hint = one_of(str(word), words)
            section.report("order", f"{word!r} is not a way to ask", hint)
            return tuple(PromptWay)
    if len(set(value)) < len(value):
        section.report("order", "contains a way twice")
    return tuple(PromptWay(word) for word in value)


@dataclass(frozen=True, slots=True)
class Auditing:
    """A file, or systemd's journal; neither: no records are kept."""

    file: Path | None = None
    journal: bool = False


def read_auditing(section: Section | None) -> Auditing:
    """Read ``[audit]``; without it, no records are kept."""
    if section is None:
        return Auditing()
    file, journal = section.path("file"), section.flag("journal")
    is_given = section.take("file") is not None
    section.finish()
    if is_given == journal:
        hint = 'file = "/var/log/pamfs/audit.jsonl" or journal = true'
        section.report("", "needs exactly one destination: a file or the journal", hint)
        return Auditing()
    return Auditing(file, journal)


DEFAULT_BYTES: Final = 128 << 20
# More than a machine would give to one mount; a slip of the unit shows.
_MOST_BYTES: Final = 64 << 30
_SIZE: Final = re.compile(r"(\d+) ?(KiB|MiB|GiB)")
_UNIT_BYTES: Final = {"KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}


def read_caching(top: Section) -> int:
    """Return the bytes that ``cache`` allows; 0 caches no content."""
    value = top.take("cache")
    if value is None:
        return DEFAULT_BYTES
    found = _SIZE.fullmatch(value) if isinstance(value, str) else None
    if value == 0 and not isinstance(value, bool):
        return 0
    size = int(found[1]) * _UNIT_BYTES[found[2]] if found else None
    if size is None or size > _MOST_BYTES:
        hint = '"128 MiB", in KiB, MiB or GiB; 0: nothing is kept'
        top.report("cache", "is not a size", hint)
        return DEFAULT_BYTES
    return size
