"""Names that libraries do not promise: each is declared in one module."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from pamfs.app import trio_compat
from pamfs.fuse import serving
from pamfs.private_names import Names, is_within, missing
from pamfs.transport.ssh import asyncssh_compat
from pamfs.transport.ssh.asyncssh_compat import (
    ESSENTIAL,
    FAST_PATH,
    HOT_FILES,
    REPLACEABLE,
)

ROOT = Path(__file__).parents[2] / "pamfs"
OF_LOOPS = (*trio_compat.NAMES, *serving.NAMES)
DECLARED = (*ESSENTIAL, *FAST_PATH, *REPLACEABLE, *OF_LOOPS)
HERE = {ROOT / "transport/ssh/asyncssh_compat.py", ROOT / "app/trio_compat.py"}
HOT = {ROOT / "transport/sftp" / name for name in HOT_FILES}
SOURCES = [
    path for path in sorted(ROOT.rglob("*.py")) if ROOT / "lab" not in path.parents
]
# Of the standard library, which documents them.
DOCUMENTED = {"_replace", "_value_", "_SubParsersAction"}
PRIVATE = re.compile("_[a-z][a-z_]+[a-z]")
MODULES = ("constants", "sftp")


def names_of(*owners: str) -> set[str]:
    return {name for d in DECLARED if d.owner in owners for name in d.names}


def parsed(path: Path) -> ast.AST:
    """Return what runs of ``path``: what is imported for types alone does not."""

    class Types(ast.NodeTransformer):
        def visit_If(self, node: ast.If) -> ast.AST | None:
            test = node.test
            is_types = isinstance(test, ast.Name) and test.id == "TYPE_CHECKING"
            return None if is_types else node

    tree: ast.AST = Types().visit(ast.parse(path.read_text()))
    return tree


def attributes(path: Path) -> Iterator[tuple[str, str]]:
    """Yield what ``path`` takes of which object: its last name, and the attribute."""
    for node in ast.walk(parsed(path)):
        if isinstance(node, ast.Attribute):
            base = node.value
            of = getattr(base, "id", getattr(base, "attr", ""))
            yield str(of), node.attr


def spelled(path: Path) -> set[str]:
    """Return what ``getattr`` may be given in transport: names as text."""
    texts = (
        node.value
        for node in ast.walk(parsed(path))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    )
    is_transport = (ROOT / "transport") in path.parents
    return {text for text in texts if is_transport and PRIVATE.fullmatch(text)}


def privates(path: Path) -> set[str]:
    found = {name for of, name in attributes(path) if of not in {"self", "cls"}}
    names = {name for name in found if name.startswith("_")} | spelled(path)
    return {name for name in names if not name.startswith("__")} - DOCUMENTED


def imports(path: Path) -> Iterator[tuple[str, str]]:
    for node in ast.walk(parsed(path)):
        if isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                yield node.module, alias.name
        elif isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, ""


def test_a_private_attribute_is_used_where_it_is_declared() -> None:
    declared = {name for names in DECLARED for name in names.names}
    for path in SOURCES:
        allowed = declared if path in HERE | HOT else declared & spelled(path)
        assert privates(path) <= allowed, f"{path}: {privates(path) - allowed}"


def is_declared(module: str, name: str) -> bool:
    library, _, inside = module.partition(".")
    if library == "asyncssh" and inside:
        is_kind = any(d.owner == f"{module}:{name}" for d in DECLARED)
        return is_kind or name in names_of(module)
    if library == "trio":
        return module in {"trio", "trio.lowlevel"}
    return library != "asyncssh" or name in {"", *MODULES}


def test_what_is_imported_from_inside_a_library_is_declared() -> None:
    for path in SOURCES:
        for module, name in imports(path):
            assert is_declared(module, name), f"{path}: declare {module}.{name}"


def test_what_is_used_of_the_request_layer_is_declared() -> None:
    handler = names_of("asyncssh.sftp:SFTPClientHandler") | {"__dict__"}
    for path in (ROOT / "transport").glob("**/*.py"):
        for of, name in attributes(path):
            if of.endswith("handler"):
                assert name in handler, f"{path}: declare SFTPClientHandler.{name}"
            if of in MODULES:
                known = names_of(f"asyncssh.{of}")
                assert name in known, f"{path}: declare asyncssh.{of}.{name}"


def test_what_is_declared_is_used() -> None:
    used = "".join(path.read_text() for path in SOURCES if path not in HERE)
    own = "".join(path.read_text() for path in HERE)
    for names in DECLARED:
        for name in names.names:
            extension = name.removeprefix("_supports_").replace("_", "-")
            is_used = f'"{extension}"' in used or name in used
            assert is_used or own.count(name) > 1, f"{names.owner}.{name} is not used"


def test_the_tests_see_what_they_are_meant_to_see(tmp_path: Path) -> None:
    source = tmp_path / "sample.py"
    source.write_text(
        "from asyncssh.sftp import one\nimport trio._core\n"
        "if TYPE_CHECKING:\n    from asyncssh.sftp import two\n"
        "self._own\nclient._handler._x\nself._handler.lstat\nnode._replace\n"
    )
    assert list(imports(source)) == [("asyncssh.sftp", "one"), ("trio._core", "")]
    assert privates(source) == {"_x", "_handler"}
    assert ("_handler", "lstat") in list(attributes(source))


class Base:
    annotated: int

    def __init__(self) -> None:
        self.stored = 1

    def method(self, one: int, *, more: int) -> int:
        return one + more


class Kind(Base):
    def __init__(self) -> None:
        super().__init__()
        self.also = [name + "!" for name in ("stored",)]


METHOD = frozenset({"self", "one", "more", "older"})
HERE_TOO = f"{__name__}:Kind"


@pytest.mark.parametrize(
    ("names", "lacking"),
    [
        (Names(HERE_TOO, ("stored", "also", "annotated", "method")), []),
        (Names(HERE_TOO, ("stored", "gone")), ["Kind.gone"]),
        (Names(f"{__name__}:Gone", ("stored",)), ["Gone.stored"]),
        (Names(__name__, ("Kind", "gone")), [f"{__name__}.gone"]),
        (Names("pamfs.gone", ("any",)), ["pamfs.gone"]),
        # ``more`` must be named.
        (Names(HERE_TOO, ("method",), args=2), ["Kind.method"]),
        (Names(HERE_TOO, ("method",), keywords=METHOD), []),
        (Names(HERE_TOO, ("method",), keywords=METHOD - {"one"}), ["Kind.method"]),
        (Names("os.path", ("join",), args=3), []),
        (Names("os.path", ("exists",), args=3), ["os.path.exists"]),
    ],
)
def test_what_is_missing_is_named(names: Names, lacking: list[str]) -> None:
    assert missing([names]) == lacking


@pytest.mark.parametrize(
    ("version", "was_tried"),
    [
        ("2.20.3", False),
        ("2.21.0", True),
        ("2.24.1", True),
        ("2.25.0", False),
        ("3.0.0", False),
        ("2.rc1", False),
    ],
)
def test_the_versions_that_were_tried(version: str, *, was_tried: bool) -> None:
    assert is_within(version, *asyncssh_compat.TRIED) == was_tried
