"""An asyncssh that is not as the short way knows it goes on in its own way."""

from __future__ import annotations

import ast
import importlib
import inspect
import logging
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import asyncssh
import pytest
import trio

from pamfs.transport import familiar, framing, lane
from pamfs.transport.familiar import NAMES, ShortWay
from tests.contracts.conftest import GCM
from tests.contracts.implementations import sftp_over_openssh
from tests.contracts.promise import content_of, store, under
from tests.limits import HANG_S

CONTENT = bytes(range(256)) * 4096


@pytest.fixture(autouse=True)
def afresh(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Have everything looked at, and said, once more."""
    caplog.set_level(logging.INFO, "pamfs.transport.familiar")
    familiar._module.cache_clear()
    familiar._say.cache_clear()
    yield
    familiar._module.cache_clear()
    familiar._say.cache_clear()


async def check_own_way(folder: Path) -> None:
    """Check that data arrives, and that nothing of it went the short way."""
    with (
        trio.fail_after(HANG_S),
        sftp_over_openssh(folder, encryption_algs=GCM) as device,
    ):
        async with trio.open_nursery() as nursery:
            tree = device.new_tree(nursery)
            path = under(device.new_folder("f"), b"f")
            await store(tree, path, CONTENT)
            assert await content_of(tree, path) == CONTENT
        assert "send_packet" not in vars(device.client._handler)


@pytest.mark.parametrize("kind", NAMES)
async def test_without_a_name_data_goes_asyncsshs_own_way(
    kind: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setitem(vars(familiar)["NAMES"], kind, (*NAMES[kind], "_gone"))
    await check_own_way(tmp_path)
    said = [(r.levelname, r.getMessage()) for r in caplog.records]
    assert len(said) == 1
    assert said[0][0] == "INFO"
    assert said[0][1].endswith(f"its {kind} has no _gone")


async def test_a_version_that_nobody_tried_goes_its_own_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(asyncssh, "__version__", "2.99.0")
    await check_own_way(tmp_path)
    assert [record.levelname for record in caplog.records] == ["INFO"]


async def test_an_asyncssh_without_the_cipher_goes_its_own_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def gone(name: str) -> None:
        raise ImportError(f"cannot import {name}")

    monkeypatch.setattr(importlib, "import_module", gone)
    await check_own_way(tmp_path)
    assert [record.levelname for record in caplog.records] == ["INFO"]


@pytest.mark.parametrize("name", NAMES["connection"])
def test_each_name_is_looked_for(name: str) -> None:
    names = {known: None for known in NAMES["connection"] if known != name}
    way = ShortWay(SimpleNamespace(**names))  # type: ignore[arg-type]  # as far as it looks
    assert way._lane is None


@pytest.mark.parametrize(
    ("version", "is_tried"),
    [
        ("2.20.3", False),
        ("2.21.0", True),
        ("2.24.1", True),
        ("2.25.0", False),
        ("3.0.0", False),
        ("2.rc1", False),
    ],
)
def test_the_versions_that_were_tried(version: str, *, is_tried: bool) -> None:
    assert familiar.is_tried(version) == is_tried


def test_no_private_name_is_used_that_is_not_looked_for() -> None:
    known = {name for names in NAMES.values() for name in names} | {"_cipher"}
    used = {
        node.attr
        for module in (lane, framing)
        for node in ast.walk(ast.parse(inspect.getsource(module)))
        if isinstance(node, ast.Attribute) and not is_own(node)
    }
    private = {name for name in used if name.startswith("_")}
    assert {name for name in private if not name.startswith("__")} <= known


def is_own(node: ast.Attribute) -> bool:
    return isinstance(node.value, ast.Name) and node.value.id == "self"
