r"""What the PAM decides, without a network: user names, the vault's rules, login steps.

Nothing here is shared with the client: a mistake would agree with itself. Both
documented places of the tenant are parsed (facts/pam.md#segura-user-names)::

    operator[%tenant]                                          terminal
    operator[%tenant]'['[domain\]credential@device[{proto.port}]']'[code]
    operator'['...']'[code][%tenant]

Laws: the code of a time step is accepted once per operator (RFC 6238 section 5.2); a
locked operator is refused whatever the answers are; a single-session credential is held
by at most one session. A login asks for the password or a key, then for a code if the
credential or the operator needs one and none was in the user name or behind the
password, then for a reason. A code that is not needed is neither checked nor used up.
"""

from __future__ import annotations

import hmac
import itertools
import re
import secrets
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import Enum
from typing import TYPE_CHECKING, Final

import pyotp

from pamfs.model import Secret

if TYPE_CHECKING:
    from pamfs.lab.spec import CredentialSpec, LabSpec, OperatorSpec

# Greedy on the credential: a credential may hold "@", a device may not.
_LOGIN = re.compile(
    r"""
    (?P<operator> [^%\[\]{}\s]+ )
    (?: % (?P<before> [a-z_][a-z0-9_]* ) )?
    (?: \[
        (?: (?P<domain> [^\\\[\]{}%@]+ ) \\ )?
        (?P<credential> [^\\\[\]{}%]+ )
        @ (?P<device> [^@\\\[\]{}%\s]+ )
        (?: \{ (?P<proto> [a-z]+ ) \. (?P<port> [0-9]{1,5} ) \} )?
        \]
        (?P<code> [0-9]{6,8} )?
    )?
    (?: % (?P<after> [a-z_][a-z0-9_]* ) )?
    """,
    re.VERBOSE,
)


class UserNameError(ValueError):
    """The user name does not follow the grammar."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """The credential and device that a user name asks for.

    ``proto`` and ``port`` are None when the name leaves the choice to the vault.
    """

    credential: str
    device: str
    domain: str = ""
    proto: str | None = None
    port: int | None = None

    def __str__(self) -> str:
        domain = f"{self.domain}\\" if self.domain else ""
        service = f"{{{self.proto}.{self.port}}}" if self.proto else ""
        return f"{domain}{self.credential}@{self.device}{service}"


@dataclass(frozen=True, slots=True)
class LoginName:
    """A parsed user name: operator, tenant (None: not given), target, code."""

    operator: str
    tenant: str | None
    wanted: Wanted | None
    code: Secret | None


def parse_login(text: str) -> LoginName:
    """Return what the SSH user name ``text`` says; raise ``UserNameError``."""
    match = _LOGIN.fullmatch(text)
    if match is None:
        raise UserNameError("not a multi-hop user name")
    part = match.groupdict()
    if part["before"] and part["after"]:
        raise UserNameError("the tenant is given twice")
    return LoginName(
        operator=part["operator"],
        tenant=part["before"] or part["after"],
        wanted=_wanted(part) if part["device"] else None,
        code=Secret(part["code"]) if part["code"] else None,
    )


def _wanted(part: dict[str, str | None]) -> Wanted:
    return Wanted(
        credential=part["credential"] or "",
        device=part["device"] or "",
        domain=part["domain"] or "",
        proto=part["proto"],
        port=int(part["port"]) if part["port"] else None,
    )


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
class LabSession:
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
    """The credential allows one session at a time, and one is open."""


class Vault:
    """The state behind the proxy: operators, sessions, approvals.

    Invariants: a session is in ``sessions`` from ``let_in`` to ``let_out``, and only
    these two change the table. Of a single-session credential at most one is in it. A
    time step is in ``used_steps`` once its code was accepted, so the code is refused
    from then on; steps outside the window of three are dropped, as no code matches
    them any more.

    Every method decides at once: there is no ``await`` between a check and its change.
    """

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
        self.sessions: dict[int, LabSession] = {}
        self.device_secrets = _device_secrets(spec)

    # Operators

    def tenant_of(self, login: LoginName) -> str:
        """Return the tenant that ``login`` means."""
        return login.tenant or self._spec.tenants[0].name

    def operator_of(self, login: LoginName) -> Operator | None:
        """Return the operator of a user name, if it exists."""
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

    def credential_of(self, login: LoginName) -> CredentialSpec | None:
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
    ) -> LabSession:
        """Return a new session; raise ``BusyError`` if the credential is in use.

        ``cut`` ends the session's connection, given the reason.
        """
        if credential.single_session and any(
            (other.tenant, other.target) == (operator.tenant, str(credential))
            for other in self.sessions.values()
        ):
            raise BusyError(str(credential))
        session = LabSession(
            number=next(self._numbers),
            operator=operator.spec.name,
            tenant=operator.tenant,
            credential=credential,
            since=self._clock(),
            cut=cut,
        )
        self.sessions[session.number] = session
        return session

    def let_out(self, session: LabSession) -> None:
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


class LoginStep(Enum):
    """What is asked next, in the words of the prompt."""

    PASSWORD = "Password: "  # noqa: S105 - a prompt
    CODE = "One-time password: "
    REASON = "Reason: "


class Verdict(Enum):
    """What an answer led to."""

    LET_IN = "let in"
    GO_ON = "go on"
    REFUSED = "refused"


@dataclass(frozen=True, slots=True)
class Outcome:
    """A verdict; ``why`` is for the audit log, ``notice`` for the operator."""

    verdict: Verdict
    why: str = ""
    notice: str = ""
    has_locked: bool = False


_LET_IN = Outcome(Verdict.LET_IN)
_GO_ON = Outcome(Verdict.GO_ON)


class Gate:
    """The authentication of one user name on one connection.

    A step machine: ``asks`` names what the login needs next, and each answer returns
    an ``Outcome``. Wrong passwords and wrong codes both count towards the lock of the
    operator.
    """

    def __init__(self, vault: Vault, login: LoginName) -> None:
        self._vault = vault
        self.login = login
        self.operator: Operator | None = vault.operator_of(login)
        self.credential: CredentialSpec | None = vault.credential_of(login)
        self.tenant = vault.tenant_of(login)
        self.reason = ""
        self.methods: list[str] = []
        self._is_known = False
        self._has_code = False

    def asks(self) -> LoginStep | None:
        """Return what must be answered next; None when all is answered."""
        if not self._is_known:
            return LoginStep.PASSWORD
        if self._needs_code() and not self._has_code:
            return LoginStep.CODE
        if self.credential and self.credential.needs_reason and not self.reason:
            return LoginStep.REASON
        return None

    def offers(self, method: str) -> bool:
        """Return whether ``method`` may be used now."""
        allowed = self.operator.spec.methods if self.operator else ("password",)
        if self._is_known:
            return method == "keyboard-interactive"
        return method in allowed

    def give_password(self, text: str) -> Outcome:
        """Check a password, and the codes that came with it."""
        if (barred := self._barred()) is not None:
            return barred
        operator = self._present()
        right, appended = self._vault.split_password(operator, text)
        if not right:
            return self._wrong("wrong password")
        if operator.is_expired:
            return Outcome(
                Verdict.REFUSED,
                "password expired",
                "Your password expired; change it in the web interface "
                "before connecting.\r\n",
            )
        self.methods.append("password")
        return self._known(appended)

    def give_key(self) -> Outcome:
        """Go on after the proof of an authorized key."""
        if (barred := self._barred()) is not None:
            return barred
        self.methods.append("publickey")
        return self._known(None)

    def give_answer(self, text: str) -> Outcome:
        """Take the answer to what ``asks()`` said."""
        match self.asks():
            case LoginStep.PASSWORD:
                return self.give_password(text)
            case LoginStep.CODE:
                if (barred := self._barred()) is not None:
                    return barred
                return self._check_code(Secret(text), "keyboard-interactive")
            case LoginStep.REASON:
                self.reason = text.strip()
                return self._onward() if self.reason else self._no_reason()
            case None:
                return _LET_IN

    def _present(self) -> Operator:
        if self.operator is None:
            raise LookupError("no such operator")
        return self.operator

    def _barred(self) -> Outcome | None:
        if self.operator is None:
            return Outcome(Verdict.REFUSED, "unknown operator or tenant")
        if self.operator.is_locked:
            return Outcome(Verdict.REFUSED, "locked", "This account is locked.\r\n")
        return None

    def _needs_code(self) -> bool:
        policy = self.credential is not None and self.credential.needs_code
        return policy or (self.operator is not None and self.operator.spec.needs_code)

    def _known(self, appended: Secret | None) -> Outcome:
        self._is_known = True
        if not self._needs_code():
            return self._onward()
        if self.login.code is not None:
            return self._check_code(self.login.code, "user")
        if appended is not None:
            return self._check_code(appended, "password")
        return _GO_ON

    def _check_code(self, code: Secret, place: str) -> Outcome:
        operator = self._present()
        allowed = place in operator.spec.code_in
        if not (allowed and self._vault.spend_code(operator, code)):
            self._is_known = False
            return self._wrong("wrong or used code")
        self._has_code = True
        self.methods.append(f"code in {place}")
        return self._onward()

    def _onward(self) -> Outcome:
        if self.asks() is not None:
            return _GO_ON
        self._present().wrong_answers = 0
        return _LET_IN

    def _no_reason(self) -> Outcome:
        self._is_known = self._has_code = False
        return Outcome(Verdict.REFUSED, "no reason given")

    def _wrong(self, why: str) -> Outcome:
        locked = self._vault.count_wrong(self._present())
        return Outcome(Verdict.REFUSED, why, has_locked=locked)
