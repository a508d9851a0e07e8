"""The devices' SFTP server: confined, and answering as OpenSSH's does."""

from __future__ import annotations

import os
import select
import stat
import struct
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pamfs.lab.sftpd import EXTENSIONS, Root, SftpServer
from pamfs.lab.wire import Open, Packet, PacketReader, Status, string
from tests.limits import HANG_S

SFTP_SERVER = Path("/usr/lib/openssh/sftp-server")
NO_ATTRS = struct.pack(">I", 0)
READ, WRITE = Open.READ, Open.WRITE | Open.CREAT

Ask = Callable[[bytes], bytes]


def packet(kind: int, *fields: bytes | int) -> bytes:
    """Return a request with number 1; numbers among ``fields`` are 32-bit."""
    body = b"".join(
        string(f) if isinstance(f, bytes) else struct.pack(">I", f) for f in fields
    )
    return bytes([kind]) + struct.pack(">I", 1) + body


def raw(kind: int, *fields: bytes | int, tail: bytes = NO_ATTRS) -> bytes:
    return packet(kind, *fields) + tail


def mode_attrs(mode: int) -> bytes:
    return struct.pack(">II", 4, mode)


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Path]:
    """A device's folder inside another one, and a umask as the devices have it."""
    before = os.umask(0o022)
    folder = tmp_path / "device"
    folder.mkdir()
    (tmp_path / "secret").write_text("outside")
    yield folder
    os.umask(before)


@pytest.fixture
def ask(place: Path) -> Iterator[Ask]:
    root = Root(str(place))
    server = SftpServer(root, b"/", frozenset(EXTENSIONS))
    yield lambda request: server.answer(memoryview(request))[4:]
    server.close()
    root.close()


def code_of(answer: bytes) -> Status:
    assert answer[0] == Packet.STATUS
    return Status(int.from_bytes(answer[5:9], "big"))


def handle_of(answer: bytes) -> bytes:
    assert answer[0] == Packet.HANDLE, answer
    return PacketReader(memoryview(answer)[5:]).string()


def name_of(answer: bytes) -> bytes:
    assert answer[0] == Packet.NAME, answer
    reader = PacketReader(memoryview(answer)[5:])
    assert reader.u32() == 1
    return reader.string()


def stored(ask: Ask, name: bytes, data: bytes) -> None:
    handle = handle_of(ask(raw(Packet.OPEN, name, WRITE)))
    assert code_of(ask(written(handle, 0, data))) is Status.OK
    assert code_of(ask(packet(Packet.CLOSE, handle))) is Status.OK


def written(handle: bytes, offset: int, data: bytes) -> bytes:
    tail = struct.pack(">Q", offset) + string(data)
    return raw(Packet.WRITE, handle, tail=tail)


@pytest.mark.parametrize(
    "name", [b"caf\xe9", b"two\nlines", b"[x]{y}%", b"n" * 255, "ü".encode()]
)
def test_a_name_is_bytes(ask: Ask, place: Path, name: bytes) -> None:
    stored(ask, b"/" + name, b"data")
    assert os.listdir(os.fsencode(place)) == [name]
    handle = handle_of(ask(packet(Packet.OPENDIR, b"/")))
    assert string(name) in ask(packet(Packet.READDIR, handle))


@pytest.mark.parametrize("link", [b"../secret", b"../../../../etc/passwd"])
def test_a_link_that_climbs_stays_inside(ask: Ask, place: Path, link: bytes) -> None:
    (place / "l").symlink_to(link.decode())
    assert code_of(ask(raw(Packet.OPEN, b"/l", READ))) is Status.NO_SUCH_FILE
    assert code_of(ask(packet(Packet.STAT, b"/l"))) is Status.NO_SUCH_FILE
    assert code_of(ask(packet(Packet.LSTAT, b"/../secret"))) is Status.NO_SUCH_FILE


def test_an_absolute_link_means_the_device(ask: Ask, place: Path) -> None:
    (place / "etc").mkdir()
    (place / "etc/motd").write_text("inside")
    (place / "l").symlink_to("/etc/motd")
    (place / "d").symlink_to("/etc")
    (place / "out").symlink_to(place.parent / "secret")
    handle = handle_of(ask(raw(Packet.OPEN, b"/l", READ)))
    request = raw(Packet.READ, handle, tail=struct.pack(">QI", 0, 100))
    assert ask(request)[5:] == string(b"inside")
    assert code_of(ask(raw(Packet.OPEN, b"/out", READ))) is Status.NO_SUCH_FILE
    assert name_of(ask(packet(Packet.REALPATH, b"/d/motd"))) == b"/etc/motd"
    stored(ask, b"/d/new", b"x")
    assert (place / "etc/new").exists()


@pytest.mark.parametrize(
    "link", [b"/etc/motd", b"../../x", b"caf\xe9", b"a//b/", b"x" * 300]
)
def test_a_link_is_stored_and_shown_as_it_is(
    ask: Ask, place: Path, link: bytes
) -> None:
    assert code_of(ask(packet(Packet.SYMLINK, link, b"/l"))) is Status.OK
    assert os.readlink(os.fsencode(place / "l")) == link
    assert name_of(ask(packet(Packet.READLINK, b"/l"))) == link


def test_writing_through_a_link_outside_creates_nothing(ask: Ask, place: Path) -> None:
    (place / "l").symlink_to("../fresh")
    ask(raw(Packet.OPEN, b"/l", WRITE))
    assert not (place.parent / "fresh").exists()


def test_lsetstat_changes_the_link_and_not_its_target(ask: Ask, place: Path) -> None:
    (place / "f").write_text("x")
    (place / "l").symlink_to("f")
    before = (place / "f").stat().st_mtime
    times = struct.pack(">III", 8, 1000, 2000)
    request = raw(Packet.EXTENDED, b"lsetstat@openssh.com", b"/l", tail=times)
    assert code_of(ask(request)) is Status.OK
    assert (place / "l").lstat().st_mtime == 2000
    assert (place / "f").stat().st_mtime == before


def test_an_appending_handle_grows_at_the_end(ask: Ask, place: Path) -> None:
    (place / "f").write_bytes(b"one")
    handle = handle_of(ask(raw(Packet.OPEN, b"/f", Open.WRITE | Open.APPEND)))
    (place / "f").write_bytes(b"one and a half")
    ask(written(handle, 0, b", two"))
    assert (place / "f").read_bytes() == b"one and a half, two"


def test_what_is_not_named_is_not_served(place: Path) -> None:
    root = Root(str(place))
    server = SftpServer(root, b"/", frozenset())
    request = packet(Packet.EXTENDED, b"limits@openssh.com")
    answer = server.answer(memoryview(request))[4:]
    assert code_of(answer) is Status.OP_UNSUPPORTED
    root.close()


def test_a_folder_that_is_never_read_is_closed_too(ask: Ask, place: Path) -> None:
    del place
    before = len(os.listdir("/proc/self/fd"))
    handle = handle_of(ask(packet(Packet.OPENDIR, b"/")))
    ask(packet(Packet.CLOSE, handle))
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_truncated_packet_is_a_bad_message(ask: Ask) -> None:
    assert code_of(ask(packet(Packet.OPEN, b"/f"))) is Status.BAD_MESSAGE


# The same requests to OpenSSH's own server

ORACLE_STEPS = [
    raw(Packet.MKDIR, b"d"),
    raw(Packet.MKDIR, b"d"),
    raw(Packet.MKDIR, b"m", tail=mode_attrs(0o777)),
    raw(Packet.MKDIR, b"no/where"),
    raw(Packet.OPEN, b"d/f", WRITE, tail=mode_attrs(0o666)),
    raw(Packet.OPEN, b"d/f", WRITE | Open.EXCL),
    raw(Packet.OPEN, b"d/f/x", READ),
    raw(Packet.OPEN, b"none", READ),
    raw(Packet.OPEN, b"d", WRITE),
    packet(Packet.RMDIR, b"d"),
    packet(Packet.RMDIR, b"none"),
    packet(Packet.REMOVE, b"d"),
    packet(Packet.REMOVE, b"none"),
    packet(Packet.SYMLINK, b"loop", b"loop"),
    packet(Packet.SYMLINK, b"d/f", b"link"),
    packet(Packet.SYMLINK, b"d/f", b"link"),
    packet(Packet.STAT, b"loop"),
    packet(Packet.LSTAT, b"loop"),
    packet(Packet.STAT, b"link"),
    packet(Packet.LSTAT, b"link"),
    packet(Packet.READLINK, b"link"),
    packet(Packet.READLINK, b"d"),
    packet(Packet.LSTAT, b"m"),
    packet(Packet.LSTAT, b"d/f"),
    packet(Packet.LSTAT, b"n" * 300),
    packet(Packet.RENAME, b"d/f", b"link"),
    packet(Packet.RENAME, b"d/f", b"g"),
    packet(Packet.RENAME, b"none", b"g2"),
    packet(Packet.RENAME, b"m", b"m2"),
    packet(Packet.EXTENDED, b"posix-rename@openssh.com", b"g", b"link"),
    packet(Packet.EXTENDED, b"posix-rename@openssh.com", b"m2", b"link"),
    packet(Packet.EXTENDED, b"hardlink@openssh.com", b"link", b"hard"),
    packet(Packet.EXTENDED, b"hardlink@openssh.com", b"link", b"hard"),
    raw(Packet.SETSTAT, b"hard", tail=mode_attrs(0o4751)),
    packet(Packet.LSTAT, b"hard"),
    raw(Packet.SETSTAT, b"hard", tail=struct.pack(">IQ", 1, 12345)),
    packet(Packet.LSTAT, b"hard"),
    raw(Packet.SETSTAT, b"d", tail=struct.pack(">IQ", 1, 1)),
    raw(Packet.SETSTAT, b"none", tail=mode_attrs(0o600)),
    raw(Packet.EXTENDED, b"lsetstat@openssh.com", b"loop", tail=mode_attrs(0o600)),
    packet(Packet.OPENDIR, b"none"),
    packet(Packet.OPENDIR, b"hard"),
    packet(Packet.CLOSE, b"nonsense"),
    packet(Packet.FSTAT, b"nonsense"),
    packet(Packet.EXTENDED, b"limits@openssh.com"),
    packet(Packet.EXTENDED, b"no-such@example.com"),
]


class OpenSsh:
    """sftp-server itself, with its standard streams as the wire."""

    def __init__(self, folder: Path) -> None:
        self._process = subprocess.Popen(
            [SFTP_SERVER, "-d", folder],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,
        )
        self(struct.pack(">BI", Packet.INIT, 3))

    def __call__(self, request: bytes) -> bytes:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(string(request))
        self._process.stdin.flush()
        # To a type that it does not know it says nothing at all.
        assert select.select([self._process.stdout], [], [], 10)[0]
        size = int.from_bytes(self._process.stdout.read(4), "big")
        return self._process.stdout.read(size)  # short of PIPE_BUF: in one piece

    def close(self) -> None:
        self._process.communicate(timeout=HANG_S)


def gist(answer: bytes) -> tuple[object, ...]:
    """Return what must be equal: type and code, or type, mode and size, or a name."""
    kind = Packet(answer[0])
    if kind is Packet.STATUS:
        return kind, code_of(answer)
    if kind is Packet.ATTRS:
        _flags, size, _uid, _gid, mode = struct.unpack_from(">IQIII", answer, 5)
        return kind, oct(mode), None if stat.S_ISDIR(mode) else size
    if kind is Packet.NAME:
        return kind, name_of(answer)
    return (kind, None if kind is Packet.HANDLE else len(answer) - 5)


@pytest.mark.skipif(not SFTP_SERVER.exists(), reason="no sftp-server of OpenSSH here")
def test_every_answer_is_the_one_that_openssh_gives(
    ask: Ask, place: Path, tmp_path: Path
) -> None:
    del place
    other = tmp_path / "oracle"
    other.mkdir()
    openssh = OpenSsh(other)
    try:
        for number, request in enumerate(ORACLE_STEPS):
            expected = gist(openssh(request))
            assert (number, request, gist(ask(request))) == (number, request, expected)
    finally:
        openssh.close()
