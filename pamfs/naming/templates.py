"""User-name templates: ``<placeholder>``, literal text, ``(optional group)``.

Invariant: a template that ``parse_template`` returns can be read back. Between
two placeholders stands a delimiter, and ``refused_characters`` keeps every
delimiter out of the values.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise, product
from typing import Final

PLACEHOLDERS: Final = (
    "operator",
    "tenant",
    "credential",
    "account",
    "domain",
    "device",
    "proto",
    "port",
    "otp",
)
OPTIONAL: Final = frozenset(("domain", "proto", "port", "otp"))
# What servers are known to take for a delimiter even where the template
# uses another: SPS, CyberArk and JumpServer each accept two spellings.
SUSPECT: Final = frozenset("@#:+%")
_TOKEN: Final = re.compile(r"<([^<>]*)>|([()])|([^<>()]+)")
_SERVICE: Final = "<proto>.<port>"


@dataclass(frozen=True, slots=True)
class Piece:
    """A literal, or a placeholder; ``group`` is 0 outside of parentheses."""

    text: str
    is_placeholder: bool
    group: int = 0


Template = tuple[Piece, ...]


@lru_cache(maxsize=64)
def parse_template(text: str) -> Template:
    """Return the pieces of ``text``; raise ``ValueError`` with what is wrong."""
    if not text.isascii() or not text.isprintable():
        raise ValueError(f"the template {text!a} holds more than printable ASCII")
    pieces = _split(text)
    _check_placeholders(pieces)
    _check_delimiters(pieces)
    _check_groups(pieces)
    return pieces


def placeholders_of(template: Template) -> tuple[str, ...]:
    """Return the placeholders' names in order."""
    return tuple(piece.text for piece in template if piece.is_placeholder)


def refused_characters(text: str) -> Mapping[str, frozenset[str]]:
    """Return for each placeholder of template ``text`` what its value may not hold.

    Every delimiter, and the usual delimiters besides; but inside square
    brackets, which no value can leave, only the delimiters there.
    """
    inside = re.search(r"\[([^][]*)\]", text)
    bracketed = inside[1] if inside else ""
    outside = text.replace(f"[{bracketed}]", "[]")
    names = placeholders_of(parse_template(text))
    extra = SUSPECT if len(names) > 1 else frozenset[str]()
    return {
        name: _refused_in(name, bracketed, frozenset())
        if f"<{name}>" in bracketed
        else _refused_in(name, outside, extra)
        for name in names
    }


def _refused_in(name: str, region: str, extra: frozenset[str]) -> frozenset[str]:
    refused = _delimiters(region) | extra
    if name == "operator":
        # The operator is the configuration's word, no path's: alice@corp.example.
        return _delimiters(region) | (extra - {"@"})
    # The last "@" parts credential and device wherever it is the only one.
    is_last_at = re.search(r"<(credential|account)>@<device>", region) is not None
    if name in {"credential", "account"} and is_last_at and region.count("@") == 1:
        return refused - {"@"}
    return refused


def _delimiters(text: str) -> frozenset[str]:
    # proto and port have alphabets of their own: the dot between parts nothing else.
    literal = re.sub(r"<[^<>]*>|[()]", "", text.replace(_SERVICE, ""))
    return frozenset(char for char in literal if not char.isalnum())


def _split(text: str) -> Template:
    pieces: list[Piece] = []
    group, depth, end = 0, 0, 0
    for token in _TOKEN.finditer(text):
        if token.start() != end:
            break
        end = token.end()
        if token[2]:
            depth += 1 if token[2] == "(" else -1
            group += token[2] == "("
        else:
            is_placeholder = token[3] is None
            inner = token[1] if is_placeholder else token[3]
            pieces.append(Piece(inner, is_placeholder, group if depth else 0))
        if depth not in {0, 1}:
            raise ValueError(f"the parentheses in {text!r} do not pair")
    if end != len(text) or depth:
        raise ValueError(
            f"the brackets in {text!r} do not pair: < > name a placeholder"
        )
    return tuple(pieces)


def _check_placeholders(pieces: Template) -> None:
    names = placeholders_of(pieces)
    known = ", ".join(f"<{name}>" for name in PLACEHOLDERS)
    for name in names:
        if name not in PLACEHOLDERS:
            raise ValueError(f"unknown placeholder <{name}>; known are {known}")
        if names.count(name) > 1:
            raise ValueError(f"<{name}> stands there twice")
    if {"credential", "account"} <= set(names):
        raise ValueError("<credential> already holds <account>; use one of them")
    if {"credential", "domain"} <= set(names):
        raise ValueError("<credential> already holds <domain>; use <account>")
    if not {"credential", "account", "device"} & set(names):
        raise ValueError(f"neither <credential> nor <device> in it; known are {known}")


def _check_delimiters(pieces: Template) -> None:
    for shown in _with_and_without_groups(pieces):
        for left, right in pairwise(shown):
            if left.is_placeholder and right.is_placeholder:
                between = f"<{left.text}> and <{right.text}>"
                raise ValueError(f"nothing stands between {between}")
    for piece in pieces[1:-1]:
        if not piece.is_placeholder and piece.text.isalnum():
            raise ValueError(f"{piece.text!r} is no delimiter: it needs punctuation")


def _with_and_without_groups(pieces: Template) -> Iterator[Template]:
    groups = sorted({piece.group for piece in pieces if piece.group})
    for shown in product((True, False), repeat=len(groups)):
        hidden = {
            group for group, is_on in zip(groups, shown, strict=True) if not is_on
        }
        yield tuple(piece for piece in pieces if piece.group not in hidden)


def _check_groups(pieces: Template) -> None:
    for group in range(1, max((piece.group for piece in pieces), default=0) + 1):
        members = [piece for piece in pieces if piece.group == group]
        names = set(placeholders_of(tuple(members)))
        if not names or not names <= OPTIONAL:
            optional = ", ".join(f"<{name}>" for name in sorted(OPTIONAL))
            raise ValueError(
                f"a group in ( ) holds one or more of {optional}, no other"
            )
        if len(members) == len(names):
            raise ValueError("a group in ( ) needs a delimiter")
