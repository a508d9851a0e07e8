"""Programs that ask a person end with us, also when we are killed.

The kernel's own way (``PR_SET_PDEATHSIG``) counts the thread that started them, and
those of trio come and go. So a shell watches a pipe that only we hold, and becomes
the program: SIGALRM ends a pinentry cleanly, its screen and the terminal's modes
included.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Final

# A line in the pipe is our goodbye, its end without one is our death. A signal that
# comes just before a pinentry waits for a key is forgotten, so there are more.
_WATCH: Final = """\
(
  read -r _ </proc/self/fd/$0 && exit
  for _ in 1 2 3 4 5 6 7 8 9 10; do kill -ALRM $$ || exit; sleep 0.1; done
  kill -KILL $$
) </dev/null >/dev/null 2>&1 &
exec "$@"
"""
# What a shell says of a program that it cannot run.
CANNOT_RUN: Final = frozenset({126, 127})


@contextmanager
def tethered(command: Sequence[str]) -> Iterator[tuple[list[str], int]]:
    """Yield how to start ``command``, and the descriptor that has to be passed on."""
    theirs, ours = os.pipe()
    try:
        yield ["/bin/sh", "-c", _WATCH, str(theirs), *command], theirs
    finally:
        os.write(ours, b"\n")  # there is a reader: we are one
        os.close(ours)
        os.close(theirs)
