"""The table ``[guard]``: everything has a default, and every default can be changed."""

from __future__ import annotations

from pathlib import Path

import pytest

from pamfs.config import Guarding, inspect
from pamfs.config.tables import PROBE_NAMES, REFUSED_PROGRAMS

TENANT = """\
[tenant.acme]
proxy = "pam.example"
dialect = "segura-sftp"
operator = "alice"
password = { prompt = true }
"""


def read(tmp_path: Path, *lines: str) -> tuple[Guarding, list[str]]:
    """Return what a file with these lines in ``[guard]`` says, and its problems."""
    file = tmp_path / "config.toml"
    file.write_text("\n".join([TENANT, "[guard]", *lines]))
    found = inspect(file)
    problems = [str(one).removeprefix(f"{file}: ") for one in found.problems]
    return found.config.guard, problems


def test_without_a_word_the_defaults_hold(tmp_path: Path) -> None:
    assert read(tmp_path) == (Guarding(), [])
    assert Guarding().may_walk == ()


def test_every_list_can_be_replaced(tmp_path: Path) -> None:
    guard, problems = read(
        tmp_path,
        'refused_programs = ["a*"]',
        'allowed_programs = ["b"]',
        'walking_programs = ["c"]',
        'traversal = ["d", "e.py"]',
        "probe_names = []",
        'pause = "500ms"',
        "burst = 0",
    )
    assert problems == []
    assert guard == Guarding(("a*",), ("b",), ("c",), ("d", "e.py"), (), 0.5, 0.0)


def test_a_list_can_be_made_longer(tmp_path: Path) -> None:
    guard, _ = read(
        tmp_path,
        'refused_programs = ["@default", "slurp"]',
        'probe_names = ["@default", "Icon?"]',
    )
    assert guard.refused_programs == (*REFUSED_PROGRAMS, "slurp")
    assert guard.probe_names == (*PROBE_NAMES, "Icon?")


@pytest.mark.parametrize(
    ("value", "may_walk"), [('"allow"', ("*",)), ('"refuse"', ()), ("[]", ())]
)
def test_traversal_is_a_word_or_programs(
    tmp_path: Path, value: str, may_walk: tuple[str, ...]
) -> None:
    guard, problems = read(tmp_path, f"traversal = {value}")
    assert (guard.may_walk, problems) == (may_walk, [])


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ('traversal = "maybe"', "guard.traversal: is not one of the choices"),
        ("traversal = true", "guard.traversal: is not one of the choices"),
        ('traversal = ["/usr/bin/find"]', "guard.traversal: '/usr/bin/find' is no"),
        ('refused_programs = "updatedb"', "guard.refused_programs: is a text, not an"),
        ("refused_programs = [1]", "guard.refused_programs: 1 is not a name"),
        ('probe_names = [""]', "guard.probe_names: '' is not a name"),
        ('pause = "2 weeks"', "guard.pause: is not a duration"),
        ("burst = -1", "guard.burst: -1 s is out of range"),
        ("refuse = []", "guard.refuse: is unknown"),
    ],
)
def test_what_is_wrong_is_named_and_the_default_holds(
    tmp_path: Path, line: str, problem: str
) -> None:
    guard, problems = read(tmp_path, line)
    assert len(problems) == 1
    assert problems[0].startswith(problem)
    assert guard == Guarding()
