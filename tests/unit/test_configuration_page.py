"""The page about the configuration says what the code does."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path

from pamfs.config import (
    FilesConfig,
    LoginConfig,
    OldAlgorithm,
    ProxyConfig,
    Quirk,
    SessionConfig,
    TenantConfig,
)
from pamfs.config.tenants import DURATIONS
from pamfs.naming.dialects import PRESETS

PAGE = (Path(__file__).parents[2] / "docs/configuration.md").read_text()


def test_the_page_names_every_key_with_its_default() -> None:
    section = PAGE.partition("## Keys of a tenant")[2].partition("\n## ")[0]
    rows = dict(re.findall(r"(?m)^\| `(\w+)` \| (.*?) \|", section))
    records = (ProxyConfig, LoginConfig, SessionConfig, FilesConfig)
    defaults = {one.name: one.default for kind in records for one in fields(kind)}
    for key in DURATIONS:
        seconds = float(rows[key].split(" s")[0])
        assert seconds == defaults[f"{key}_s"]
    unnamed = {"host", "port", "targets"}
    keys = {name.removesuffix("_s") for name in defaults.keys() - unnamed}
    assert keys | {"proxy", "target", "checkout"} == set(rows)


def test_no_two_records_of_a_tenant_have_a_field_of_one_name() -> None:
    records = (TenantConfig, ProxyConfig, LoginConfig, SessionConfig, FilesConfig)
    names = [one.name for kind in records for one in fields(kind)]
    assert len(set(names)) == len(names)


def test_the_page_shows_every_preset_as_it_is() -> None:
    rows = dict(re.findall(r"(?m)^\| `([a-z-]+)` \| `(<.*?)` \|", PAGE))
    assert rows == {name: preset.template for name, preset in PRESETS.items()}


def test_the_page_describes_every_quirk() -> None:
    section = PAGE.partition("## Quirks")[2].partition("\n## ")[0]
    rows = re.findall(r"(?m)^\| `([a-z-]+)` \|", section)
    assert rows == [quirk.value for quirk in Quirk]


def test_the_page_names_every_old_algorithm() -> None:
    section = PAGE.partition("## Old algorithms")[2].partition("\n## ")[0]
    rows = re.findall(r"(?m)^\| [^|]+ \| (`.*) \|$", section)
    names = [name for row in rows for name in re.findall(r"`(.*?)`", row)]
    assert names == [one.value for one in OldAlgorithm]
