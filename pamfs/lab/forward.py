"""A file session: the operator's channel and the device's, joined byte for byte.

Two callbacks feed each other without a task or a queue between them; when one
side's write buffer is full the other side stops reading, so a slow reader costs
two windows of memory and no more.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import asyncssh

if TYPE_CHECKING:
    from pamfs.lab.route import Route
    from pamfs.lab.transfer import TransferFilter

_TERMINAL = b"This login opens file sessions only; terminal sessions are separate.\r\n"


class RefusedError(Exception):
    """The session is refused; the text is for the operator."""


class OperatorSide(asyncssh.SSHServerSession[bytes]):
    """The channel towards the operator."""

    def __init__(self, route: Route) -> None:
        self._route = route
        self._chan: asyncssh.SSHServerChannel[bytes] | None = None
        self._early: list[bytes] = []
        self._is_terminal = False
        self._opening: asyncio.Task[None] | None = None
        self._filter: TransferFilter | None = None
        self._device: DeviceSide | None = None

    def connection_made(self, chan: asyncssh.SSHServerChannel[bytes]) -> None:
        """Remember the channel."""
        self._chan = chan

    def pty_requested(self, *_args: object) -> bool:
        """Grant a terminal, which then says that it is none."""
        return True

    def shell_requested(self) -> bool:
        """Grant a shell that says its text and ends."""
        self._is_terminal = True
        return True

    def exec_requested(self, command: str) -> bool:
        """Refuse every command."""
        del command
        return False

    def subsystem_requested(self, subsystem: str) -> bool:
        """Grant SFTP and nothing else."""
        return subsystem == "sftp"

    def session_started(self) -> None:
        """Open the way to the device, or say why not."""
        if self._is_terminal:
            self.tell(_TERMINAL)
            self.end(1)
            return
        self._opening = asyncio.get_running_loop().create_task(self._open())

    async def _open(self) -> None:
        try:
            self._filter = self._route.transfer_filter()
            self._device = DeviceSide(self)
            await self._route.open_channel(self, self._device)
        except RefusedError as exc:
            self.tell(f"{exc}\r\n".encode())
            self.end(1)
            return
        early, self._early = self._early, []
        for data in early:
            self._pass_on(data)
        if self._chan is not None:
            self._chan.resume_reading()

    def tell(self, text: bytes) -> None:
        """Write a line for a person."""
        if self._chan is not None and not self._chan.is_closing():
            self._chan.write_stderr(text)

    def end(self, status: int) -> None:
        """Close the channel with an exit status."""
        if self._chan is not None:
            self._chan.exit(status)

    def data_received(self, data: bytes, datatype: int | None) -> None:
        """Pass the operator's bytes on; before the device is there, keep them."""
        del datatype
        if self._device is None or not self._device.is_open:
            self._early.append(data)
            if self._chan is not None:
                self._chan.pause_reading()
            return
        self._pass_on(data)

    def _pass_on(self, data: bytes) -> None:
        if self._device is None:
            return
        if self._filter is None:
            self._device.send(data)
            return
        self._device.send(self._filter.upward(data))
        self._send(self._filter.answers())

    def from_device(self, data: bytes) -> None:
        """Pass the device's bytes to the operator."""
        self._send(data if self._filter is None else self._filter.downward(data))

    def _send(self, data: bytes) -> None:
        if data and self._chan is not None and not self._chan.is_closing():
            self._chan.write(data)

    def pause_writing(self) -> None:
        """Stop reading from the device: the operator is slow."""
        if self._device is not None:
            self._device.pause()

    def resume_writing(self) -> None:
        """Read from the device again."""
        if self._device is not None:
            self._device.resume()

    def pause(self) -> None:
        """Stop reading from the operator: the device is slow."""
        if self._chan is not None:
            self._chan.pause_reading()

    def resume(self) -> None:
        """Read from the operator again."""
        if self._chan is not None:
            self._chan.resume_reading()

    def eof_received(self) -> bool:
        """Tell the device that the operator has nothing more to say."""
        if self._device is not None:
            self._device.send_eof()
        return True

    def connection_lost(self, exc: Exception | None) -> None:
        """Close the device's channel too."""
        del exc
        self._chan = None
        if self._opening is not None:
            self._opening.cancel()
        if self._device is not None:
            self._device.close()
        self._route.channel_closed()


class DeviceSide(asyncssh.SSHClientSession[bytes]):
    """The channel towards the device."""

    def __init__(self, operator: OperatorSide) -> None:
        self._operator = operator
        self._chan: asyncssh.SSHClientChannel[bytes] | None = None
        self._status = 1
        self.is_open = False

    def connection_made(self, chan: asyncssh.SSHClientChannel[bytes]) -> None:
        """Remember the channel."""
        self._chan = chan

    def session_started(self) -> None:
        """From here on the bytes pass through."""
        self.is_open = True

    def data_received(self, data: bytes, datatype: int | None) -> None:
        """Pass the device's bytes on, its complaints as complaints."""
        if datatype is None:
            self._operator.from_device(data)
        else:
            self._operator.tell(data)

    def send(self, data: bytes) -> None:
        """Write to the device."""
        if data and self._chan is not None and not self._chan.is_closing():
            self._chan.write(data)

    def send_eof(self) -> None:
        """Tell the device that nothing more comes."""
        if self._chan is not None and not self._chan.is_closing():
            self._chan.write_eof()

    def close(self) -> None:
        """Close the channel."""
        if self._chan is not None:
            self._chan.close()

    def pause(self) -> None:
        """Stop reading from the device."""
        if self._chan is not None:
            self._chan.pause_reading()

    def resume(self) -> None:
        """Read from the device again."""
        if self._chan is not None:
            self._chan.resume_reading()

    def pause_writing(self) -> None:
        """Stop reading from the operator: the device is slow."""
        self._operator.pause()

    def resume_writing(self) -> None:
        """Read from the operator again."""
        self._operator.resume()

    def exit_status_received(self, status: int) -> None:
        """Remember how the device's server ended."""
        self._status = status

    def eof_received(self) -> bool:
        """Wait for the end of the channel, which says more."""
        return True

    def connection_lost(self, exc: Exception | None) -> None:
        """End the operator's channel as the device's ended."""
        del exc
        self._chan = None
        self.is_open = False
        self._operator.end(self._status)
