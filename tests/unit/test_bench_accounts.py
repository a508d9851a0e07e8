"""The bench's accounts come and go; what else is in the file stays."""

from __future__ import annotations

from bench.accounts import with_accounts
from bench.server import devices, user_name

OTHERS = "root:x:0:0:root:/root:/bin/bash\nsshd:x:102:65534::/run/sshd:/bin/false\n"


def test_an_account_is_a_line_without_a_password() -> None:
    name = "alice%acme[root@web01{ssh.22}]"
    added = with_accounts(OTHERS, [name]).removeprefix(OTHERS)
    assert added == f"{name}:*:0:0:pamfs bench:/:/bin/sh\n"


def test_what_a_killed_run_left_behind_is_replaced() -> None:
    left = with_accounts(OTHERS, ["old", "older"])
    assert with_accounts(left, ["new"]) == with_accounts(OTHERS, ["new"])


def test_without_names_only_the_others_are_left() -> None:
    assert with_accounts(with_accounts(OTHERS, ["one", "two"]), []) == OTHERS


def test_each_device_has_an_account_of_its_own() -> None:
    names = {user_name(device) for device in devices()}
    assert len(names) == 200
    assert not any(":" in name or "\n" in name for name in names)
