"""How the C library treats the many large buffers of a file system."""

from __future__ import annotations

import ctypes
from typing import Final

_M_TRIM_THRESHOLD: Final = -1  # malloc.h
_M_MMAP_THRESHOLD: Final = -3
_KEPT_BYTES: Final = 32 * 1024 * 1024  # the most that mallopt(3) allows


def keep_buffers() -> None:
    """Have freed buffers reused instead of mapped and page-faulted anew.

    Each packet of 128 KiB lies above malloc's threshold for mmap otherwise, and
    costs its page faults. Nothing happens without glibc.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        for option in (_M_MMAP_THRESHOLD, _M_TRIM_THRESHOLD):
            mallopt(option, _KEPT_BYTES)
