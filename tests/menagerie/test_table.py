"""docs/servers.md says what was seen, of every server there is a launcher for."""

from __future__ import annotations

from tests.menagerie import table
from tests.menagerie.servers import KINDS


def test_the_page_is_written_from_what_was_seen() -> None:
    page = table.PAGE.read_text()
    between = page.partition(table.BEGIN)[2].partition(table.END)[0]
    assert between == "\n" + table.rendered(table.load())


def test_every_row_is_of_a_server_that_can_be_started() -> None:
    assert table.load().keys() <= KINDS.keys()
