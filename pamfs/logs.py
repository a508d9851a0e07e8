"""Where log lines go, in which form, and from which level on."""

from __future__ import annotations

import logging
import sys
from typing import Final

from pamfs.redaction import REDACTOR

LEVELS: Final = ("debug", "info", "warning", "error")
_FORMAT: Final = "%(asctime)s.%(msecs)03d %(levelname)s %(name)s: %(message)s"
_TIME: Final = "%Y-%m-%dT%H:%M:%S"
# At INFO asyncssh says each login's whole user name and each channel.
_CHATTY: Final = ("asyncssh", "asyncio", "trio", "pyfuse3")


def set_up(level: str) -> None:
    """Send every record from ``level`` on to stderr, without secrets.

    A background mount's stderr is its log file.
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter(_FORMAT, _TIME))
    handler.addFilter(REDACTOR)
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    for name in _CHATTY:
        chatty = logging.getLogger(name)
        chatty.setLevel(logging.DEBUG if level == "debug" else logging.WARNING)
    logging.captureWarnings(capture=True)
