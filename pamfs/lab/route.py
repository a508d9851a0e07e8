"""From an authenticated connection to a device: policy, vault login, lease."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import asyncssh
from asyncssh.constants import DISC_PROTOCOL_ERROR

from pamfs.lab.forward import DeviceSide, OperatorSide, RefusedError
from pamfs.lab.transfer import TransferFilter
from pamfs.lab.tuning import BULK
from pamfs.lab.vault import device_login

if TYPE_CHECKING:
    from collections.abc import Callable

    from pamfs.lab.audit import AuditLog
    from pamfs.lab.gate import Gate
    from pamfs.lab.spec import CredentialSpec, LabSpec, SshdSpec
    from pamfs.lab.vault import Session, Vault

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

    All channels of the connection share one device connection and one lease.
    """

    def __init__(
        self,
        premises: Premises,
        gate: Gate,
        session: Session | None,
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
        """Open the device's SFTP for ``operator``; raise ``RefusedError``."""
        await self._wait_for_approval(operator)
        connection = await self._connection()
        try:
            await connection.create_session(
                lambda: device, subsystem="sftp", encoding=None
            )
        except (OSError, asyncssh.Error) as exc:
            raise RefusedError(f"The device refuses file transfer: {exc}") from exc

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
            raise RefusedError(
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
            raise RefusedError(
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
                    raise RefusedError("The device does not answer") from exc
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
        # OpenSSH ends with this code whatever it ends itself.
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
