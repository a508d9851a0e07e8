"""The records of one mount: opened before it is made, closed after its last one."""

from __future__ import annotations

from pathlib import Path

from pamfs.audit import FileSink, JournalSink, NoAudit, WrittenAudit
from pamfs.config import Config


def open_audit(config: Config, mountpoint: Path) -> NoAudit | WrittenAudit:
    """Return what takes the records; raise ``AuditError`` if nothing ever could."""
    wanted = config.audit
    if wanted.file is not None:
        return WrittenAudit(FileSink(wanted.file), str(mountpoint))
    if wanted.journal:
        return WrittenAudit(JournalSink(), str(mountpoint))
    return NoAudit()
