"""What becomes of a job whose attempt is gone: another attempt, or the end. Pure, and the same for both
actors that may find it out."""

from __future__ import annotations

from dataclasses import replace

from actors.domain.changes import Transition
from actors.domain.job import AttemptState, Job
from actors.domain.node import PayloadView
from actors.domain.service import ServiceLimits
from actors.domain.status import Owner, Status


def requeue_or_fail(
    job: Job,
    limits: ServiceLimits | None,
    reason: str,
    *,
    by: Owner,
    state: AttemptState,
    spent: bool = False,
    retry: bool | None = None,
) -> Transition:
    """The move for `job`, whose current attempt will give no result because of `reason`.

    `state` is what the attempt becomes; `spent` counts it as one that may have run (it was not counted yet).
    `retry` overrides the service's `on_node_lost`.
    """
    key = None if job.attempt is None else job.attempt.key
    used = job.attempts_used + (1 if spent else 0)
    again = (limits is not None and limits.on_node_lost == "requeue") if retry is None else retry

    def move(target: Status, why: str) -> Transition:
        return Transition(job.id, job.status, target, why, key=key, attempt_state=state, spent=spent, by=by)

    if job.terminate_requested:
        verified = "" if state is AttemptState.OVER else "; that nothing of it runs could not be verified"
        return move(Status.KILLED, f"terminated ({reason}{verified})")
    if not again:
        return move(Status.FAILED, reason)
    if limits is not None and used >= limits.max_attempts:
        return move(Status.FAILED, f"{reason}; it was attempt {used} of {limits.max_attempts}")
    return move(Status.QUEUED, f"{reason}; it is queued for another attempt")


def requeue_lost(
    job: Job,
    limits: ServiceLimits | None,
    view: PayloadView,
    node: str,
    *,
    by: Owner,
    spent: bool = False,
) -> Transition:
    """The same for an attempt of which its node says that it is lost, or that it could not start it. The
    latter has run nothing: so it is tried again whatever the service has for lost nodes, and the last of
    such attempts tells why the job has failed. What the node has given back is no attempt at all."""
    retry = True if view.start_failed else None
    reason, state = view.tell_loss(node), AttemptState.OVER
    if view.given_back:
        key = None if job.attempt is None else job.attempt.key
        unspent = 0 if spent else -1
        target, why = Status.QUEUED, f"waits: {reason}"
        if job.terminate_requested:
            target, why = Status.KILLED, "terminated before it began"
        return Transition(job.id, job.status, target, why, key=key, attempt_state=state, spent=unspent, by=by)
    move = requeue_or_fail(job, limits, reason, by=by, state=state, spent=spent, retry=retry)
    return replace(move, end=view.end) if view.start_failed and move.target is Status.FAILED else move
