"""Text of others as one printable line: for a log, a terminal, a dialog, a message.

Names of files, words of a server and of a program come with newlines that forge a
line, escapes that move a terminal's cursor, marks that reverse the reading order
(Unicode's bidirectional controls) and characters of no width. ``str.isprintable`` is
false for all of them: categories Cc, Cf, Cs, Co, Cn, Zl, Zp, and Zs but the space.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator


def printable(text: str) -> str:
    """Return ``text`` with each character that does not print as an escape."""
    if text.isprintable():
        return text
    return "".join(one if one.isprintable() else ascii(one)[1:-1] for one in text)


def one_line(text: str, longest: int) -> str:
    """Return ``text`` on one line: blanks joined, unprintable characters left out.

    It is at most ``longest`` characters, with an ellipsis if it was cut.
    """
    words = "".join(one if one.isprintable() else " " for one in text).split()
    line = " ".join(words)
    return line if len(line) <= longest else f"{line[: longest - 1]}…"


def columns_of(text: str, width: int) -> Iterator[str]:
    """Yield ``text`` in pieces that a terminal shows in at most ``width`` columns."""
    piece, used = "", 0
    for one in text:
        wide = 2 if unicodedata.east_asian_width(one) in {"W", "F"} else 1
        if used + wide > width:
            yield piece
            piece, used = "", 0
        piece, used = piece + one, used + wide
    if piece:
        yield piece
