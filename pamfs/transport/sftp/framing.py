"""SFTP packets in the data of a channel, taken apart and put together by views.

Invariant: between two calls ``_parts`` holds less than one packet, and whatever is to
be sent and did not fit into the window waits in ``_queue``, in order. A packet that
makes no sense goes to asyncssh's own reader, with all that follows.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Final, Protocol, cast

from asyncssh.channel import SSHChannel
from asyncssh.constants import FXP_DATA
from asyncssh.packet import Byte, SSHPacket, UInt32
from asyncssh.sftp import SFTPClientHandler, SFTPNoConnection

from pamfs.model import Data

# What asyncssh takes for a packet at most (sftp.MAX_SFTP_PACKET_LEN).
_MOST_BYTES: Final = 4 << 20
_LEAST_BYTES: Final = 5  # kind and request
_LENGTH: Final = 4


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
        """Stand in for asyncssh's own methods, in these two objects alone."""
        self._session.__dict__["data_received"] = self.data_received
        self._channel.__dict__["_flush_send_buf"] = self.flush
        self._handler.__dict__["send_packet"] = self.send_packet

    def data_received(self, data: Data, datatype: int | None = None) -> None:
        """Take the next data of the channel, and answer whom it completes."""
        if datatype is not None:
            self._pass_on(bytes(data), datatype)
            return
        self._parts.append(data)
        self._have += len(data)
        while self._have >= _LENGTH + _LEAST_BYTES:
            if len(self._parts[0]) < _LENGTH:
                self._parts = [b"".join(self._parts)]
            whole = _LENGTH + int.from_bytes(self._parts[0][:_LENGTH], "big")
            if self._have < whole <= _LENGTH + _MOST_BYTES:
                return
            if not self._answer(whole):
                self._give_up()
                return

    def _answer(self, whole: int) -> bool:
        """Deliver the first packet to whoever waits for it, if it is an answer."""
        if not _LENGTH + _LEAST_BYTES <= whole <= self._have:
            return False
        rest = self._have - whole
        last = memoryview(self._parts.pop())
        cut = len(last) - rest
        self._parts.append(last[:cut])
        one = self._parts[0] if len(self._parts) == 1 else b"".join(self._parts)
        packet = memoryview(one)[_LENGTH:]
        kind, number = packet[0], int.from_bytes(packet[1:_LEAST_BYTES], "big")
        waiter = self._handler._requests.get(number)
        if waiter is None:
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
