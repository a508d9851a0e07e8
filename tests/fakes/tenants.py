"""Tenants and targets for tests of the sessions."""

from __future__ import annotations

import dataclasses
from typing import Any, Final

from pamfs.config import (
    FilesConfig,
    LoginConfig,
    ProxyConfig,
    SessionConfig,
    TenantConfig,
)
from pamfs.model import Caller, Target
from pamfs.naming.dialects import find_dialect

ME = Caller(pid=1000, uid=1000, gid=1000)
WEB01 = Target("acme", "root", "web01")
WEB02 = Target("acme", "root", "web02")

ACME = TenantConfig(
    name="acme",
    proxy=ProxyConfig(host="127.0.0.1", port=4022),
    login=LoginConfig(dialect=find_dialect("segura-sftp"), operator="alice"),
)
# The record of a tenant in which each field stands.
RECORD_OF: Final = {
    field.name: record
    for record, kind in (
        ("proxy", ProxyConfig),
        ("login", LoginConfig),
        ("session", SessionConfig),
        ("files", FilesConfig),
    )
    for field in dataclasses.fields(kind)
}


def changed(acme: TenantConfig, **changes: Any) -> TenantConfig:
    """Return ``acme`` with ``changes``, each in the record that has such a field."""
    for name, value in changes.items():
        if record := RECORD_OF.get(name):
            inner = dataclasses.replace(getattr(acme, record), **{name: value})
            acme = dataclasses.replace(acme, **{record: inner})
        else:
            acme = dataclasses.replace(acme, **{name: value})
    return acme


def tenant(**changes: Any) -> TenantConfig:
    """Return the tenant acme with ``changes``."""
    return changed(ACME, **changes)
