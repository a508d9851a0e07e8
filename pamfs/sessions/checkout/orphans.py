"""Leases of daemons that died: given back at the next start, in the background.

Law: who wants the same account meanwhile waits its turn, so that a return never
takes a new grant with it. What the provider does not take back stays in its
journal, for this mount to try again and for the next.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import trio

from pamfs.errors import PamfsError, ungrouped
from pamfs.sessions.checkout.base import Lease, Provider
from pamfs.sessions.checkout.held import RELEASE_WITHIN_S, Custody
from pamfs.sessions.journal import LeaseJournal, adopt_orphans

log = logging.getLogger(__name__)

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
