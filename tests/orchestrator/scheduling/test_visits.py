"""Jobs that a user hands in together are one visit."""

from __future__ import annotations

from orchestrator.scheduling.visits import Visits


def test_jobs_of_a_user_that_come_together_are_a_visit_whoever_comes_between() -> None:
    arrivals = [(100.0, 1, ""), (99.0, 2, "gpu"), (95.0, 1, "gpu"), (50.0, 1, ""), (45.0, 1, "")]
    visits = Visits(arrivals, 99.5)
    assert visits.kinds == [
        [(0.0, 1, ""), (5.0, 1, "gpu")],
        [(0.0, 2, "gpu")],
        [(0.0, 1, ""), (5.0, 1, "")],
    ]
    assert (visits.recent, visits.longest) == (2, 5.0)
