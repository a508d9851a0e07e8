"""What makes asyncssh carry bulk data fast: measured figures, in one place."""

from __future__ import annotations

import asyncio
import ctypes
from typing import Any, Final

# With the library's 2 MiB and 32 KiB a local read takes three times as long
# (facts/peers.md#ssh-throughput). AES-GCM first: processors
# have instructions for it and none for the library's default.
WINDOW_BYTES: Final = 16 * 1024 * 1024
PACKET_BYTES: Final = 128 * 1024
CIPHERS: Final = [
    "aes128-gcm@openssh.com",
    "aes256-gcm@openssh.com",
    "chacha20-poly1305@openssh.com",
    "aes128-ctr",
    "aes192-ctr",
    "aes256-ctr",
]

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # malloc.h
_KEPT_BYTES: Final = 32 * 1024 * 1024  # the most that mallopt(3) allows

BULK: Final[dict[str, Any]] = {
    "encryption_algs": CIPHERS,
    "compression_algs": None,
    "window": WINDOW_BYTES,
    "max_pktsize": PACKET_BYTES,
    "encoding": None,
}
SERVER_OPTIONS: Final[dict[str, Any]] = {
    **BULK,
    "line_editor": False,
    "agent_forwarding": False,
    "x11_forwarding": False,
    "allow_pty": True,
    "login_timeout": 300,  # a person reads a code from a phone
}


def event_loop_policy() -> asyncio.AbstractEventLoopPolicy:
    """Return uvloop's policy where there is one, else the standard one."""
    try:
        import uvloop
    except ImportError:
        return asyncio.DefaultEventLoopPolicy()
    policy: asyncio.AbstractEventLoopPolicy = uvloop.EventLoopPolicy()
    return policy


def keep_memory() -> None:
    """Have the C library keep big buffers instead of giving each back at once.

    Packets of 128 KiB and more lie above malloc's threshold for mmap, and each
    then costs its page faults. Does nothing where mallopt is missing.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, _KEPT_BYTES)
        mallopt(_M_TRIM_THRESHOLD, _KEPT_BYTES)
