"""Which codes were sent, and what was refused, on disk: for other daemons, and later.

Law: of a seed the file holds a digest under a key of its own, nothing that a code
could be made of; each change is made under a lock and replaces the whole file. A
state that cannot be kept is said once, and then kept in memory alone: a code sent
twice is refused by the proxy, a mount that refuses to work helps nobody.
"""

from __future__ import annotations

import copy
import fcntl
import hmac
import json
import logging
import os
import secrets
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Protocol

import trio

from pamfs.model import json_object

log = logging.getLogger(__name__)

# Whoever holds the lock reads and writes one small file.
LOCK_WITHIN_S: Final = 5.0
# Of each seed: more than are sent while a clock that is wrong may be corrected.
KEPT: Final = 32
# A step further ahead was taken by a clock that was wrong, and says nothing.
FARTHEST_AHEAD_STEPS: Final = 20


def _new_key() -> bytes:
    return secrets.token_bytes(32)


@dataclass(slots=True)
class Record:
    """What one account has shown; instants are in seconds since the epoch."""

    refused: list[float] = field(default_factory=list)
    # When those began of which it is not known how they ended.
    tried: list[float] = field(default_factory=list)
    accepted_at: float | None = None

    def strike(self, began: float | None) -> None:
        """Forget the login that began then, if it is still known."""
        if began in self.tried:
            self.tried.remove(began)

    def add(self, other: Record) -> None:
        """Add what ``other`` has shown: it is the same account."""
        self.refused = sorted([*self.refused, *other.refused])
        self.tried = sorted([*self.tried, *other.tried])
        accepted = [
            at for at in (self.accepted_at, other.accepted_at) if at is not None
        ]
        last = max(accepted, default=None)
        is_newer = last is not None and all(at < last for at in self.refused)
        self.accepted_at = last if is_newer else None

    def to_facts(self) -> dict[str, object]:
        """Return this as JSON has it."""
        return {
            "refused": self.refused[-KEPT:],
            "tried": self.tried[-KEPT:],
            "accepted_at": self.accepted_at,
        }

    @classmethod
    def from_facts(
        cls, refused: list[float], tried: list[float], accepted_at: float | None
    ) -> Record:
        """Return the record of what JSON has; raise as ``float`` does."""
        at = None if accepted_at is None else float(accepted_at)
        return cls([float(n) for n in refused], [float(n) for n in tried], at)


@dataclass(slots=True)
class Sheet:
    """Steps of seeds that were sent, and what accounts have shown, by digest."""

    key: bytes = field(default_factory=_new_key, repr=False)
    steps: dict[str, list[int]] = field(default_factory=dict)
    accounts: dict[str, Record] = field(default_factory=dict)

    def digest(self, secret: bytes) -> str:
        """Return the name of ``secret`` in here."""
        return hmac.digest(self.key, secret, "sha256").hex()

    def claim(self, seed: bytes, step: int) -> bool:
        """Take ``step`` for good, unless it or a later one was taken."""
        name = self.digest(seed)
        taken = self.steps.get(name, [])
        ahead = max(taken, default=-1) - step
        if step in taken or 0 < ahead <= FARTHEST_AHEAD_STEPS:
            return False
        self.steps[name] = [*taken, step][-KEPT:]
        return True

    def record(self, account: bytes, former: Sequence[bytes] = ()) -> Record:
        """Return what is known of ``account``; changes to it are kept.

        What stands under its ``former`` names moves to it.
        """
        record = self.accounts.setdefault(self.digest(account), Record())
        for name in former:
            if (found := self.accounts.pop(self.digest(name), None)) is not None:
                record.add(found)
        return record

    def merge(self, other: Sheet) -> None:
        """Add what ``other`` knows; it is in vain if its key is another."""
        for seed, steps in other.steps.items():
            both = {*self.steps.get(seed, []), *steps}
            self.steps[seed] = sorted(both)[-KEPT:]
        self.accounts.update(other.accounts)

    def to_json(self) -> str:
        """Return this as text."""
        known = {name: of for name, of in self.accounts.items() if of != Record()}
        accounts = {name: of.to_facts() for name, of in known.items()}
        return json.dumps(
            {"key": self.key.hex(), "steps": self.steps, "accounts": accounts}
        )

    @classmethod
    def from_json(cls, text: str) -> Sheet:
        """Return the sheet of ``text``; raise ``ValueError`` if it is none."""
        match json_object(text):
            case {"key": str(key), "steps": dict(steps), **more}:
                accounts = more.get("accounts", {})
            case _:
                raise ValueError("no ledger")
        try:
            return cls(
                bytes.fromhex(key),
                {name: [int(n) for n in of] for name, of in steps.items()},
                _records(accounts),
            )
        except (TypeError, OverflowError) as exc:
            raise ValueError(type(exc).__name__) from None


def _records(accounts: object) -> dict[str, Record]:
    if not isinstance(accounts, dict):
        raise TypeError("no accounts")
    return {name: Record.from_facts(**of) for name, of in accounts.items()}


class CodesState(Protocol):
    """Keeps a sheet; what ``act`` did is known to all who share it, on return."""

    async def change(self, act: Callable[[Sheet], bool]) -> bool:
        """Return what ``act`` returns, having kept what it did to the sheet."""
        ...


class MemoryState:
    """A state that ends with the process."""

    def __init__(self) -> None:
        self._sheet = Sheet()

    async def change(self, act: Callable[[Sheet], bool]) -> bool:
        """Return what ``act`` returns, having kept what it did to the sheet."""
        await trio.lowlevel.checkpoint()
        return act(self._sheet)


class FileState:
    """A state in the file ``path``, shared by all daemons of one user.

    The work is done in a thread: a home on a network file system that hangs does
    not stop the mount.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._sheet = Sheet()
        self._is_unsaved = False
        self._has_hung = False
        self._has_warned = False

    async def change(self, act: Callable[[Sheet], bool]) -> bool:
        """Return what ``act`` returns, having kept what it did to the sheet."""
        if not self._has_hung:
            try:
                with trio.fail_after(LOCK_WITHIN_S):
                    self._sheet, result = await trio.to_thread.run_sync(
                        self._change_file, act, abandon_on_cancel=True
                    )
            except trio.TooSlowError:
                self._has_hung = True
                self._warn(f"not to be had within {LOCK_WITHIN_S:g} s")
            except OSError as exc:
                self._warn(exc.strerror or str(exc))
            else:
                self._is_unsaved = False
                return result
        await trio.lowlevel.checkpoint()
        self._is_unsaved = True
        return act(self._sheet)

    def _change_file(self, act: Callable[[Sheet], bool]) -> tuple[Sheet, bool]:
        with self._locked():
            before, sheet = self._read()
            if self._is_unsaved:
                sheet.merge(self._sheet)
            result = act(sheet)
            after = sheet.to_json()
            if after != before:
                self._replace(after)
        return sheet, result

    @contextmanager
    def _locked(self) -> Iterator[None]:
        self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        # A file of its own: the other one is replaced.
        fd = os.open(self._path.with_suffix(".lock"), flags, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
            yield
        finally:
            os.close(fd)

    def _read(self) -> tuple[str, Sheet]:
        try:
            text = self._path.read_text(encoding="ascii")
            return text, Sheet.from_json(text)
        except FileNotFoundError:
            pass
        except ValueError:
            self._warn("damaged, and begun anew")
        return "", copy.deepcopy(self._sheet)

    def _replace(self, text: str) -> None:
        new = self._path.with_suffix(".new")
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW
        fd = os.open(new, flags, 0o600)
        try:
            raw = text.encode()
            while raw:  # a full disk takes a part first, and then says so
                raw = raw[os.write(fd, raw) :]
            # Before it has its name: after a power cut the old or the new one is there.
            os.fsync(fd)
        finally:
            os.close(fd)
        new.replace(self._path)

    def _warn(self, problem: str) -> None:
        if not self._has_warned:
            self._has_warned = True
            log.warning(
                "%s: %s: that no one-time code is sent twice is now known to this"
                " daemon alone, while it runs",
                self._path,
                problem,
            )
