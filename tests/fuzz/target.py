"""What a fuzz target is: a function of bytes that must end, and must not raise.

A target checks more than that nothing breaks: only documented errors leave the
parser, what is read is what was written where there are two directions, and what
comes out keeps the promises of its type.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

CORPUS: Final = Path(__file__).parent / "corpus"

Run = Callable[[bytes], None]


@dataclass(frozen=True)
class Target:
    """``run`` is given bytes from outside, at most ``most_bytes`` of them."""

    name: str
    run: Run
    most_bytes: int

    @property
    def corpus(self) -> Path:
        """The folder of inputs that are checked in: seeds, and what once failed."""
        return CORPUS / self.name

    def check(self, data: bytes) -> None:
        """Run it; a traceback in the log is a failure too."""
        with no_traceback():
            self.run(data[: self.most_bytes])


class _Tracebacks(logging.Handler):
    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.found: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        if record.exc_info:
            self.found.append(record.getMessage())


@contextmanager
def no_traceback() -> Iterator[None]:
    """Fail if a traceback is logged; warnings are as they must be, and not shown."""
    tracebacks = _Tracebacks()
    logger = logging.getLogger("pamfs")
    logger.addHandler(tracebacks)
    before = logger.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)
        logger.removeHandler(tracebacks)
    assert not tracebacks.found


TARGETS: Final[dict[str, Target]] = {}


def target(most_bytes: int = 4096) -> Callable[[Run], Run]:
    """Register a function as the target of its name."""

    def register(run: Run) -> Run:
        TARGETS[run.__name__] = Target(run.__name__, run, most_bytes)
        return run

    return register
