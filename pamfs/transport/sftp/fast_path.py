"""The fast path of file data: pamfs' own SSH packets over asyncssh's connection.

asyncssh copies each received packet five times, and sends an empty packet with each
full one. With AES-GCM (RFC 5647, aes*-gcm@openssh.com) this module decrypts a packet
where it was received and encrypts what is sent from where it lies. Only the data and
the window adjustments of open SFTP channels are handled here. Everything else is given
to asyncssh as it arrived: another message, another cipher, a key exchange, a packet
whose tag does not fit. So asyncssh alone decides what is an error, and reports it.

Invariants, each with asyncssh's own objects as the only owner of the state:

* Nonces. A nonce is used once for a key, in each direction. It is read from asyncssh's
  ``GCMCipher._iv`` and advanced by its ``_update_iv`` right behind the use; a packet
  that is given to asyncssh has not advanced it. Between ``send`` and ``flush`` no
  other code may send: the packets would leave in another order than their nonces.
* Keys. ``_Gcm`` builds its cipher from ``GCMCipher._key`` and builds it anew when that
  changed, so a key exchange needs no message to this module.
* Sequence numbers and the count of sent bytes are asyncssh's, and each packet counts
  once, whichever code handled it.
* Rekeying. asyncssh begins a key exchange when it sends a packet and a limit of bytes
  or time is reached. So nothing is sent here once a limit is reached, nor before a
  login or a running key exchange is finished (``Outgoing._may_use``): asyncssh gets
  that packet.
* Windows (RFC 4254, 5.2). A packet with more data than ``_recv_window`` allows goes to
  asyncssh, which ends the connection. ``_send_window`` is reduced by ``Framing``
  before a packet is sent, and only a window adjustment raises it.

It is switched off, for the mount, for an asyncssh version that was not tried or that
lacks a private name (``ssh.asyncssh_compat``); for a connection, if its cipher is not
AES-GCM or its objects lack a name; for a direction, packet by packet, as said above.
``Framing`` cuts the data of a channel into SFTP packets, by views. Invariant: between
two calls ``_parts`` holds less than one packet, and what did not fit into the window
waits in ``_queue``, in order. A packet that is no reply to a request goes to asyncssh's
own reader, with all that follows.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections import deque
from collections.abc import Sequence
from typing import Final, Protocol, cast

import asyncssh
from asyncssh.channel import SSHChannel
from asyncssh.connection import SSHConnection
from asyncssh.constants import FXP_DATA, MSG_CHANNEL_DATA, MSG_CHANNEL_WINDOW_ADJUST
from asyncssh.crypto import GCMCipher
from asyncssh.encryption import Encryption, GCMEncryption
from asyncssh.packet import Byte, SSHPacket, String, UInt32
from asyncssh.sftp import SFTPClientHandler, SFTPNoConnection
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from pamfs.model import Data

# Several packets of the largest size that ``ssh.dial`` allows.
_BUFFER_BYTES: Final = 512 << 10
_LENGTH: Final = 4  # of a packet, in clear before it
_TAG: Final = 16
# Padding length, message, channel, and the length of the data or, of a window
# adjustment, the bytes to add: RFC 4254 section 5.2.
_HEAD: Final = 10


class _Gcm:
    """One direction's cipher: asyncssh's nonces, and its key made ready once.

    A nonce that is used twice for one key gives the key of the tags away, so the
    nonce is taken from asyncssh at each use and advanced there at once: between the
    two there is no await, and no code that could send or receive.
    """

    def __init__(self) -> None:
        self._key = b""
        self._aead: AESGCM | None = None

    def seal(self, cipher: GCMCipher, packet: bytes, length: bytes) -> bytes:
        """Return ``packet`` encrypted, with its tag, and count it."""
        sealed = self._ready(cipher).encrypt(cipher._iv, packet, length)
        cipher._update_iv()
        return sealed

    def unseal(self, cipher: GCMCipher, packet: memoryview) -> bytes | None:
        """Return the decrypted ``packet``; None if its tag does not fit."""
        aead, nonce = self._ready(cipher), cipher._iv
        try:
            return aead.decrypt(nonce, packet[_LENGTH:], packet[:_LENGTH])
        except InvalidTag:
            # Nothing has advanced: asyncssh tries the same packet with the same nonce,
            # fails as well, and ends the connection with its own error.
            return None

    def _ready(self, cipher: GCMCipher) -> AESGCM:
        if self._aead is None or self._key != cipher._key:
            self._key = cipher._key
            self._aead = AESGCM(self._key)
        return self._aead


def _cipher_of(encryption: Encryption | None) -> GCMCipher | None:
    return encryption._cipher if isinstance(encryption, GCMEncryption) else None


def _number_in(plain: bytes) -> int:
    return int.from_bytes(plain[6:_HEAD])


class Outgoing:
    """Sends the data of channels over one connection."""

    def __init__(self, connection: SSHConnection) -> None:
        self._connection = connection
        self._gcm = _Gcm()
        self._sealed: list[bytes] = []

    def send(
        self, channel: SSHChannel[bytes], parts: Sequence[Data], size: int
    ) -> None:
        """Seal ``parts``, ``size`` bytes in all, as one message of ``channel``.

        It is sent by the next ``flush``, which must be called before other code can
        send.
        """
        connection = self._connection
        cipher = _cipher_of(connection._send_encryption)
        transport = connection._transport
        if cipher is None or transport is None or not self._may_use():
            # What was sealed before has the smaller nonces, so it leaves first.
            self.flush()
            channel.send_packet(MSG_CHANNEL_DATA, String(b"".join(parts)))
            return
        block = connection._send_blocksize
        # RFC 4253 section 6: at least four bytes; GCM leaves the length out of it.
        padding = -(_HEAD + size) % block
        padding += block if padding < 4 else 0  # noqa: PLR2004
        number = UInt32(channel._send_chan or 0)
        head = (Byte(padding), Byte(MSG_CHANNEL_DATA), number, UInt32(size))
        packet = b"".join((*head, *parts, os.urandom(padding)))
        length = UInt32(len(packet))
        # The length goes out in clear and is covered by the tag (RFC 5647, 7.3).
        self._sealed += (length, self._gcm.seal(cipher, packet, length))
        # As asyncssh's ``send_packet`` counts: a rekey is due by the same bytes.
        connection._send_seq = (connection._send_seq + 1) & 0xFFFFFFFF
        connection._rekey_bytes_sent += len(packet)

    def flush(self) -> None:
        """Hand over what was sealed: many messages, one call of the system."""
        sealed, self._sealed = self._sealed, []
        transport = self._connection._transport
        if sealed and transport is not None:
            transport.writelines(sealed)

    def _may_use(self) -> bool:
        connection = self._connection
        return (
            connection._auth_complete
            and connection._kex_complete
            and not connection._compressor
            # asyncssh begins a key exchange with the next packet that it sends.
            and connection._rekey_bytes_sent < connection._rekey_bytes
            and not 0 < connection._rekey_time <= time.monotonic()
        )


class Incoming(asyncio.BufferedProtocol):
    """Receives for one connection, in a buffer that packets are decrypted from."""

    def __init__(self, connection: SSHConnection) -> None:
        self._connection = connection
        self._gcm = _Gcm()
        self._buffer = memoryview(bytearray(_BUFFER_BYTES))
        self._start = self._end = 0
        self.channels: set[SSHChannel[bytes]] = set()

    def get_buffer(self, sizehint: int) -> memoryview:
        """Return where the next bytes are to be received."""
        del sizehint
        return self._buffer[self._end :]

    def buffer_updated(self, nbytes: int) -> None:
        """Take the packets that are whole."""
        self._end += nbytes
        # asyncssh resets it in its ``data_received``, which most bytes do not reach.
        self._connection._reset_keepalive_timer()
        self._take_back()
        # Each packet is looked at anew: what asyncssh was given may have begun a key
        # exchange, or ended the connection.
        while self._may_use():
            packet = self._next()
            if packet is None:
                self._make_room()
                return
            if not self._deliver(packet):
                self._connection.data_received(bytes(packet))
        # Not the fast path's: the login, a key exchange, another cipher. All that is
        # here goes to asyncssh, pieces of packets as well; ``_take_back`` undoes that.
        rest = bytes(self._buffer[self._start : self._end])
        self._start = self._end = 0
        if rest:
            self._connection.data_received(rest)

    def _take_back(self) -> None:
        """Take the beginning of a packet from asyncssh, if that is what it holds.

        A key exchange leaves it there, and bulk data would never end at a packet.
        """
        connection = self._connection
        held = connection._inpbuf
        if connection._recv_handler == connection._recv_packet:
            # It has cut the length off already, and waits for the rest.
            held = connection._packet + held
        elif connection._recv_handler != connection._recv_pkthdr:
            return
        is_ours = isinstance(connection._recv_encryption, GCMEncryption)
        whole = held + self._buffer[self._start : self._end] if held else b""
        if is_ours and held and len(whole) <= _BUFFER_BYTES:
            connection._inpbuf = connection._packet = b""
            connection._recv_handler = connection._recv_pkthdr
            self._buffer[: len(whole)] = whole
            self._start, self._end = 0, len(whole)

    def _may_use(self) -> bool:
        """Whether asyncssh stands between two packets, and holds no part of one."""
        connection = self._connection
        return (
            isinstance(connection._recv_encryption, GCMEncryption)
            and not connection._inpbuf
            and connection._recv_handler == connection._recv_pkthdr
            and not connection._decompressor
        )

    def _next(self) -> memoryview | None:
        start = self._start
        if self._end - start < _LENGTH:
            return None
        length = int.from_bytes(self._buffer[start : start + _LENGTH], "big")
        whole = _LENGTH + length + _TAG
        if whole > len(self._buffer):  # no packet: asyncssh refuses such a length
            whole = self._end - start
        if self._end - start < whole:
            return None
        self._start += whole
        return self._buffer[start : start + whole]

    def _make_room(self) -> None:
        rest = self._end - self._start
        if not rest:
            self._start = self._end = 0
        elif self._start > _BUFFER_BYTES // 2 or self._end == _BUFFER_BYTES:
            self._buffer[:rest] = bytes(self._buffer[self._start : self._end])
            self._start, self._end = 0, rest

    def _deliver(self, packet: memoryview) -> bool:
        """Deliver a packet to its channel; False if that is for asyncssh to do."""
        connection = self._connection
        cipher = _cipher_of(connection._recv_encryption)
        plain = None if cipher is None else self._gcm.unseal(cipher, packet)
        if cipher is None or plain is None:
            return False
        channel = self._channel_of(plain)
        if channel is None:
            return False
        # Only now is the packet ours: nonce and sequence number advance exactly for
        # the packets that asyncssh does not get.
        cipher._update_iv()
        connection._recv_seq = (connection._recv_seq + 1) & 0xFFFFFFFF
        if plain[1] == MSG_CHANNEL_DATA:
            data = memoryview(plain)[_HEAD : len(plain) - plain[0]]
            channel._accept_data(cast("bytes", data))
        else:
            channel._send_window += _number_in(plain)
            channel._flush_send_buf()
        return True

    def _channel_of(self, plain: bytes) -> SSHChannel[bytes] | None:
        """Return the open channel that ``plain`` is for.

        None if it is neither data nor a window adjustment, or not well-formed.
        """
        if len(plain) < _HEAD:
            return None
        channel = self._connection._channels.get(int.from_bytes(plain[2:6]))
        if channel not in self.channels or channel._recv_state != "open":
            return None
        size = 0
        if plain[1] == MSG_CHANNEL_DATA:
            # A server that sends more than the window allows breaks the protocol:
            # asyncssh says so. Without this check it could fill the memory.
            size = _number_in(plain)
            if not 0 < size <= channel._recv_window:
                return None
        elif plain[1] != MSG_CHANNEL_WINDOW_ADJUST:
            return None
        return channel if _HEAD + size + plain[0] == len(plain) else None

    def connection_lost(self, exc: Exception | None) -> None:
        """Pass on that the connection is over."""
        self._connection.connection_lost(exc)
        # asyncssh's objects refer to each other: the collector may take its time, and
        # after some hundred lost connections their buffers were most of the memory.
        self._buffer = memoryview(b"")
        self._start = self._end = 0

    def eof_received(self) -> None:
        """Pass on that nothing more will come."""
        self._connection.eof_received()

    def pause_writing(self) -> None:
        """Pass on that the system takes no more for now."""
        self._connection.pause_writing()

    def resume_writing(self) -> None:
        """Pass on that the system takes more again."""
        self._connection.resume_writing()


class FastPath:
    """The fast path of one connection; it receives only if the cipher is AES-GCM."""

    def __init__(self, connection: SSHConnection) -> None:
        self._incoming = Incoming(connection)
        self._outgoing = Outgoing(connection)
        transport = connection._transport
        is_gcm = isinstance(connection._recv_encryption, GCMEncryption)
        if transport is not None and is_gcm:
            # Paused, or the old protocol's way of reading would go on.
            transport.pause_reading()
            transport.set_protocol(self._incoming)
            transport.resume_reading()

    def add(self, client: asyncssh.SFTPClient) -> None:
        """Have the packets of ``client`` take the fast path from now on."""
        handler = client._handler
        writer = handler._writer
        if writer is not None:
            channel = writer.channel
            Framing(handler, channel, self._outgoing).take_over()
            self._incoming.channels.add(channel)


# What asyncssh takes for a packet at most (sftp.MAX_SFTP_PACKET_LEN).
_MOST_BYTES: Final = 4 << 20
_LEAST_BYTES: Final = 5  # kind and request
_SFTP_LENGTH: Final = 4


class Sender(Protocol):
    """What sends the data of a channel over its connection."""

    def send(
        self, channel: SSHChannel[bytes], parts: Sequence[Data], size: int
    ) -> None:
        """Send ``parts``, ``size`` bytes in all, as one message of ``channel``."""
        ...

    def flush(self) -> None:
        """Hand over what was sent; ``send`` may wait for this."""
        ...


class Framing:
    """The packets of one SFTP channel, both ways."""

    def __init__(
        self,
        handler: SFTPClientHandler,
        channel: SSHChannel[bytes],
        sender: Sender,
    ) -> None:
        self._handler = handler
        self._channel = channel
        self._sender = sender
        session = channel._session
        assert session is not None  # noqa: S101 - the channel is open
        self._session = session
        self._pass_on = self._session.data_received
        self._flush_rest = channel._flush_send_buf
        self._parts: list[Data] = []
        self._have = 0
        self._queue: deque[memoryview] = deque()

    def take_over(self) -> None:
        """Stand in for asyncssh's own methods, in these two objects alone.

        A name in an object's ``__dict__`` is found before that of its class, so other
        connections keep asyncssh's methods, and nothing has to be put back.
        """
        self._session.__dict__["data_received"] = self.data_received
        self._channel.__dict__["_flush_send_buf"] = self.flush
        self._handler.__dict__["send_packet"] = self.send_packet

    def data_received(self, data: Data, datatype: int | None = None) -> None:
        """Take the next data of the channel; deliver each reply that it completes."""
        if datatype is not None:
            self._pass_on(bytes(data), datatype)
            return
        self._parts.append(data)
        self._have += len(data)
        while self._have >= _SFTP_LENGTH + _LEAST_BYTES:
            if len(self._parts[0]) < _SFTP_LENGTH:
                # The length itself is in two pieces.
                self._parts = [b"".join(self._parts)]
            # A length that no packet has is left to ``_answer``, which refuses it.
            whole = _SFTP_LENGTH + int.from_bytes(self._parts[0][:_SFTP_LENGTH], "big")
            if self._have < whole <= _SFTP_LENGTH + _MOST_BYTES:
                return
            if not self._answer(whole):
                self._give_up()
                return

    def _answer(self, whole: int) -> bool:
        """Deliver the first packet to its request, if it is a reply."""
        if not _SFTP_LENGTH + _LEAST_BYTES <= whole <= self._have:
            return False
        # All parts but the last belong to this packet: otherwise it would have been
        # answered before the last part came.
        rest = self._have - whole
        last = memoryview(self._parts.pop())
        cut = len(last) - rest
        self._parts.append(last[:cut])
        one = self._parts[0] if len(self._parts) == 1 else b"".join(self._parts)
        packet = memoryview(one)[_SFTP_LENGTH:]
        kind, number = packet[0], int.from_bytes(packet[1:_LEAST_BYTES], "big")
        waiter = self._handler._requests.get(number)
        if waiter is None:
            # VERSION, or an answer to nothing: asyncssh's reader knows which.
            self._parts = [one, last[cut:]]
            return False
        self._parts, self._have = ([last[cut:]], rest) if rest else ([], 0)
        del self._handler._requests[number]
        if not waiter.cancelled():
            # A view of what was read; all else is decoded as asyncssh has it.
            answer = SSHPacket(
                cast("bytes", packet) if kind == FXP_DATA else bytes(packet)
            )
            answer.get_bytes(_LEAST_BYTES)
            waiter.set_result((kind, answer))
        return True

    def _give_up(self) -> None:
        """Leave the reading to asyncssh from here on, beginning with this packet."""
        rest, self._parts, self._have = b"".join(self._parts), [], 0
        self._session.__dict__["data_received"] = self._pass_on
        self._pass_on(rest, None)

    def send_packet(self, pkttype: int, pktid: int | None, *args: Data) -> None:
        """Send one SFTP packet, its last and largest part uncopied until then."""
        del pktid
        if self._handler._writer is None:
            raise SFTPNoConnection("Connection not open")
        if self._channel.is_closing():
            return
        *front, last = args
        size = 1 + sum(map(len, args))
        head = b"".join((UInt32(size), Byte(pkttype), *front))
        self._queue.append(memoryview(head))
        if last:
            self._queue.append(memoryview(last))
        self.flush()

    def flush(self) -> None:
        """Send as much as the window takes."""
        channel = self._channel
        while self._queue and channel._send_window:
            most = min(channel._send_window, channel._send_pktsize)
            parts, size = self._take(most)
            channel._send_window -= size
            self._sender.send(channel, parts, size)
        self._sender.flush()
        if not self._queue:
            self._flush_rest()  # an end of file or a close that waited for the data

    def _take(self, most: int) -> tuple[list[memoryview], int]:
        parts: list[memoryview] = []
        size = 0
        while self._queue and size < most:
            part = self._queue.popleft()
            room = most - size
            if len(part) > room:
                self._queue.appendleft(part[room:])
                part = part[:room]
            parts.append(part)
            size += len(part)
        return parts, size
