"""The table ``[prompts]``: how people are asked, and in which order."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from pamfs.config.sections import Section, one_of


class Way(Enum):
    """One way to ask a person."""

    CONTROL = "control"  # a running ``pamfs agent``
    TERMINAL = "terminal"  # of the program that wants in
    PINENTRY = "pinentry"  # on the desktop of that program
    ASKPASS = "askpass"
    SYSTEMD = "systemd"


@dataclass(frozen=True, slots=True)
class Prompting:
    """The ways that are tried, in order; ``None``: what is installed is found.

    ``pinentry`` and ``askpass`` are a program's name or path.
    """

    order: tuple[Way, ...] = tuple(Way)
    pinentry: str | None = None
    askpass: str | None = None


def read_prompting(section: Section | None) -> Prompting:
    """Return what stands in ``[prompts]``; without it, the defaults."""
    if section is None:
        return Prompting()
    order = _read_order(section)
    pinentry, askpass = section.text("pinentry"), section.text("askpass")
    section.finish()
    return Prompting(order, pinentry, askpass)


def _read_order(section: Section) -> tuple[Way, ...]:
    value = section.take("order")
    if value is None:
        return tuple(Way)
    words = [way.value for way in Way]
    if not isinstance(value, list):
        section.report("order", "is no array of texts", f"known: {', '.join(words)}")
        return tuple(Way)
    for word in value:
        if word not in words:
            hint = one_of(str(word), words)
            section.report("order", f"{word!r} is no way to ask", hint)
            return tuple(Way)
    if len(set(value)) < len(value):
        section.report("order", "names one way twice")
    return tuple(Way(word) for word in value)
