"""Tests of real servers: pamfs may warn of what a server does wrong."""

from __future__ import annotations

import pytest


@pytest.fixture(autouse=True)
def expect_log() -> None:
    """Take the place of the fixture that fails a test on any warning."""


@pytest.fixture(autouse=True)
def leak_ledger() -> None:
    """Take the place of the fixture that fails a test on what it leaves open.

    A server that ended the connection is dialed again by whoever comes next, and
    the new connection stays for the tests that follow.
    """
