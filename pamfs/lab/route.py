"""From an authenticated operator to a device: policy, lease, two channels joined.

The operator's channel and the device's are joined byte for byte. Two callbacks feed
each other, without a task or a queue between them. While one side's write buffer is
full, the other side stops reading: a slow reader costs two windows of memory.

``TransferFilter`` denies downloads or uploads where a policy restricts them. It holds
an OPEN back until it is complete, and answers a denied one itself, between two packets
of the device and never inside one. All else is forwarded without being parsed.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Generic, TypeVar

import asyncssh
from asyncssh.constants import DISC_PROTOCOL_ERROR

from pamfs.lab.devices import BULK
from pamfs.lab.policy import device_login
from pamfs.lab.wire import (
    BadMessageError,
    Open,
    Packet,
    PacketReader,
    Status,
    status,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from pamfs.lab.files import AuditLog
    from pamfs.lab.policy import Gate, LabSession, Vault
    from pamfs.lab.spec import CredentialSpec, LabSpec, SshdSpec

_LENGTH = 4
_LENGTH_AND_TYPE = 5
_LONGEST_OPEN = 64 * 1024  # far above PATH_MAX, far below what would hurt
_WRITING = Open.WRITE | Open.APPEND | Open.CREAT | Open.TRUNC


class TransferFilter:
    """The two directions of one SFTP channel.

    ``_up`` holds bytes of the operator that were not passed on; ``_up_left`` counts the
    rest of a packet whose length is known. ``_down_head`` and ``_down_left`` follow the
    packets of the device in the same way, without holding any content back.

    Invariant: an answer of our own goes out only while ``_down_head`` is empty and
    ``_down_left`` is 0, which is between two packets of the device.
    """

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
        reader = PacketReader(memoryview(body))
        try:
            request, _, flags = reader.u32(), reader.view(), Open(reader.u32())
        except BadMessageError:
            return False  # the device will say so
        reads = bool(flags & Open.READ) and not self._may_download
        writes = bool(flags & _WRITING) and not self._may_upload
        if reads or writes:
            self._answers.append(status(request, Status.PERMISSION_DENIED))
        return reads or writes


_TERMINAL = b"This login opens file sessions only; terminal sessions are separate.\r\n"


C = TypeVar("C", asyncssh.SSHServerChannel[bytes], asyncssh.SSHClientChannel[bytes])


class SessionRefusedError(Exception):
    """The session is refused; the text is for the operator."""


class ChannelEnd(Generic[C]):
    """One of the two channels that are joined, as long as it is open."""

    _chan: C | None = None

    def send(self, data: bytes) -> None:
        """Write to whatever is at this end."""
        if data and self._chan is not None and not self._chan.is_closing():
            self._chan.write(data)

    def pause(self) -> None:
        """Stop reading here: the other end is slow."""
        if self._chan is not None:
            self._chan.pause_reading()

    def resume(self) -> None:
        """Read here again."""
        if self._chan is not None:
            self._chan.resume_reading()


class OperatorSide(
    ChannelEnd[asyncssh.SSHServerChannel[bytes]], asyncssh.SSHServerSession[bytes]
):
    """The channel towards the operator.

    Bytes that arrive before the device's channel is open are kept in ``_early``;
    reading is paused from the first of them, so at most one window is kept.
    """

    def __init__(self, route: Route) -> None:
        self._route = route
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
        except SessionRefusedError as exc:
            self.tell(f"{exc}\r\n".encode())
            self.end(1)
            return
        early, self._early = self._early, []
        for data in early:
            self._pass_on(data)
        self.resume()

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
            self.pause()
            return
        self._pass_on(data)

    def _pass_on(self, data: bytes) -> None:
        if self._device is None:
            return
        if self._filter is None:
            self._device.send(data)
            return
        self._device.send(self._filter.upward(data))
        self.send(self._filter.answers())

    def from_device(self, data: bytes) -> None:
        """Pass the device's bytes to the operator."""
        self.send(data if self._filter is None else self._filter.downward(data))

    def pause_writing(self) -> None:
        """Stop reading from the device: the operator is slow."""
        if self._device is not None:
            self._device.pause()

    def resume_writing(self) -> None:
        """Read from the device again."""
        if self._device is not None:
            self._device.resume()

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


class DeviceSide(
    ChannelEnd[asyncssh.SSHClientChannel[bytes]], asyncssh.SSHClientSession[bytes]
):
    """The channel towards the device."""

    def __init__(self, operator: OperatorSide) -> None:
        self._operator = operator
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

    def send_eof(self) -> None:
        """Tell the device that nothing more comes."""
        if self._chan is not None and not self._chan.is_closing():
            self._chan.write_eof()

    def close(self) -> None:
        """Close the channel."""
        if self._chan is not None:
            self._chan.close()

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


_DEVICE_TIMEOUT_S = 15.0


@dataclass(slots=True)
class Premises:
    """What every connection of a lab shares."""

    spec: LabSpec
    vault: Vault
    audit: AuditLog
    ports: dict[str, int]
    device_key: asyncssh.SSHKey
    approvals: dict[tuple[str, str], asyncio.Event] = field(default_factory=dict)

    def sshd_of(self, device: str) -> SshdSpec | None:
        """Return the real sshd that stands for ``device``, if one does."""
        return next((d.sshd for d in self.spec.devices if d.name == device), None)


class Route:
    """The way of one SSH connection to its device, opened when first needed.

    All channels of the connection share one device connection and one lease:
    ``_dialing`` serializes the first dial, and the lease begins when the device is
    connected. Its end cuts the operator's connection without a warning, as the product
    does.
    """

    def __init__(
        self,
        premises: Premises,
        gate: Gate,
        session: LabSession | None,
        cut: Callable[[str, int], None],
    ) -> None:
        self._premises = premises
        self._gate = gate
        self._session = session
        self._cut = cut
        self._dialing = asyncio.Lock()
        self._device: asyncssh.SSHClientConnection | None = None
        self._lease: asyncio.TimerHandle | None = None
        self._channels = 0

    def offer(self) -> OperatorSide | None:
        """Return a new channel's session, or None when there are too many."""
        if self._channels >= self._premises.spec.max_channels:
            return None
        self._channels += 1
        return OperatorSide(self)

    def channel_closed(self) -> None:
        """Count a channel out."""
        self._channels -= 1

    def transfer_filter(self) -> TransferFilter | None:
        """Return a filter where the policy restricts transfer."""
        policy = self._policy()
        if policy.may_download and policy.may_upload:
            return None
        return TransferFilter(
            may_download=policy.may_download, may_upload=policy.may_upload
        )

    async def open_channel(self, operator: OperatorSide, device: DeviceSide) -> None:
        """Open the device's SFTP for ``operator``; raise ``SessionRefusedError``."""
        await self._wait_for_approval(operator)
        connection = await self._connection()
        try:
            await connection.create_session(
                lambda: device, subsystem="sftp", encoding=None
            )
        except (OSError, asyncssh.Error) as exc:
            raise SessionRefusedError(
                f"The device refuses file transfer: {exc}"
            ) from exc

    def close(self) -> None:
        """Give the device and the lease back."""
        if self._lease is not None:
            self._lease.cancel()
        if self._device is not None:
            self._device.close()

    def _policy(self) -> CredentialSpec:
        if self._gate.credential is None:
            wanted = self._gate.login.wanted
            self._note("refused", why="unknown device or credential")
            raise SessionRefusedError(
                f"Access denied: no such device or credential: {wanted}"
                if wanted
                else "Access denied: the user name says no device"
            )
        return self._gate.credential

    async def _wait_for_approval(self, operator: OperatorSide) -> None:
        policy, tenant, vault = self._policy(), self._gate.tenant, self._premises.vault
        key = (tenant, str(policy))
        if not policy.needs_approval or vault.is_approved(*key):
            return
        self._note("approval_requested")
        operator.tell(b"Request sent. You need approval for this session.\r\n")
        approved = self._premises.approvals.setdefault(key, asyncio.Event())
        try:
            async with asyncio.timeout(policy.approval_limit_s):
                await approved.wait()
        except TimeoutError:
            self._note("refused", why="not approved in time")
            raise SessionRefusedError(
                "Access denied. Access request not yet approved."
            ) from None

    async def _connection(self) -> asyncssh.SSHClientConnection:
        async with self._dialing:
            if self._device is None:
                try:
                    async with asyncio.timeout(_DEVICE_TIMEOUT_S):
                        self._device = await self._dial(self._policy())
                except (OSError, TimeoutError, asyncssh.Error) as exc:
                    self._note("refused", why=f"device: {exc}")
                    raise SessionRefusedError("The device does not answer") from exc
                self._note("login")
                self._start_lease()
            return self._device

    async def _dial(self, policy: CredentialSpec) -> asyncssh.SSHClientConnection:
        sshd = self._premises.sshd_of(policy.device)
        if sshd is not None:
            return await asyncssh.connect(
                sshd.host,
                sshd.port,
                username=sshd.user,
                client_keys=[sshd.key],
                known_hosts=_known(sshd.host_key),
                config=None,
                agent_path=None,
                **BULK,
            )
        if policy.device not in self._premises.ports:
            raise ConnectionRefusedError(f"there is no device {policy.device!r}")
        login = device_login(policy)
        secret = self._premises.vault.device_secrets[policy.device, login]
        return await asyncssh.connect(
            "127.0.0.1",
            self._premises.ports[policy.device],
            username=login,
            password=secret.reveal(),
            client_keys=None,
            known_hosts=([self._premises.device_key], [], []),
            config=None,
            agent_path=None,
            **BULK,
        )

    def _start_lease(self) -> None:
        lease_s = self._policy().lease_s
        if lease_s is None:
            return
        loop = asyncio.get_running_loop()
        self._lease = loop.call_later(lease_s, self._end_lease)

    def _end_lease(self) -> None:
        self._note("lease_ended")
        # OpenSSH uses this code for every disconnect of its own.
        self._cut("The approved time has ended", DISC_PROTOCOL_ERROR)

    def _note(self, event: str, **facts: str) -> None:
        gate = self._gate
        self._premises.audit.write(
            event,
            operator=gate.login.operator,
            tenant=gate.tenant,
            target=str(gate.credential or gate.login.wanted or ""),
            session=self._session.number if self._session else None,
            reason_given=gate.reason,
            **facts,
        )


def _known(
    host_key: str | None,
) -> tuple[list[asyncssh.SSHKey], list[str], list[str]] | None:
    """Return a sshd's known key; a sshd on loopback may go unchecked (None)."""
    if host_key is None:
        return None
    return [asyncssh.import_public_key(host_key)], [], []
