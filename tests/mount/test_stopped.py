"""A daemon that was stopped for a while goes on as if it had not been."""

from __future__ import annotations

import json
import os
import signal

import pytest

from tests.mount.accounts import Account
from tests.mount.harness import own_place
from tests.mount.waiting import wait_until
from tests.reliability.programs import WRITES, blocks_of, talk
from tests.reliability.sites import by_pamfs, lab_site

BLOCKS, SIZE = 800, 65536


def test_no_deadline_runs_while_the_daemon_is_stopped(ordinary: Account) -> None:
    with own_place(ordinary) as place, lab_site(place) as site:
        config = site.configured(request_timeout='"2s"')
        with by_pamfs(site, config) as mount:
            plan = json.dumps([os.fsdecode(mount.there("f")), 0, BLOCKS, SIZE, 0])
            with talk(place, WRITES, plan) as writer:
                assert writer.hear() == "half"
                writer.go_on()
                daemon = mount.daemon()
                os.kill(daemon, signal.SIGSTOP)
                try:
                    with pytest.raises(AssertionError):
                        wait_until(lambda: False, "the deadline is over", 8)
                finally:
                    os.kill(daemon, signal.SIGCONT)
                told, written, _ = json.loads(writer.rest()[-1])
            assert (told, written) == ({}, BLOCKS)
            assert blocks_of(mount.device / "f", SIZE) == list(range(BLOCKS))
