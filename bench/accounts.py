"""Accounts of the test machine with the names that a PAM's users have.

They are lines of /etc/passwd with root's number, no password, and a comment by
which the next run finds and removes what a killed one left behind.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

PASSWD: Final = Path("/etc/passwd")
LOCK: Final = Path("/etc/.pwd.lock")  # lckpwdf(3)
COMMENT: Final = "pamfs bench"


@contextlib.contextmanager
def accounts(names: Sequence[str]) -> Iterator[None]:
    """Have an account for each name; whoever logs in is root, in /."""
    _rewrite(names)
    try:
        yield
    finally:
        _rewrite([])


def with_accounts(passwd: str, names: Sequence[str]) -> str:
    """Return the text of a passwd file with our accounts being exactly ``names``."""
    others = [line for line in passwd.splitlines() if f":{COMMENT}:" not in line]
    ours = [f"{name}:*:0:0:{COMMENT}:/:/bin/sh" for name in names]
    return "".join(f"{line}\n" for line in [*others, *ours])


def _rewrite(names: Sequence[str]) -> None:
    with LOCK.open("a") as lock:
        fcntl.lockf(lock, fcntl.LOCK_EX)
        old = PASSWD.read_text()
        new = with_accounts(old, names)
        if new == old:
            return
        beside = PASSWD.with_name("passwd.pamfs-bench")
        beside.write_text(new)
        beside.chmod(PASSWD.stat().st_mode & 0o777)
        os.replace(beside, PASSWD)  # noqa: PTH105 - the atomic one, by its name
