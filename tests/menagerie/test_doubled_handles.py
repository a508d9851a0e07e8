"""Programs on Erlang's server, which gives one handle twice once three are open."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.menagerie.applications import Site, contents, make_source, mounted_site
from tests.menagerie.servers import KINDS

# Without a limit 3 of 8 copies ended with ESTALE, by what was read ahead beside them.
ROUNDS = 8


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    with mounted_site(KINDS["erlang"]) as made:
        for n in range(ROUNDS):
            folder = made.stored(f"tree{n}")
            folder.mkdir()
            make_source(folder)
        yield made


@pytest.mark.parametrize(
    "script",
    [
        'cp -a "$0/." "$1"',
        'tar -C "$0" -cf - . | tar -C "$1" -xf -',
        'rsync -a "$0/" "$1"',
    ],
    ids=["cp", "tar", "rsync"],
)
def test_a_tree_is_copied_as_it_is_every_time(
    site: Site, script: str, tmp_path: Path
) -> None:
    for n in range(ROUNDS):
        copy = tmp_path / f"copy{n}"
        copy.mkdir()
        site.sh(script, site.there(f"tree{n}"), copy)
        assert contents(copy) == contents(site.stored(f"tree{n}"))
