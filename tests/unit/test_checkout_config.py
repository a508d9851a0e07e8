"""``checkout = { ... }``: what is right, and what each mistake is told."""

from __future__ import annotations

from pathlib import Path

import pytest

from pamfs.config import CheckoutConfig, HelperConfig, SeguraConfig, inspect

HEAD = """\
[tenant.acme]
proxy = "pam.acme.example"
dialect = "segura-sftp"
operator = "alice"
password = { prompt = true }
[tenant.acme.checkout]
"""
SEGURA = """\
provider = "segura"
url = "https://vault.example.com:8443"
client_id = "app"
client_secret = { env = "VAULT_SECRET" }
"""


def read(folder: Path, lines: str) -> tuple[CheckoutConfig, str]:
    path = folder / "config.toml"
    path.write_text(HEAD + lines)
    found = inspect(path)
    problems = "\n".join(map(str, found.problems))
    tenant = found.config.tenants.get("acme")
    return (tenant.checkout if tenant else None), problems


def test_the_proxy_checks_out_by_default(tmp_path: Path) -> None:
    assert read(tmp_path, "") == (None, "")
    assert read(tmp_path, 'provider = "proxy"') == (None, "")


def test_a_segura_vault_has_defaults(tmp_path: Path) -> None:
    config, problems = read(tmp_path, SEGURA)
    assert not problems
    assert isinstance(config, SeguraConfig)
    assert config.url == "https://vault.example.com:8443"
    assert (config.prefix, config.tenant) == ("/api", "")
    assert (config.timeout_s, config.refresh_s) == (10, 300)


def test_each_setting_of_a_segura_vault_is_read(tmp_path: Path) -> None:
    for name in ("ca.pem", "client.pem", "client.key"):
        (tmp_path / name).touch(mode=0o600)
    more = (
        'prefix = "/iso"\ntenant = "acme"\nca_file = "ca.pem"\n'
        'client_cert = "client.pem"\nclient_key = "client.key"\n'
        'timeout = 5\nrefresh = "10m"\n'
    )
    config, problems = read(tmp_path, SEGURA + more)
    assert not problems
    assert isinstance(config, SeguraConfig)
    assert config.ca_file == tmp_path / "ca.pem"
    assert (config.prefix, config.timeout_s, config.refresh_s) == ("/iso", 5, 600)


def test_a_helper_is_a_command(tmp_path: Path) -> None:
    lines = 'provider = "helper"\ncommand = "x --y"\nduration = "1h"\nticket = "CHG-1"'
    config, problems = read(tmp_path, lines)
    assert not problems
    assert isinstance(config, HelperConfig)
    assert (config.command, config.timeout_s, config.duration_s) == ("x --y", 30, 3600)


@pytest.mark.parametrize(
    ("lines", "says"),
    [
        ('provider = "vaultwarden"', "is not one of the choices"),
        (SEGURA.replace("https", "http"), "is not https"),
        (SEGURA.replace("https://", "https://a:b@"), "a user name or a password"),
        (SEGURA.replace(":8443", ":x"), "is not an address"),
        (SEGURA.replace(":8443", "/iso"), "ends in '/iso'"),
        (SEGURA + 'prefix = "iso"', "is not one of the choices"),
        (SEGURA + 'ca_file = "nowhere.pem"', "is not a file"),
        (SEGURA + 'client_key = "config.toml"', "client_cert: is missing"),
        (SEGURA + 'command = "x"', "is unknown"),
        (SEGURA.replace('{ env = "VAULT_SECRET" }', '"plain"'), "must not contain"),
        (
            SEGURA.replace('env = "VAULT_SECRET"', "prompt = true"),
            "cannot be { prompt = true }",
        ),
        ('provider = "segura"', "url: is missing"),
        ('provider = "segura"', "client_secret: is missing"),
        ('provider = "helper"', "command: is missing"),
        ('provider = "helper"\ncommand = "\'"', "is not a command line"),
    ],
)
def test_each_mistake_is_named(lines: str, says: str, tmp_path: Path) -> None:
    _, problems = read(tmp_path, lines)
    assert says in problems
    assert "plain" not in problems
