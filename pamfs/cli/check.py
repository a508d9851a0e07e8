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
    FilesConfig,
    HostKeyPolicy,
    LoginConfig,
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
        if tenant.proxy.old_algorithms:
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
    for listed in (one for tenant in tenants for one in tenant.files.targets):
        try:
            check_served(listed.target)
        except NoWireError as exc:
            problems.append(str(exc))
    return problems


def warning_of(tenant: TenantConfig) -> str:
    """Return what is to be known of the old algorithms that a tenant allows."""
    names = ", ".join(one.value for one in tenant.proxy.old_algorithms)
    return (
        f"warning: tenant.{tenant.name}.old_algorithms: {names}: broken or weak; where"
        " the proxy has nothing better they are used, and whoever is on the way there"
        " may read or change what is sent; remove them once the proxy is updated"
    )


def describe(tenant: TenantConfig) -> Iterator[tuple[str, str]]:
    """Yield what is to be known of a tenant, as label and text."""
    proxy, login = tenant.proxy, tenant.login
    host = f"[{proxy.host}]" if ":" in proxy.host else proxy.host
    yield "proxy", f"{host}:{proxy.port}"
    is_preset = login.dialect.name != login.dialect.template
    name = f"{login.dialect.name}: " if is_preset else ""
    yield "dialect", f"{name}{login.dialect.template}"
    yield from _user_names(tenant)
    yield "login", ", then ".join(_methods(login)) or "nothing"
    if login.otp:
        yield "code", f"{_code(login.otp)}; {_PLACES[login.otp_in]}"
    if login.reason:
        yield "reason", _source(login.reason)
    if login.reasons:
        yield "reasons", ", ".join(login.reasons)
    pinned = f" {proxy.host_key}" if proxy.host_key else ""
    file = f" ({proxy.known_hosts})" if proxy.known_hosts else ""
    policy = f"{proxy.host_keys.value}: {_HOST_KEYS[proxy.host_keys]}"
    yield "host key", f"{policy}{pinned}{file}"
    yield "shows", _view(tenant.files)


def _user_names(tenant: TenantConfig) -> Iterator[tuple[str, str]]:
    login = tenant.login
    otp = MASK if login.otp_in is OtpPlace.USER else ""
    listed = [(row.name.decode(), row.target) for row in tenant.files.targets]
    example = [("e.g. root@web01", Target(tenant.name, "root", "web01"))]
    label = "user name"
    for name, target in listed or example:
        yield label, f"{name}: {login.dialect.user_name(login.operator, target, otp)}"
        label = ""


def _methods(login: LoginConfig) -> Iterator[str]:
    if login.key:
        which = "of the agent" if login.key.agent else f"from {login.key.file}"
        yield f"public key {which}"
    if login.password:
        yield f"password {_source(login.password)} (also when the proxy asks for it)"
    if login.otp_in is OtpPlace.KEYBOARD_INTERACTIVE:
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


def _view(files: FilesConfig) -> str:
    others = "no others" if files.only_listed else "others by name"
    root = files.root.decode(errors="backslashreplace")
    return (
        f"{root} of each target, {len(files.targets)} listed, {others};"
        f" files are {'yours' if files.owner.value == 'me' else 'as on the device'}"
    )
