"""How long a test waits for what should come at once, before it counts as hung.

These limits guard against a hang only; no test measures time with them. They are
generous, because a busy machine is no reason to fail, and there is one factor to
make them longer: ``PAMFS_TEST_PATIENCE=3 make test`` on a machine slower still.
"""

from __future__ import annotations

import os
from typing import Final

PATIENCE: Final = float(os.environ.get("PAMFS_TEST_PATIENCE", "1"))

# One step that takes well under a second on an idle machine.
HANG_S: Final = 60 * PATIENCE
# A program that does something of some length: it takes seconds on an idle machine.
PROGRAM_S: Final = 300 * PATIENCE
