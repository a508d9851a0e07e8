"""What the three prefetch engines share: the window, and how one fetch runs.

Law: nothing is fetched before a pattern was seen. From then on, as much is fetched
ahead as was used before: the window doubles with each use, up to a bound, and halves
with each result that nobody used in time. A fetch belongs to the mount, not to a
request; its failure is logged and reported to nobody, because the program that needs
the data sends its own request.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator

import trio

from pamfs.errors import PamfsError
from pamfs.model import Target

log = logging.getLogger(__name__)


class Window:
    """How much is fetched ahead at once: listings, files or bytes."""

    __slots__ = ("size",)

    def __init__(self, first: int) -> None:
        self.size = first

    def widen(self, at_most: int) -> None:
        """Double it, after a use."""
        self.size = max(self.size, min(2 * self.size, at_most))

    def narrow(self) -> None:
        """Halve it, after a waste."""
        self.size = max(self.size // 2, 1)


@contextlib.contextmanager
def fetching(target: Target, what: str) -> Iterator[None]:
    """Fetch in the body; no failure leaves it, because that would end the mount."""
    try:
        yield
    except (PamfsError, trio.TooSlowError) as exc:
        log.debug("%s: prefetch of %s: %s", target, what, exc)
    except Exception:
        log.exception("%s: prefetch of %s failed", target, what)
