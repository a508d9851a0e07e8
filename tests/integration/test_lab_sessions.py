"""The lab's file sessions: policies, and bytes that arrive as they were sent."""

from __future__ import annotations

import asyncio
import hashlib
import os
import struct
from pathlib import Path

import asyncssh
import pytest

from pamfs.lab.sftpd import EXTENSIONS
from pamfs.lab.spec import DeviceSpec, SshdSpec
from pamfs.lab.wire import Open, Packet, string
from tests.fakes.openssh import running_sshd
from tests.integration.lab_site import (
    PASSWORD,
    Person,
    Play,
    Site,
    motd,
    spec,
)


@pytest.fixture
def play(tmp_path: Path) -> Play:
    return Play(tmp_path)


def test_64_mib_arrive_as_they_were_sent(play: Play) -> None:
    async def story(site: Site) -> None:
        data = os.urandom(1 << 20) * 64
        on_device = site.lab.folder / "devices/web01/tmp/big"
        async with (
            site.login("alice[root@web01]") as conn,
            conn.start_sftp_client(path_encoding=None) as sftp,
        ):
            async with sftp.open(b"/tmp/big", "wb") as file:
                await file.write(data)
            stored = hashlib.sha256(on_device.read_bytes()).digest()
            async with sftp.open(b"/tmp/big", "rb") as file:
                got: bytes = await file.read()
        back = hashlib.sha256(got).digest()
        assert stored == back == hashlib.sha256(data).digest()

    play(story)


class Slow(asyncssh.SSHClientSession[bytes]):
    """An SFTP client made by hand, which reads when it is told to."""

    def __init__(self) -> None:
        self.chan: asyncssh.SSHClientChannel[bytes] | None = None
        self._received = 0
        self._wanted = 0
        self._enough = asyncio.Event()

    def connection_made(self, chan: asyncssh.SSHClientChannel[bytes]) -> None:
        self.chan = chan

    def data_received(self, data: bytes, datatype: int | None) -> None:
        del datatype
        self._received += len(data)
        if self._received >= self._wanted:
            self._enough.set()

    def send(self, packets: bytes) -> None:
        assert self.chan is not None
        self.chan.write(packets)

    async def receive(self, count: int) -> None:
        """Wait for ``count`` bytes since the last time."""
        self._received -= self._wanted
        self._wanted = count
        self._enough.clear()
        if self._received < count:
            await self._enough.wait()


def test_a_reader_that_stops_costs_little_memory_and_loses_nothing(play: Play) -> None:
    """200 MiB are asked for by hand; the answers wait while nobody reads them."""
    piece, count = 256 * 1024 - 1024, 800
    version = 5 + sum(8 + len(k) + len(v) for k, v in EXTENSIONS.items())
    handle, data = 4 + 5 + 8, 4 + 5 + 4 + piece
    opening = struct.pack(">BI", Packet.OPEN, 1) + string(b"/tmp/sparse")
    reading = struct.pack(">BI", Packet.READ, 2) + string(b"\0\0\0\0")

    async def story(site: Site) -> None:
        sparse = site.lab.folder / "devices/web01/tmp/sparse"
        sparse.touch()
        os.truncate(sparse, piece)
        async with site.login("alice[root@web01]") as conn:
            slow = Slow()
            await conn.create_session(lambda: slow, subsystem="sftp", encoding=None)
            slow.send(struct.pack(">IBI", 5, Packet.INIT, 3))
            slow.send(string(opening + struct.pack(">II", Open.READ, 0)))
            await slow.receive(4 + version + handle)
            assert slow.chan is not None
            slow.chan.pause_reading()
            slow.send(string(reading + struct.pack(">QI", 0, piece)) * count)
            assert await growth(0.6) < 80 << 20
            slow.chan.resume_reading()
            await slow.receive(count * data)
            slow.chan.close()

    play(story)


async def growth(during_s: float) -> int:
    """Return by how many bytes our memory grows at most in a while."""
    before = most = resident()
    for _ in range(30):
        await asyncio.sleep(during_s / 30)
        most = max(most, resident())
    return most - before


def resident() -> int:
    """Return our resident memory in bytes: client and proxy are both in it."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def test_a_killed_session_ends_and_is_audited(play: Play) -> None:
    async def story(site: Site) -> None:
        person = Person({})
        async with site.connect("alice[root@web01]", person, password=PASSWORD) as conn:
            await motd(conn)
            assert [s["target"] for s in site.lab.sessions()] == ["root@web01"]
            assert site.lab.kill_sessions("code@web01") == 0
            assert site.lab.kill_sessions("acme/root@web01") == 1
            await person.gone.wait()
        closed = await site.lab.audited("session_closed")
        assert closed["reason"] == "ended by the administrator"
        assert site.lab.sessions() == []

    play(story)


def test_a_credential_in_use_sends_the_second_away(play: Play) -> None:
    async def story(site: Site) -> None:
        async with site.login("alice[one@web01]") as first:
            await motd(first)
            person = Person({})
            async with site.connect("alice[one@web01]", person, password=PASSWORD):
                await person.gone.wait()
            assert "in use" in person.banner
            assert "in use" in str(person.farewell)
            await motd(first)
        await site.lab.audited("session_closed")
        async with site.login("alice[one@web01]") as conn:
            await motd(conn)

    play(story)


def test_a_session_waits_for_its_approval(play: Play) -> None:
    async def story(site: Site) -> None:
        async with site.login("alice[held@web01]") as conn:
            reading = asyncio.create_task(motd(conn))
            await site.lab.audited("approval_requested")
            assert not reading.done()
            site.lab.approve("held@web01")
            assert (await reading).startswith(b"Welcome")
        async with site.login("alice[held@web01]") as conn:  # still approved
            await motd(conn)
        assert len(site.events("approval_requested")) == 1

    play(story)


@pytest.mark.parametrize(
    ("user", "says"),
    [
        ("alice[late@web01]", b"not yet approved"),
        ("alice[root@nowhere]", b"no such device or credential"),
        ("alice[sshd@real01]", b"does not answer"),
        ("alice", b"says no device"),
    ],
)
def test_a_refused_session_says_why(play: Play, user: str, says: bytes) -> None:
    async def story(site: Site) -> None:
        async with site.login(user) as conn:
            process = await conn.create_process(subsystem="sftp", encoding=None)
            done = await process.wait()
        assert isinstance(done.stderr, bytes)
        assert says in done.stderr
        assert done.exit_status == 1
        assert site.events("refused")

    play(story)


def test_the_end_of_a_lease_cuts_the_session(play: Play) -> None:
    async def story(site: Site) -> None:
        person = Person({})
        async with site.connect(
            "alice[short@web01]", person, password=PASSWORD
        ) as conn:
            await motd(conn)
            await person.gone.wait()
        assert "approved time has ended" in str(person.farewell)
        assert len(site.events("lease_ended")) == 1

    play(story)


def test_transfer_is_denied_as_the_policy_says(play: Play) -> None:
    async def story(site: Site) -> None:
        async with (
            site.login("alice[ro@web01]") as conn,
            conn.start_sftp_client() as sftp,
        ):
            with pytest.raises(asyncssh.SFTPPermissionDenied):
                await sftp.open("/tmp/new", "wb")
            assert "motd" in await sftp.listdir("/etc")
            await motd(conn)
        async with (
            site.login("alice[wo@web01]") as conn,
            conn.start_sftp_client() as sftp,
        ):
            with pytest.raises(asyncssh.SFTPPermissionDenied):
                await sftp.open("/etc/motd", "rb")
            async with sftp.open("/tmp/new", "wb") as file:
                await file.write(b"x")

    play(story)


def test_terminals_and_commands_are_not_file_sessions(play: Play) -> None:
    async def story(site: Site) -> None:
        async with site.login("alice[root@web01]") as conn:
            done = await conn.run(term_type="vt100")
            assert "terminal sessions are separate" in str(done.stderr)
            assert done.exit_status == 1
            with pytest.raises(asyncssh.ChannelOpenError):
                await conn.run("id")

    play(story)


def test_only_so_many_channels_are_granted(play: Play) -> None:
    async def story(site: Site) -> None:
        async with (
            site.login("alice[root@web01]") as conn,
            conn.start_sftp_client(),
            conn.start_sftp_client(),
        ):
            with pytest.raises(asyncssh.ChannelOpenError):
                await conn.start_sftp_client()
        assert len(site.events("login")) == 1

    play(story, spec(max_channels=2))


def test_a_real_sshd_can_be_the_device(play: Play, tmp_path: Path) -> None:
    (tmp_path / "sshd").mkdir()
    with running_sshd(tmp_path / "sshd") as sshd:
        real = SshdSpec(
            host="127.0.0.1",
            port=sshd.port,
            user=sshd.user,
            key=str(sshd.client_key),
            host_key=(tmp_path / "sshd/host_key.pub").read_text(),
        )

        name = os.fsencode(tmp_path) + b"/caf\xe9\n"

        async def story(site: Site) -> None:
            async with (
                site.login("alice[sshd@real01]") as conn,
                conn.start_sftp_client(path_encoding=None) as sftp,
            ):
                file = await sftp.open(name, "wb")
                await file.write(b"real")
                await file.close()

        devices = (DeviceSpec(name="web01"), DeviceSpec(name="real01", sshd=real))
        play(story, spec(devices=devices))
    assert Path(os.fsdecode(name)).read_bytes() == b"real"
