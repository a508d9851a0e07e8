"""``[prompts]`` says how people are asked; what is wrong in it is named."""

from __future__ import annotations

from pathlib import Path

import pytest

from pamfs.config import Prompting, PromptWay, inspect

TENANT = """\
[tenant.acme]
proxy = "pam.acme.example"
dialect = "segura-sftp"
operator = "alice"
password = { prompt = true }
"""


def read(tmp_path: Path, table: str) -> tuple[Prompting, list[str]]:
    path = tmp_path / "config.toml"
    path.write_text(f"{TENANT}\n{table}")
    found = inspect(path)
    return found.config.prompts, [str(problem) for problem in found.problems]


def test_without_the_table_all_ways_are_tried_in_order(tmp_path: Path) -> None:
    assert read(tmp_path, "") == (Prompting(), [])
    words = [way.value for way in Prompting().order]
    assert words == ["control", "terminal", "pinentry", "askpass", "systemd"]


def test_order_and_programs_are_chosen(tmp_path: Path) -> None:
    table = """
    [prompts]
    order = ["pinentry", "control"]
    pinentry = "pinentry-qt"
    askpass = "~/bin/ask"
    """
    wanted = Prompting(
        (PromptWay.PINENTRY, PromptWay.CONTROL), "pinentry-qt", "~/bin/ask"
    )
    assert read(tmp_path, table) == (wanted, [])
    nobody, _ = read(tmp_path, "[prompts]\norder = []")
    assert nobody.order == ()


@pytest.mark.parametrize(
    ("table", "problem"),
    [
        ('order = ["terminl"]', "prompts.order: 'terminl' is not a way to ask"),
        ('order = ["terminal", "terminal"]', "contains a way twice"),
        ('order = "terminal"', "is not an array of texts"),
        ("order = [1]", "1 is not a way to ask"),
        ("pinentry = true", "prompts.pinentry: is a boolean, not a text"),
        ('pinentri = "x"', "prompts.pinentri: is unknown"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, table: str, problem: str) -> None:
    _, problems = read(tmp_path, f"[prompts]\n{table}")
    assert len(problems) == 1
    assert problem in problems[0]
