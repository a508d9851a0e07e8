"""Targets for the own path of packets: sealed packets in pieces, SFTP packets in them.

Each is compared with a reader of a few lines that has the whole stream at once: however
it was cut, the same packets come out, in the same order, each once, and what is not
for the fast path reaches asyncssh as it arrived.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final, cast

from asyncssh.constants import MSG_CHANNEL_DATA, MSG_CHANNEL_WINDOW_ADJUST
from asyncssh.encryption import GCMEncryption, get_encryption
from asyncssh.packet import Byte, SSHPacket, UInt32

from pamfs.model import Data
from pamfs.transport.sftp import fast_path
from pamfs.transport.sftp.fast_path import Framing, Incoming, Outgoing
from tests.fuzz.target import target

KEY: Final = bytes(range(16))
IV: Final = bytes(12)
CHANNELS: Final = 2
MOST_SFTP: Final = 4 << 20
# So small that a few packets fill it, and its rest is moved.
BUFFER_BYTES: Final = 1024


def sealing() -> GCMEncryption:
    """Return one end of a direction; both ends begin alike."""
    name = b"aes128-gcm@openssh.com"
    made = get_encryption(name, KEY, IV, b"", b"", False)
    assert isinstance(made, GCMEncryption)
    return made


class Script:
    """Reads numbers and bytes of the input."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    def byte(self) -> int:
        found, self._data = self._data[:1], self._data[1:]
        return found[0] if found else 0

    def take(self, size: int) -> bytes:
        found, self._data = self._data[:size], self._data[size:]
        return found

    @property
    def is_over(self) -> bool:
        return not self._data


# -- SFTP packets out of the data of a channel -----------------------------------


class Waiter:
    """What a request waits with; one in four was cancelled."""

    def __init__(self, number: int) -> None:
        self.answer: tuple[int, bytes] | None = None
        self._is_cancelled = number % 4 == 3

    def cancelled(self) -> bool:
        return self._is_cancelled

    def set_result(self, answer: tuple[int, SSHPacket]) -> None:
        assert self.answer is None, "answered twice"
        assert not self._is_cancelled
        self.answer = answer[0], bytes(answer[1].get_remaining_payload())


class Handler:
    """What ``Framing`` asks of asyncssh's handler."""

    def __init__(self, numbers: Sequence[int]) -> None:
        self._requests = {number: Waiter(number) for number in numbers}
        self._writer: object = self


class Session:
    """Asyncssh's own reader of a channel: keeps what it gets."""

    def __init__(self) -> None:
        self.got = b""

    def data_received(self, data: bytes, datatype: int | None) -> None:
        del datatype
        self.got += data


class Channel:
    """An open channel, as far as the fast path asks."""

    def __init__(self, number: int = 0) -> None:
        self._session = Session()
        self._send_chan = number
        self._send_window = 0
        self._send_pktsize = 1 << 15
        self._recv_window = 0
        self._recv_state = "open"
        self.got: list[bytes] = []
        self.flushes = 0

    def is_closing(self) -> bool:
        return False

    def _flush_send_buf(self) -> None:
        self.flushes += 1

    def _accept_data(self, data: Data) -> None:
        assert len(data) <= self._recv_window, "more than the window allows"
        self._recv_window -= len(data)
        self.got.append(bytes(data))


def expected_answers(
    stream: bytes, open_requests: set[int]
) -> tuple[dict[int, tuple[int, bytes]], int, bool]:
    """Return the answers in ``stream``, where they end, and whether asyncssh goes on.

    It does from the first packet on that is no answer.
    """
    answers: dict[int, tuple[int, bytes]] = {}
    at = 0
    while len(stream) - at >= 9:
        size = int.from_bytes(stream[at : at + 4], "big")
        if size < 5 or size > MOST_SFTP:
            return answers, at, True
        if len(stream) - at < 4 + size:
            break
        kind, number = stream[at + 4], int.from_bytes(stream[at + 5 : at + 9], "big")
        if number not in open_requests:
            return answers, at, True
        open_requests.discard(number)
        answers[number] = kind, stream[at + 9 : at + 4 + size]
        at += 4 + size
    return answers, at, False


@target()
def framing_in(data: bytes) -> None:
    """The data of a channel in any pieces: each answer reaches its request once."""
    script = Script(data)
    numbers = range(script.byte() % 16)
    channel, handler = Channel(), Handler(numbers)
    framing = Framing(cast("Any", handler), cast("Any", channel), cast("Any", None))
    framing.take_over()
    waiters, stream = dict(handler._requests), b""
    while not script.is_over:
        piece = script.take(script.byte() + 1)
        stream += piece
        receive: Callable[..., None] = channel._session.data_received
        receive(piece, None)
    answers, end, is_given_up = expected_answers(stream, set(numbers))
    for number, waiter in waiters.items():
        wanted = None if waiter.cancelled() else answers.get(number)
        assert waiter.answer == wanted, number
    assert set(handler._requests) == set(numbers) - set(answers)
    assert channel._session.got == (stream[end:] if is_given_up else b"")


# -- what is sent ----------------------------------------------------------------


class Sending:
    """The connection that ``Outgoing`` sends on; keeps what goes to the system."""

    def __init__(self) -> None:
        self._send_encryption = sealing()
        self._send_blocksize = 16
        self._send_seq = 0
        self._transport = self
        self._auth_complete = self._kex_complete = True
        self._compressor = None
        self._rekey_bytes_sent = 0
        self._rekey_bytes = 1 << 30
        self._rekey_time = 0.0
        self.sent = b""

    def writelines(self, parts: Sequence[bytes]) -> None:
        self.sent += b"".join(parts)


def opened(sent: bytes) -> list[bytes]:
    """Return what is in the sealed packets of ``sent``."""
    found, other_end, at = [], sealing(), 0
    while at < len(sent):
        size = int.from_bytes(sent[at : at + 4], "big")
        whole = sent[at : at + 4 + size + 16]
        plain = unsealed(other_end, whole)
        assert plain is not None, "the other end cannot read it"
        assert size % 16 == 0
        found.append(plain)
        at += len(whole)
    return found


def unsealed(encryption: GCMEncryption, whole: bytes) -> bytes | None:
    """Return what is in a packet, as asyncssh reads it; None: that is the end."""
    header, rest, mac = whole[:4], whole[4:-16], whole[-16:]
    if len(whole) < 4 + 16 or len(rest) != int.from_bytes(header, "big"):
        return None
    first = encryption.decrypt_header(0, header, 4)[0]
    return encryption.decrypt_packet(0, first, rest, 4, mac)


@target()
def framing_out(data: bytes) -> None:
    """Packets of any size through any window leave whole, in order, and readable."""
    script, channel, connection = Script(data), Channel(7), Sending()
    sender = Outgoing(cast("Any", connection))
    framing = Framing(cast("Any", Handler(())), cast("Any", channel), sender)
    channel._send_pktsize = 1 + script.byte() * 9
    queued, allowed = b"", 0
    while not script.is_over:
        what = script.byte()
        if what % 2:
            body = script.take(script.byte())
            framing.send_packet(what, 0, b"head", body)
            queued += UInt32(5 + len(body)) + Byte(what) + b"head" + body
        else:
            more = script.byte() * 5
            allowed += more
            channel._send_window += more
            framing.flush()
    messages = opened(connection.sent)
    got = [plain[10 : len(plain) - plain[0]] for plain in messages]
    assert b"".join(got) == queued[:allowed]
    assert channel._send_window == max(0, allowed - len(queued))
    assert len(messages) == connection._send_seq
    for plain, part in zip(messages, got, strict=True):
        assert plain[0] >= 4
        assert plain[1] == MSG_CHANNEL_DATA
        assert plain[2:10] == UInt32(7) + UInt32(len(part))
        assert 0 < len(part) <= channel._send_pktsize
    assert len(queued) > allowed or channel.flushes or not queued


# -- what is received ------------------------------------------------------------


class Receiving:
    """The connection of ``Incoming``; ``data_received`` reads as asyncssh does.

    What it was given is read as packets and kept, up to the first that cannot be read:
    that ends the connection.
    """

    def __init__(self) -> None:
        self._recv_encryption = sealing()
        self._recv_seq = 0
        self._inpbuf = self._packet = b""
        self._recv_handler: object = self._recv_pkthdr
        self._decompressor = None
        self._channels = {number: Channel(number) for number in range(CHANNELS)}
        self.given: list[bytes] = []
        self.is_over = False

    def _recv_pkthdr(self) -> None:
        """It is between two packets."""

    def _recv_packet(self) -> None:
        """It is in the middle of one."""

    def _reset_keepalive_timer(self) -> None:
        """There is no timer."""

    def data_received(self, data: bytes) -> None:
        if self.is_over:
            return
        plain = unsealed(self._recv_encryption, data)
        if plain is None:
            self.is_over = True
            return
        self._recv_seq += 1
        self.given.append(plain)


def sealed(script: Script, encryption: GCMEncryption) -> tuple[bytes, bytes | None]:
    """Return the next packet of the script, and what is in it if that can be read."""
    kind = script.byte()
    if kind % 8 == 7:
        return script.take(script.byte() + 1), None
    if kind % 8 < 4:
        number, size = UInt32(kind // 8 % (CHANNELS + 1)), script.byte()
        body = script.take(size)
        message = MSG_CHANNEL_DATA if kind % 2 else MSG_CHANNEL_WINDOW_ADJUST
        rest = UInt32(len(body)) + body if kind % 2 else UInt32(size)
        inner = Byte(message) + number + rest
        padding = 16 - (1 + len(inner)) % 16 + (16 if kind & 0x80 else 0)
        plain = Byte(padding) + inner + bytes(padding)
    else:
        plain = script.take(16 * (1 + script.byte() % 8)).ljust(16, b"\0")
        plain += bytes(-len(plain) % 16)
    packet, mac = encryption.encrypt_packet(0, UInt32(len(plain)), plain)
    if kind % 8 == 6:
        return packet + bytes(16), None
    return packet + mac, plain


def is_for_channel(plain: bytes, windows: dict[int, int]) -> bool:
    """Whether the fast path is to deliver a packet; windows are counted."""
    if len(plain) < 10 or int.from_bytes(plain[2:6], "big") not in windows:
        return False
    number, size = (int.from_bytes(plain[at : at + 4], "big") for at in (2, 6))
    if plain[1] == MSG_CHANNEL_WINDOW_ADJUST:
        return 10 + plain[0] == len(plain)
    if plain[1] != MSG_CHANNEL_DATA or not 0 < size <= windows[number]:
        return False
    if 10 + size + plain[0] != len(plain):
        return False
    windows[number] -= size
    return True


@contextmanager
def small_buffer() -> Iterator[None]:
    """Receive in a small buffer in the body."""
    before = fast_path._BUFFER_BYTES
    setattr(fast_path, "_BUFFER_BYTES", BUFFER_BYTES)  # noqa: B010 - it is Final
    try:
        yield
    finally:
        setattr(fast_path, "_BUFFER_BYTES", before)  # noqa: B010


@target()
def fast_path_in(data: bytes) -> None:
    """Sealed packets in any pieces: each is delivered, or is for asyncssh, in turn."""
    with small_buffer():
        receive(data)


def receive(data: bytes) -> None:
    script, connection, other_end = Script(data), Receiving(), sealing()
    incoming = Incoming(cast("Any", connection))
    step, window = 1 + script.byte() * 7, script.byte() * 16
    for channel in connection._channels.values():
        channel._recv_window = window
        incoming.channels.add(cast("Any", channel))
    stream, plains = b"", []
    is_readable = True
    while not script.is_over and is_readable:
        packet, plain = sealed(script, other_end)
        stream += packet
        is_readable = plain is not None
        if plain is not None:
            plains.append(plain)
    while stream:
        room = incoming.get_buffer(-1)
        size = min(step, len(room))
        piece, stream = stream[:size], stream[size:]
        room[: len(piece)] = piece
        incoming.buffer_updated(len(piece))
    check_received(connection, plains, window)


def check_received(connection: Receiving, plains: list[bytes], window: int) -> None:
    windows = dict.fromkeys(connection._channels, window)
    data: dict[int, list[bytes]] = {number: [] for number in windows}
    adjusted = dict.fromkeys(windows, 0)
    given = []
    for plain in plains:
        if not is_for_channel(plain, windows):
            given.append(plain)
            continue
        number, size = plain[5], int.from_bytes(plain[6:10], "big")
        if plain[1] == MSG_CHANNEL_DATA:
            data[number].append(plain[10 : 10 + size])
        else:
            adjusted[number] += size
    assert connection.given == given
    assert connection._recv_seq == len(plains)
    for number, channel in connection._channels.items():
        assert channel.got == data[number]
        assert channel._send_window == adjusted[number]
