"""Times that a node told, by our clock."""

from __future__ import annotations

import pytest

from actors.domain.job import End
from actors.domain.status import Status
from actors.getter.reconcile import in_our_time

END = End(Status.COMPLETED, "", started_at=1600.0, ended_at=1610.0, wall_seconds=10.0)


@pytest.mark.parametrize("skew", [600.0, -600.0, 0.0])
def test_the_times_of_an_end_are_moved_to_our_clock(skew: float) -> None:
    moved = in_our_time(END, skew)
    assert (moved.started_at, moved.ended_at) == (1600.0 - skew, 1610.0 - skew)


def test_a_clock_that_was_set_during_the_run_changes_no_duration() -> None:
    """It began by the old clock, an hour ahead of the one by which it ended."""
    told = End(Status.COMPLETED, "", started_at=5200.0, ended_at=1610.0, wall_seconds=10.0)
    moved = in_our_time(told, 0.0)
    assert (moved.started_at, moved.ended_at) == (1600.0, 1610.0)


def test_without_a_clock_to_compare_the_times_are_as_they_were_told() -> None:
    assert in_our_time(END, None) == END
    never_ran = End(Status.INVALID, "no run.sh")
    assert in_our_time(never_ran, 600.0) == never_ran
