"""One ``[tenant.NAME]`` table as a ``TenantConfig``, or as its problems.

One function reads each record. A key that was read is known; ``Section.finish`` reports
all others. Checks that concern two keys stand with the key that the message names.
"""

from __future__ import annotations

import ipaddress
import posixpath
import re
from dataclasses import fields
from typing import Final

from pamfs.config.sections import Limits, Section
from pamfs.config.sources import read_answer, read_checkout, read_key
from pamfs.config.values import (
    Ahead,
    AnswerSource,
    FilesConfig,
    HostKeyPolicy,
    LoginConfig,
    OldAlgorithm,
    OtpPlace,
    OtpWhen,
    Owner,
    ProxyConfig,
    Quirk,
    SessionConfig,
    SourceKind,
    Symlinks,
    TargetConfig,
    TenantConfig,
)
from pamfs.errors import NameRefusedError
from pamfs.model import Name, Target
from pamfs.naming.dialects import MASK, Dialect, find_dialect, find_tenant_problem
from pamfs.naming.targets import is_tenant_name, parse_target

_DAY_S: Final = 86400.0
_WAIT: Final = Limits(0.1, 3600.0)
_REST: Final = Limits(0.0, 30 * _DAY_S)
# The key in the file, its limits; the defaults are those of the records.
DURATIONS: Final = {
    "connect_timeout": _WAIT,
    "login_timeout": _WAIT,
    "request_timeout": _WAIT,
    "prompt_timeout": _WAIT,
    "cooldown": Limits(0.0, _DAY_S),
    "idle_close": _REST,
    "keepalive": Limits(0.0, 3600.0),
    "reconnect": Limits(0.0, 3600.0),
    "attr_timeout": Limits(0.0, _DAY_S),
}
_DEFAULTS_S: Final = {
    field.name: field.default
    for record in (ProxyConfig, LoginConfig, SessionConfig, FilesConfig)
    for field in fields(record)
    if isinstance(field.default, float)
}
_FINGERPRINT: Final = re.compile(r"SHA256:[A-Za-z0-9+/]{43}")
_ADDRESS: Final = re.compile(
    r"(?:\[(?P<v6>[0-9A-Fa-f:.]+)\]|(?P<host>[A-Za-z0-9_][A-Za-z0-9_.-]{0,252}))"
    r"(?::(?P<port>[0-9]{1,6}))?"
)
# OpenSSH allows ten by default (MaxSessions).
_CHANNELS: Final = Limits(1, 8)
_PORTS: Final = 1 << 16
# Reads on after a wrong dialect, so that the rest of the table is checked too.
_STAND_IN: Final = find_dialect("segura-sftp")


def read_tenant(section: Section, name: str) -> TenantConfig | None:
    """Return the tenant, or ``None`` when something is wrong with it."""
    found_before = len(section.problems)
    dialect = _read_dialect(section, name)
    address = _read_address(section, dialect)
    operator = _read_operator(section, name, dialect)
    is_sound = len(section.problems) == found_before
    login = _read_login(section, dialect, operator)
    proxy = _read_proxy(section, *address)
    targets = _read_targets(section, name, login, is_sound=is_sound)
    files = _read_files(section, targets)
    session = _read_session(section)
    checkout = read_checkout(section)
    section.finish()
    tenant = TenantConfig(name, proxy, login, session, files, checkout)
    return tenant if len(section.problems) == found_before else None


def _read_dialect(section: Section, name: str) -> Dialect:
    text = section.needed_text("dialect", '"segura-sftp"')
    dialect = _STAND_IN
    if text is not None:
        try:
            dialect = find_dialect(text)
        except ValueError as exc:
            section.report("dialect", str(exc))
    problem = find_tenant_problem(name, dialect)
    if problem:
        section.report("", problem)
    return dialect


def _read_address(section: Section, dialect: Dialect) -> tuple[str, int]:
    example = f'"pam.example.com:{dialect.default_port}"'
    text = section.needed_text("proxy", example)
    if text is None:
        return "", 0
    try:
        return parse_proxy(text, dialect.default_port)
    except ValueError as exc:
        section.report("proxy", str(exc), f"for example {example}")
        return "", 0


def parse_proxy(text: str, default_port: int) -> tuple[str, int]:
    """Return host and port of ``host[:port]``; IPv6 is written in brackets.

    Raises ``ValueError`` with what is wrong.
    """
    found = _ADDRESS.fullmatch(text)
    if found is None:
        if text.count(":") > 1 and "[" not in text:
            raise ValueError(f"{text!r}: write an IPv6 address in brackets, [::1]:22")
        raise ValueError(f"{text!r} is not host:port")
    if found["v6"] is not None:
        host = str(ipaddress.IPv6Address(found["v6"]))
    else:
        host = found["host"].lower()  # as known_hosts has it
    port = int(found["port"]) if found["port"] else default_port
    if not 0 < port < _PORTS:
        raise ValueError(f"{port} is not a port: 1 to {_PORTS - 1}")
    return host, port


def _read_operator(section: Section, name: str, dialect: Dialect) -> str:
    if not dialect.takes("operator"):
        operator = section.text("operator") or ""
    else:
        operator = section.needed_text("operator", '"alice"') or ""
    if operator:
        probe = Target(name if is_tenant_name(name) else "x", "x", "x")
        try:
            dialect.user_name(operator, probe, "")
        except NameRefusedError as exc:
            section.report("operator", str(exc))
    return operator


def _read_login(section: Section, dialect: Dialect, operator: str) -> LoginConfig:
    password = read_answer(section, "password")
    key = read_key(section)
    otp = read_answer(section, "otp")
    reason = read_answer(section, "reason", may_be_plain=True)
    if not any(section.take(name) for name in ("password", "key", "otp")):
        hint = 'password = { prompt = true } or key = { file = "..." }'
        section.report("", "has no password, key or otp to log in with", hint)
    otp_in = _read_otp_in(section, dialect)
    otp_when = _read_otp_when(section, otp_in)
    return LoginConfig(
        dialect=dialect,
        operator=operator,
        password=password,
        key=key,
        otp=otp,
        otp_in=otp_in,
        otp_when=otp_when,
        reason=reason,
        reasons=_read_reasons(section, reason),
        prompt_timeout_s=_seconds(section, "prompt_timeout"),
    )


def _read_reasons(section: Section, reason: AnswerSource | None) -> tuple[str, ...]:
    found = section.take("reasons")
    if found is None:
        return ()
    hint = 'for example ["Deployment", "Incident"]'
    if not isinstance(found, list) or not found:
        section.report("reasons", "is not an array of texts", hint)
        return ()
    texts = [text.strip() for text in found if isinstance(text, str)]
    if len(texts) < len(found) or not all(
        text.isprintable() and text for text in texts
    ):
        section.report("reasons", "must be an array of texts of one line each", hint)
    elif len({text.casefold() for text in texts}) < len(texts):
        section.report("reasons", "contains an entry twice")
    elif any(text.isdecimal() for text in texts):
        section.report(
            "reasons", "an entry must not be a number: numbers choose an entry", hint
        )
    if reason and reason.kind is not SourceKind.PROMPT:
        section.report(
            "reasons", "has no effect: reason does not prompt", "leave one of them out"
        )
    return tuple(texts)


def _read_otp_in(section: Section, dialect: Dialect) -> OtpPlace:
    default = OtpPlace.NONE
    has_otp = section.take("otp") is not None
    if has_otp:
        in_user = dialect.takes_otp
        default = OtpPlace.USER if in_user else OtpPlace.KEYBOARD_INTERACTIVE
    place = section.choice("otp_in", OtpPlace, default)
    if place is OtpPlace.USER and not dialect.takes_otp:
        section.report(
            "otp_in",
            f"the user name {dialect.template} has no <otp>",
            'otp_in = "keyboard-interactive", or a dialect with <otp>',
        )
    if has_otp and place is OtpPlace.NONE:
        section.report("otp_in", "is none, but otp is set", "leave one of them out")
    if not has_otp and place is not OtpPlace.NONE:
        hint = "otp = { prompt = true }, or the seed's source"
        section.report("otp", "is missing, but otp_in is set", hint)
    return place


def _read_otp_when(section: Section, place: OtpPlace) -> OtpWhen:
    when = section.choice("otp_when", OtpWhen, OtpWhen.ALWAYS)
    if when is OtpWhen.LEARN and place not in {OtpPlace.USER, OtpPlace.PASSWORD}:
        hint = "leave it out"
        section.report(
            "otp_when", "has no effect: here the proxy asks for the code", hint
        )
    return when


def _read_proxy(section: Section, host: str, port: int) -> ProxyConfig:
    policy = section.choice("host_keys", HostKeyPolicy, HostKeyPolicy.ASK)
    known_hosts = section.path("known_hosts")
    host_key = section.text("host_key")
    hint = 'host_key = "SHA256:...", as ssh-keygen -lf shows it'
    is_pinned = policy is HostKeyPolicy.PINNED
    if host_key and not _FINGERPRINT.fullmatch(host_key):
        section.report("host_key", "is not a SHA256 fingerprint", hint)
    if is_pinned and section.take("host_key") is None:
        section.report("host_key", 'is missing: host_keys = "pinned" needs it', hint)
    if host_key and not is_pinned:
        section.report("host_key", "has no effect", 'it needs host_keys = "pinned"')
    if known_hosts and is_pinned:
        section.report(
            "known_hosts", 'has no effect with host_keys = "pinned"', "leave it out"
        )
    if known_hosts and policy is HostKeyPolicy.STRICT and not known_hosts.is_file():
        hint = 'write one with ssh-keyscan, or set host_keys = "accept-new"'
        section.report("known_hosts", f"{known_hosts} is not a file", hint)
    return ProxyConfig(
        host,
        port,
        host_keys=policy,
        known_hosts=known_hosts,
        host_key=host_key,
        old_algorithms=_read_old_algorithms(section),
        keepalive_s=_seconds(section, "keepalive"),
    )


def _read_old_algorithms(section: Section) -> tuple[OldAlgorithm, ...]:
    found = section.take("old_algorithms")
    words = [one.value for one in OldAlgorithm]
    hint = f"any of {', '.join(words)}"
    if found is None:
        return ()
    if not isinstance(found, list):
        section.report("old_algorithms", "is not an array of texts", hint)
        return ()
    unknown = [word for word in found if word not in words]
    for word in unknown:
        section.report("old_algorithms", f"{word!r} is not an old algorithm", hint)
    return () if unknown else tuple(OldAlgorithm(word) for word in dict.fromkeys(found))


def _read_files(section: Section, targets: tuple[TargetConfig, ...]) -> FilesConfig:
    plain = FilesConfig()
    root = _read_root(section)
    only_listed = section.flag("only_listed")
    if only_listed and not section.take("target"):
        section.report(
            "only_listed",
            "shows nothing: no target is listed",
            "add [[tenant.NAME.target]]",
        )
    return FilesConfig(
        root=plain.root if root is None else root,
        owner=section.choice("owner", Owner, plain.owner),
        symlinks=section.choice("symlinks", Symlinks, plain.symlinks),
        only_listed=only_listed,
        targets=targets,
        request_timeout_s=_seconds(section, "request_timeout"),
        attr_timeout_s=_seconds(section, "attr_timeout"),
        ahead=section.choice("ahead", Ahead, plain.ahead),
        channels=section.number("channels", plain.channels, _CHANNELS),
        quirks=section.choices("quirks", Quirk),
    )


def _read_root(section: Section) -> bytes | None:
    text = section.text("root")
    if text is None:
        return None
    parts = text.split("/")
    if "\0" in text or ".." in parts or parts[0] not in {"", "~"}:
        hint = '"/", "/srv/data", "~" or "~/data"'
        section.report("root", f"{text!r} is not a remote folder", hint)
        return None
    # normpath keeps the two slashes that POSIX lets mean something else.
    return posixpath.normpath(text).replace("//", "/").encode()


def _read_session(section: Section) -> SessionConfig:
    return SessionConfig(
        connect_timeout_s=_seconds(section, "connect_timeout"),
        login_timeout_s=_seconds(section, "login_timeout"),
        cooldown_s=_seconds(section, "cooldown"),
        idle_close_s=_seconds(section, "idle_close"),
        reconnect_s=_seconds(section, "reconnect"),
    )


def _seconds(section: Section, key: str) -> float:
    return section.seconds(key, _DEFAULTS_S[f"{key}_s"], DURATIONS[key])


def _read_targets(
    section: Section, tenant: str, login: LoginConfig, *, is_sound: bool
) -> tuple[TargetConfig, ...]:
    rows: dict[Target, TargetConfig] = {}
    for row in section.tables("target"):
        found = _read_target(row, tenant, login, is_sound=is_sound)
        if found and found.target in rows:
            row.report("name", f"{found.target} is listed twice")
        elif found:
            rows[found.target] = found
    return tuple(rows.values())


def _read_target(
    row: Section, tenant: str, login: LoginConfig, *, is_sound: bool
) -> TargetConfig | None:
    text = row.needed_text("name", '"root@web01"')
    root = _read_root(row)
    row.finish()
    if text is None:
        return None
    name = Name(text.encode())
    dialect = login.dialect
    try:
        target = parse_target(tenant, name)
        if is_sound:
            masked = MASK if dialect.takes_otp else ""
            dialect.user_name(login.operator, target, masked)
    except NameRefusedError as exc:
        hint = "credential@device, domain\\credential@device{ssh.2222}"
        row.report("name", str(exc), hint)
        return None
    return TargetConfig(name, target, root)
