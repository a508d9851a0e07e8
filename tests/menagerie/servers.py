"""Real SFTP servers of the field on the loopback, one launcher each.

Every launcher is a context manager: it starts the server on a port of its own,
waits until the port accepts connections, and ends the server on the way out. The
server runs as the account of this process and shows ``files``.
"""

from __future__ import annotations

import grp
import importlib.metadata
import os
import pwd
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Final

from tests.fakes.openssh import SFTP_SERVER, free_port, make_key, running_sshd
from tests.limits import HANG_S
from tests.mount.waiting import wait_until

ROOT: Final = Path(__file__).parents[2]
SCRIPTS: Final = ROOT / "tests" / "menagerie" / "scripts"
# Where ``scripts/bootstrap menagerie`` installs the packages of npm.
NODE_MODULES: Final = ROOT / ".venv" / "npm" / "node_modules"
NSS_WRAPPER: Final = "/usr/lib/*/libnss_wrapper.so"
USER: Final = "device"
PASSWORD: Final = "of-a-device"


@dataclass(frozen=True)
class Server:
    """A running server: where it listens, who may log in, and what it shows.

    ``files`` is the folder on the local disk, ``root`` the same folder as the server
    names it. ``password`` or ``client_key`` is None: each server has one of the two.
    """

    port: int
    known_hosts: Path
    files: Path
    root: bytes
    user: str = USER
    password: str | None = PASSWORD
    client_key: Path | None = None


Command = list[str | Path]
Start = Callable[[Path, Path], AbstractContextManager[Server]]


@dataclass(frozen=True)
class Kind:
    """One server with its settings: how it is started, and what its version is."""

    name: str
    start: Start
    version: Callable[[], str]
    needs: tuple[str | Path, ...]
    is_core: bool = True
    """Whether ``make test`` has it; the others are of ``make menagerie`` alone."""

    def missing(self) -> list[str]:
        """Return what this server needs and this machine does not have."""
        return [str(what) for what in self.needs if not _is_here(what)]


def _is_here(what: str | Path) -> bool:
    if isinstance(what, Path):
        return what.exists()
    if "*" in what:
        return any(Path("/").glob(what.lstrip("/")))
    return shutil.which(what, path=_PATH) is not None


_PATH = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
_ENVIRONMENT = {**os.environ, "PATH": _PATH, "PYTHONPATH": str(ROOT)}


@contextmanager
def running(
    command: Sequence[str | Path], folder: Path, env: Mapping[str, str] | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a server that logs to ``folder``; end it on the way out."""
    with (
        (folder / "log").open("wb") as log,
        subprocess.Popen(
            [*map(str, command)],
            # A link with its paths reversed is made here, and goes with the folder.
            cwd=folder,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            env={**_ENVIRONMENT, **(env or {})},
            start_new_session=True,
        ) as server,
    ):
        try:
            yield server
        finally:
            server.terminate()
            try:
                server.wait(HANG_S)
            finally:
                server.kill()


def _port_printed(server: subprocess.Popen[bytes], folder: Path) -> int:
    assert server.stdout
    line = server.stdout.readline()
    assert line.strip().isdigit(), (folder / "log").read_text(errors="replace")
    return int(line)


def _wait_listening(server: subprocess.Popen[bytes], port: int, folder: Path) -> None:
    """Wait without connecting: some servers serve one client at a time."""
    wanted = f"0100007F:{port:04X}"

    def is_listening() -> bool:
        assert server.poll() is None, (folder / "log").read_text(errors="replace")
        rows = Path("/proc/net/tcp").read_text().splitlines()[1:]
        return any(row.split()[1::2][:2] == [wanted, "0A"] for row in rows)

    wait_until(is_listening, f"{server.args!r} listens on {port}", HANG_S)


def make_host_key(folder: Path) -> Path:
    """Make the key that a server identifies itself with."""
    make_key(folder / "ssh_host_ed25519_key")
    return folder / "ssh_host_ed25519_key"


def _known(folder: Path, port: int) -> Path:
    key = (folder / "ssh_host_ed25519_key.pub").read_text()
    known_hosts = folder / "known_hosts"
    known_hosts.write_text(f"[127.0.0.1]:{port} {key}")
    return known_hosts


# -- OpenSSH ---------------------------------------------------------------


@contextmanager
def openssh(home: Path, files: Path, *, sftp: str = SFTP_SERVER) -> Iterator[Server]:
    """OpenSSH's server with a client's key; ``sftp`` is the command behind it."""
    with running_sshd(home, sftp) as sshd:
        yield Server(
            sshd.port,
            sshd.known_hosts,
            files,
            os.fsencode(files),
            sshd.user,
            None,
            sshd.client_key,
        )


def refusing(*requests: str) -> Start:
    """OpenSSH's server that refuses ``requests``, as a hardened one does."""
    return partial(openssh, sftp=f"{SFTP_SERVER} -P {','.join(requests)}")


_PASSWORD_ONLY = """\
UsePAM no
PasswordAuthentication yes
KbdInteractiveAuthentication yes
PubkeyAuthentication no
"""


@contextmanager
def openssh_without_pam(home: Path, files: Path) -> Iterator[Server]:
    """OpenSSH's server that knows a password only, and offers both ways to give it."""
    account = OwnAccount(home)
    with running_sshd(home, more=_PASSWORD_ONLY, env=account.environment()) as sshd:
        yield Server(sshd.port, sshd.known_hosts, files, os.fsencode(files))


@dataclass(frozen=True)
class OwnAccount:
    """The user ``device``, who has our uid: known to one process by nss_wrapper.

    A real account would need root, and would change the machine's.
    """

    home: Path
    files: dict[str, Path] = field(init=False)

    def __post_init__(self) -> None:
        uid, gid = os.getuid(), os.getgid()
        group = pwd.getpwuid(uid).pw_name
        hashed = _hash_of(PASSWORD)
        lines = {
            "passwd": f"{USER}:x:{uid}:{gid}::{self.home}:/bin/sh\n" + _SSHD_USER,
            "group": f"{group}:x:{gid}:\n" + "nogroup:x:65534:\n",
            "shadow": f"{USER}:{hashed}:19000:0:99999:7:::\n",
        }
        object.__setattr__(self, "files", {name: self.home / name for name in lines})
        for name, text in lines.items():
            self.files[name].write_text(text)

    def environment(self) -> dict[str, str]:
        (library,) = Path("/").glob(NSS_WRAPPER.lstrip("/"))
        variables = {
            f"NSS_WRAPPER_{name.upper()}": str(path)
            for name, path in self.files.items()
        }
        return {"LD_PRELOAD": str(library)} | variables


_SSHD_USER = "sshd:x:65534:65534::/run/sshd:/usr/sbin/nologin\n"


def _hash_of(password: str) -> str:
    done = subprocess.run(
        ["openssl", "passwd", "-6", password],
        check=True,
        capture_output=True,
        timeout=HANG_S,
    )
    return done.stdout.decode().strip()


# -- dropbear --------------------------------------------------------------


@contextmanager
def dropbear(home: Path, files: Path) -> Iterator[Server]:
    """dropbear; it starts OpenSSH's sftp-server, the only one that it knows."""
    account, client_key, port = OwnAccount(home), home / "client_key", free_port()
    make_host_key(home)
    make_key(client_key)
    host_key = home / "dropbear_host_key"
    convert: Command = [
        "dropbearconvert",
        "openssh",
        "dropbear",
        home / "ssh_host_ed25519_key",
    ]
    subprocess.run(
        [*convert, host_key], check=True, capture_output=True, timeout=HANG_S
    )
    home.chmod(0o700)
    (home / ".ssh").mkdir(mode=0o700)
    shutil.copy(home / "client_key.pub", home / ".ssh" / "authorized_keys")
    command: Command = ["dropbear", "-F", "-E", "-s", "-r", host_key]
    command += ["-p", f"127.0.0.1:{port}", "-P", home / "pid"]
    with running(command, home, account.environment()) as server:
        _wait_listening(server, port, home)
        yield Server(
            port,
            _known(home, port),
            files,
            os.fsencode(files),
            password=None,
            client_key=client_key,
        )


# -- ProFTPD ---------------------------------------------------------------

_PROFTPD = """\
LoadModule mod_sftp.c
ServerName "device"
ServerType standalone
DefaultAddress 127.0.0.1
SocketBindTight on
Port {port}
UseIPv6 off
UseReverseDNS off
User {user}
Group {group}
RootLogin on
RequireValidShell off
WtmpLog off
TransferLog none
SystemLog {home}/log
PidFile {home}/pid
ScoreboardFile {home}/scoreboard
DelayEngine off
AuthOrder mod_auth_file.c
AuthUserFile {home}/users
AllowOverwrite on
AllowStoreRestart on
Umask 022
HiddenStores {hidden}
SFTPEngine on
SFTPHostKey {home}/ssh_host_ed25519_key
SFTPAuthMethods password
"""


@contextmanager
def proftpd(home: Path, files: Path, *, hidden: bool = False) -> Iterator[Server]:
    """ProFTPD's mod_sftp; with ``hidden`` a file has its name once it is closed."""
    make_host_key(home)
    port, me = free_port(), pwd.getpwuid(os.getuid())
    group = grp.getgrgid(me.pw_gid).gr_name
    facts = {"port": port, "home": home, "user": me.pw_name, "group": group}
    facts["hidden"] = "on" if hidden else "off"
    (home / "proftpd.conf").write_text(_PROFTPD.format(**facts))
    users = home / "users"
    line = f"{USER}:{_hash_of(PASSWORD)}:{me.pw_uid}:{me.pw_gid}::{files}:/bin/sh\n"
    users.write_text(line)
    users.chmod(0o600)
    command: Command = ["proftpd", "-n", "-c", home / "proftpd.conf"]
    with running(command, home) as server:
        _wait_listening(server, port, home)
        yield Server(port, _known(home, port), files, os.fsencode(files))


# -- servers in other languages --------------------------------------------


@contextmanager
def rclone(home: Path, files: Path, *, cache_mode: str = "off") -> Iterator[Server]:
    """``rclone serve sftp`` of a folder, which it shows as ``/``."""
    key, port = make_host_key(home), free_port()
    command: Command = ["rclone", "serve", "sftp", files, "--addr", f"127.0.0.1:{port}"]
    command += ["--user", USER, "--pass", PASSWORD, "--key", key]
    command += ["--vfs-cache-mode", cache_mode, "--cache-dir", home / "cache"]
    # Files that a test makes on the disk are seen in a second, not in five minutes.
    command += ["--vfs-write-back", "0s", "--dir-cache-time", "1s"]
    command += ["--config", home / "none", "--authorized-keys", ""]
    with running(command, home) as server:
        _wait_listening(server, port, home)
        yield Server(port, _known(home, port), files, b"/")


@contextmanager
def _scripted(
    command: Sequence[str | Path], home: Path, files: Path
) -> Iterator[Server]:
    """Run a script that takes user and password, and prints its port."""
    with running([*command, USER, PASSWORD], home) as server:
        port = _port_printed(server, home)
        yield Server(port, _known(home, port), files, os.fsencode(files))


@contextmanager
def erlang(home: Path, files: Path) -> Iterator[Server]:
    """Erlang/OTP's ``ssh_sftpd``."""
    make_host_key(home)
    command: Command = ["escript", SCRIPTS / "erlang.escript", home]
    with _scripted(command, home, files) as server:
        yield server


@contextmanager
def python_script(home: Path, files: Path, *, module: str) -> Iterator[Server]:
    """A server of the scripts beside this, in a Python of its own."""
    command: Command = [sys.executable, "-m", f"tests.menagerie.scripts.{module}"]
    with _scripted([*command, make_host_key(home)], home, files) as server:
        yield server


@contextmanager
def ssh2(home: Path, files: Path) -> Iterator[Server]:
    """npm's ``ssh2``."""
    command: Command = ["node", SCRIPTS / "ssh2.js", NODE_MODULES, make_host_key(home)]
    with _scripted(command, home, files) as server:
        yield server


# -- the table -------------------------------------------------------------


def _first_version(*command: str | Path) -> str:
    done = subprocess.run(
        [*map(str, command)],
        check=False,
        capture_output=True,
        timeout=HANG_S,
        env=_ENVIRONMENT,
    )
    found = re.search(r"\d+\.\d+[.\w]*", (done.stdout + done.stderr).decode())
    assert found, f"{command} says no version"
    return found[0]


def _of_erlang() -> str:
    (app,) = Path("/usr/lib/erlang/lib").glob("ssh-*/ebin/ssh.app")
    return "ssh " + app.parents[1].name.removeprefix("ssh-")


def _of_openssh() -> str:
    return _first_version("ssh", "-V")


def _of_ssh2() -> str:
    found = re.search(
        r'"version": "([^"]+)"', (NODE_MODULES / "ssh2" / "package.json").read_text()
    )
    assert found
    return found[1]


_RCLONE = partial(_first_version, "rclone", "version")
_PROFTPD_VERSION = partial(_first_version, "proftpd", "-v")

KINDS: Final[Mapping[str, Kind]] = {
    kind.name: kind
    for kind in (
        Kind("openssh", openssh, _of_openssh, ("sshd",)),
        Kind("openssh-p-fstat", refusing("fstat"), _of_openssh, ("sshd",)),
        Kind("openssh-p-fsetstat", refusing("fsetstat"), _of_openssh, ("sshd",)),
        Kind("openssh-p-setstat", refusing("setstat"), _of_openssh, ("sshd",)),
        Kind(
            "openssh-p-posix-rename",
            refusing("posix-rename"),
            _of_openssh,
            ("sshd",),
        ),
        Kind(
            "openssh-without-pam",
            openssh_without_pam,
            _of_openssh,
            ("sshd", "openssl", NSS_WRAPPER),
        ),
        Kind("proftpd", proftpd, _PROFTPD_VERSION, ("proftpd", "openssl")),
        Kind(
            "proftpd-hiddenstores",
            partial(proftpd, hidden=True),
            _PROFTPD_VERSION,
            ("proftpd", "openssl"),
        ),
        *(
            Kind(
                f"rclone-{mode}", partial(rclone, cache_mode=mode), _RCLONE, ("rclone",)
            )
            for mode in ("off", "minimal", "writes", "full")
        ),
        Kind("erlang", erlang, _of_erlang, ("escript",)),
        Kind(
            "conch",
            partial(python_script, module="conch"),
            partial(importlib.metadata.version, "twisted"),
            (),
        ),
        Kind(
            "dropbear",
            dropbear,
            partial(_first_version, "dropbear", "-V"),
            ("dropbear", "dropbearconvert", NSS_WRAPPER, Path(SFTP_SERVER)),
        ),
        Kind(
            "paramiko",
            partial(python_script, module="paramiko_server"),
            partial(importlib.metadata.version, "paramiko"),
            (),
        ),
        Kind("ssh2", ssh2, _of_ssh2, ("node", NODE_MODULES / "ssh2"), is_core=False),
    )
}


@contextmanager
def running_server(kind: Kind, folder: Path) -> Iterator[Server]:
    """Run ``kind`` with a home and files of its own below the empty ``folder``."""
    assert not kind.missing(), f"{kind.name} needs {', '.join(kind.missing())}"
    home, files = folder / "server", folder / "files"
    home.mkdir()
    files.mkdir()
    with kind.start(home, files) as server:
        yield server
