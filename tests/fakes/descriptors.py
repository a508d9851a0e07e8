"""A process without a free file descriptor: this one, for a moment."""

from __future__ import annotations

import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager

from pamfs.descriptors import QUIET_S, SHORTAGE_LOG, SPARE


@contextmanager
def no_descriptor_free() -> Iterator[None]:
    """Let nothing be opened in the body; the reserve of a mount is held.

    What was logged before counts as long ago.
    """
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    SHORTAGE_LOG.noted_at = -QUIET_S
    SPARE.hold()
    taken: list[int] = []
    try:
        last = max(int(name) for name in os.listdir("/proc/self/fd"))
        resource.setrlimit(resource.RLIMIT_NOFILE, (last + 1, limits[1]))
        try:
            while True:
                taken.append(os.dup(0))
        except OSError:
            yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        for fd in taken:
            os.close(fd)
        SPARE.release()
