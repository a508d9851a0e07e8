"""``python -m pamfs``."""

from __future__ import annotations

import sys

from pamfs.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
