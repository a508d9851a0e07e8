"""The daemon is killed in the middle of logins and writes; a small form of the case.

``make reliability ONLY=kill`` kills it 20 times.
"""

from __future__ import annotations

from tests.mount.accounts import myself
from tests.mount.harness import own_place
from tests.reliability.kills import killed


def test_a_killed_daemon_leaves_no_lease_no_code_and_only_prefixes() -> None:
    with own_place(myself()) as place:
        assert killed(place, 3).startswith("3 kills, ")
