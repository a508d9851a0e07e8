"""The table ``[audit]``: where the records of what happened go, if anywhere."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pamfs.config.sections import Section


@dataclass(frozen=True, slots=True)
class Auditing:
    """A file, or systemd's journal; neither: no records are kept."""

    file: Path | None = None
    journal: bool = False


def read_auditing(section: Section | None) -> Auditing:
    """Return what stands in ``[audit]``; without it, no records are kept."""
    if section is None:
        return Auditing()
    file, journal = section.path("file"), section.flag("journal")
    is_given = section.take("file") is not None
    section.finish()
    if is_given == journal:
        hint = 'file = "/var/log/pamfs/audit.jsonl" or journal = true'
        section.report("", "needs one place: a file or the journal", hint)
        return Auditing()
    return Auditing(file, journal)
