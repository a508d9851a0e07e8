"""Single flight, and work that is not cancelled with its caller.

Law: work runs in an object's nursery; the request only waits. A cancelled request stops
waiting and cancels nothing else. A result that arrives after that is given back.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

import outcome
import trio

from pamfs.errors import PamfsError

V = TypeVar("V")


class AbandonedError(PamfsError):
    """The work was given up because its owner is shutting down."""


class Flight(Generic[V]):
    """Single flight: one piece of work, and all requests that wait for its result."""

    def __init__(self) -> None:
        self._landed = trio.Event()
        self._outcome: outcome.Value[V] | outcome.Error | None = None

    @property
    def is_landed(self) -> bool:
        """Whether the result, or the failure, is here."""
        return self._outcome is not None

    def land(self, result: outcome.Value[V] | outcome.Error) -> None:
        """Deliver the result to every waiter, now and later."""
        self._outcome = result
        self._landed.set()

    async def fly(self, get: Callable[[], Awaitable[V]]) -> None:
        """Run ``get`` and land with what it returns or raises."""
        try:
            value = await get()
        except Exception as exc:  # noqa: BLE001 - each waiter raises it
            self.land(outcome.Error(exc))
        except BaseException:
            # The waiters were not cancelled: they get an error instead.
            self.land(outcome.Error(AbandonedError("shutting down")))
            raise
        else:
            self.land(outcome.Value(value))

    async def wait_landed(self) -> V:
        """Wait for the landing; return the result or raise the failure."""
        await self._landed.wait()
        return self.result()

    def result(self) -> V:
        """Return the result, or raise the failure, of work that has landed."""
        if self._outcome is None:
            raise RuntimeError("the work has not ended")
        # Not ``unwrap``, which an outcome allows once only.
        if isinstance(self._outcome, outcome.Error):
            raise self._outcome.error
        return self._outcome.value


async def obtain(
    nursery: trio.Nursery,
    get: Callable[[], Awaitable[V]],
    give_back: Callable[[V], Awaitable[object]],
) -> V:
    """Wait for ``get()``; if the caller leaves early, give the result back.

    ``get`` runs in ``nursery`` and is not cancelled with the caller. Without this,
    fifty cancelled opens left fifty handles on the server (facts/peers.md#asyncssh).
    """
    flight: Flight[V] = Flight()
    is_wanted = True

    async def fetch() -> None:
        await flight.fly(get)
        if not is_wanted:
            await _give_back_landed(flight, give_back)

    nursery.start_soon(fetch)
    try:
        return await flight.wait_landed()
    except trio.Cancelled:
        is_wanted = False
        if flight.is_landed:
            nursery.start_soon(_give_back_landed, flight, give_back)
        raise


async def _give_back_landed(
    flight: Flight[V], give_back: Callable[[V], Awaitable[object]]
) -> None:
    try:
        value = flight.result()
    except Exception:  # noqa: BLE001 - nothing was obtained, nothing to give back
        return
    await give_back(value)
