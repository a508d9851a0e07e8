"""Denies downloads or uploads inside a forwarded SFTP stream.

Used only where a policy restricts transfer; all else is forwarded byte for byte
and never looked into. Only OPEN is held back until it is whole; a denied one is
answered here, between two packets of the device and never inside one.
"""

from __future__ import annotations

from pamfs.lab.wire import (
    BadMessageError,
    Open,
    Packet,
    Reader,
    Status,
    status,
)

_LENGTH = 4
_LENGTH_AND_TYPE = 5
_LONGEST_OPEN = 64 * 1024  # far above PATH_MAX, far below what would hurt
_WRITING = Open.WRITE | Open.APPEND | Open.CREAT | Open.TRUNC


class TransferFilter:
    """The two directions of one SFTP channel."""

    def __init__(self, *, may_download: bool, may_upload: bool) -> None:
        self._may_download = may_download
        self._may_upload = may_upload
        self._up = bytearray()
        self._up_left = 0
        self._down_head = bytearray()
        self._down_left = 0
        self._answers: list[bytes] = []

    def upward(self, data: bytes) -> bytes:
        """Return what of ``data`` goes on to the device."""
        self._up += data
        passed = bytearray()
        while self._up:
            if not self._up_left and not self._begin_packet():
                break
            count = min(self._up_left, len(self._up))
            passed += self._up[:count]
            del self._up[:count]
            self._up_left -= count
        return bytes(passed)

    def answers(self) -> bytes:
        """Return our own answers if they may be sent now, else nothing."""
        if self._down_left or self._down_head:
            return b""
        ready = b"".join(self._answers)
        self._answers.clear()
        return ready

    def downward(self, data: bytes) -> bytes:
        """Return what goes on to the operator, our answers included."""
        passed = bytearray()
        at = 0
        while at < len(data):
            if not self._down_left:
                passed += self.answers()
                at = self._take_head(data, at, passed)
                continue
            end = min(len(data), at + self._down_left)
            passed += data[at:end]
            self._down_left -= end - at
            at = end
        return bytes(passed + self.answers())

    def _take_head(self, data: bytes, at: int, passed: bytearray) -> int:
        end = min(len(data), at + _LENGTH - len(self._down_head))
        self._down_head += data[at:end]
        if len(self._down_head) == _LENGTH:
            self._down_left = int.from_bytes(self._down_head, "big")
            passed += self._down_head
            self._down_head.clear()
        return end

    def _begin_packet(self) -> bool:
        """Decide on the packet at the front; return whether there is one to pass."""
        while len(self._up) >= _LENGTH_AND_TYPE:
            size = _LENGTH + int.from_bytes(self._up[:_LENGTH], "big")
            if self._up[_LENGTH] != Packet.OPEN or size > _LONGEST_OPEN:
                self._up_left = size
                return True
            if len(self._up) < size:
                return False
            if not self._denied(bytes(self._up[_LENGTH_AND_TYPE:size])):
                self._up_left = size
                return True
            del self._up[:size]
        return False

    def _denied(self, body: bytes) -> bool:
        reader = Reader(memoryview(body))
        try:
            request, _, flags = reader.u32(), reader.view(), Open(reader.u32())
        except BadMessageError:
            return False  # the device will say so
        reads = bool(flags & Open.READ) and not self._may_download
        writes = bool(flags & _WRITING) and not self._may_upload
        if reads or writes:
            self._answers.append(status(request, Status.PERMISSION_DENIED))
        return reads or writes
