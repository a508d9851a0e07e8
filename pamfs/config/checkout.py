"""``checkout = { ... }`` of a tenant: who checks its credentials out, and how.

Without it, or with ``provider = "proxy"``, the proxy does it by itself.
"""

from __future__ import annotations

import shlex
from enum import Enum
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from pamfs.config.answers import check_secret_file, read_answer
from pamfs.config.sections import Limits, Section
from pamfs.config.values import (
    AnswerSource,
    CheckoutConfig,
    HelperConfig,
    SeguraConfig,
    SourceKind,
)

_DAY_S: Final = 86400.0
_TIMEOUT: Final = Limits(0.1, 600.0)
_REFRESH: Final = Limits(1.0, _DAY_S)
_DURATION: Final = Limits(1.0, 30 * _DAY_S)
_PREFIXES: Final = ("/iso", "/api")
_URL_HINT: Final = 'url = "https://vault.example.com"'


class _Provider(Enum):
    PROXY = "proxy"
    SEGURA = "segura"
    HELPER = "helper"


def read_checkout(section: Section) -> CheckoutConfig:
    """Return the ``checkout`` of a tenant; None: the proxy's own."""
    table = section.table("checkout")
    if table is None:
        return None
    found: CheckoutConfig = None
    match table.choice("provider", _Provider, _Provider.PROXY):
        case _Provider.SEGURA:
            found = _read_segura(table)
        case _Provider.HELPER:
            found = _read_helper(table)
        case _Provider.PROXY:
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
            table.report("client_cert", "is missing: there is a client_key")
    return found


def _read_url(table: Section) -> str:
    text = table.needed_text("url", '"https://vault.example.com"')
    if text is None:
        return ""
    try:
        parts = urlsplit(text)
        is_right = parts.port is None or parts.port > 0
    except ValueError:
        table.report("url", "is no address", _URL_HINT)
        return ""
    if parts.username is not None or parts.password is not None:
        table.report("url", "holds a user name or a password", _URL_HINT)
    elif parts.scheme != "https":
        table.report("url", "is not https: it would carry a secret", _URL_HINT)
    elif not is_right or not parts.hostname or parts.query or parts.fragment:
        table.report("url", "is no address", _URL_HINT)
    elif parts.path.strip("/"):
        hint = "the path is the key prefix"
        table.report("url", f"ends in {parts.path!r}", hint)
    return f"{parts.scheme}://{parts.netloc}"


def _read_unattended(
    table: Section, key: str, *, may_be_plain: bool = False
) -> AnswerSource:
    if table.take(key) is None:
        table.report(key, "is missing", f'for example {key} = {{ file = "..." }}')
    source = read_answer(table, key, may_be_plain=may_be_plain)
    if source and source.kind is SourceKind.PROMPT:
        table.report(key, "is asked of nobody", "a file, a command, a keyring ...")
    return source or AnswerSource(SourceKind.VALUE)


def _read_prefix(table: Section) -> str:
    text = table.text("prefix")
    if text is None:
        return SeguraConfig.prefix
    if text not in _PREFIXES:
        hint = '"/iso" up to 3.32, "/api" since 3.33'
        table.report("prefix", f"{text!r} is no choice", hint)
    return text


def _read_file(table: Section, key: str) -> Path | None:
    path = table.path(key)
    if path and not path.is_file():
        table.report(key, f"{path} is no file")
    return path


def _read_helper(table: Section) -> HelperConfig | None:
    command = table.needed_text("command", '"/usr/local/bin/pam-helper acme"')
    if command is not None and not _is_command(command):
        table.report("command", "is no command line: no word in it, or an open quote")
    duration_s = None
    if table.take("duration") is not None:
        duration_s = table.seconds("duration", 1.0, _DURATION)
    return HelperConfig(
        command=command or "",
        timeout_s=table.seconds("timeout", HelperConfig.timeout_s, _TIMEOUT),
        ticket=read_answer(table, "ticket", may_be_plain=True),
        duration_s=duration_s,
    )


def _is_command(text: str) -> bool:
    try:
        return bool(shlex.split(text))
    except ValueError:
        return False
