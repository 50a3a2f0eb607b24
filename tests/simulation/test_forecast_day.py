"""Some hours of virtual time: how many jobs begin within what was said when they were handed in. The same for
the same seed."""

from __future__ import annotations

from testbed.forecast.day import DayShape, simulate_day

SHAPE = DayShape(seconds=5 * 3600.0, nodes=4, users=30, batch=20.0, forecasts=14)
"""Half as many nodes and jobs as usual: each draw of a forecast runs the whole queue ahead."""


def test_most_jobs_begin_within_what_was_said() -> None:
    found = simulate_day(SHAPE, 3)
    assert len(found) > 8, "jobs have waited"
    inside = sum(one.inside for one in found)
    assert inside >= 0.6 * len(found), f"{inside} of {len(found)}"
    assert all(one.began >= one.at and one.begins.earliest >= one.at for one in found)
