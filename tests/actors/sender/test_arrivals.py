"""How long jobs have waited, told with few marks."""

from __future__ import annotations

from actors.sender import arrivals
from actors.sender.arrivals import Arrivals


def test_a_job_came_when_it_was_noted_to_within_a_step() -> None:
    seen = Arrivals(0.5)
    assert seen.since(1, 7.0) == 7.0
    for job_id, now in ((1, 10.0), (2, 10.2), (5, 10.4), (6, 11.0), (3, 12.0)):
        seen.note(job_id, now)
    assert [seen.since(job_id, 99.0) for job_id in (1, 2, 3, 5, 6, 7)] == [10.0, 10.0, 10.0, 10.0, 11.0, 99.0]


def test_the_longer_ago_the_coarser_and_never_more_than_so_many_marks() -> None:
    seen, last = Arrivals(0.5), 100_000
    for job_id in range(1, last + 1):
        seen.note(job_id, float(job_id))
    assert len(seen._ids) == len(seen._times) < arrivals.MOST
    for job_id in range(1, last + 1, 7):
        assert 0 <= job_id - seen.since(job_id, 0.0) <= 1 + (last - job_id) / 25
