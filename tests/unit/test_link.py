"""What ends with a link, and in which order."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest
import trio

from pamfs.sessions.attempt import Link
from tests.fakes.remote import FakeTree

Hook = Callable[[], Awaitable[object]]


async def lost() -> str:
    await trio.lowlevel.checkpoint()
    return "cable cut"


def noting(done: list[str], what: str, error: Exception | None = None) -> Hook:
    async def hook() -> None:
        await trio.lowlevel.checkpoint()
        done.append(what)
        if error is not None:
            raise error

    return hook


async def test_what_was_added_first_ends_first_and_once() -> None:
    done: list[str] = []
    link = Link(FakeTree(), "SHA256:fake", lost)
    for what in ("connection", "lease", "record"):
        link.on_close(noting(done, what))
    await link.close()
    await link.close()
    assert done == ["connection", "lease", "record"]


async def test_a_hook_that_fails_keeps_no_other_from_running() -> None:
    done: list[str] = []
    link = Link(FakeTree(), "SHA256:fake", lost)
    link.on_close(noting(done, "connection", OSError("gone")))
    link.on_close(noting(done, "lease"))
    with pytest.raises(OSError, match="gone"):
        await link.close()
    assert done == ["connection", "lease"]


async def test_without_a_lease_there_is_no_end_and_nothing_to_renew() -> None:
    link = Link(FakeTree(), "SHA256:fake", lost)
    assert link.lease_expires_at is None
    assert await link.renew() is None
    assert await link.wait_lost() == "cable cut"
