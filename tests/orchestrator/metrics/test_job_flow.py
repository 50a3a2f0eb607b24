"""What is counted of jobs that go through: also of those whose beginning nobody saw."""

from __future__ import annotations

from dataclasses import replace

from prometheus_client import CollectorRegistry

from actors.domain.job import Attempt, End, Job
from actors.domain.status import Status
from orchestrator.metrics.job_flow import JobFlow, why_ended

S = Status
NEW = Job(1, 7, "a", S.QUEUED, "", 1, 100.0, 100.0, "k" * 32, 10)


def at(job: Job, status: Status, time: float, n: int = 1) -> Job:
    attempt = None if status is S.QUEUED else Attempt("0" * 32, job.id, n, "node")
    ended = time if status in (S.COMPLETED, S.FAILED, S.KILLED) else None
    return replace(job, status=status, updated_at=time, attempt=attempt, ended_at=ended, attempts_used=n)


def watched() -> tuple[JobFlow, CollectorRegistry]:
    registry = CollectorRegistry()
    return JobFlow({"a"}, registry), registry


def sums(registry: CollectorRegistry, stage: str, service: str = "a") -> tuple[float | None, float | None]:
    name, labels = f"orchestrator_job_{stage}_seconds", {"service": service}
    return (
        registry.get_sample_value(f"{name}_count", labels),
        registry.get_sample_value(f"{name}_sum", labels),
    )


def test_waiting_again_counts_from_when_it_was_queued_again() -> None:
    flow, registry = watched()
    flow.committed([NEW, at(NEW, S.PROCESSING, 103.0)])
    flow.committed([at(NEW, S.QUEUED, 110.0)])
    flow.committed([at(NEW, S.PROCESSING, 111.0, 2), at(NEW, S.SUBMITTED, 111.5, 2)])
    assert sums(registry, "queue_wait") == (2, 4.0)
    assert sums(registry, "dispatch") == (1, 0.5)
    assert registry.get_sample_value("orchestrator_jobs_requeued_total", {"service": "a"}) == 1


def test_a_stage_that_began_before_the_server_is_not_timed() -> None:
    flow, registry = watched()
    flow.committed([at(NEW, S.SUBMITTED, 500.0)])
    flow.committed([at(NEW, S.PROCESSING, 510.0, 2)])  # of which nobody knows when it was queued again
    assert sums(registry, "dispatch") == (None, None)
    flow.committed([replace(at(NEW, S.FAILED, 520.0), end=None)])
    labels = {"service": "a", "status": "Failed", "reason": "not_run"}
    assert registry.get_sample_value("orchestrator_jobs_ended_total", labels) == 1


def test_what_is_said_of_a_job_in_between_counts_nothing() -> None:
    flow, registry = watched()
    running = at(NEW, S.RUNNING, 105.0)
    flow.committed([NEW, replace(NEW, message="waits", updated_at=101.0), at(NEW, S.PROCESSING, 102.0)])
    flow.committed([at(NEW, S.SUBMITTED, 103.0), running, replace(running, progress=0.5, updated_at=106.0)])
    done = replace(at(NEW, S.COMPLETED, 110.0), end=End(S.COMPLETED, "", 0, ended_at=109.0, wall_seconds=4.0))
    flow.committed([done])
    flow.committed([replace(done, message="told", updated_at=111.0)])
    flow.committed([replace(done, status=S.CLEANED, updated_at=112.0)])
    assert registry.get_sample_value("orchestrator_jobs_uploaded_total", {"service": "a"}) == 1
    assert sums(registry, "run") == (1, 4.0)
    assert sums(registry, "collect") == (1, 1.0)
    labels = {"service": "a", "status": "Completed", "reason": "completed"}
    assert registry.get_sample_value("orchestrator_jobs_ended_total", labels) == 1


def test_services_that_are_not_in_the_settings_are_one() -> None:
    flow, registry = watched()
    for n in range(50):
        job = replace(NEW, id=n, service=f"gone-{n}")
        flow.committed([job, at(job, S.PROCESSING, 101.0), replace(at(job, S.FAILED, 102.0))])
    assert sums(registry, "queue_wait", "other") == (50, 50.0)
    ended = [m for m in registry.collect() if m.name == "orchestrator_jobs_ended"]
    assert [sample.value for sample in ended[0].samples] == [50.0]


def test_what_is_remembered_goes_with_the_jobs() -> None:
    flow, _ = watched()
    for n in range(10_000):
        job = replace(NEW, id=n)
        flow.committed([job, at(job, S.PROCESSING, 101.0), at(job, S.KILLED, 102.0)])
    assert not flow._under_way


def test_why_a_job_ended_is_one_of_a_few_words() -> None:
    ended = at(NEW, S.FAILED, 110.0)
    assert why_ended(replace(ended, end=End(S.FAILED, "", 3))) == "exit_code"
    assert why_ended(replace(ended, end=End(S.FAILED, "", signal=9))) == "signal"
    assert why_ended(replace(ended, end=End(S.FAILED, "no run.sh"))) == "node"
    assert why_ended(at(NEW, S.KILLED, 110.0)) == "terminated"
