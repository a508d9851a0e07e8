"""Faulty SFTP servers whose answers are wrong: packets, their numbers, and handles."""

from __future__ import annotations

from typing import Any, ClassVar

import asyncssh
from asyncssh import constants
from asyncssh.constants import FX_OK, FXP_STATUS
from asyncssh.packet import Byte, String, UInt32
from asyncssh.sftp import SFTPServerHandler

# -- answers that make no sense -------------------------------------------------


class Faulty(SFTPServerHandler):
    """Answers as asyncssh does, until ``is_armed``; then ``answer`` has its way."""

    is_armed = False

    def send_packet(self, pkttype: int, pktid: int | None, *args: bytes) -> None:
        if self.is_armed and pktid is not None:
            self.answer(pkttype, pktid, b"".join(args[1:]))
        else:
            super().send_packet(pkttype, pktid, *args)

    def answer(self, kind: int, number: int, body: bytes) -> None:
        raise NotImplementedError

    def send(self, kind: int, number: int, body: bytes) -> None:
        self.raw(String(Byte(kind) + UInt32(number) + body))

    def raw(self, data: bytes) -> None:
        assert self._writer is not None
        self._writer.write(data)


class WrongIds(Faulty):
    """Answers a request that was never sent."""

    def answer(self, kind: int, number: int, body: bytes) -> None:
        self.send(kind, number + 1000, body)


class Oversized(Faulty):
    """Sends a packet of a gigabyte, and begins with it."""

    def answer(self, kind: int, number: int, body: bytes) -> None:
        self.raw(UInt32(1 << 30) + Byte(kind) + UInt32(number) + bytes(1000))


class CutThenEnds(Faulty):
    """Ends in the middle of a packet."""

    def answer(self, kind: int, number: int, body: bytes) -> None:
        whole = String(Byte(kind) + UInt32(number) + body)
        self.raw(whole[: len(whole) // 2])
        assert self._writer is not None
        self._writer.close()


class CutThenSilent(Faulty):
    """Sends half a packet, and nothing more."""

    is_cut = False

    def answer(self, kind: int, number: int, body: bytes) -> None:
        if not self.is_cut:
            self.is_cut = True
            whole = String(Byte(kind) + UInt32(number) + body)
            self.raw(whole[: len(whole) // 2])


class TwoAnswers(Faulty):
    """Answers each request twice."""

    def answer(self, kind: int, number: int, body: bytes) -> None:
        self.send(kind, number, body)
        self.send(kind, number, body)


class AnswersAhead(Faulty):
    """Answers the next request before it is sent."""

    def answer(self, kind: int, number: int, body: bytes) -> None:
        self.send(kind, number + 1, body)
        self.send(kind, number, body)


class WrongKind(Faulty):
    """Answers with a handle where attributes or data are due, and the reverse."""

    def answer(self, kind: int, number: int, body: bytes) -> None:
        other = constants.FXP_ATTRS if kind == constants.FXP_HANDLE else None
        self.send(other or constants.FXP_HANDLE, number, String(b"x"))


class UnknownStatus(Faulty):
    """Answers with a status that no version of the protocol has."""

    def answer(self, kind: int, number: int, body: bytes) -> None:
        text = UInt32(4242) + String(b"?") + String(b"")
        self.send(constants.FXP_STATUS, number, text)


class ForgetsHandles(Faulty):
    """Has forgotten each handle when it is used."""

    def answer(self, kind: int, number: int, body: bytes) -> None:
        if kind in {constants.FXP_DATA, constants.FXP_ATTRS}:
            gone = UInt32(constants.FX_INVALID_HANDLE) + String(b"") + String(b"")
            self.send(constants.FXP_STATUS, number, gone)
        else:
            self.send(kind, number, body)


class NoNames(Faulty):
    """Answers READLINK and REALPATH with a list of no names."""

    def answer(self, kind: int, number: int, body: bytes) -> None:
        self.send(kind, number, UInt32(0) if kind == constants.FXP_NAME else body)


class RefusesLimits(Faulty):
    """Announces limits@openssh.com, and refuses it with ``code``."""

    is_armed = True
    code = constants.FX_OP_UNSUPPORTED

    def answer(self, kind: int, number: int, body: bytes) -> None:
        if kind == constants.FXP_EXTENDED_REPLY:
            kind = constants.FXP_STATUS
            body = UInt32(self.code) + String(b"no") + String(b"")
        self.send(kind, number, body)


class FailsLimits(RefusesLimits):
    """Announces limits@openssh.com, and fails at it."""

    code = constants.FX_FAILURE


class DeniesLimits(RefusesLimits):
    """Announces limits@openssh.com, and permits it to nobody."""

    code = constants.FX_PERMISSION_DENIED


# -- handles --------------------------------------------------------------------


class NumbersAsErlang(SFTPServerHandler):
    """Numbers handles as Erlang/OTP 25 does: of three that are open, two are one.

    It scans those that are open, the newest first, for the first free number.
    """

    good_ones: ClassVar[int] = 0

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._newest_first: list[bytes] = []
        self._given = 0

    def _get_next_handle(self) -> bytes:
        self._given += 1
        if self._given <= self.good_ones:
            return b"x%d" % self._given
        number = 0
        held = self._file_handles.keys() | self._dir_handles.keys()
        self._newest_first = [one for one in self._newest_first if one in held]
        for used in self._newest_first:
            number += int(used) <= number
        handle = b"%d" % number
        self._newest_first.insert(0, handle)
        if handle in self._file_handles:
            self._server.close(self._file_handles.pop(handle))
        return handle


class NumbersSoLater(NumbersAsErlang):
    """Does so once a trial of three handles is over."""

    good_ones = 3


class AnswersNoClose(NumbersSoLater):
    """Gives a handle again whose CLOSE it has not answered."""

    def send_packet(self, pkttype: int, pktid: int | None, *args: bytes) -> None:
        is_ok = pkttype == FXP_STATUS and b"".join(args[1:]).startswith(UInt32(FX_OK))
        if not is_ok:
            super().send_packet(pkttype, pktid, *args)


class GivesTwo(NumbersAsErlang):
    """Has two handles, and says FAILURE to a request for a third."""

    def _get_next_handle(self) -> bytes:
        if len(self._file_handles) + len(self._dir_handles) > 1:
            raise asyncssh.SFTPFailure("none left")
        return super()._get_next_handle()


class IsBusyOnce(NumbersAsErlang):
    """Refuses the second handle of each session; the others are distinct."""

    good_ones = 99

    def _get_next_handle(self) -> bytes:
        self._given += 1
        if self._given == 2:
            raise asyncssh.SFTPFailure("busy")
        return b"x%d" % self._given
