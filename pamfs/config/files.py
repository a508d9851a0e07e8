"""A configuration file as a ``Config``, or as the list of everything wrong with it.

``inspect`` never raises: it returns the tenants without a problem and all problems.
``load`` is for a mount, and raises the first problem. The file is refused if another
user could change it (``trusted_files``), because it contains commands that pamfs runs.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pamfs.config.sections import Section
from pamfs.config.tables import (
    read_auditing,
    read_caching,
    read_guarding,
    read_prompting,
)
from pamfs.config.tenants import read_tenant
from pamfs.config.values import Config, TenantConfig
from pamfs.errors import ConfigError
from pamfs.trusted_files import UntrustedFileError, check_trusted

_MINIMAL = '[tenant.acme] with proxy = "pam.acme.example", dialect, operator'


@dataclass(frozen=True, slots=True)
class Inspection:
    """The tenants of a file that have no problem, and all problems."""

    config: Config
    problems: tuple[ConfigError, ...]


def load(path: Path) -> Config:
    """Return the configuration in ``path``; raise ``ConfigError`` with one line."""
    found = inspect(path)
    if not found.problems:
        return found.config
    first, *others = found.problems
    if not others:
        raise first
    more = f"{len(others)} more: pamfs check shows all"
    hint = f"{first.hint}; {more}" if first.hint else more
    raise ConfigError(first.where, first.problem, hint)


def inspect(path: Path) -> Inspection:
    """Return the tenants in ``path`` that are right, and all problems; no raise."""
    problems: list[ConfigError] = []
    tenants: dict[str, TenantConfig] = {}
    try:
        table = _parse(path, _read(path))
    except ConfigError as exc:
        return Inspection(Config(path, tenants), (exc,))
    top = Section(path, "", table, problems)
    section = top.table("tenant")
    prompts = read_prompting(top.table("prompts"))
    guard = read_guarding(top.table("guard"))
    audit = read_auditing(top.table("audit"))
    cache_bytes = read_caching(top)
    top.finish()
    if section is None or not section.keys():
        if not problems:
            top.report("tenant", "no tenant is configured", _MINIMAL)
        return Inspection(Config(path, tenants), tuple(problems))
    for name in section.keys():  # noqa: SIM118 - a Section is no mapping
        one = section.table(name)
        tenant = read_tenant(one, name) if one else None
        if tenant:
            tenants[name] = tenant
    config = Config(path, tenants, prompts, guard, audit, cache_bytes)
    return Inspection(config, tuple(problems))


def _read(path: Path) -> str:
    try:
        check_trusted(path)  # it contains commands that pamfs runs
        return path.read_bytes().decode()
    except UntrustedFileError as exc:
        raise ConfigError(str(exc.path), exc.problem, exc.hint) from None
    except OSError as exc:
        hint = "pamfs mount --config FILE" if isinstance(exc, FileNotFoundError) else ""
        raise ConfigError(str(path), exc.strerror or str(exc), hint) from None
    except UnicodeDecodeError as exc:
        raise ConfigError(str(path), f"byte {exc.start} is not UTF-8") from None


def _parse(path: Path, text: str) -> Mapping[str, object]:
    try:
        return tomllib.loads(text)
    except RecursionError:
        raise ConfigError(str(path), "is nested too deeply") from None
    except tomllib.TOMLDecodeError as exc:
        message = str(exc)
        place = re.search(r" \(at (line \d+, column \d+|end of document)\)$", message)
        where = f"{path}: {place[1]}" if place else str(path)
        problem = message[: place.start()] if place else message
        raise ConfigError(where, problem, "TOML, see toml.io") from None
