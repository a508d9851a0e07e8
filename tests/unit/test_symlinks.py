from __future__ import annotations

import contextlib
import os
import posixpath
import tempfile

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pamfs.vfs.names.namespace import contained

PARTS = st.lists(st.sampled_from([b"a", b"..", b".", b"", b"bc"]), max_size=8)


@pytest.mark.parametrize(
    ("content", "depth", "root", "shown"),
    [
        (b"b", 0, b"/", b"b"),
        (b"../b", 1, b"/", b"../b"),
        (b"./a//b", 0, b"/", b"./a//b"),
        (b"/etc/motd", 0, b"/", b"etc/motd"),
        (b"/etc/motd", 2, b"/", b"../../etc/motd"),
        (b"/", 0, b"/", b"."),
        (b"/srv/a", 1, b"/srv", b"../a"),
        (b"/srvx/a", 0, b"/srv", b"srvx/a"),
        (b"/../../etc", 0, b"/", b"etc"),
        (b"../../etc/passwd", 1, b"/", b"../etc/passwd"),
        (b"x/../../../y", 1, b"/", b"../y"),
    ],
)
def test_a_contained_link_is_shown_as_chroot_would_follow_it(
    content: bytes, depth: int, root: bytes, shown: bytes
) -> None:
    assert contained(content, depth, root) == shown


LINKS = st.lists(
    st.tuples(st.sampled_from([b"l0", b"l1", b"l2", b"a"]), st.booleans(), PARTS),
    min_size=1,
    max_size=3,
)


@given(links=LINKS)
@settings(max_examples=150)
def test_the_kernel_never_leaves_a_target_by_its_links(
    links: list[tuple[bytes, bool, list[bytes]]],
) -> None:
    """Links may lead through each other, so only following them for real tells."""
    with tempfile.TemporaryDirectory() as outside:
        root = os.path.join(os.fsencode(outside), b"mnt", b"target")
        for folder in (b"d/a", b"a", b"../a", b"../../a"):
            os.makedirs(os.path.join(root, folder))
        for number, (_, is_absolute, parts) in enumerate(links):
            # "bc" stands for another link, so that links lead through links.
            names = [
                b"l%d" % (number // 2) if part == b"bc" else part for part in parts
            ]
            content = (b"/" if is_absolute else b"") + (b"/".join(names) or b".")
            name = b"l%d" % number
            os.symlink(contained(content, 1, b"/"), os.path.join(root, b"d", name))
            os.symlink(contained(content, 0, b"/"), os.path.join(root, name))
        for folder in (root, os.path.join(root, b"d")):
            for name in os.listdir(folder):
                with contextlib.suppress(OSError):  # a loop, or nothing there
                    reached = os.path.realpath(os.path.join(folder, name), strict=True)
                    assert (reached + b"/").startswith(os.path.realpath(root) + b"/")


def test_a_way_back_through_a_link_is_not_taken() -> None:
    # "s" is a link to ".": each "s" goes nowhere, and each ".." up.
    assert contained(b"s/s/../../../x", 0, b"/") == b"x"
    assert contained(b"s/../x", 1, b"/") == b"x"


@given(PARTS, st.integers(0, 4))
def test_an_absolute_link_means_the_same_place(parts: list[bytes], depth: int) -> None:
    content = b"/" + b"/".join(parts)
    folder = b"/" + b"/".join([b"d"] * depth)
    shown = contained(content, depth, b"/")
    reached = posixpath.normpath(posixpath.join(folder, shown)).replace(b"//", b"/")
    assert reached == posixpath.normpath(content).replace(b"//", b"/")
