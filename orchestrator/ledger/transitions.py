"""What a change does to a job: pure decisions, the same for every ledger.

A ledger loads the rows that a change speaks of, asks here, and stores the answer. So the table of
transitions, the comparison with the current attempt and what follows from a move are in one place, whatever
the rows are kept in.
"""

from __future__ import annotations

from dataclasses import dataclass

from actors.domain.changes import (
    Change,
    ChangeResult,
    MoveAttempt,
    NewJob,
    RecordEnd,
    SetMessage,
    SetProgress,
    Transition,
)
from actors.domain.job import (
    Attempt,
    AttemptState,
    End,
    HistoryEntry,
    Job,
    change_attempt,
    change_end,
    change_job,
)
from actors.domain.labels import from_labels
from actors.domain.status import ENDED, OVER, OWNER, QUOTA, Status, may_move

_ORDER = {
    AttemptState.OPEN: 0,
    AttemptState.GIVEN_UP: 1,
    AttemptState.OVER: 2,
    AttemptState.RELEASED: 3,
}
_INT_MAX = 2**63 - 1
_TOLD_AGAIN = frozenset({Status.SUBMITTED, Status.PREPARED, Status.RUNNING})

UPLOADED = "Job successfully uploaded"
"""What a new job's message says."""


@dataclass(frozen=True, slots=True)
class AppliedChange:
    """What is to be stored: the job's row as it becomes, its line of history, the attempt that is new and the
    one that changed."""

    job: Job
    history: HistoryEntry | None = None
    new_attempt: Attempt | None = None
    changed_attempt: Attempt | None = None


def is_told_again(change: Change) -> bool:
    """Whether a node would tell it again, or take it again, should a power cut take it back: only that may be
    committed without a sync. The id that a contract-only node has given is told once."""
    match change:
        case Transition(target=target, attempt_state=None, foreign_id=None):
            return target in _TOLD_AGAIN
        case MoveAttempt(state=state):
            return state is AttemptState.RELEASED
        case RecordEnd() | SetMessage() | SetProgress():
            return True
    return False


def new_job(job: NewJob, *, job_id: int, seq: int, now: float) -> AppliedChange:
    """The first row of a job."""
    row = Job(
        id=job_id,
        user_id=job.user_id,
        service=job.service,
        status=Status.QUEUED,
        message=UPLOADED,
        change_seq=seq,
        created_at=now,
        updated_at=now,
        storage_key=job.storage_key,
        size=job.size,
        max_runtime=job.max_runtime,
        limits=job.limits,
        priority=job.priority,
        batch_request=job.batch_request,
        request_id=job.request_id,
        requires=from_labels(job.details.requires),
    )
    return AppliedChange(row, HistoryEntry(job_id, now, None, Status.QUEUED, UPLOADED, None, None))


def move(job: Job | None, change: Transition, *, seq: int, now: float) -> AppliedChange | ChangeResult:
    """Decide on a move. Whether another attempt of the job is OPEN is for who stores a new one to find out.

    A job that leaves its attempt behind (requeued or ended) without saying what becomes of it leaves it OVER:
    then the node is told to let go of it, and nothing is forgotten there.
    """
    current = job.attempt if job is not None else None
    if job is None or job.status is not change.source:
        return ChangeResult.STALE
    if change.key is not None and (current is None or current.key != change.key):
        return ChangeResult.STALE
    if change.by is not OWNER.get(job.status):
        return ChangeResult.REFUSED
    if not may_move(job.status, change.target, terminate_requested=job.terminate_requested):
        return ChangeResult.REFUSED
    if not _attempt_fits(job, change):
        return ChangeResult.REFUSED

    reason = storable(change.reason)
    changed = _leave(current, change) if current is not None else None
    begun = change.attempt
    if begun is not None:
        begun = change_attempt(begun, n=job.attempts_used + 1)
    acting = begun or changed or current
    requeued = change.target is Status.QUEUED
    end = job.end or (storable_end(change.end, job, now) if change.end is not None else None)
    row = change_job(
        job,
        status=change.target,
        message=reason,
        change_seq=seq,
        updated_at=now,
        attempts_used=job.attempts_used + change.spent,
        attempt=None if requeued else acting,
        end=None if requeued else end,
        ended_at=now if change.target in ENDED else job.ended_at,
        progress=None if requeued else job.progress,
        progress_message="" if requeued else job.progress_message,
        batch=None if requeued else job.batch,
        running_since=_running_since(job, change.target, now),
    )
    entry = HistoryEntry(
        job_id=job.id,
        at=now,
        source=change.source,
        target=change.target,
        reason=reason,
        node_id=acting.node_id if acting is not None else None,
        attempt_n=acting.n if acting is not None else None,
    )
    return AppliedChange(row, entry, begun, changed if changed != current else None)


def record_end(job: Job | None, change: RecordEnd, *, seq: int, now: float) -> AppliedChange | ChangeResult:
    """Decide on a verdict: it counts once, and only from the current attempt of a job that is on its way. The
    history tells it, for from here on the job no longer counts against the quotas."""
    if job is None or job.attempt is None or job.attempt.key != change.key:
        return ChangeResult.STALE
    if job.end is not None or job.status not in QUOTA:
        return ChangeResult.STALE
    end = storable_end(change.end, job, now)
    reason = f"ended on the node ({end.message or end.status}); its results are fetched"
    entry = HistoryEntry(
        job_id=job.id,
        at=now,
        source=job.status,
        target=job.status,
        reason=reason,
        node_id=job.attempt.node_id,
        attempt_n=job.attempt.n,
    )
    return AppliedChange(change_job(job, end=end, message=reason, change_seq=seq, updated_at=now), entry)


def set_message(job: Job | None, change: SetMessage, *, seq: int, now: float) -> AppliedChange | ChangeResult:
    """Decide on a message: only for a job that is on its way under that attempt, and only a new one."""
    if job is None or job.attempt is None or job.attempt.key != change.key or job.status not in QUOTA:
        return ChangeResult.STALE
    message = storable(change.message)
    if message == job.message:
        return ChangeResult.STALE
    return AppliedChange(change_job(job, message=message, change_seq=seq, updated_at=now))


def set_progress(
    job: Job | None, change: SetProgress, *, seq: int, now: float
) -> AppliedChange | ChangeResult:
    """Decide on what is said of its progress: like a note, only from the current attempt of a job that is
    on its way, and only what is new."""
    if job is None or job.attempt is None or job.attempt.key != change.key or job.status not in QUOTA:
        return ChangeResult.STALE
    message = storable(change.message)
    if (change.fraction, message, change.batch) == (job.progress, job.progress_message, job.batch):
        return ChangeResult.STALE
    said = {"progress": change.fraction, "progress_message": message, "batch": change.batch}
    return AppliedChange(change_job(job, **said, change_seq=seq, updated_at=now))


def move_attempt(attempt: Attempt | None, change: MoveAttempt) -> Attempt | ChangeResult:
    """Decide on an attempt's own move: forward only. The same state again is DONE."""
    if attempt is None:
        return ChangeResult.STALE
    if change.state is AttemptState.OPEN:
        return ChangeResult.REFUSED
    if _ORDER[change.state] < _ORDER[attempt.state]:
        return ChangeResult.STALE
    return change_attempt(attempt, state=change.state)


def request_terminate(job: Job, *, seq: int, now: float) -> AppliedChange | None:
    """None where the order changes nothing: it was given before, or the job, or at least its
    script, has ended."""
    if job.terminate_requested or job.status in OVER or job.end is not None:
        return None
    return AppliedChange(change_job(job, terminate_requested=True, change_seq=seq, updated_at=now))


def storable(text: str) -> str:
    """Text that a database and a JSON body take. Half surrogates (they come from file names that are no
    UTF-8) are spelled out, so that no node's message can make a transition fail."""
    return text if text.isascii() else text.encode("utf-8", "backslashreplace").decode("utf-8")


def storable_end(end: End, job: Job, now: float) -> End:
    """A verdict that fits into 64 bits, and between the job's upload and now; a node that claims more is cut
    off."""
    ended_at = None if end.ended_at is None else min(max(end.ended_at, job.created_at), now)
    started_at = end.started_at
    if started_at is not None:
        started_at = min(max(started_at, job.created_at), now if ended_at is None else ended_at)
    return change_end(
        end,
        started_at=started_at,
        ended_at=ended_at,
        message=storable(end.message),
        exit_code=_fit(end.exit_code),
        signal=_fit(end.signal),
        peak_bytes=_fit(end.peak_bytes),
        size=min(max(end.size, 0), _INT_MAX),
    )


def _fit(number: int | None) -> int | None:
    return None if number is None else min(max(number, -_INT_MAX), _INT_MAX)


def _running_since(job: Job, target: Status, now: float) -> float | None:
    if target is Status.QUEUED:
        return None
    return now if target is Status.RUNNING and job.running_since is None else job.running_since


def _attempt_fits(job: Job, change: Transition) -> bool:
    """Processing begins with an attempt of its own and nothing else does."""
    attempt = change.attempt
    if (change.target is Status.PROCESSING) != (attempt is not None):
        return False
    if attempt is None:
        return change.attempt_state is not AttemptState.OPEN
    return attempt.job_id == job.id and attempt.state is AttemptState.OPEN


def _leave(current: Attempt, change: Transition) -> Attempt:
    state = change.attempt_state
    leaves = change.target is Status.QUEUED or change.target in ENDED
    if state is None and leaves and current.state is AttemptState.OPEN:
        state = AttemptState.OVER
    if state is None or _ORDER[state] < _ORDER[current.state]:
        state = current.state
    foreign_id = change.foreign_id if change.foreign_id is not None else current.foreign_id
    if state is current.state and foreign_id == current.foreign_id:
        return current
    return change_attempt(current, state=state, foreign_id=foreign_id)
