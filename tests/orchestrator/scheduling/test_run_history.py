"""What forecasts go by, from the rows of jobs; and how good they were."""

from __future__ import annotations

from dataclasses import replace

from actors.domain.job import Attempt, End, Job
from actors.domain.status import Status
from orchestrator.scheduling.forecast import Span
from orchestrator.scheduling.run_history import MOST_USERS, RunHistory
from orchestrator.scheduling.run_times import SAMPLE

S = Status


def queued(number: int, at: float, user: int = 1) -> Job:
    return Job(number, user, "a", S.QUEUED, "", number, at, at, "k")


def run(history: RunHistory, job: Job, left: float, started: float, ended: float) -> None:
    """Let a queued job run to its end."""
    sent = replace(job, status=S.PROCESSING, updated_at=left, attempt=Attempt("k", job.id, 1, "n"))
    history.apply(sent)
    history.apply(replace(sent, status=S.RUNNING, updated_at=started, running_since=started))
    end = End(S.COMPLETED, "", started_at=started, ended_at=ended, wall_seconds=ended - started)
    history.apply(replace(sent, status=S.RUNNING, updated_at=ended, end=end, running_since=started))
    history.apply(replace(sent, status=S.COMPLETED, updated_at=ended + 5, ended_at=ended + 5, end=end))


def test_a_run_counts_for_as_long_as_it_held_its_slot() -> None:
    history = RunHistory(0.0)
    history.apply(queued(1, 10.0))
    run(history, queued(1, 10.0), left=20.0, started=21.0, ended=50.0)
    known = history.histories(100.0, ("a",))["a"]
    assert (known.holds, known.delays) == ([(1, 30.0)], (1.0,))


def test_a_user_who_runs_much_does_not_drive_out_what_is_known_of_another() -> None:
    history = RunHistory(0.0)
    history.ran("a", [(1, 3.0), (2, 2.0), (1, 1.0)])
    for number in range(1, 100):
        run(history, queued(number, 10.0, user=3), left=20.0, started=20.0, ended=24.0)
    holds = history.histories(100.0, ("a",))["a"].holds
    assert list(holds) == [(2, 2.0), (1, 1.0), (1, 3.0), *[(3, 4.0)] * SAMPLE]
    history.ran("a", [(user, 5.0) for user in range(1000, 1000 + MOST_USERS)])
    assert {user for user, _ in history.histories(100.0, ("a",))["a"].holds} == {
        *range(1000, 1000 + MOST_USERS)
    }


def test_a_job_that_never_ran_says_nothing_of_how_long_jobs_run() -> None:
    history = RunHistory(0.0)
    job = queued(1, 10.0)
    for row in (job, replace(job, status=S.PROCESSING), job, replace(job, status=S.KILLED)):
        history.apply(row)
    assert not history.histories(100.0, ("a",))["a"].holds


def test_who_came_is_known_once_whoever_came_back_to_the_queue() -> None:
    history = RunHistory(0.0)
    for row in (queued(1, 1000.0), queued(2, 5000.0, user=7), queued(1, 1000.0)):
        history.apply(row)
    known = history.histories(6000.0, ("a",))["a"]
    assert known.window == 3600.0
    assert [(ago, user) for ago, user, _ in known.arrivals] == [(5000.0, 1), (1000.0, 7)]


def test_ranges_go_beyond_what_was_drawn_while_too_many_are_late_and_come_back() -> None:
    history = RunHistory(0.0)

    def judge(started: float, times: int) -> tuple[float, float]:
        for _ in range(times):
            number = history.newest + 1
            job = queued(number, 10.0)
            history.apply(job)
            history.try_on(job)
            history.expect(job, Span(30.0, 40.0), 10.0)
            run(history, job, left=started, started=started, ended=100.0)
        return history.histories(200.0, ("a",))["a"].tails

    early, late = judge(50.0, 5)
    assert 0.1 < early < 0.11 and 0.05 < late < 0.1, "a few that are late together are no news yet"
    assert judge(50.0, 5)[1] < late - 4 * 0.04, "more than a quarter of the newest are"
    assert judge(35.0, 500) == (0.25, 0.25)
    assert judge(50.0, 100) == (0.25, -0.25)


def test_who_began_within_what_was_said_is_counted() -> None:
    history = RunHistory(0.0)
    for number, started in ((1, 30.0), (2, 40.4), (3, 41.5)):
        job = queued(number, 10.0)
        history.apply(job)
        history.try_on(job)
        history.expect(job, Span(30.0, 40.5), 10.0)
        run(history, job, left=started, started=started, ended=100.0)
    accuracy = history.accuracy("a")
    assert (accuracy.judged, accuracy.inside) == (3, 2)
    assert (accuracy.median_width, accuracy.median_wait) == (10.5, 30.4)
    assert history.judged()["a"] == (3, 2)


def test_a_job_that_went_before_anything_was_said_is_not_judged() -> None:
    history = RunHistory(0.0)
    job = queued(1, 10.0)
    history.apply(job)
    history.try_on(job)
    history.apply(replace(job, status=S.PROCESSING, updated_at=10.1))
    history.expect(job, Span(30.0, 40.0), 10.2)
    run(history, job, left=10.1, started=11.0, ended=50.0)
    assert history.accuracy("a").judged == 0
