"""What the Getter knows of jobs and nodes, and what one job needs now. `reconcile` is pure: it decides on
what was seen, and the Getter does it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import partial
from typing import Any, Final

from actors.domain.changes import Change, RecordEnd, SetProgress, Transition
from actors.domain.job import Attempt, AttemptState, End, Job, change_end, change_job
from actors.domain.node import Heartbeat, NodeRef, PayloadView, StreamPosition
from actors.domain.requeue import requeue_lost, requeue_or_fail
from actors.domain.service import ServiceLimits
from actors.domain.status import Owner, Status
from actors.ports.nodes import AttemptLookup, CollectAnswer, Dispatch
from actors.request_batcher import RequestBatcher


class TrackedAttempt:
    """One job on a node, with its current attempt. `answered_at`: when the node said that it has it, None if
    not in this life. `recording`: a change for it is decided and not committed yet. `stored`: its results are
    on our disk. `gone`: the node no longer has it, and why that is known.
    `unheard`: what of its progress the ledger would not have. `uncollected_since`: since when a node that is
    in touch has been asked for its results in vain."""

    def __init__(self, job: Job, attempt: Attempt) -> None:
        self.job = job
        self.attempt = attempt
        self.answered_at: float | None = None
        self.recording = False
        self.unheard: SetProgress | None = None
        self.stored: CollectAnswer | None = None
        self.gone: str | None = None
        self.impossible: str | None = None
        self.uncollected_since: float | None = None
        self.running_since: float | None = None
        self.overdue = False

    def is_overdue(self, node: NodeMirror, now: float) -> bool:
        """Whether it has run for longer than it may. `now` is monotonic; the first call that sees it run
        begins the count."""
        view = node.mirror.get(self.attempt.key)
        if self.job.max_runtime <= 0 or view is None or view.status is not Status.RUNNING:
            return False
        if self.running_since is None:
            self.running_since = now
        self.overdue = now - self.running_since > self.job.max_runtime
        return self.overdue

    def verdict(self, end: End) -> End:
        """The node's verdict; a kill that a time limit of ours had ordered is the limit's."""
        if self.overdue and end.status is Status.KILLED and not self.job.terminate_requested:
            return replace(end, status=Status.FAILED, message=f"timed out after {self.job.max_runtime:g} s")
        return end


@dataclass(frozen=True, slots=True)
class NodeRequests:
    """What one node is asked, told or relieved of, until it has answered: a batcher for each kind. Results
    have three: those that came along with their ends wait for none that are fetched, and small ones for no
    large ones."""

    lookup: RequestBatcher[Attempt, AttemptLookup]
    cancel: RequestBatcher[Attempt, AttemptLookup]
    release: RequestBatcher[Attempt, bool]
    take: RequestBatcher[Dispatch, CollectAnswer]
    collect: RequestBatcher[Dispatch, CollectAnswer]
    collect_large: RequestBatcher[Dispatch, CollectAnswer]

    @property
    def all(self) -> tuple[RequestBatcher[Any, Any], ...]:
        return (self.lookup, self.cancel, self.release, self.take, self.collect, self.collect_large)

    def bring_home(self, key: str, dispatch: Dispatch, *, delivered: bool, large: bool) -> None:
        """Have an attempt's results stored: in one way at a time."""
        if not (key in self.take or key in self.collect or key in self.collect_large):
            fetch = self.collect_large if large else self.collect
            (self.take if delivered else fetch).request(key, dispatch)

    def drop(self, key: str) -> None:
        """An attempt that is followed no more: all but its release."""
        for batcher in self.all:
            if batcher is not self.release:
                batcher.drop(key)


MOST_OTHERS: Final = 100_000
"""Attempts that a node may tell of and that are not followed."""


class NodeMirror:
    """One node as the Getter knows it: its mirror, when it was last heard, and what it is asked. `mark` is
    the place of its last picture, None while it is not in touch; that came at `pictured_at`. `left`: it was
    stopped on purpose, or its address was taken away; `expected`: it said that it will be back. `name_of` a
    node's id is what people are told."""

    def __init__(
        self, node_id: str, now: float, requests: NodeRequests, name_of: Callable[[str], str] = str
    ) -> None:
        self.node_id = node_id
        self._name_of = name_of
        self.ref: NodeRef | None = None
        self.heard = now
        self.connected = False
        self.lost = False
        self.left = False
        self.expected = False
        self.trouble = "it has not been heard of since the orchestrator started"
        self.beat = Heartbeat()
        self.mark: StreamPosition | None = None
        self.pictured_at = float("-inf")
        self.mirror: dict[str, PayloadView] = {}
        self.delivered: set[str] = set()
        """Attempts whose results are here to be collected."""
        self.tracked: dict[str, TrackedAttempt] = {}
        self.requests = requests

    @property
    def name(self) -> str:
        return self._name_of(self.node_id)

    @property
    def wanted(self) -> bool:
        """Whether anything is wanted of it."""
        return bool(self.tracked) or any(len(batcher) for batcher in self.requests.all)

    def has_room(self) -> bool:
        """Whether the node starts what it is sent at once, as far as its mirror shows."""
        beat = self.beat
        if beat.slots is None:
            return True
        # What waits there ahead of its turn does so briefly: not worth a word.
        return sum(v.end is None for v in self.mirror.values()) + beat.others <= beat.slots + beat.ahead

    def see(self, view: PayloadView) -> None:
        known = self.mirror.get(view.key)
        if known is None and len(self.mirror) >= len(self.tracked) + MOST_OTHERS:
            return  # it makes them up: what counts is asked for
        if known is None or known.end is None or view.end is not None:  # an end is final
            self.mirror[view.key] = view


class Need(StrEnum):
    """What has to be done with the node for one attempt."""

    LOOKUP = "lookup"
    CANCEL = "cancel"
    COLLECT = "collect"


@dataclass(frozen=True, slots=True)
class NextAction:
    """What one job needs: a change to commit, something of the node, both, or nothing."""

    change: Change | None = None
    need: Need | None = None
    dispatch: Dispatch | None = None


def reconcile(tracked: TrackedAttempt, node: NodeMirror, limits: ServiceLimits | None) -> NextAction:
    """What this job needs now, whatever happened before."""
    job, attempt = tracked.job, tracked.attempt
    view = node.mirror.get(attempt.key)
    retried = partial(requeue_or_fail, job, limits, by=Owner.GETTER)
    if tracked.stored is not None:
        return NextAction(_homecoming(tracked, tracked.stored, view))
    if tracked.gone is not None:
        return NextAction(
            requeue_or_fail(job, limits, tracked.gone, by=Owner.GETTER, state=AttemptState.OVER)
        )
    if node.lost:
        reason = f"node {node.name} is lost: {node.trouble}"
        return NextAction(retried(reason, state=AttemptState.GIVEN_UP))
    if view is not None and view.lost:
        return NextAction(requeue_lost(job, limits, view, node.name, by=Owner.GETTER))
    if view is not None and view.end is not None:
        end = in_our_time(tracked.verdict(view.end), node.beat.skew)
        if tracked.impossible is not None:
            return NextAction(_without_results(tracked, end, tracked.impossible))
        change: Change | None = _progress(tracked, view)
        # What they left is here: the end is recorded with it, in one.
        if change is None and job.end is None and attempt.key not in node.delivered:
            change = RecordEnd(job.id, attempt.key, end)
        return NextAction(change, Need.COLLECT, Dispatch(attempt, change_job(job, end=view.end)))
    if job.terminate_requested:
        if job.status is Status.LOCKED:
            return NextAction(need=Need.CANCEL)
        return NextAction(_move(tracked, Status.LOCKED, "being terminated"))
    if view is None:
        return NextAction(need=Need.LOOKUP if _absence_counts(node, tracked) else None)
    return NextAction(_status(tracked, view, node) or _progress(tracked, view))


def in_our_time(end: End, skew: float | None) -> End:
    """The end with its times by our clock, that of the node being ahead by `skew`. When it began follows from
    how long it ran: the node's clock may have been set meanwhile."""
    if skew is None or end.ended_at is None:
        return end
    ended_at = end.ended_at - skew
    started_at = end.started_at
    if started_at is not None:
        started_at = started_at - skew if end.wall_seconds is None else ended_at - end.wall_seconds
    return change_end(end, started_at=started_at, ended_at=ended_at)


def results_size(dispatch: Dispatch) -> int:
    """Bytes that an ended attempt has left to be collected."""
    return 0 if dispatch.job.end is None else dispatch.job.end.size


def failed(tracked: TrackedAttempt, why: str) -> Transition:
    """The end of a job that a defect of ours keeps from any other."""
    return _move(tracked, Status.FAILED, why, state=AttemptState.OVER)


def _move(
    tracked: TrackedAttempt,
    target: Status,
    reason: str,
    *,
    state: AttemptState | None = None,
    end: End | None = None,
    results: bytes | None = None,
) -> Transition:
    return Transition(
        tracked.job.id,
        tracked.job.status,
        target,
        reason,
        key=tracked.attempt.key,
        attempt_state=state,
        end=end,
        results=results,
        by=Owner.GETTER,
    )


def _progress(tracked: TrackedAttempt, view: PayloadView) -> SetProgress | None:
    """What its script and a batch system say, if the ledger does not know it yet. A fraction stays until
    there is another: a node that was started anew may not know it. So does the word of a batch system."""
    job, progress = tracked.job, view.progress
    if progress is None:
        return None
    fraction = job.progress if progress.fraction is None else progress.fraction
    batch = progress.batch or job.batch
    change = SetProgress(job.id, tracked.attempt.key, fraction, progress.message, batch)
    known = (job.progress, job.progress_message, job.batch) == (fraction, progress.message, batch)
    return None if known or change == tracked.unheard else change


def _status(tracked: TrackedAttempt, view: PayloadView, node: NodeMirror) -> Transition | None:
    """What the node tells of a payload that has not ended. One that is Prepared on a node with room runs
    before that could be written down."""
    status = tracked.job.status
    if view.status is Status.RUNNING and status in (Status.SUBMITTED, Status.PREPARED):
        return _move(tracked, Status.RUNNING, f"runs on node {node.name}")
    if view.status is Status.PREPARED and status is Status.SUBMITTED and not node.has_room():
        return _move(tracked, Status.PREPARED, f"waits on node {node.name} for a slot")
    return None


def _absence_counts(node: NodeMirror, tracked: TrackedAttempt) -> bool:
    """Only in a picture that came after the node had said that it has it. Even then the node is asked for the
    key before anything is believed."""
    return node.mark is not None and (tracked.answered_at is None or tracked.answered_at <= node.pictured_at)


def _without_results(tracked: TrackedAttempt, end: End, why: str) -> Transition:
    """It has ended, and what it left can never be had: that is no success, whatever its exit code."""
    target = end.status if end.status is not Status.COMPLETED else Status.FAILED
    reason = f"its results cannot be had: {why}" + (f" ({end.message})" if end.message else "")
    return _move(tracked, target, reason, state=AttemptState.OVER, end=end)


def _homecoming(tracked: TrackedAttempt, stored: CollectAnswer, view: PayloadView | None) -> Transition:
    """Its results are on our disk, or come with it: the end."""
    known: End | None = tracked.job.end or stored.end or (None if view is None else view.end)
    if known is None:
        return failed(tracked, "the node gave results without saying how the job ended")
    end = tracked.verdict(known)
    return _move(tracked, end.status, end.message, state=AttemptState.OVER, end=end, results=stored.results)
