"""The audit: records of logins, leases, prompts and file operations as JSON lines.

Law: ``record`` never waits and never fails a request. No record contains a secret; of a
prompt it says only that it was answered.

Protocol: one thread writes, and only that thread accesses the sink. Requests put
records into a bounded queue (``QUEUE_LENGTH``). A record that does not fit is counted,
and the next one that fits has the count (``dropped``). A record leaves the queue only
after it was written: a full disk delays records and loses none until the queue is full.

State: ``_queue`` and ``_counts`` are shared by the threads and are accessed under
``_changed``; ``_sessions`` belongs to the thread that calls ``record``.
"""

from __future__ import annotations

import errno
import json
import logging
import os
import socket
import threading
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, Protocol

from pamfs.errors import PamfsError, first_failure
from pamfs.logs import REDACTOR, open_to_append
from pamfs.processes import program_of

log = logging.getLogger(__name__)

# Some megabytes of records: one minute of a busy mount while the disk does not write.
QUEUE_LENGTH: Final = 10_000
RETRY_S: Final = 1.0
# How long the end of a mount waits for a disk that does not write.
CLOSE_S: Final = 5.0
JOURNAL: Final = Path("/run/systemd/journal/socket")
# The path is compared with the open file once a second: a rotation shows in time.
_LOOK_S: Final = 1.0
_FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT})


class Audit(Protocol):
    """Takes records."""

    def record(self, event: str, **facts: object) -> None:
        """Take ``event`` with its facts; time and mount are added."""
        ...


class NoAudit:
    """No audit is configured: records are dropped."""

    def record(self, event: str, **facts: object) -> None:
        """Drop the record."""

    def status(self) -> Mapping[str, object] | None:
        """Return None: there is no audit."""
        return None

    def close(self) -> None:
        """Do nothing."""


class AuditError(PamfsError):
    """The configured audit cannot be written; the mount is not made without it."""


class Sink(Protocol):
    """Where records end up; used by the writing thread alone once that runs."""

    @property
    def place(self) -> str:
        """Return its name, for a person."""
        ...

    def open(self) -> None:
        """Get ready to write; raise ``OSError``."""
        ...

    def write(self, line: bytes) -> None:
        """Store one line, without its end; raise ``OSError``."""
        ...

    def close(self) -> None:
        """Close it."""
        ...


class FileSink:
    """A file that is only ever appended to, and that may be rotated under us."""

    def __init__(self, path: Path) -> None:
        self.place = str(path)
        self._path = path
        self._fd: int | None = None
        self._looked_at = 0.0
        self._is_torn = False  # half a line is at the file's end

    def open(self) -> None:
        """Open the file, made for its owner alone: its paths may be confidential."""
        fd = open_to_append(self._path)
        self.close()
        self._fd, self._is_torn = fd, False
        self._looked_at = time.monotonic()

    def write(self, line: bytes) -> None:
        """Append one line with one write(2), so that several mounts may share it."""
        fd = self._current()
        data = b"\n" * self._is_torn + line + b"\n"
        written = os.write(fd, data)
        if written < len(data):
            self._is_torn = True
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self._is_torn = False

    def close(self) -> None:
        """Close the file."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None

    def _current(self) -> int:
        now = time.monotonic()
        if self._fd is None or (
            now - self._looked_at >= _LOOK_S and not self._is_same(self._fd)
        ):
            self.open()
        elif now - self._looked_at >= _LOOK_S:
            self._looked_at = now
        assert self._fd is not None  # noqa: S101 - ``open`` sets it or raises
        return self._fd

    def _is_same(self, fd: int) -> bool:
        try:
            there, ours = self._path.stat(), os.fstat(fd)
        except FileNotFoundError:
            return False
        return (there.st_dev, there.st_ino) == (ours.st_dev, ours.st_ino)


class JournalSink:
    """The journal of systemd, over its own protocol: one datagram a record."""

    def __init__(self, path: Path = JOURNAL) -> None:
        self.place = "journal"
        self._path = path
        self._socket: socket.socket | None = None

    def open(self) -> None:
        """Connect to the journal."""
        self.close()
        fresh = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
        try:
            fresh.connect(os.fspath(self._path))
        except OSError:
            fresh.close()
            raise
        self._socket = fresh

    def write(self, line: bytes) -> None:
        """Send one record; ``journalctl -t pamfs-audit`` shows it."""
        if self._socket is None:
            self.open()
        assert self._socket is not None  # noqa: S101 - ``open`` sets it or raises
        fields = b"SYSLOG_IDENTIFIER=pamfs-audit\nPRIORITY=5\nMESSAGE=%b\n" % line
        try:
            self._socket.send(fields)
        except OSError:
            self.close()  # the journal may have been started anew
            raise

    def close(self) -> None:
        """Hang up."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None


@dataclass(slots=True)
class _Counts:
    written: int = 0
    dropped: int = 0
    unreported: int = 0  # dropped, and not yet in the ``dropped`` of a record
    problem: str | None = None


class WrittenAudit:
    """Takes records for a sink, and has a thread write them.

    A target's records carry its session's id from ``login`` to ``session_closed``.
    """

    def __init__(
        self,
        sink: Sink,
        mount: str,
        *,
        queue_length: int = QUEUE_LENGTH,
        retry_s: float = RETRY_S,
    ) -> None:
        """Start; raise ``AuditError`` if records could never be written."""
        self._sink = sink
        self._mount = mount
        self._length = queue_length
        self._retry_s = retry_s
        self._queue: deque[dict[str, object]] = deque()
        self._changed = threading.Condition()
        self._ending = threading.Event()
        self._sessions: dict[object, object] = {}
        self._counts = _Counts()
        try:
            sink.open()
        except OSError as exc:
            if exc.errno not in _FULL:  # a full disk may have room again
                raise AuditError(f"audit: {sink.place}: {exc.strerror}") from None
        self._thread = threading.Thread(target=self._run, name="audit", daemon=True)
        self._thread.start()

    def record(self, event: str, **facts: object) -> None:
        """Queue the record, or count it as dropped."""
        entry = self._entry(event, facts)
        with self._changed:
            counts = self._counts
            if len(self._queue) >= self._length:
                counts.dropped += 1
                counts.unreported += 1
                return
            if counts.unreported:
                entry["dropped"] = counts.unreported
                counts.unreported = 0
            self._queue.append(entry)
            self._changed.notify()

    def status(self) -> Mapping[str, object] | None:
        """Return the counters and the last problem, for ``pamfs status``."""
        with self._changed:
            return {
                "to": self._sink.place,
                "written": self._counts.written,
                "waiting": len(self._queue),
                "dropped": self._counts.dropped,
                "problem": self._counts.problem,
            }

    def close(self) -> None:
        """Write what is queued, for a few seconds at most, and stop."""
        self._ending.set()
        with self._changed:
            self._changed.notify()
        self._thread.join(CLOSE_S)
        lost = len(self._queue) + self._counts.unreported
        if lost:
            log.error("audit: %s: %d records are lost", self._sink.place, lost)

    def _entry(self, event: str, facts: Mapping[str, object]) -> dict[str, object]:
        target, pid = facts.get("target"), facts.get("pid")
        if event == "login":
            self._sessions[target] = facts.get("session")
        entry: dict[str, object] = {
            "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
            "mount": self._mount,
            "event": event,
            "target": target,
            "session": self._sessions.get(target),
        }
        if isinstance(pid, int) and "program" not in facts:
            entry["program"] = program_of(pid) or None  # it may have ended
        if event == "session_closed":
            self._sessions.pop(target, None)
        entry |= {key: _plain(fact) for key, fact in facts.items()}
        return {key: value for key, value in entry.items() if value is not None}

    # -- the writing thread ------------------------------------------------------

    def _run(self) -> None:
        while (entry := self._next()) is not None:
            if "dropped" in entry:
                log.warning(
                    "audit: %s records were dropped: the queue was full",
                    entry["dropped"],
                )
            line = json.dumps(entry, default=str).encode()
            while not self._write(line):
                if self._ending.wait(self._retry_s):
                    break
            else:
                with self._changed:
                    self._counts.written += 1
                    self._queue.popleft()
                continue
            break  # the mount ends, and there is still no room
        self._sink.close()

    def _next(self) -> dict[str, object] | None:
        """Return the first record; it leaves the queue when it is written."""
        with self._changed:
            while not self._queue and not self._ending.is_set():
                self._changed.wait()
            return self._queue[0] if self._queue else None

    def _write(self, line: bytes) -> bool:
        try:
            self._sink.write(line)
        except OSError as exc:
            problem = exc.strerror or str(exc)
            if self._counts.problem != problem:  # once, not once a record
                log.warning("audit: %s: not written: %s", self._sink.place, problem)
            self._counts.problem = problem
            return False
        if self._counts.problem:
            log.warning("audit: %s: records are written again", self._sink.place)
        self._counts.problem = None
        return True


def _plain(fact: object) -> object:
    if isinstance(fact, bytes):
        fact = os.fsdecode(fact)
    if isinstance(fact, str):
        # A byte that is no UTF-8 would be a lone surrogate, which is no JSON.
        return REDACTOR.clean(os.fsencode(fact).decode(errors="backslashreplace"))
    return fact


def errno_name(exc: BaseException) -> str:
    """Return the errno's name, or the class: a server's text never enters a record."""
    exc = first_failure(exc)
    code = getattr(exc, "code", None)
    known = errno.errorcode.get(code) if isinstance(code, int) else None
    return known or type(exc).__name__
