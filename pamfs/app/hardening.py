"""A process that holds secrets leaves none behind: no core, no peeking."""

from __future__ import annotations

import ctypes
import logging
import os
import resource
from typing import Final

log = logging.getLogger(__name__)

_PR_SET_DUMPABLE: Final = 4  # prctl(2)


def harden() -> None:
    """Let neither a core dump nor another process of the user show our memory.

    ``PR_SET_DUMPABLE`` also keeps the user's other programs from ptrace(2).
    """
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0):
        log.warning("prctl: %s", os.strerror(ctypes.get_errno()))
