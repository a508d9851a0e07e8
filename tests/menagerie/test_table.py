"""docs/servers.md says what was seen, of every server there is a launcher for."""

from __future__ import annotations

import re

from tests.menagerie import table
from tests.menagerie.servers import KINDS


def test_the_page_is_written_from_what_was_seen() -> None:
    page = table.PAGE.read_text()
    between = page.partition(table.BEGIN)[2].partition(table.END)[0]
    assert between == "\n" + table.rendered(table.load())


def test_every_row_is_of_a_server_that_can_be_started() -> None:
    assert table.load().keys() <= KINDS.keys()


def test_every_statement_names_its_source() -> None:
    head = table.PAGE.read_text().partition(table.BEGIN)[0]
    rows = re.findall(r"^\| `.*\|$", head, re.MULTILINE)
    assert len(rows) >= len({kind.partition("-")[0] for kind in KINDS})
    for row in rows:
        where = row.rstrip("| ").rpartition(" | ")[2]
        links = re.findall(r"\]\(([^)#]+)(?:#([^)]*))?\)", where)
        assert links or "the tables" in where, row
        for path, anchor in links:
            text = (table.PAGE.parent / path).read_text()
            names = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
            anchors = {name.lower().replace(" ", "-") for name in names}
            assert not anchor or anchor in anchors, row
