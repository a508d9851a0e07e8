"""The environment: the XDG folders, the session bus, systemd's variables.

Law: no other module of the package reads environment variables of its own process to
decide something.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path


def default_path() -> Path:
    """Return ``$XDG_CONFIG_HOME/pamfs/config.toml``."""
    return _xdg("XDG_CONFIG_HOME", "~/.config") / "pamfs/config.toml"


def log_folder() -> Path:
    """Return where background mounts log: ``/var/log/pamfs`` for root."""
    if os.geteuid() == 0 and not os.environ.get("XDG_STATE_HOME"):
        return Path("/var/log/pamfs")
    return _xdg("XDG_STATE_HOME", "~/.local/state") / "pamfs"


def state_folder() -> Path:
    """Return where is kept what must outlive a mount: ``/var/lib/pamfs`` for root."""
    given = os.environ.get("STATE_DIRECTORY", "").partition(":")[0]
    if given.startswith("/"):  # by systemd, from StateDirectory=
        return Path(given)
    if os.geteuid() == 0 and not os.environ.get("XDG_STATE_HOME"):
        return Path("/var/lib/pamfs")
    return _xdg("XDG_STATE_HOME", "~/.local/state") / "pamfs"


def session_bus() -> str | None:
    """Return the D-Bus address of the user's session, if there is one."""
    named = os.environ.get("DBUS_SESSION_BUS_ADDRESS")
    if named:
        return named
    # Where systemd's user manager has it (systemd.special(7), dbus.socket).
    socket = Path(f"/run/user/{os.geteuid()}/bus")
    return f"unix:path={socket}" if socket.exists() else None


def runtime_folder() -> Path:
    """Return the folder for control sockets of mounts that we make."""
    own = _own_runtime_folders()
    return next((path for path in own if path.parent.is_dir()), own[-1])


def runtime_folders() -> list[Path]:
    """Return every folder in which a mount that we may command has its socket.

    A mount outlives the login it was made in, so the environment of ``umount``
    need not be that of ``mount``; root may control all mounts.
    """
    folders = _own_runtime_folders()
    if os.geteuid() == 0:
        folders += sorted(Path("/run/user").glob("*/pamfs"))
        folders += sorted(Path("/tmp").glob("pamfs-*"))  # noqa: S108 - the daemon's uid is checked
    return list(dict.fromkeys(folders))


def _own_runtime_folders() -> list[Path]:
    uid = os.geteuid()
    named = os.environ.get("XDG_RUNTIME_DIR", "")
    folders = [Path(named) / "pamfs"] if named.startswith("/") else []
    if uid == 0:
        return [*folders, Path("/run/pamfs")]
    # The last: made with mode 0700 and refused unless it is ours (control.connection).
    last = Path(f"/tmp/pamfs-{uid}")  # noqa: S108
    return [*folders, Path(f"/run/user/{uid}/pamfs"), last]


def _xdg(variable: str, fallback: str) -> Path:
    value = os.environ.get(variable, "")
    # The XDG base directory specification: a relative path is to be ignored.
    return Path(value) if value.startswith("/") else Path(fallback).expanduser()


@dataclass(frozen=True, slots=True)
class Supervision:
    """The socket of systemd, and the interval of its watchdog.

    ``notify_socket`` is as socket.connect takes it: an abstract one begins with NUL.
    """

    notify_socket: str | None = None
    watchdog_s: float | None = None


def read_supervision() -> Supervision:
    """Read systemd's variables; a watchdog for another process is ignored."""
    given = os.environ.get("NOTIFY_SOCKET", "")
    if given[:1] not in {"/", "@"}:
        return Supervision()
    path = "\0" + given[1:] if given.startswith("@") else given
    return Supervision(path, _watchdog_s())


def _watchdog_s() -> float | None:
    usec = os.environ.get("WATCHDOG_USEC", "")
    pid = os.environ.get("WATCHDOG_PID", str(os.getpid()))
    if not usec.isdecimal() or int(usec) == 0 or pid != str(os.getpid()):
        return None
    return int(usec) / 1_000_000
