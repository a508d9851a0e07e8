"""The bookkeeping of a soak: what it counts, and what it calls bad."""

from __future__ import annotations

import threading

import pytest

from tests.reliability.ledger import Ledger, Outcome, Sample, State, rss_slope


def test_an_error_that_was_told_is_no_loss() -> None:
    ledger = Ledger()
    ledger.ended(Outcome("cp", "d00", State.DONE))
    ledger.ended(Outcome("cp", "d01", State.TOLD, "Input/output error"))
    assert ledger.verdict == []
    assert "  cp: 1 of 2; 1 Input/output error" in ledger.lines()


@pytest.mark.parametrize("state", [State.WRONG, State.HUNG])
def test_lost_data_and_a_program_without_an_end_are_bad(state: State) -> None:
    ledger = Ledger()
    ledger.ended(Outcome("git", "d03", state, "HEAD is another"))
    assert ledger.verdict == [f"{state}: git on d03: HEAD is another"]


def test_what_is_left_at_the_end_is_bad_and_nothing_left_is_not() -> None:
    ledger = Ledger()
    ledger.leaked("leases", 2)
    ledger.leaked("handles", 0)
    assert ledger.verdict == ["left: 2 leases"]


def test_no_outcome_of_many_threads_is_lost() -> None:
    ledger = Ledger()

    def work(number: int) -> None:
        for _ in range(200):
            ledger.ended(Outcome("cp", f"d{number}", State.DONE))
            ledger.failed("RST")

    threads = [threading.Thread(target=work, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert ledger.count(State.DONE) == 1600
    assert ledger.faults["RST"] == 1600


def test_the_slope_of_memory_leaves_the_warm_up_out() -> None:
    jump = [Sample(t, 1024 * t, 9) for t in range(15)]
    level = [Sample(t, 50 * 1024, 9) for t in range(15, 61)]
    assert rss_slope(jump + level) == pytest.approx(0.0, abs=0.5)
    rising = [Sample(t, 1024 * t // 60, 9) for t in range(601)]
    assert rss_slope(rising) == pytest.approx(1.0, abs=0.01)
    assert rss_slope([]) == 0
    assert rss_slope(rising[:1]) == 0
