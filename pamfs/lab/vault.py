"""What the PAM knows and decides: operators, codes, lockout, policies, sessions.

No network here: every method decides at once. Laws: a time step's code serves
once per operator (RFC 6238 section 5.2); a locked operator is refused whatever
is right; a single-session credential is held by one session at most.
"""

from __future__ import annotations

import hmac
import itertools
import re
import secrets
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

import pyotp

from pamfs.model import Secret

if TYPE_CHECKING:
    from pamfs.lab.spec import CredentialSpec, LabSpec, OperatorSpec
    from pamfs.lab.username import Login, Wanted

STEP_S: Final = 30  # RFC 6238's default, which all products here use
_DIGITS: Final = re.compile(r"(?P<password>.*)(?P<code>[0-9]{6})", re.DOTALL)

Clock = Callable[[], float]


def wall_clock() -> float:
    """Return seconds since the epoch."""
    return datetime.now(UTC).timestamp()


@dataclass(slots=True)
class Operator:
    """What changes about an operator."""

    spec: OperatorSpec
    tenant: str
    is_locked: bool = False
    is_expired: bool = False
    wrong_answers: int = 0
    used_steps: set[int] = field(default_factory=set)

    @property
    def label(self) -> str:
        """The name that the admin side uses."""
        return f"{self.tenant}/{self.spec.name}"


@dataclass(slots=True)
class Session:
    """One SSH connection let in to a credential; ``since`` is epoch seconds."""

    number: int
    operator: str
    tenant: str
    credential: CredentialSpec
    since: float
    cut: Callable[[str], None]
    reason_given: str = ""

    @property
    def target(self) -> str:
        """The credential on its device."""
        return str(self.credential)


class BusyError(Exception):
    """The credential serves one session at a time, and somebody has it."""


class Vault:
    """The state behind the proxy."""

    def __init__(self, spec: LabSpec, clock: Clock = wall_clock) -> None:
        self._spec = spec
        self._clock = clock
        self._operators = {
            (tenant.name, operator.name): Operator(operator, tenant.name)
            for tenant in spec.tenants
            for operator in tenant.operators
        }
        self._numbers = itertools.count(1)
        self._approved: dict[tuple[str, str], float] = {}
        self.sessions: dict[int, Session] = {}
        self.device_secrets = _device_secrets(spec)

    # Operators

    def tenant_of(self, login: Login) -> str:
        """Return the tenant that ``login`` means."""
        return login.tenant or self._spec.tenants[0].name

    def operator_of(self, login: Login) -> Operator | None:
        """Return who logs in, if there is such an operator."""
        return self._operators.get((self.tenant_of(login), login.operator))

    def named(self, label: str) -> list[Operator]:
        """Return the operators called ``name`` or ``tenant/name``."""
        return [
            operator
            for (tenant, name), operator in self._operators.items()
            if label in (name, f"{tenant}/{name}")
        ]

    def split_password(
        self, operator: Operator, given: str
    ) -> tuple[bool, Secret | None]:
        """Return whether the password is right, and the code appended to it."""
        known = operator.spec.password.reveal().encode()
        if hmac.compare_digest(known, given.encode()):
            return True, None
        parts = _DIGITS.fullmatch(given)
        if parts is None or "password" not in operator.spec.code_in:
            return False, None
        right = hmac.compare_digest(known, parts["password"].encode())
        return right, Secret(parts["code"]) if right else None

    def spend_code(self, operator: Operator, code: Secret) -> bool:
        """Return whether ``code`` is right now; a right one never is again."""
        totp = pyotp.TOTP(operator.spec.seed.reveal(), interval=STEP_S)
        now = int(self._clock() // STEP_S)
        window = (now - 1, now, now + 1)
        operator.used_steps &= set(window)
        for step in window:
            right = hmac.compare_digest(totp.generate_otp(step), code.reveal())
            if right and step not in operator.used_steps:
                operator.used_steps.add(step)
                return True
        return False

    def count_wrong(self, operator: Operator) -> bool:
        """Count a wrong answer; return whether it locked the operator."""
        operator.wrong_answers += 1
        if operator.wrong_answers < self._spec.wrong_answers_limit:
            return False
        was_locked, operator.is_locked = operator.is_locked, True
        return not was_locked

    # Credentials

    def credential_of(self, login: Login) -> CredentialSpec | None:
        """Return the credential that ``login`` asks for, if it is one."""
        if login.wanted is None:
            return None
        wanted = login.wanted
        tenant = self.tenant_of(login)
        found = [
            credential
            for spec in self._spec.tenants
            if spec.name == tenant
            for credential in spec.credentials
            if _matches(credential, wanted)
        ]
        # Two connectivities and none chosen: a file session cannot be asked.
        return found[0] if len(found) == 1 else None

    def let_in(
        self, operator: Operator, credential: CredentialSpec, cut: Callable[[str], None]
    ) -> Session:
        """Return a new session; raise ``BusyError`` if somebody has the credential.

        ``cut`` ends the session's connection, given the reason.
        """
        if credential.single_session and any(
            (other.tenant, other.target) == (operator.tenant, str(credential))
            for other in self.sessions.values()
        ):
            raise BusyError(str(credential))
        session = Session(
            number=next(self._numbers),
            operator=operator.spec.name,
            tenant=operator.tenant,
            credential=credential,
            since=self._clock(),
            cut=cut,
        )
        self.sessions[session.number] = session
        return session

    def let_out(self, session: Session) -> None:
        """Give the credential back; twice does no harm."""
        self.sessions.pop(session.number, None)

    # Approvals

    def approve(self, tenant: str, target: str, valid_s: float) -> None:
        """Let sessions to ``target`` begin for the next ``valid_s`` seconds."""
        self._approved[tenant, target] = self._clock() + valid_s

    def is_approved(self, tenant: str, target: str) -> bool:
        """Return whether sessions to ``target`` may begin now."""
        return self._approved.get((tenant, target), 0.0) > self._clock()


def _matches(credential: CredentialSpec, wanted: Wanted) -> bool:
    named = (credential.name, credential.device, credential.domain)
    if named != (wanted.credential, wanted.device, wanted.domain):
        return False
    if wanted.proto is None:
        return True
    return (credential.proto, credential.port) == (wanted.proto, wanted.port)


def device_login(credential: CredentialSpec) -> str:
    """Return the user name that the device knows the credential by."""
    if credential.domain in {"", "key"}:
        return credential.name
    return f"{credential.domain}\\{credential.name}"


def _device_secrets(spec: LabSpec) -> dict[tuple[str, str], Secret]:
    """Return a password for each login of each device: the vault's own secret."""
    return {
        (credential.device, device_login(credential)): Secret(secrets.token_urlsafe(24))
        for tenant in spec.tenants
        for credential in tenant.credentials
    }
