"""Who calls the verbs of the tables: ``vfs.coherence`` alone, for each event."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

PACKAGE = Path(__file__).parents[2] / "pamfs"
# The tables themselves, and the one module that keeps them in step.
OWNERS: Final = {
    PACKAGE / "vfs/coherence.py",
    PACKAGE / "vfs/names/dentries.py",
    PACKAGE / "vfs/names/directory_stream.py",
    PACKAGE / "vfs/names/inodes.py",
}
# Verbs of ``Inode`` and of the open files' readahead, by names of their own.
VERBS: Final = {
    *(
        "note_attrs",
        "touched",
        "note_stale",
        "require_stat",
        "note_attrs_set",
        "note_write",
        "drop_readahead",
    ),
}
# Verbs that other classes have as well, by what they are called on.
VERBS_OF: Final = {
    "inodes": {"unlinked", "linked", "renamed"},
    "dentries": {
        *("put", "made", "removed", "missing", "doubt", "close", "move", "forget"),
        *("begin", "finish", "abandon"),
    },
    "stream": {"put", "doubt", "take", "forget"},
    "writes": {"settled"},
}
FIELDS: Final = {
    *("seen", "seen_at", "is_stale", "is_written", "counted_at", "unstored"),
    *("changed_at", "cached_at"),
}
OTHERS = sorted({*PACKAGE.glob("vfs/**/*.py"), *PACKAGE.glob("fuse/*.py")} - OWNERS)


def last_name(node: ast.expr) -> str:
    """Return the last part of what a method is called on."""
    if isinstance(node, ast.Attribute):
        return node.attr.lstrip("_")
    return node.id if isinstance(node, ast.Name) else ""


def is_verb(called: ast.Attribute) -> bool:
    """Whether ``called`` changes a table of what is known."""
    on = last_name(called.value)
    return called.attr in VERBS or called.attr in VERBS_OF.get(on, ())


def verbs(source: str) -> Iterator[str]:
    """Yield each verb that is called, and each field of an inode that is set."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            if is_verb(node.func):
                yield f"{node.lineno}: {ast.unparse(node.func)}"
        elif (
            isinstance(node, ast.Attribute)
            and isinstance(node.ctx, ast.Store)
            and node.attr in FIELDS
            and last_name(node.value) == "inode"
        ):
            yield f"{node.lineno}: {ast.unparse(node)}"


@pytest.mark.parametrize(
    "path", OTHERS, ids=lambda path: str(path.relative_to(PACKAGE))
)
def test_only_coherence_changes_what_is_known(path: Path) -> None:
    assert list(verbs(path.read_text())) == []


def test_the_check_sees_what_it_is_meant_to_see() -> None:
    source = (
        "inode.note_attrs(attrs, at)\nself._inodes.unlinked(parent, name)\n"
        "file.inode.unstored = None\nself._dentries.doubt(place, name)\n"
        "self._coherence.renamed(old, new)\nstream.start(now)\n"
        "inode.seen, other = attrs, 1\n"
    )
    assert len(list(verbs(source))) == 5
