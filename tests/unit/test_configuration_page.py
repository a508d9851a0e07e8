"""The page about the configuration says what the code does."""

from __future__ import annotations

import re
from dataclasses import fields
from enum import Enum
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
from pamfs.config.sources import ProviderName
from pamfs.config.tenants import DURATIONS
from pamfs.naming.dialects import PRESETS

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/configuration.md").read_text()
CHECKOUT = (ROOT / "docs/checkout.md").read_text()
README = (ROOT / "README.md").read_text()


def test_the_page_names_every_key_with_its_default() -> None:
    section = PAGE.partition("## Keys of a tenant")[2].partition("\n## ")[0]
    rows = dict(re.findall(r"(?m)^\| `(\w+)` \| (.*?) \|", section))
    records = (ProxyConfig, LoginConfig, SessionConfig, FilesConfig)
    defaults = {one.name: one.default for kind in records for one in fields(kind)}
    unnamed = {"host", "port", "targets"}
    keys = {name.removesuffix("_s") for name in defaults.keys() - unnamed}
    assert keys | {"proxy", "target", "checkout"} == set(rows)
    assert keys >= DURATIONS.keys()
    shown = {name: cell for name, value in defaults.items() if (cell := _cell(value))}
    del shown["otp_in"]  # it depends on the dialect
    assert shown == {name: rows[name.removesuffix("_s")] for name in shown}


def _cell(default: object) -> str:
    """Return how the page shows ``default``; "": a value that needs words."""
    match default:
        case bool():
            return str(default).lower()
        case int():
            return str(default)
        case float():
            return f"{default:g} s"
        case Enum(value=str(text)):
            return f'`"{text}"`'
        case bytes():
            return f'`"{default.decode()}"`'
        case _:
            return ""


def test_the_pages_name_every_checkout_provider() -> None:
    names = [provider.value for provider in ProviderName]
    (row,) = re.findall(r"(?m)^\| `checkout` \| .* \|$", PAGE)
    assert re.findall(r'"(\w+)"', row) == names
    table = CHECKOUT.partition("| Provider |")[2].partition("\n\n")[0]
    assert re.findall(r"(?m)^\| `(\w+)` \|", table) == names


def test_the_readme_names_every_preset() -> None:
    section = README.partition("### Other proxies")[2].partition("\n## ")[0]
    words = set(re.findall(r"`([a-z-]+)`", section))
    assert words >= PRESETS.keys()


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
