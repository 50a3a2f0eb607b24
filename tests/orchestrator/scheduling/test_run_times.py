"""What is known of a user's run times: as much as the user's own runs tell, and others' for the rest."""

from __future__ import annotations

from random import Random
from statistics import fmean, pstdev

from orchestrator.scheduling.run_times import MANY, RunTimes

OTHERS = [
    (user, 100.0 * pace * by) for user, pace in ((1, 0.5), (2, 1.0), (3, 2.0)) for by in (0.8, 1.25)
] * 10


def draw(runs: list[tuple[int, float]], user_id: int = 9, elapsed: tuple[float, ...] = ()) -> list[float]:
    """The means of many samples."""
    times, rng = RunTimes(runs), Random(1)
    return [fmean(times.sample(user_id, elapsed, rng)) for _ in range(200)]


def test_the_more_runs_of_a_user_are_known_the_closer_are_the_samples() -> None:
    spreads = [pstdev(draw(OTHERS + [(9, 80.0), (9, 125.0)] * n)) for n in (0, 1, 5, 100)]
    assert spreads == sorted(spreads, reverse=True)
    assert spreads[0] > 4 * spreads[-1]


def test_a_user_of_few_runs_is_between_these_and_all_others() -> None:
    unknown, once, often = (fmean(draw(OTHERS + [(9, 400.0)] * n)) for n in (0, 1, MANY))
    assert unknown < once < often
    assert 399.0 < often < 401.0


def test_whose_jobs_have_run_for_long_is_slow() -> None:
    assert fmean(draw(OTHERS, elapsed=(150.0, 170.0))) > 1.3 * fmean(draw(OTHERS))


def test_runs_that_take_no_time_and_a_single_one_are_enough() -> None:
    for runs in ([(1, 0.0)], [(1, 0.0), (2, 5.0), (2, 5.0)]):
        sample = RunTimes(runs).sample(9, (1e5,), Random(1))
        assert sample == sorted(sample) and sample[0] > 0.0
