"""One part of a name (a credential, a device): which characters it may hold.

Law: what passes here reaches the wire unchanged. SSH user names go through
SASLprep (RFC 4013), which turns a full-width ``[`` into a real one; a part that
SASLprep would change or refuse is therefore refused before.
"""

from __future__ import annotations

import stringprep
import unicodedata
from collections.abc import Callable
from typing import Final

from pamfs.errors import NameRefusedError

# Brackets and percent are delimiters of Segura, which documents no escape for them
# (facts/pam.md#segura-user-names). Angle brackets delimit placeholders in templates, a
# slash delimits path components.
NEVER: Final = frozenset("[]{}%/<>")
LONGEST_BYTES: Final = 255  # NAME_MAX of Linux: nothing longer arrives anyway

_REFUSED: Final[tuple[tuple[Callable[[str], bool], str], ...]] = (
    (stringprep.in_table_c21_c22, "a control character"),
    (stringprep.in_table_b1, "an invisible character"),
    (stringprep.in_table_c12, "a blank that is not a space"),
    (stringprep.in_table_c3, "a private-use character"),
    (stringprep.in_table_c4, "a code point that is no character"),
    (stringprep.in_table_c5, "a surrogate"),
    (stringprep.in_table_c6, "a character unfit for plain text"),
    (stringprep.in_table_c7, "a character unfit for plain text"),
    (stringprep.in_table_c8, "a character that changes the display order"),
    (stringprep.in_table_c9, "a tagging character"),
    (stringprep.in_table_a1, "a character newer than SASLprep (RFC 4013)"),
    (stringprep.in_table_d1, "a right-to-left character next to others"),
)


def check_part(what: str, text: str) -> None:
    """Raise ``NameRefusedError`` unless ``text`` may stand in a user name.

    ``what`` names the part for the person who reads the message.
    """
    problem = find_problem(text)
    if problem:
        raise NameRefusedError(f"{what} {text!a} {problem}")


def find_problem(text: str) -> str:
    """Return what is wrong with ``text`` as a part of a name, or nothing."""
    if not text:
        return "is empty"
    if text != text.strip():
        return "begins or ends with a blank"
    return _problem_of_length(text) or _problem_of_start(text) or _problem_within(text)


def _problem_of_length(text: str) -> str:
    size = len(text.encode("utf-8", "surrogatepass"))
    return f"is longer than {LONGEST_BYTES} bytes" if size > LONGEST_BYTES else ""


def _problem_of_start(text: str) -> str:
    if text.startswith("-"):
        # A PAM that calls ssh itself would take it for an option.
        return "begins with '-'"
    if unicodedata.category(text[0]).startswith("M"):
        return "begins with a combining character"
    return ""


def _problem_within(text: str) -> str:
    for char in text:
        if char in NEVER:
            return f"holds {char!r}"
        for is_refused, reason in _REFUSED:
            if is_refused(char):
                return f"holds {reason}: {char!a}"
    if unicodedata.normalize("NFKC", text) != text:
        return "holds a character that SSH rewrites (not in the form NFKC)"
    return ""
