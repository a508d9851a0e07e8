"""The table ``[guard]``: who may cause a login, and which names are only probes.

Every list here replaces the built-in one; the word ``@default`` in it stands for
all that is built in. Programs and names are patterns as of fnmatch(3).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from pamfs.config.sections import Limits, Section, name_of_type

DEFAULT_WORD: Final = "@default"

# Programs that look into every folder they hear of, with nobody asking them to
# (facts/peers.md#crawlers-and-probes).
REFUSED_PROGRAMS: Final = (
    # indexes of the whole disk, and those who look results up in them
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

# Of the above only by their names: they start what somebody asked for.
ALLOWED_PROGRAMS: Final = (
    "systemd-run",
    "systemd-inhibit",
    "systemd-cat",
    "systemd-nspawn",
    "systemd-executor",
    "systemd-socket-activate",
)

# Programs that go from folder to folder by themselves, however slowly. Not ls: what
# a script enters after it, the script wants.
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
    """What the guard goes by.

    ``may_walk`` names the programs that may go through the targets of a tenant.
    Whoever asks twice within ``pause_s`` did not look in between; who wants a
    second closed target within ``burst_s`` does not want it for a person.
    """

    refused_programs: tuple[str, ...] = REFUSED_PROGRAMS
    allowed_programs: tuple[str, ...] = ALLOWED_PROGRAMS
    walking_programs: tuple[str, ...] = WALKING_PROGRAMS
    may_walk: tuple[str, ...] = ()
    probe_names: tuple[str, ...] = PROBE_NAMES
    pause_s: float = 1.0
    burst_s: float = 3.0


def read_guarding(section: Section | None) -> Guarding:
    """Return what stands in ``[guard]``; without it, the defaults."""
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
            section.report("traversal", "is no choice", hint)
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
            section.report(key, f"{word!r} is no name", 'a name without "/", "find"')
            return default
        found += default if word == DEFAULT_WORD else [word]
    return tuple(found)
