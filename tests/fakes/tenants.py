"""Tenants and targets for tests of the sessions."""

from __future__ import annotations

import dataclasses
from typing import Any

from pamfs.config import TenantConfig
from pamfs.model import Caller, Target
from pamfs.naming.dialects import find_dialect

ME = Caller(pid=1000, uid=1000, gid=1000)
WEB01 = Target("acme", "root", "web01")
WEB02 = Target("acme", "root", "web02")

ACME = TenantConfig(
    name="acme",
    proxy_host="127.0.0.1",
    proxy_port=4022,
    dialect=find_dialect("segura-sftp"),
    operator="alice",
)


def tenant(**changes: Any) -> TenantConfig:
    """Return the tenant acme with ``changes``."""
    return dataclasses.replace(ACME, **changes)
