"""``pamfs check``: what the configuration means, and everything that is wrong with it.

It connects nowhere and asks nothing. The user names are shown as they would be sent,
with a mask in the place of the code.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Final

from pamfs.cli.base import Exit, add_command, add_config, config_path, plain
from pamfs.config import (
    AnswerSource,
    HostKeyPolicy,
    OtpPlace,
    SourceKind,
    TenantConfig,
    inspect,
)
from pamfs.errors import NoWireError
from pamfs.model import Target
from pamfs.naming.dialects import MASK
from pamfs.private_names import LibraryError

if TYPE_CHECKING:
    from pamfs.cli.base import Subparsers

_EPILOG: Final = """\
example:
  $ pamfs check
  acme
    proxy      pam.acme.example:4022
    user name  root@web01: alice%acme[root@web01{ssh.22}]******
    ...
"""
_HOST_KEYS: Final = {
    HostKeyPolicy.ASK: "a person is asked about a new one, a changed one is refused",
    HostKeyPolicy.STRICT: "must be known",
    HostKeyPolicy.ACCEPT_NEW: "a new one is accepted and kept, a changed one refused",
    HostKeyPolicy.PINNED: "must be",
}
_PLACES: Final = {
    OtpPlace.USER: "in the user name",
    OtpPlace.KEYBOARD_INTERACTIVE: "when the proxy asks",
    OtpPlace.PASSWORD: "with the password",
    OtpPlace.NONE: "never sent",
}


def add_parser(subparsers: Subparsers) -> None:
    """Add ``check``."""
    text = "Show what the configuration says, and everything that is wrong with it."
    add_config(add_command(subparsers, "check", run, text, _EPILOG))


def run(args: argparse.Namespace) -> int:
    """Print each sound tenant, then every problem; sound means exit code 0.

    The libraries are looked at as a mount would do it.
    """
    found = inspect(config_path(args))
    for tenant in found.config.tenants.values():
        print(tenant.name)
        for label, fact in describe(tenant):
            print(f"  {label:<10} {plain(fact)}")
        if tenant.old_algorithms:
            print(f"pamfs check: {plain(warning_of(tenant))}", file=sys.stderr)
    lacking = _lacking()
    problems = [str(problem) for problem in found.problems]
    if not lacking:  # what serves a target is imported with the libraries
        problems += _unserved(found.config.tenants.values())
    for problem in [*problems, lacking]:
        if problem:
            print(f"pamfs check: {plain(problem)}", file=sys.stderr)
    if problems:
        return Exit.CONFIG
    return Exit.FAILED if lacking else Exit.OK


def _lacking() -> str:
    """Return what the installed libraries lack for a mount; "" if nothing."""
    from pamfs.transport.ssh import asyncssh_compat

    try:
        asyncssh_compat.check()
    except LibraryError as exc:
        return str(exc)
    return ""


def _unserved(tenants: Iterable[TenantConfig]) -> list[str]:
    """Return a line for each target with an unsupported protocol."""
    from pamfs.transport.wires import check_served

    problems = []
    for listed in (one for tenant in tenants for one in tenant.targets):
        try:
            check_served(listed.target)
        except NoWireError as exc:
            problems.append(str(exc))
    return problems


def warning_of(tenant: TenantConfig) -> str:
    """Return what is to be known of the old algorithms that a tenant allows."""
    names = ", ".join(one.value for one in tenant.old_algorithms)
    return (
        f"warning: tenant.{tenant.name}.old_algorithms: {names}: broken or weak; where"
        " the proxy has nothing better they are used, and whoever is on the way there"
        " may read or change what is sent; remove them once the proxy is updated"
    )


def describe(tenant: TenantConfig) -> Iterator[tuple[str, str]]:
    """Yield what is to be known of a tenant, as label and text."""
    host = f"[{tenant.proxy_host}]" if ":" in tenant.proxy_host else tenant.proxy_host
    yield "proxy", f"{host}:{tenant.proxy_port}"
    is_preset = tenant.dialect.name != tenant.dialect.template
    name = f"{tenant.dialect.name}: " if is_preset else ""
    yield "dialect", f"{name}{tenant.dialect.template}"
    yield from _user_names(tenant)
    yield "login", ", then ".join(_methods(tenant)) or "nothing"
    if tenant.otp:
        yield "code", f"{_code(tenant.otp)}; {_PLACES[tenant.otp_in]}"
    if tenant.reason:
        yield "reason", _source(tenant.reason)
    if tenant.reasons:
        yield "reasons", ", ".join(tenant.reasons)
    pinned = f" {tenant.host_key}" if tenant.host_key else ""
    file = f" ({tenant.known_hosts})" if tenant.known_hosts else ""
    policy = f"{tenant.host_keys.value}: {_HOST_KEYS[tenant.host_keys]}"
    yield "host key", f"{policy}{pinned}{file}"
    yield "shows", _view(tenant)


def _user_names(tenant: TenantConfig) -> Iterator[tuple[str, str]]:
    otp = MASK if tenant.otp_in is OtpPlace.USER else ""
    listed = [(row.name.decode(), row.target) for row in tenant.targets]
    example = [("e.g. root@web01", Target(tenant.name, "root", "web01"))]
    label = "user name"
    for name, target in listed or example:
        yield label, f"{name}: {tenant.dialect.user_name(tenant.operator, target, otp)}"
        label = ""


def _methods(tenant: TenantConfig) -> Iterator[str]:
    if tenant.key:
        which = "of the agent" if tenant.key.agent else f"from {tenant.key.file}"
        yield f"public key {which}"
    if tenant.password:
        yield f"password {_source(tenant.password)} (also when the proxy asks for it)"
    if tenant.otp_in is OtpPlace.KEYBOARD_INTERACTIVE:
        yield "the code when the proxy asks (keyboard-interactive)"


def _code(source: AnswerSource) -> str:
    if source.kind is SourceKind.PROMPT:
        return "asked for at each login"
    return f"made from the seed {_source(source)}"


def _source(source: AnswerSource) -> str:
    match source.kind:
        case SourceKind.PROMPT:
            return "asked for"
        case SourceKind.VALUE:
            return repr(source.value)
        case SourceKind.FILE:
            return f"from {source.value}"
        case _:
            return f"from {source.kind.value} {source.value}"


def _view(tenant: TenantConfig) -> str:
    others = "no others" if tenant.only_listed else "others by name"
    root = tenant.root.decode(errors="backslashreplace")
    return (
        f"{root} of each target, {len(tenant.targets)} listed, {others};"
        f" files are {'yours' if tenant.owner.value == 'me' else 'as on the device'}"
    )
