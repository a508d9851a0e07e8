"""Where secrets and checkouts come from: sources, never values.

Law: a secret does not stand in a configuration file, and a file that holds a secret is
readable by its owner alone. ``checkout = { ... }`` selects the provider that checks a
credential out; without it, or with ``provider = "proxy"``, the proxy does so itself.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Sequence
from enum import Enum
from pathlib import Path
from typing import Final, TypeVar
from urllib.parse import urlsplit

from pamfs.config.sections import Limits, Section, one_of
from pamfs.config.values import (
    AnswerSource,
    CheckoutConfig,
    HelperConfig,
    KeySource,
    SeguraConfig,
    SourceKind,
)
from pamfs.trusted_files import (
    UntrustedFileError,
    check_private,
    check_program,
    check_trusted,
)

T = TypeVar("T")

_KINDS: Final = [kind.value for kind in SourceKind if kind is not SourceKind.VALUE]
KINDS_HINT: Final = (
    'one of { prompt = true }, { command = "..." }, { file = "..." },'
    ' { env = "..." }, { keyring = "..." }, { credential = "..." }'
)


def read_answer(
    section: Section, key: str, *, may_be_plain: bool = False
) -> AnswerSource | None:
    """Return the source of one answer; ``None`` if missing or wrong."""
    value = section.take(key)
    if value is None:
        return None
    if isinstance(value, str) and may_be_plain:
        text = section.text(key)
        return AnswerSource(SourceKind.VALUE, text) if text else None
    if not isinstance(value, dict):
        section.report(key, "must not contain the secret itself", KINDS_HINT)
        return None
    table = section.table(key)
    return _read_source(table, is_secret=not may_be_plain) if table else None


def read_key(section: Section) -> KeySource | None:
    """Return the key source ``key`` of a tenant: one file, or the agent."""
    value = section.take("key")
    if value is None:
        return None
    hint = 'key = { file = "~/.ssh/id_ed25519" } or key = { agent = true }'
    table = section.table("key") if isinstance(value, dict) else None
    if table is None:
        section.report("key", "is not a table", hint)
        return None
    file, agent = table.path("file"), table.flag("agent")
    passphrase = read_answer(table, "passphrase")
    table.finish()
    if (table.take("file") is not None) == agent:
        section.report("key", "needs exactly one source: a file or the agent", hint)
        return None
    if agent and passphrase:
        table.report("passphrase", "has no effect with an agent", "leave it out")
    if file is not None:
        check_secret_file(table, "file", file)
    return KeySource(file, agent, passphrase)


def check_secret_file(section: Section, key: str, path: Path) -> None:
    """Report a secret's file that is missing, or that others could read or change."""
    _report_untrusted(section, key, check_private, path)


def _read_source(table: Section, *, is_secret: bool) -> AnswerSource | None:
    found = table.keys()
    for key in found:
        if key not in _KINDS:
            table.report(key, "is not a kind of source", one_of(key, _KINDS))
            return None
    if len(found) != 1:
        problem = f"{len(found)} sources for one answer" if found else "is empty"
        table.report("", problem, KINDS_HINT)
        return None
    kind = SourceKind(found[0])
    source = _read_value(table, kind)
    if source and kind is SourceKind.FILE and is_secret:
        check_secret_file(table, "file", Path(source.value))
    return source


def _read_value(table: Section, kind: SourceKind) -> AnswerSource | None:
    match kind:
        case SourceKind.PROMPT:
            if table.flag("prompt"):
                return AnswerSource(kind)
            table.report("prompt", "must be true", KINDS_HINT)
            return None
        case SourceKind.FILE:
            path = table.path("file")
            return AnswerSource(kind, str(path)) if path else None
        case SourceKind.COMMAND:
            text = _command(table)
        case _:
            text = table.text(kind.value)
    return AnswerSource(kind, text) if text else None


def _command(table: Section) -> str | None:
    value = table.take("command")
    if isinstance(value, list):
        words = [word for word in value if isinstance(word, str)]
        if words and len(words) == len(value):
            _report_untrusted(table, "command", check_program, words[0])
            return shlex.join(words)
        table.report("command", "is not an array of texts")
        return None
    return _checked_command(table, table.text("command"))


def _checked_command(table: Section, text: str | None) -> str | None:
    """Report a command line that cannot be run, or that others could change."""
    words = _words_of(text) if text is not None else None
    if words:
        _report_untrusted(table, "command", check_program, words[0])
        return text
    if text is not None:
        table.report(
            "command", "is not a command line: it is empty, or a quote is not closed"
        )
    return None


def _words_of(text: str) -> Sequence[str]:
    try:
        return shlex.split(text)
    except ValueError:
        return ()


_DAY_S: Final = 86400.0
_TIMEOUT: Final = Limits(0.1, 600.0)
_REFRESH: Final = Limits(1.0, _DAY_S)
_DURATION: Final = Limits(1.0, 30 * _DAY_S)
_PREFIXES: Final = ("/iso", "/api")
_URL_HINT: Final = 'url = "https://vault.example.com"'


class ProviderName(Enum):
    """Who checks out: ``provider`` of the table ``checkout``."""

    PROXY = "proxy"
    SEGURA = "segura"
    HELPER = "helper"


def read_checkout(section: Section) -> CheckoutConfig:
    """Return the ``checkout`` of a tenant; None: the proxy's own."""
    table = section.table("checkout")
    if table is None:
        return None
    found: CheckoutConfig = None
    match table.choice("provider", ProviderName, ProviderName.PROXY):
        case ProviderName.SEGURA:
            found = _read_segura(table)
        case ProviderName.HELPER:
            found = _read_helper(table)
        case ProviderName.PROXY:
            pass
    table.finish()
    return found


def _read_segura(table: Section) -> SeguraConfig | None:
    url = _read_url(table)
    client_id = _read_unattended(table, "client_id", may_be_plain=True)
    client_secret = _read_unattended(table, "client_secret")
    found = SeguraConfig(
        url=url,
        client_id=client_id,
        client_secret=client_secret,
        prefix=_read_prefix(table),
        tenant=table.text("tenant") or "",
        ca_file=_read_file(table, "ca_file"),
        client_cert=_read_file(table, "client_cert"),
        client_key=_read_file(table, "client_key"),
        timeout_s=table.seconds("timeout", SeguraConfig.timeout_s, _TIMEOUT),
        refresh_s=table.seconds("refresh", SeguraConfig.refresh_s, _REFRESH),
    )
    if found.client_key:
        check_secret_file(table, "client_key", found.client_key)
        if not table.take("client_cert"):
            table.report("client_cert", "is missing, but client_key is set")
    return found


def _read_url(table: Section) -> str:
    text = table.needed_text("url", '"https://vault.example.com"')
    if text is None:
        return ""
    try:
        parts = urlsplit(text)
        is_right = parts.port is None or parts.port > 0
    except ValueError:
        table.report("url", "is not an address", _URL_HINT)
        return ""
    if parts.username is not None or parts.password is not None:
        table.report("url", "contains a user name or a password", _URL_HINT)
    elif parts.scheme != "https":
        table.report(
            "url", "is not https, and the secret would be sent unencrypted", _URL_HINT
        )
    elif not is_right or not parts.hostname or parts.query or parts.fragment:
        table.report("url", "is not an address", _URL_HINT)
    elif parts.path.strip("/"):
        hint = "set the path by the key prefix"
        table.report("url", f"ends in {parts.path!r}", hint)
    return f"{parts.scheme}://{parts.netloc}"


def _read_unattended(
    table: Section, key: str, *, may_be_plain: bool = False
) -> AnswerSource:
    if table.take(key) is None:
        table.report(key, "is missing", f'for example {key} = {{ file = "..." }}')
    source = read_answer(table, key, may_be_plain=may_be_plain)
    if source and source.kind is SourceKind.PROMPT:
        table.report(
            key,
            "cannot be { prompt = true }",
            "use file, command, env or keyring",
        )
    return source or AnswerSource(SourceKind.VALUE)


def _read_prefix(table: Section) -> str:
    text = table.text("prefix")
    if text is None:
        return SeguraConfig.prefix
    if text not in _PREFIXES:
        hint = '"/iso" up to 3.32, "/api" since 3.33'
        table.report("prefix", f"{text!r} is not one of the choices", hint)
    return text


def _read_file(table: Section, key: str) -> Path | None:
    path = table.path(key)
    if path and not path.is_file():
        table.report(key, f"{path} is not a file")
    elif path:
        _report_untrusted(table, key, check_trusted, path)
    return path


def _report_untrusted(
    section: Section, key: str, check: Callable[[T], None], what: T
) -> None:
    try:
        check(what)
    except OSError as exc:
        section.report(key, f"{what}: {exc.strerror}")
    except UntrustedFileError as exc:
        section.report(key, f"{exc.path} {exc.problem}", exc.hint)


def _read_helper(table: Section) -> HelperConfig | None:
    text = table.needed_text("command", '"/usr/local/bin/pam-helper acme"')
    command = _checked_command(table, text)
    duration_s = None
    if table.take("duration") is not None:
        duration_s = table.seconds("duration", 1.0, _DURATION)
    return HelperConfig(
        command=command or "",
        timeout_s=table.seconds("timeout", HelperConfig.timeout_s, _TIMEOUT),
        ticket=read_answer(table, "ticket", may_be_plain=True),
        duration_s=duration_s,
    )
