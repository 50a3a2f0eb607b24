"""One suite for both ledgers: the one on disk and the one that simulations use."""

from __future__ import annotations

from array import array
from dataclasses import replace
from typing import Any

import pytest
from support.data.ledgers import SetClock, by_owner, new_attempt, new_job, walk

from actors.domain.batch_request import NOTHING_REQUESTED, BatchRequest
from actors.domain.changes import ChangeResult, JobDetails, MoveAttempt, RecordEnd, SetMessage, Transition
from actors.domain.failure import Failure
from actors.domain.job import AttemptState, End, HistoryEntry, Job, LiveJobs, QueuedJobs, job_of
from actors.domain.limits import UNLIMITED, JobLimits
from actors.domain.status import ENDED, JOB, OVER, OWNER, QUOTA, Owner, Status, may_move
from actors.ports.ledger import Ledger
from orchestrator.ledger.ledger import IdempotencyConflict

S = Status
DONE, STALE, REFUSED = ChangeResult.DONE, ChangeResult.STALE, ChangeResult.REFUSED
NOW = SetClock().now()
END = End(S.COMPLETED, "exit code 0", exit_code=0, started_at=NOW, ended_at=NOW, peak_bytes=99, size=1234)

WAYS: dict[Status, tuple[Status, ...]] = {
    S.QUEUED: (),
    S.PROCESSING: (S.PROCESSING,),
    S.SUBMITTED: (S.PROCESSING, S.SUBMITTED),
    S.PREPARED: (S.PROCESSING, S.SUBMITTED, S.PREPARED),
    S.RUNNING: (S.PROCESSING, S.SUBMITTED, S.RUNNING),
    S.LOCKED: (S.PROCESSING, S.SUBMITTED, S.LOCKED),
    S.COMPLETED: (S.PROCESSING, S.SUBMITTED, S.COMPLETED),
    S.FAILED: (S.FAILED,),
    S.INVALID: (S.PROCESSING, S.SUBMITTED, S.INVALID),
    S.KILLED: (S.KILLED,),
    S.CLEANED: (S.KILLED, S.CLEANED),
}


@pytest.fixture
def ledger(either_ledger: Any) -> Any:
    return either_ledger


async def at(ledger: Ledger, status: Status) -> Job:
    """A new job, taken to `status`."""
    return await walk(ledger, await ledger.insert(new_job()), *WAYS[status])


async def one(ledger: Ledger, change: Any) -> Any:
    (answer,) = await ledger.record([change])
    return answer


async def test_a_new_job_is_queued_with_the_next_id_and_comes_back_as_stored(
    ledger: Ledger, clock: SetClock
) -> None:
    limits = JobLimits(memory_bytes=2**32, cpu_seconds=0.5)
    asked = BatchRequest("long", qos="high", cpus=8, gpus="a100:2")
    given = new_job(user=-(2**63), size=2**40, max_runtime=2.5, limits=limits)
    first = await ledger.insert(replace(given, batch_request=asked))
    second = await ledger.insert(new_job(user=2**63 - 1, service="other"))
    assert (first.id, second.id) == (1, 2)
    assert first.status is S.QUEUED
    assert first.message == "Job successfully uploaded"
    assert (first.created_at, first.updated_at, first.ended_at) == (clock.time, clock.time, None)
    assert second.change_seq > first.change_seq
    assert (first.limits, second.limits) == (limits, UNLIMITED)
    assert (first.batch_request, second.batch_request) == (asked, NOTHING_REQUESTED)
    assert await ledger.get(1) == first
    assert await ledger.get(2) == second
    assert await ledger.get(3) is None


@pytest.mark.parametrize("source", list(WAYS))
async def test_every_pair_of_states_moves_exactly_where_the_table_says(
    ledger: Ledger, source: Status
) -> None:
    for target in Status:
        job = await at(ledger, source)
        attempt = new_attempt(job) if target is S.PROCESSING else None
        answer = await one(ledger, by_owner(job.id, source, target, "why", attempt=attempt))
        row = await ledger.get(job.id)
        assert answer.job == row
        if target in JOB[source]:
            assert answer.outcome is DONE
            assert row is not None
            assert (row.status, row.message) == (target, "why")
            assert row.change_seq > job.change_seq
        else:
            assert answer.outcome is REFUSED
            assert row == job


@pytest.mark.parametrize("source", [s for s in WAYS if s is not S.CLEANED])
async def test_a_state_is_left_by_its_owner_alone(ledger: Ledger, source: Status) -> None:
    job = await at(ledger, source)
    target = S.CLEANED if source in OVER else S.FAILED
    for other in set(Owner) - {OWNER[source]}:
        answer = await one(ledger, Transition(job.id, source, target, "not mine", by=other))
        assert (answer.outcome, answer.job) == (REFUSED, job)
    answer = await one(ledger, Transition(job.id, source, target, "mine", by=OWNER[source]))
    assert answer.outcome is DONE


@pytest.mark.parametrize("source", [s for s in WAYS if s not in OVER])
async def test_a_job_ordered_to_end_never_becomes_queued_or_processing(
    ledger: Ledger, source: Status
) -> None:
    for target in (S.QUEUED, S.PROCESSING, S.KILLED):
        job = await at(ledger, source)
        ordered = await ledger.request_terminate(job.id)
        assert ordered is not None
        assert ordered.terminate_requested
        attempt = new_attempt(job) if target is S.PROCESSING else None
        answer = await one(ledger, by_owner(job.id, source, target, "why", attempt=attempt))
        allowed = may_move(source, target, terminate_requested=True)
        assert answer.outcome is (DONE if allowed else REFUSED)


async def test_the_order_to_terminate_is_given_once_and_not_to_what_is_over(ledger: Ledger) -> None:
    job = await at(ledger, S.RUNNING)
    first = await ledger.request_terminate(job.id)
    assert first is not None
    assert first.change_seq > job.change_seq
    assert await ledger.request_terminate(job.id) == first
    ended = await at(ledger, S.COMPLETED)
    assert await ledger.request_terminate(ended.id) == ended
    assert await ledger.request_terminate(99) is None


async def test_a_move_from_another_state_or_of_an_unknown_job_is_stale(ledger: Ledger) -> None:
    job = await at(ledger, S.SUBMITTED)
    answer = await one(ledger, by_owner(job.id, S.PREPARED, S.RUNNING, "late"))
    assert (answer.outcome, answer.job) == (STALE, job)
    assert (await one(ledger, by_owner(99, S.QUEUED, S.FAILED, "none"))).job is None
    assert (await one(ledger, RecordEnd(99, "k", END))).outcome is STALE
    assert (await one(ledger, MoveAttempt("k", AttemptState.OVER))).outcome is STALE


async def test_what_an_older_attempt_says_changes_nothing(ledger: Ledger) -> None:
    job = await at(ledger, S.SUBMITTED)
    assert job.attempt is not None
    old = job.attempt.key
    job = await walk(ledger, job, S.QUEUED, S.PROCESSING, S.SUBMITTED)
    for change in (
        by_owner(job.id, S.SUBMITTED, S.RUNNING, "late", key=old),
        RecordEnd(job.id, old, END),
    ):
        assert (await one(ledger, change)).outcome is STALE
    assert await ledger.get(job.id) == job
    assert job.attempt is not None
    answer = await one(ledger, by_owner(job.id, S.SUBMITTED, S.RUNNING, "now", key=job.attempt.key))
    assert answer.outcome is DONE


async def test_processing_begins_with_an_attempt_of_this_job_and_only_one_is_open(ledger: Ledger) -> None:
    job = await ledger.insert(new_job())
    other = await ledger.insert(new_job())
    go = by_owner(job.id, S.QUEUED, S.PROCESSING, "goes")
    assert (await one(ledger, go)).outcome is REFUSED
    assert (await one(ledger, replace(go, attempt=new_attempt(other)))).outcome is REFUSED
    attempt = new_attempt(job)
    answer = await one(ledger, replace(go, attempt=attempt))
    assert answer.outcome is DONE
    assert answer.job.attempt == attempt
    assert (await one(ledger, replace(go, attempt=new_attempt(job)))).outcome is STALE
    again = replace(go, job_id=other.id, attempt=replace(attempt, job_id=other.id))
    assert (await one(ledger, again)).outcome is REFUSED, "a key is used once"
    assert await ledger.attempts(job.id) == [attempt]


async def test_a_requeue_clears_the_attempt_and_its_end_and_counts_it_if_spent(ledger: Ledger) -> None:
    job = await at(ledger, S.RUNNING)
    assert job.attempt is not None
    key = job.attempt.key
    assert (await one(ledger, RecordEnd(job.id, key, END))).outcome is DONE
    back = by_owner(
        job.id, S.RUNNING, S.QUEUED, "lost", key=key, spent=True, attempt_state=AttemptState.GIVEN_UP
    )
    row = (await one(ledger, back)).job
    assert (row.attempt, row.end, row.attempts_used) == (None, None, 1)
    (attempt,) = await ledger.attempts(job.id)
    assert attempt.state is AttemptState.GIVEN_UP
    assert await ledger.unreleased() == [attempt]
    row = await walk(ledger, row, S.PROCESSING)
    assert row.attempt is not None
    assert row.attempt.n == 2


@pytest.mark.parametrize("target", [S.QUEUED, *sorted(ENDED)])
async def test_an_attempt_that_its_job_leaves_behind_is_owed_to_its_node(
    ledger: Ledger, target: Status
) -> None:
    job = await at(ledger, S.RUNNING)
    assert job.attempt is not None
    await walk(ledger, job, target)
    assert [(a.key, a.state) for a in await ledger.unreleased()] == [(job.attempt.key, AttemptState.OVER)]
    assert (await one(ledger, MoveAttempt(job.attempt.key, AttemptState.RELEASED))).outcome is DONE
    assert await ledger.unreleased() == []


@pytest.mark.parametrize("told", ["nothing", "its job", "another job"])
async def test_an_attempt_moves_forward_only(ledger: Ledger, told: str) -> None:
    other = await at(ledger, S.RUNNING)
    job = await at(ledger, S.RUNNING)
    assert job.attempt is not None
    key = job.attempt.key
    job_id = {"nothing": None, "its job": job.id, "another job": other.id}[told]
    order = [AttemptState.OPEN, AttemptState.GIVEN_UP, AttemptState.OVER, AttemptState.RELEASED]
    for now, state in enumerate(order):
        if now:
            assert (await one(ledger, MoveAttempt(key, state, job_id))).outcome is DONE
        for earlier in order[1:now]:
            assert (await one(ledger, MoveAttempt(key, earlier, job_id))).outcome is STALE
        assert (await one(ledger, MoveAttempt(key, AttemptState.OPEN, job_id))).outcome is REFUSED
        row = await ledger.get(job.id)
        assert row is not None
        assert row.attempt is not None
        assert row.attempt.state is state
        assert row.change_seq == job.change_seq, "an attempt's own move is no news of the job"
    assert await ledger.get(other.id) == other


async def test_a_verdict_counts_once_and_only_on_the_way(ledger: Ledger) -> None:
    for status in WAYS:
        job = await at(ledger, status)
        key = job.attempt.key if job.attempt is not None else "none"
        answer = await one(ledger, RecordEnd(job.id, key, END))
        if status not in QUOTA:
            assert (answer.outcome, answer.job) == (STALE, job)
            continue
        assert answer.outcome is DONE
        assert answer.job.message.startswith("ended on the node")
        assert answer.job.message.endswith("its results are fetched")
        assert answer.job == replace(
            job, end=END, message=answer.job.message, change_seq=answer.job.change_seq
        )
        assert not answer.job.counts
        assert (await one(ledger, RecordEnd(job.id, key, replace(END, exit_code=3)))).outcome is STALE
        assert await ledger.get(job.id) == answer.job


@pytest.mark.parametrize(
    ("told", "stored"),
    [
        ((NOW + 595, NOW + 600), (NOW, NOW)),
        ((NOW - 605, NOW - 600), (NOW, NOW)),
        ((None, NOW + 9), (None, NOW)),
    ],
)
async def test_no_node_dates_a_job_before_its_upload_or_after_now(
    told: tuple[float | None, float], stored: tuple[float | None, float], ledger: Ledger
) -> None:
    job = await at(ledger, S.RUNNING)
    assert job.attempt is not None
    end = replace(END, started_at=told[0], ended_at=told[1])
    row = (await one(ledger, RecordEnd(job.id, job.attempt.key, end))).job
    assert (row.end.started_at, row.end.ended_at) == stored


async def test_a_move_stores_a_verdict_unless_there_is_one(ledger: Ledger) -> None:
    job = await at(ledger, S.RUNNING)
    row = (await one(ledger, by_owner(job.id, S.RUNNING, S.COMPLETED, "done", end=END))).job
    assert row.end == END
    job = await at(ledger, S.RUNNING)
    failed = replace(END, status=S.FAILED, failure=Failure.DISK)
    await ledger.record([by_owner(job.id, S.RUNNING, S.FAILED, "over", end=failed)])
    stored = await ledger.get(job.id)
    assert stored is not None and stored.end == failed
    job = await at(ledger, S.RUNNING)
    assert job.attempt is not None
    other = End(S.KILLED, "signal 9", signal=9)
    await ledger.record([RecordEnd(job.id, job.attempt.key, END)])
    row = (await one(ledger, by_owner(job.id, S.RUNNING, S.COMPLETED, "done", end=other))).job
    assert row.end == END


async def test_a_foreign_id_is_stored_with_the_attempt(ledger: Ledger) -> None:
    job = await at(ledger, S.PROCESSING)
    assert job.attempt is not None
    move = by_owner(job.id, S.PROCESSING, S.SUBMITTED, "sent", key=job.attempt.key, foreign_id=17)
    row = (await one(ledger, move)).job
    assert row.attempt.foreign_id == 17
    assert await ledger.attempts(job.id) == [row.attempt]
    row = await walk(ledger, row, S.RUNNING)
    assert row.attempt is not None
    assert row.attempt.foreign_id == 17


async def test_every_transition_is_in_the_history_with_its_attempt(ledger: Ledger, clock: SetClock) -> None:
    start = clock.time
    job = await ledger.insert(new_job())
    for target in (S.PROCESSING, S.QUEUED, S.PROCESSING, S.SUBMITTED, S.COMPLETED, S.CLEANED):
        clock.time += 1
        job = await walk(ledger, job, target)
    ways = [None, S.QUEUED, S.PROCESSING, S.QUEUED, S.PROCESSING, S.SUBMITTED, S.COMPLETED, S.CLEANED]
    expected = [HistoryEntry(job.id, start, None, S.QUEUED, "Job successfully uploaded", None, None)]
    for step in range(1, 7):
        source, target = ways[step], ways[step + 1]
        assert target is not None
        expected.append(HistoryEntry(job.id, start + step, source, target, f"to {target}", "node-a", 1))
    assert await ledger.history(job.id) == expected
    assert await ledger.history(99) == []


async def test_refused_and_stale_changes_leave_no_history(ledger: Ledger) -> None:
    job = await ledger.insert(new_job())
    await ledger.record(
        [by_owner(job.id, S.QUEUED, S.RUNNING, "no"), by_owner(job.id, S.RUNNING, S.COMPLETED, "no")]
    )
    assert len(await ledger.history(job.id)) == 1


async def test_changes_of_one_call_are_applied_in_order_and_each_by_itself(ledger: Ledger) -> None:
    job = await ledger.insert(new_job())
    attempt = new_attempt(job)
    answers = await ledger.record(
        [
            by_owner(job.id, S.QUEUED, S.PROCESSING, "1", attempt=attempt),
            by_owner(job.id, S.QUEUED, S.FAILED, "stale"),
            by_owner(job.id, S.PROCESSING, S.SUBMITTED, "2", key=attempt.key),
            by_owner(job.id, S.SUBMITTED, S.CLEANED, "refused"),
            RecordEnd(job.id, attempt.key, END),
            MoveAttempt(attempt.key, AttemptState.OVER),
        ]
    )
    assert [a.outcome for a in answers] == [DONE, STALE, DONE, REFUSED, DONE, DONE]
    row = await ledger.get(job.id)
    assert row is not None
    assert (row.status, row.end) == (S.SUBMITTED, END)
    assert await ledger.record([]) == []


async def test_changes_since_shows_each_job_at_its_newest_change_only(ledger: Ledger) -> None:
    first = await ledger.insert(new_job())
    second = await ledger.insert(new_job())
    third = await ledger.insert(new_job())
    assert await ledger.changes(0) == [first, second, third]
    assert await ledger.changes(0, limit=2) == [first, second]
    moved = await walk(ledger, first, S.FAILED)
    assert await ledger.changes(first.change_seq) == [second, third, moved]
    assert await ledger.changes(moved.change_seq) == []
    assert await ledger.changes(third.change_seq, limit=1) == [moved]


async def test_what_waits_is_told_in_the_order_in_which_it_goes(ledger: Ledger) -> None:
    jobs = [await ledger.insert(replace(new_job(), priority=priority)) for priority in (0, 2, 100, 2)]
    assert [job.priority for job in jobs] == [0, 2, 100, 2]
    (line,) = (await ledger.live(queued=True)).queued
    assert [job_of(order) for order in line.orders] == [3, 2, 4, 1]
    assert [*line.orders] == sorted(job.order for job in jobs)


async def test_a_job_is_known_by_the_request_that_handed_it_in(ledger: Ledger) -> None:
    asked, other = [await ledger.insert(new_job(request_id=name)) for name in ("r-1", "")]
    assert (asked.request_id, other.request_id) == ("r-1", "")
    assert await ledger.changes(0) == [asked, other]
    assert (await walk(ledger, asked, S.FAILED)).request_id == "r-1"


async def test_live_is_what_is_not_over_with_the_change_it_is_at(ledger: Ledger) -> None:
    assert (await ledger.live()).seq == 0
    jobs = [await at(ledger, status) for status in WAYS]
    stopped = await ledger.request_terminate((await at(ledger, S.QUEUED)).id)
    assert stopped is not None
    live = await ledger.live(queued=True)
    under_way = [job for job in jobs if job.status not in OVER and job.status is not S.QUEUED]
    assert live.jobs == [*under_way, stopped]
    queued = [job for job in jobs if job.status is S.QUEUED]
    assert list(live.queued) == [QueuedJobs("example", "", 7, array("q", [job.id for job in queued]))]
    assert live.seq == stopped.change_seq
    assert await ledger.live() == LiveJobs(live.jobs, (), live.seq)
    assert await ledger.changes(live.seq) == []


async def test_queued_jobs_are_told_in_short_by_user_service_and_requirement(ledger: Ledger) -> None:
    """The one form of a requirement counts, in whatever order it was given."""
    gpu = JobDetails(requires={"gpu": "", "ssd": "fast"})
    turned = JobDetails(requires={"ssd": "fast", "gpu": ""})
    for user, service, details in (
        (1, "a", gpu),
        (1, "a", JobDetails()),
        (1, "a", turned),
        (2, "a", gpu),
        (1, "b", JobDetails()),
        (1, "a", gpu),
    ):
        await ledger.insert(new_job(user, service, details=details))
    told = {
        (one.service, one.requires, one.user_id): list(one.orders)
        for one in (await ledger.live(queued=True)).queued
    }
    assert told == {
        ("a", "gpu,ssd=fast", 1): [1, 3, 6],
        ("a", "", 1): [2],
        ("a", "gpu,ssd=fast", 2): [4],
        ("b", "", 1): [5],
    }


async def test_owed_are_the_given_up_and_the_over_in_the_order_they_began(ledger: Ledger) -> None:
    jobs = [await at(ledger, S.SUBMITTED) for _ in range(4)]
    states = [AttemptState.OVER, AttemptState.GIVEN_UP, AttemptState.RELEASED, None]
    for job, state in reversed(list(zip(jobs, states, strict=True))):
        assert job.attempt is not None
        if state is not None:
            await ledger.record([MoveAttempt(job.attempt.key, state)])
    assert [a.job_id for a in await ledger.unreleased()] == [jobs[0].id, jobs[1].id]


async def test_ended_before_is_oldest_first_without_what_is_cleaned(ledger: Ledger, clock: SetClock) -> None:
    start = clock.time
    ended = []
    for step in (3, 1, 2, 5):
        clock.time = start + step
        ended.append(await at(ledger, S.COMPLETED))
    assert [job.ended_at for job in ended] == [start + 3, start + 1, start + 2, start + 5]
    assert await ledger.ended_before(start + 5) == [ended[1], ended[2], ended[0]]
    assert await ledger.ended_before(start + 5, limit=1) == [ended[1]]
    assert await ledger.ended_before(start + 5, 1, (start + 1, ended[1].id)) == [ended[2]]
    assert await ledger.ended_before(start + 5, 9, (start + 2, ended[2].id)) == [ended[0]]
    assert await ledger.ended_before(start + 5, 9, (start + 3, ended[0].id)) == []
    cleaned = await walk(ledger, ended[1], S.CLEANED)
    assert cleaned.ended_at == start + 1
    assert await ledger.ended_before(start + 5) == [ended[2], ended[0]]


async def test_directories_of_no_job_and_of_cleaned_jobs_are_unknown(ledger: Ledger) -> None:
    kept = await ledger.insert(new_job())
    cleaned = await at(ledger, S.CLEANED)
    keys = ["nobody", kept.storage_key, cleaned.storage_key]
    assert await ledger.unknown_directories(keys) == ["nobody", cleaned.storage_key]
    assert await ledger.unknown_directories([]) == []


async def test_an_idempotency_key_names_one_job_for_ever(ledger: Any) -> None:
    job = await ledger.insert(new_job(idempotency_key="k", fingerprint="f"))
    assert await ledger.insert(new_job(idempotency_key="k", fingerprint="f")) == job
    with pytest.raises(IdempotencyConflict) as conflict:
        await ledger.insert(new_job(idempotency_key="k", fingerprint="g"))
    assert conflict.value.holder == f"job {job.id}"
    moved = await walk(ledger, job, S.KILLED)
    assert await ledger.insert(new_job(idempotency_key="k", fingerprint="f")) == moved
    assert (await ledger.insert(new_job())).id == 2


async def test_an_idempotency_key_is_its_users(ledger: Any) -> None:
    job = await ledger.insert(new_job(1, idempotency_key="k", fingerprint="f"))
    other = await ledger.insert(new_job(2, idempotency_key="k", fingerprint="g"))
    assert (job.id, other.id) == (1, 2)
    for row, fingerprint in ((job, "f"), (other, "g")):
        again = new_job(row.user_id, idempotency_key="k", fingerprint=fingerprint)
        assert await ledger.insert(again) == row


async def test_no_message_of_a_node_can_make_a_transition_fail(ledger: Ledger) -> None:
    job = await at(ledger, S.RUNNING)
    end = End(S.FAILED, "bad \udcff", exit_code=2**70, signal=-(2**70), peak_bytes=2**64, size=2**65)
    row = (await one(ledger, by_owner(job.id, S.RUNNING, S.FAILED, "name \udc80", end=end))).job
    assert row.message == "name \\udc80"
    assert (row.end.message, row.end.size) == ("bad \\udcff", 2**63 - 1)
    assert await ledger.get(job.id) == row


async def test_a_note_changes_the_message_of_the_current_attempt_and_nothing_else(ledger: Ledger) -> None:
    job = await ledger.insert(new_job())
    attempt = new_attempt(job)
    (sent,) = await ledger.record(
        [by_owner(job.id, Status.QUEUED, Status.PROCESSING, "sent", attempt=attempt)]
    )
    assert sent.job is not None
    noted, again, other, unknown = await ledger.record(
        [
            SetMessage(job.id, attempt.key, "waits for disk"),
            SetMessage(job.id, attempt.key, "waits for disk"),
            SetMessage(job.id, "f" * 32, "of another attempt"),
            SetMessage(job.id + 1, attempt.key, "of no job"),
        ]
    )
    assert [a.outcome for a in (noted, again, other, unknown)] == [
        ChangeResult.DONE, ChangeResult.STALE, ChangeResult.STALE, ChangeResult.STALE,
    ]  # fmt: skip
    assert noted.job is not None
    assert noted.job == replace(
        sent.job, message="waits for disk", change_seq=noted.job.change_seq, updated_at=noted.job.updated_at
    )
    assert len(await ledger.history(job.id)) == 2
