"""The ledger of logins and codes on disk, shared by all daemons of one user.

It answers two questions that one process alone cannot: was this one-time code sent
already (a server accepts each once, RFC 6238 section 5.2), and how many logins of
this account were refused lately or are under way in other mounts.

Law:

- A login is recorded before it sends anything, and its record is removed if the account
  counted nothing. So neither many mounts that begin at once nor one that is killed
  cause more than ``MOST_REFUSED`` refused logins in ``UNATTENDED_BACK_OFF_S``. A login
  that finds as many refused gets an error; one that finds as many under way waits for
  their ends.
- Refused codes and refused passwords are counted together, because the PAM locks the
  account by their sum.
- An account that any mount logged in to lately needs no entry (``is_vouched``).
- A refused login whose secret a person typed is struck out, and not counted: that
  person decides whether to try again.
- Of a seed the file holds a digest under a key of its own, nothing that a code could
  be made of. Each change is made under a lock and replaces the whole file.
- A file that cannot be kept is reported once, and the ledger then lives in memory
  alone: a code sent twice is refused by the proxy, a mount that does not work helps
  no user.

The protocol of a login: ``begin`` before anything is sent, then one of ``accepted``,
``refused`` and ``strike``. A process that dies in between leaves its entry, which
counts as refused once it is older than the login may take.

Who may change what: a ``LedgerContents`` is changed by functions that
``LedgerStore.change`` is given, and nowhere else. They are synchronous. ``FileStore``
runs them in a thread, under the file's lock, on what the file holds at that moment; the
result gets the file's name when it is on the disk. A caller that is cancelled while it
waits for the lock does not know whether its change was made; ``begin`` must know it,
and shields the wait.
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

from pamfs.errors import LoginRefusedError
from pamfs.model import json_object
from pamfs.sessions.account.clock import Clock, as_text
from pamfs.sessions.account.policy import UNATTENDED_BACK_OFF_S

log = logging.getLogger(__name__)

MOST_REFUSED: Final = 2
# As long as an accepted login vouches for the next within one mount (``turn``).
VOUCHED_S: Final = 60.0
# A login that takes longer, and longer than its tenant allows (``login_timeout``),
# belongs to a daemon that died, or waits for a person: it counts as refused until its
# end is known.
UNDER_WAY_S: Final = 180.0
LOOK_AGAIN_S: Final = 0.5
# Another login may have begun while this one waited for the lock: a time up to this far
# in the future is accepted.
AHEAD_S: Final = 10.0

# The holder of the lock reads and writes one small file.
LOCK_WITHIN_S: Final = 5.0
# Entries kept for each seed and each account: more than are made while a wrong clock is
# corrected.
KEPT: Final = 32
# A used step further in the future came from a wrong clock, and is ignored.
FARTHEST_AHEAD_STEPS: Final = 20


def _new_key() -> bytes:
    return secrets.token_bytes(32)


@dataclass(slots=True)
class AccountHistory:
    """The logins of one account; instants are in seconds since the epoch."""

    refused: list[float] = field(default_factory=list)
    # Start times of logins whose end is not known.
    tried: list[float] = field(default_factory=list)
    accepted_at: float | None = None
    # How long each of ``tried`` may take.
    under_way_s: float = UNDER_WAY_S

    def begin(self, now: float, within_s: float) -> None:
        """Note a login that begins now and may take ``within_s``."""
        self.tried = _recent(self.tried, now)
        known_s = self.under_way_s if self.tried else UNDER_WAY_S
        self.under_way_s = max(known_s, within_s)
        self.tried.append(now)

    def strike(self, began: float | None) -> None:
        """Forget the login that began then, if it is still known."""
        if began in self.tried:
            self.tried.remove(began)

    def add(self, other: AccountHistory) -> None:
        """Add what ``other`` has shown: it is the same account."""
        self.refused = sorted([*self.refused, *other.refused])
        self.tried = sorted([*self.tried, *other.tried])
        self.under_way_s = max(self.under_way_s, other.under_way_s)
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
            "under_way_s": self.under_way_s,
        }

    @classmethod
    def from_facts(
        cls,
        refused: list[float],
        tried: list[float],
        accepted_at: float | None,
        under_way_s: float = UNDER_WAY_S,
    ) -> AccountHistory:
        """Return the record of what JSON has; raise as ``float`` does."""
        at = None if accepted_at is None else float(accepted_at)
        of_refused, of_tried = [float(n) for n in refused], [float(n) for n in tried]
        return cls(of_refused, of_tried, at, float(under_way_s))


@dataclass(slots=True)
class LedgerContents:
    """Steps of seeds that were sent, and what accounts have shown, by digest."""

    key: bytes = field(default_factory=_new_key, repr=False)
    steps: dict[str, list[int]] = field(default_factory=dict)
    accounts: dict[str, AccountHistory] = field(default_factory=dict)

    def digest(self, secret: bytes) -> str:
        """Return the key under which ``secret`` is stored: its HMAC-SHA256 as hex."""
        return hmac.digest(self.key, secret, "sha256").hex()

    def claim(self, seed: bytes, step: int) -> bool:
        """Mark ``step`` as used; return False if it, or one soon after it, is used.

        Soon: up to ``FARTHEST_AHEAD_STEPS`` later.
        """
        name = self.digest(seed)
        taken = self.steps.get(name, [])
        ahead = max(taken, default=-1) - step
        if step in taken or 0 < ahead <= FARTHEST_AHEAD_STEPS:
            return False
        self.steps[name] = [*taken, step][-KEPT:]
        return True

    def record(self, account: bytes, former: Sequence[bytes] = ()) -> AccountHistory:
        """Return what is known of ``account``; changes to it are kept.

        What stands under its ``former`` names moves to it.
        """
        # By digest: the file does not tell which accounts this user has.
        record = self.accounts.setdefault(self.digest(account), AccountHistory())
        for name in former:
            if (found := self.accounts.pop(self.digest(name), None)) is not None:
                record.add(found)
        return record

    def merge(self, other: LedgerContents) -> None:
        """Add the steps and accounts of ``other``.

        They match only if both have the same ``key``.
        """
        for seed, steps in other.steps.items():
            both = {*self.steps.get(seed, []), *steps}
            self.steps[seed] = sorted(both)[-KEPT:]
        self.accounts.update(other.accounts)

    def to_json(self) -> str:
        """Return this as text."""
        known = {
            name: of for name, of in self.accounts.items() if of != AccountHistory()
        }
        accounts = {name: of.to_facts() for name, of in known.items()}
        return json.dumps(
            {"key": self.key.hex(), "steps": self.steps, "accounts": accounts}
        )

    @classmethod
    def from_json(cls, text: str) -> LedgerContents:
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


def _records(accounts: object) -> dict[str, AccountHistory]:
    if not isinstance(accounts, dict):
        raise TypeError("no accounts")
    return {name: AccountHistory.from_facts(**of) for name, of in accounts.items()}


class LedgerStore(Protocol):
    """Keeps a sheet; on return every process that shares it sees what ``act`` did."""

    async def change(self, act: Callable[[LedgerContents], bool]) -> bool:
        """Return what ``act`` returns, having kept what it did to the sheet."""
        ...


class MemoryStore:
    """A store that ends with the process."""

    def __init__(self) -> None:
        self._sheet = LedgerContents()

    async def change(self, act: Callable[[LedgerContents], bool]) -> bool:
        """Return what ``act`` returns, having kept what it did to the sheet."""
        await trio.lowlevel.checkpoint()
        return act(self._sheet)


class FileStore:
    """A store in the file ``path``, shared by all daemons of one user.

    The work is done in a thread: a home on a network file system that hangs does
    not stop the mount.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._sheet = LedgerContents()
        self._is_unsaved = False
        self._has_hung = False
        self._has_warned = False

    async def change(self, act: Callable[[LedgerContents], bool]) -> bool:
        """Return what ``act`` returns, having kept what it did to the sheet."""
        if not self._has_hung:
            try:
                with trio.fail_after(LOCK_WITHIN_S):
                    self._sheet, result = await trio.to_thread.run_sync(
                        self._change_file, act, abandon_on_cancel=True
                    )
            except trio.TooSlowError:
                self._has_hung = True
                self._warn(f"no lock within {LOCK_WITHIN_S:g} s")
            except OSError as exc:
                self._warn(exc.strerror or str(exc))
            else:
                self._is_unsaved = False
                return result
        await trio.lowlevel.checkpoint()
        self._is_unsaved = True
        return act(self._sheet)

    def _change_file(
        self, act: Callable[[LedgerContents], bool]
    ) -> tuple[LedgerContents, bool]:
        with self._locked():
            before, sheet = self._read()
            # The file could not be kept for a while: what happened since counts too.
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

    def _read(self) -> tuple[str, LedgerContents]:
        try:
            text = self._path.read_text(encoding="ascii")
            return text, LedgerContents.from_json(text)
        except FileNotFoundError:
            pass
        except ValueError:
            self._warn("damaged; a new one is begun")
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
                "%s: %s: used one-time codes and refused logins are now remembered by"
                " this daemon alone, until it ends",
                self._path,
                problem,
            )


# -- what the accounts' logins count for ---------------------------------------------


class LoginLedger:
    """Counts the logins of every account; shared by all with the same ``store``."""

    def __init__(self, store: LedgerStore, clock: Clock) -> None:
        self._store = store
        self._clock = clock
        self._former: dict[str, Sequence[str]] = {}

    def note_former(self, account: str, former: Sequence[str]) -> None:
        """Count what the ledger has under ``former`` keys as that of ``account``."""
        self._former[account] = former

    async def begin(self, account: str, within_s: float = 0.0) -> float | None:
        """Write down that a login begins; may wait for those that are under way.

        ``within_s``: how long it may take, if longer than ``UNDER_WAY_S``.

        Returns the start time to pass to ``refused`` and ``strike``; None if no entry
        was made. Raises ``LoginRefusedError`` while the account backs off.
        """
        while True:
            await self.check(account)
            now = self._clock.now()
            began: list[float] = []

            def note(
                record: AccountHistory, now: float = now, began: list[float] = began
            ) -> bool:
                may_begin = plan_begin(record, now)
                if may_begin and not is_vouched(record, now):
                    record.begin(now, within_s)
                    began.append(now)
                return may_begin

            # A caller that leaves meanwhile still knows what to strike out.
            with trio.CancelScope(shield=True):
                has_begun = await self._change(account, note)
            if has_begun:
                return began[0] if began else None
            await trio.sleep(LOOK_AGAIN_S)

    async def refused(self, account: str, began: float | None, count: int = 1) -> None:
        """Replace the entry of ``began`` by ``count`` refusals at the present time."""
        now = self._clock.now()

        def note(record: AccountHistory) -> bool:
            record.strike(began)
            record.refused += [now] * count
            record.accepted_at = None
            return True

        await self._change(account, note)

    async def strike(self, account: str, began: float) -> None:
        """Note that what began at ``began`` cost the account nothing."""

        def note(record: AccountHistory) -> bool:
            record.strike(began)
            return True

        await self._change(account, note)

    async def accepted(self, account: str) -> None:
        """Note that a login succeeded: earlier refusals no longer count."""
        now = self._clock.now()

        def note(record: AccountHistory) -> bool:
            record.refused, record.tried = [], []
            # Not each time: many logins at once would wait for the disk in turn.
            if not _is_within(record.accepted_at, now, VOUCHED_S / 2):
                record.accepted_at = now
            return True

        await self._change(account, note)

    async def pardon(self, account: str) -> None:
        """Forget the refusals of ``account``: a person has corrected the secret."""

        def note(record: AccountHistory) -> bool:
            record.refused, record.tried = [], []
            return True

        await self._change(account, note)

    async def rest_s(self, account: str) -> float:
        """Return for how long ``account`` backs off."""
        now = self._clock.now()
        found: list[float] = []

        def look(record: AccountHistory) -> bool:
            found.append(plan_rest_s(record, now))
            return True

        await self._change(account, look)
        return found[0]

    async def check(self, account: str) -> None:
        """Raise ``LoginRefusedError`` while ``account`` backs off."""
        rest_s = await self.rest_s(account)
        if rest_s > 0:
            until = as_text(self._clock.now() + rest_s)
            raise LoginRefusedError(
                f"{MOST_REFUSED} unattended logins of this account were refused:"
                f" none is sent before {until}; correct the secret, then pamfs unlock",
                rest_s=rest_s,
            )

    async def _change(
        self, account: str, act: Callable[[AccountHistory], bool]
    ) -> bool:
        former = [name.encode() for name in self._former.get(account, ())]

        def change(sheet: LedgerContents) -> bool:
            return act(sheet.record(account.encode(), former))

        return await self._store.change(change)


def plan_rest_s(record: AccountHistory, now: float) -> float:
    """Return for how long the account of ``record`` backs off, at ``now``."""
    limit_s = record.under_way_s
    given_up = [at for at in record.tried if not _is_within(at, now, limit_s)]
    last = sorted([*record.refused, *given_up])[-MOST_REFUSED:]
    if len(last) < MOST_REFUSED or last[-1] - last[0] >= UNATTENDED_BACK_OFF_S:
        return 0.0
    age_s = max(0.0, now - last[-1])
    return (
        UNATTENDED_BACK_OFF_S - age_s
        if _is_within(last[-1], now, UNATTENDED_BACK_OFF_S)
        else 0.0
    )


def plan_begin(record: AccountHistory, now: float) -> bool:
    """Return whether one more login may begin, if all running ones are refused."""
    if plan_rest_s(record, now) > 0:
        return False
    under_way = [at for at in record.tried if _is_within(at, now, record.under_way_s)]
    if not under_way or is_vouched(record, now):
        return True
    counted = [*_recent(record.refused, now), *_recent(record.tried, now)]
    return len(counted) < MOST_REFUSED


def is_vouched(record: AccountHistory, now: float) -> bool:
    """Return whether the account was accepted so lately that it will be again."""
    return _is_within(record.accepted_at, now, VOUCHED_S)


def _recent(instants: list[float], now: float) -> list[float]:
    return [at for at in instants if _is_within(at, now, UNATTENDED_BACK_OFF_S)]


def _is_within(at: float | None, now: float, seconds: float) -> bool:
    return at is not None and -AHEAD_S <= now - at < seconds
