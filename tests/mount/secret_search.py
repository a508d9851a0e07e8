"""Every secret of a lab, and the search for them in what was said."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import UTC, datetime

import pyotp

from tests.mount.mounts import Lab

STEP_S = 30


def now_s() -> int:
    return int(datetime.now(UTC).timestamp())


def strings_in(value: object, keys: re.Pattern[str]) -> Iterator[str]:
    """Yield every string of a JSON value that stands under a matching key."""
    if isinstance(value, dict):
        for key, inner in value.items():
            if isinstance(inner, str) and keys.search(key):
                yield inner
            else:
                yield from strings_in(inner, keys)
    elif isinstance(value, list):
        for inner in value:
            yield from strings_in(inner, keys)


def secrets_of(lab: Lab, began_s: int) -> dict[str, list[str]]:
    """Return the lab's passwords, seeds and every code that they made since."""
    passwords = list(strings_in(dict(lab.facts), re.compile("password|secret")))
    seeds = list(strings_in(dict(lab.facts), re.compile("seed")))
    assert passwords
    assert seeds
    codes = [
        pyotp.TOTP(seed).at(at)
        for seed in seeds
        for at in range(began_s - STEP_S, now_s() + 2 * STEP_S, STEP_S)
    ]
    return {"password": passwords, "seed": seeds, "code": codes}


def assert_holds_no_secret(text: bytes, secrets: dict[str, list[str]]) -> None:
    said = text.decode(errors="replace")
    for kind, values in secrets.items():
        for value in values:
            # A code is six digits: parts of longer numbers do not count.
            pattern = rf"(?<!\d){value}(?!\d)" if kind == "code" else re.escape(value)
            assert not re.search(pattern, said), f"a {kind} is in it"
