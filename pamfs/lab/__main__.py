"""The lab's own process: ``python -m pamfs.lab FOLDER PORT READY_FD [SPEC]``.

It forks first, while there is neither a thread nor an event loop: the child belongs to
init, and the starter has no process to wait for.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path


def main(arguments: list[str]) -> int:
    """Return the exit code."""
    if os.fork():
        return 0
    from pamfs.lab.daemon import foreground

    folder, port, ready_fd, *spec = arguments
    return foreground(
        Path(folder), int(port), Path(spec[0]) if spec else None, int(ready_fd)
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
