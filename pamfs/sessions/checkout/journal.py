"""The leases that a mount holds, on disk, and those of daemons that died.

Law: a lease is on disk before ``held`` returns, and a file belongs to the daemon that
has it locked. The kernel releases the lock when that daemon dies, however it dies: a
file that can be locked is an orphan. It holds no secret. A removed file or folder is
made anew; a failed write is an error.

Orphans are given back at the next start, in the background. A login of the same account
waits for that (``Custody.turn``), so that a return never takes a new grant with it.
What the provider does not take back stays in its journal, for this mount to try again
and for the next.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import logging
import math
import os
import secrets
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Final

import trio

from pamfs.errors import PamfsError, ungrouped
from pamfs.model import Target, json_object
from pamfs.sessions.checkout.base import JournalError, Lease, Provider
from pamfs.sessions.checkout.custody import RELEASE_WITHIN_S, Custody

log = logging.getLogger(__name__)

# A file is written anew when it has this many lines more than leases.
COMPACT_AFTER: Final = 64
_HELD: Final = "held"
_RETURNED: Final = "returned"
_SUFFIX: Final = ".jsonl"
_FLAGS: Final = os.O_RDWR | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW


class LeaseJournal:
    """One file, one JSON object a line; it is there while a lease is held."""

    def __init__(self, path: Path, fd: int | None = None) -> None:
        """``fd`` is an orphan's, locked: its leases are read and are ours now."""
        self._path = path
        self._fd = fd
        # By the provider's name for it: a renewal, or a checkout while the last one
        # is still being given back, holds one name more than once.
        self._held: dict[tuple[Target, str], list[Lease]] = {}
        self._lines = 0
        if fd is not None:
            self._read(fd)

    @property
    def leases(self) -> Sequence[Lease]:
        """Return what is held."""
        return tuple(same[-1] for same in self._held.values())

    def held(self, lease: Lease) -> None:
        """Write down that ``lease`` is held; on disk when this returns.

        Raises ``JournalError`` if it is not; the next line that can be written says
        it, too.
        """
        self._keep(lease)
        try:
            self._note(_HELD, lease)
        except OSError as exc:
            raise JournalError(self._problem(exc)) from None

    def returned(self, lease: Lease) -> None:
        """Write down that ``lease`` was given back, once for each ``held``."""
        if self._drop(lease):
            try:
                self._note(_RETURNED, lease)
            except OSError as exc:
                log.warning("%s", self._problem(exc))

    def _keep(self, lease: Lease) -> None:
        self._held.setdefault((lease.target, lease.id), []).append(lease)

    def _drop(self, lease: Lease) -> bool:
        same = self._held.get((lease.target, lease.id))
        if not same:
            return False
        same.remove(lease if lease in same else same[0])
        if not same:
            del self._held[lease.target, lease.id]
        return True

    def close(self) -> None:
        """Let go; what is still held is for the next daemon to give back."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None

    def _note(self, event: str, lease: Lease) -> None:
        if not self._held:
            self.discard()
        elif self._fd is None or self._is_outdated(self._fd):
            self._write_anew()
        else:
            self._append(self._fd, [_line(event, lease)])

    def _is_outdated(self, fd: int) -> bool:
        """Whether the file is too long, or is not where the next daemon looks."""
        try:
            is_there = os.path.samestat(os.fstat(fd), self._path.lstat())
        except OSError:
            is_there = False
        return not is_there or self._lines > len(self._held) + COMPACT_AFTER

    def _problem(self, exc: OSError) -> str:
        why = f"{self._path.parent}: {exc.strerror}"
        return f"{why}: after a crash nobody would know of the leases held"

    def discard(self) -> None:
        """Remove the file, of which nothing is held any more."""
        with suppress(FileNotFoundError, NotADirectoryError):
            self._path.unlink()
        self.close()

    def _write_anew(self) -> None:
        """Replace the file by one that says what is held, and nothing else."""
        self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        new = self._path.with_suffix(".new")
        new.unlink(missing_ok=True)
        fd = os.open(new, _FLAGS | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            # Locked before it has its name, so no other mount takes it for an orphan.
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._lines = 0
            kept = [lease for same in self._held.values() for lease in same]
            self._append(fd, [_line(_HELD, lease) for lease in kept])
            new.rename(self._path)
            _sync_folder(self._path.parent)
        except OSError:
            os.close(fd)
            raise
        self.close()
        self._fd = fd

    def _append(self, fd: int, lines: Sequence[str]) -> None:
        raw = "".join(lines).encode()
        try:
            while raw:
                raw = raw[os.write(fd, raw) :]
            os.fsync(fd)
        except OSError:
            self._lines += COMPACT_AFTER + 1  # its end may be torn: written anew
            raise
        self._lines += len(lines)

    def _read(self, fd: int) -> None:
        with os.fdopen(os.dup(fd), "rb") as file:
            file.seek(0)
            for line in file:
                self._lines += 1
                event, lease = _parsed(line)
                if lease is not None and event == _HELD:
                    self._keep(lease)
                elif lease is not None:
                    self._drop(lease)


def new_journal(folder: Path, config: Path) -> LeaseJournal:
    """Return the journal of this daemon, which serves ``config``."""
    name = f"{_prefix(config)}{os.getpid()}-{secrets.token_hex(4)}{_SUFFIX}"
    return LeaseJournal(folder / name)


def adopt_orphans(folder: Path, config: Path) -> Iterator[LeaseJournal]:
    """Yield the journal of every daemon that served ``config`` and died."""
    try:
        paths = sorted(folder.glob(f"{_prefix(config)}*{_SUFFIX}"))
    except OSError as exc:
        log.warning("%s: %s", folder, exc.strerror)
        return
    for path in paths:
        fd = _lock_orphan(path)
        if fd is not None:
            yield LeaseJournal(path, fd)


def _prefix(config: Path) -> str:
    return hashlib.sha256(os.fsencode(config.resolve())).hexdigest()[:16] + "-"


def _lock_orphan(path: Path) -> int | None:
    """Return the file, locked; None if its daemon lives, or another was faster."""
    try:
        fd = os.open(path, _FLAGS)
    except OSError:
        return None
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        is_still_there = os.path.samestat(os.fstat(fd), path.lstat())
        is_ours = os.fstat(fd).st_uid == os.geteuid()
    except OSError:
        is_still_there = is_ours = False
    if is_still_there and is_ours:
        return fd
    os.close(fd)
    return None


def _sync_folder(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _line(event: str, lease: Lease) -> str:
    return json.dumps({"event": event, "pid": os.getpid(), **asdict(lease)}) + "\n"


def _parsed(line: bytes) -> tuple[str, Lease | None]:
    """Return event and lease; a line that a crash has torn says nothing."""
    with suppress(TypeError, KeyError, OverflowError):
        facts = json_object(line)
        if facts is not None:
            return str(facts["event"]), _lease(facts)
    log.warning("a line of the journal of leases is torn")
    return "", None


def _lease(facts: Mapping[str, object]) -> Lease:
    return Lease(
        target=_target(facts["target"]),
        id=str(facts["id"]),
        expires_at=_instant(facts["expires_at"]),
        is_renewable=bool(facts["is_renewable"]),
    )


def _instant(value: object) -> float | None:
    at = float(value) if isinstance(value, int | float) else math.inf
    return at if math.isfinite(at) else None


def _target(facts: object) -> Target:
    if not isinstance(facts, dict):
        raise TypeError("no target")
    port = facts.pop("port", 22)
    if not isinstance(port, int) or not all(isinstance(x, str) for x in facts.values()):
        raise TypeError("no target")
    return Target(**facts, port=port)


AGAIN_S: Final = 60.0
LONGEST_PAUSE_S: Final = 600.0


class Orphans:
    """Everything that died with a lease in hand."""

    def __init__(self, providers: Mapping[str, Provider], custody: Custody) -> None:
        self._providers = providers
        self._custody = custody

    async def give_back(self, folder: Path, config: Path) -> None:
        """Give back all that daemons of ``config`` held when they died."""
        async with trio.open_nursery() as nursery:
            for journal in adopt_orphans(folder, config):
                nursery.start_soon(self._give_back_all, journal)

    async def _give_back_all(self, journal: LeaseJournal) -> None:
        try:
            async with trio.open_nursery() as nursery:
                for lease in journal.leases:
                    nursery.start_soon(self._give_back, journal, lease)
            journal.discard()
        finally:
            journal.close()

    async def _give_back(self, journal: LeaseJournal, lease: Lease) -> None:
        pause_s = AGAIN_S
        while why := await self._release(lease):
            log.warning(
                "%s: held when a daemon died, and not given back: %s", lease.target, why
            )
            await trio.sleep(pause_s)
            pause_s = min(2 * pause_s, LONGEST_PAUSE_S)
        journal.returned(lease)
        log.info("%s: held when a daemon died, and checked in now", lease.target)

    async def _release(self, lease: Lease) -> str:
        """Return why the provider does not have it back, or nothing."""
        provider = self._providers.get(lease.target.tenant)
        if provider is None:
            return f"the configuration has no checkout for {lease.target.tenant}"
        async with self._custody.turn(lease.target):
            if self._custody.is_shared(lease):
                return ""  # it was granted anew, and goes back with that session
            with trio.move_on_after(RELEASE_WITHIN_S, shield=True):
                return await self._asked(provider, lease)
        return f"no answer within {RELEASE_WITHIN_S:g} s"

    async def _asked(self, provider: Provider, lease: Lease) -> str:
        try:
            with ungrouped():
                await provider.release(lease)
        except PamfsError as exc:
            return str(exc)
        except Exception as exc:
            log.exception("%s: giving a lease back failed", lease.target)
            return type(exc).__name__
        self._custody.record_return(lease, after_crash=True)
        return ""
