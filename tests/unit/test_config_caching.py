"""The key ``cache``: a size with its unit, or nothing at all."""

from __future__ import annotations

from pathlib import Path

import pytest

from pamfs.config import inspect

TENANT = """
[tenant.acme]
proxy = "pam.example"
operator = "alice"
dialect = "segura-sftp"
password = { prompt = true }
"""


def read(folder: Path, line: str) -> tuple[int, list[str]]:
    file = folder / "config.toml"
    file.write_text(f"{line}\n{TENANT}")
    found = inspect(file)
    return found.config.cache_bytes, [str(problem) for problem in found.problems]


@pytest.mark.parametrize(
    ("line", "size"),
    [
        ("", 128 << 20),
        ('cache = "64 MiB"', 64 << 20),
        ('cache = "1GiB"', 1 << 30),
        ('cache = "512 KiB"', 512 << 10),
        ("cache = 0", 0),
    ],
)
def test_a_size_is_read(tmp_path: Path, line: str, size: int) -> None:
    assert read(tmp_path, line) == (size, [])


@pytest.mark.parametrize(
    "value", ['"64"', '"64 MB"', "64", "true", "false", '"9999 GiB"', '["64 MiB"]']
)
def test_a_value_that_is_not_a_size_is_reported(tmp_path: Path, value: str) -> None:
    size, (problem,) = read(tmp_path, f"cache = {value}")
    assert size == 128 << 20
    assert ": cache: is not a size" in problem
    assert "128 MiB" in problem
