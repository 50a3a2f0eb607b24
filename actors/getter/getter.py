"""The Getter: follows every attempt that a node has, to its end, and brings home what it produced.

It owns Submitted, Prepared, Running and Locked, and the duty to have each finished attempt released by its
node. It mirrors what each node tells (a picture, then changes) and compares it with the jobs it owns:
`reconcile` says what one job needs now, whatever happened before. So an event that comes early, late, twice
or never does no harm, and a restart begins by evaluating what the ledger holds.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from typing import Final, TypeVar

import trio

from actors.domain.changes import Change, ChangeResult, MoveAttempt, SetMessage, Transition
from actors.domain.job import Attempt, AttemptState, Job
from actors.domain.node import NodeAddress, NodeRef, PayloadView
from actors.domain.service import ServiceLimits
from actors.domain.status import ON_NODE, Status
from actors.getter.liveness import LivenessMonitor
from actors.getter.outbox import Outbox
from actors.getter.reconcile import (
    Need,
    NextAction,
    NodeMirror,
    NodeRequests,
    TrackedAttempt,
    failed,
    reconcile,
    results_size,
)
from actors.kernel.actor import Actor, Mailbox, Urgency
from actors.ledger_cursor import LedgerBackoff, LedgerCursor
from actors.messages import AttemptEnded, AttemptHanded, Committed, NodeSeen, StartFailed
from actors.ports.ledger import Ledger
from actors.ports.nodes import (
    AttemptLookup,
    Beat,
    CollectAnswer,
    CollectResult,
    Dispatch,
    Leaving,
    LookupResult,
    NodeEvent,
    Nodes,
    PayloadChanged,
    PayloadGone,
    Picture,
)
from actors.ports.world import Random
from actors.request_batcher import RequestBatcher

log: Final = logging.getLogger("orchestrator.getter")

Item = TypeVar("Item")
Answer = TypeVar("Answer")

A_DAY: Final = 86_400.0
UNRELEASED_AGAIN: Final = 10.0
"""Seconds after which the ledger is asked again what has to be released, in case a message was lost."""


class Getter(Actor):
    """See the module. `addresses` are the nodes to look for now: another object when they change;
    `tell_sender` takes what the pool should know. A node is lost when it was silent for `lost_after` seconds,
    or for `back_within` if it said that it will be back. What a node that is in touch has not handed over
    within `collect_within` is given up. `name_of` a node's id is what people are told."""

    def __init__(
        self,
        mailbox: Mailbox,
        nursery: trio.Nursery,
        *,
        ledger: Ledger,
        nodes: Nodes,
        addresses: Callable[[], Sequence[NodeAddress]],
        services: Mapping[str, ServiceLimits],
        rng: Random,
        tell_sender: Callable[[object], None],
        name_of: Callable[[str], str] = str,
        tick: float = 0.5,
        suspect_after: float = 3.0,
        lost_after: float = 60.0,
        back_within: float = 3600.0,
        collect_within: float = A_DAY,
        batch_bytes: int = 1 << 20,
    ) -> None:
        super().__init__(mailbox, nursery, tick=tick)
        self._ledger = ledger
        self._client = nodes
        self._services = services
        self._rng = rng
        self._tell_sender = tell_sender
        self._name_of = name_of
        self._batch_bytes = batch_bytes
        self._collect_within = collect_within
        self._nodes: dict[str, NodeMirror] = {}
        self._tracked: dict[str, TrackedAttempt] = {}
        self._keys: dict[int, str] = {}
        self._sending: set[int] = set()
        self._cursor = LedgerCursor(ledger, tick)
        self._outbox = Outbox(ledger, tick)
        self._handed: dict[str, AttemptHanded] = {}
        self._unreleased: dict[str, Attempt] = {}
        self._unreleased_read = float("-inf")
        self._strangers: dict[str, str] = {}
        self._absences: dict[str, str | None] = {}
        self._ledger_backoff = LedgerBackoff(rng, log)
        self._liveness = LivenessMonitor(
            nursery,
            nodes,
            addresses=addresses,
            nodes=lambda: tuple(self._nodes.values()),
            hear=self._take,
            lost=self._lose,
            forget=self._forget,
            tell_sender=tell_sender,
            rng=rng,
            tick=tick,
            suspect_after=suspect_after,
            lost_after=lost_after,
            back_within=back_within,
        )

    # ------------------------------------------------------------------ life

    async def begin(self) -> None:
        for node_id, reason in (await self._ledger.absences()).items():
            node = self._node(node_id)
            node.left = node.expected = True
            node.trouble = reason
        for job in (await self._cursor.begin()).jobs:
            self._take_in(job)

    async def turn(self) -> None:
        now = trio.current_time()
        if self._liveness.look(now):
            self._stop_overdue()
        if self._ledger_backoff.lasts:
            return
        with self._ledger_backoff:
            if self._absences:
                await self._note_absences()
            await self._record(now)
            await self._cursor.catch_up(self._apply_read, now)
            if now >= self._unreleased_read + UNRELEASED_AGAIN:
                await self._read_unreleased()
            if self._strangers:
                await self._release_strangers()
            await self._record(now)

    def judge_urgency(self, message: object) -> Urgency:
        if isinstance(message, Committed) and not any(map(_is_news, message.jobs)):
            return Urgency.LATER
        return Urgency.TURN

    def receive(self, message: object) -> None:
        match message:
            case Committed(jobs=jobs):
                for job in self._cursor.newest(jobs):
                    self._take_in(job)
            case AttemptHanded(attempt=attempt):
                if (tracked := self._tracked.get(attempt.key)) is not None:
                    self._take_answer(tracked, message)
                    self._evaluate(tracked)
                else:
                    self._handed[attempt.key] = message
            case _:
                super().receive(message)

    # ------------------------------------------------------------------ what the ledger says

    async def _record(self, now: float) -> None:
        """Commit what was decided, until nothing more was decided meanwhile."""
        while self._outbox.is_due(now):
            for tracked, change, answer in await self._outbox.commit():
                if answer.outcome is ChangeResult.DONE:
                    self._note_done(tracked, change)
                elif tracked is not None and tracked.job == answer.job:
                    self._evaluate(tracked, refused=change)
                    continue
                if answer.job is not None:
                    self._apply(answer.job, again=True)
            # The news of this commit, of which all is known now.
            self.mailbox.take(self.receive, self.answer)

    async def _note_absences(self) -> None:
        while self._absences:
            node_id, reason = next(iter(self._absences.items()))
            await self._ledger.note_absence(node_id, reason)
            if self._absences.get(node_id) == reason:
                del self._absences[node_id]

    def _note_done(self, tracked: TrackedAttempt | None, change: Change) -> None:
        if isinstance(change, Transition) and tracked is not None and change.attempt_state is not None:
            self._add_unreleased(tracked.attempt)

    async def _read_unreleased(self) -> None:
        self._unreleased_read = trio.current_time()
        self._handed.clear()  # of attempts that were over before they were followed
        unreleased = await self._ledger.unreleased()
        released = self._outbox.released
        found = {attempt.key: attempt for attempt in unreleased if attempt.key not in released}
        for key in (
            self._unreleased.keys() - found.keys()
        ):  # its machine has ended: nobody is there to be told
            attempt = self._unreleased.pop(key)
            self._node(attempt.node_id).requests.release.drop(key)
        for attempt in found.values():
            self._add_unreleased(attempt)

    async def _release_strangers(self) -> None:
        """A node's picture may hold what it was told to let go of: its machine has lost that word, or the
        ledger its answer. What the ledger does not know is another's, or of a newer ledger, and stays."""
        strangers, self._strangers = self._strangers, {}
        states = await self._ledger.attempt_states(list(strangers))
        for key, node_id in strangers.items():
            # Given up: whoever was told that it has let go may have lost that before the ledger knows of it.
            if states.get(key, AttemptState.OPEN) is not AttemptState.OPEN:
                again = Attempt(key, 0, 0, node_id, AttemptState.OVER)
                self._node(node_id).requests.release.request(key, again)

    def _add_unreleased(self, attempt: Attempt) -> None:
        if attempt.key not in self._unreleased:
            self._unreleased[attempt.key] = attempt
            self._node(attempt.node_id).requests.release.request(attempt.key, attempt)

    def _apply(self, job: Job, *, again: bool = False) -> None:
        """Take one row in; rows may come twice, and an old one after a newer. `again` evaluates also a row
        that is known."""
        if self._cursor.is_new(job) or (again and self._is_tracked(job)):
            self._take_in(job)

    def _apply_read(self, job: Job) -> None:
        # What was told of it while it was read, or the node would be asked for what it has answered.
        self.mailbox.take(self.receive, self.answer)
        self._apply(job)

    def _is_tracked(self, job: Job) -> bool:
        tracked = self._tracked.get(self._keys.get(job.id, ""))
        return tracked is not None and tracked.job.change_seq == job.change_seq

    def _take_in(self, job: Job) -> None:
        attempt = job.attempt
        key = self._keys.get(job.id)
        if key is not None and (job.status not in ON_NODE or attempt is None or attempt.key != key):
            self._untrack(job.id, key)
        elif job.id in self._sending and job.status not in ON_NODE and job.status is not Status.PROCESSING:
            self._unreleased_read = float("-inf")  # the Sender may have left something to be released
            self.ring()
        if job.status is Status.PROCESSING and attempt is not None:
            self._sending.add(job.id)
            self._node(attempt.node_id)  # so that it is judged, for the Sender's sake
        else:
            self._sending.discard(job.id)
        if job.status in ON_NODE and attempt is not None:
            tracked = self._tracked.get(attempt.key)
            if tracked is None:
                tracked = self._track(job, attempt)
            tracked.job, tracked.attempt = job, attempt
            self._evaluate(tracked)

    def _track(self, job: Job, attempt: Attempt) -> TrackedAttempt:
        tracked = self._tracked[attempt.key] = TrackedAttempt(job, attempt)
        node = self._node(attempt.node_id)
        node.tracked[attempt.key] = tracked
        if (handed := self._handed.pop(attempt.key, None)) is not None:
            self._take_answer(tracked, handed)
        self._keys[job.id] = attempt.key
        self._follow(node)
        return tracked

    def _take_answer(self, tracked: TrackedAttempt, handed: AttemptHanded) -> None:
        """A node does not tell by its link what it has just answered that it has. It counts until there is a
        newer picture: what is missing there is asked for."""
        tracked.answered_at = handed.answered_at
        view, node = handed.view, self._nodes[tracked.attempt.node_id]
        if view is not None and view.key not in node.mirror and node.pictured_at < handed.answered_at:
            node.see(view)

    def _untrack(self, job_id: int, key: str) -> None:
        del self._keys[job_id]
        tracked = self._tracked.pop(key)
        node = self._nodes[tracked.attempt.node_id]
        node.tracked.pop(key, None)
        node.requests.drop(key)
        self._follow(node)

    def _follow(self, node: NodeMirror) -> None:
        if node.ref is not None and node.ref.contract_only:
            self._client.follow(node.node_id, [t.attempt for t in node.tracked.values()])

    # ------------------------------------------------------------------ deciding for one job

    def _evaluate(self, tracked: TrackedAttempt, refused: Change | None = None) -> None:
        """Do what this job needs now. A defect in here is this job's alone."""
        if tracked.recording or self._tracked.get(tracked.attempt.key) is not tracked:
            return
        node = self._nodes[tracked.attempt.node_id]
        try:
            step = reconcile(tracked, node, self._services.get(tracked.job.service))
        except Exception as error:
            log.error("job %d cannot be followed", tracked.job.id, exc_info=error)
            step = NextAction(failed(tracked, f"internal error: {error!r}"))
        view = node.mirror.get(tracked.attempt.key)
        if view is not None and view.end is not None and (step.change or view.key not in node.delivered):
            # Together with its end where that follows at once: then the next job's key goes into its commit.
            self._tell_sender(AttemptEnded(view.key, view.given_back))
        if step.change is not None and step.change == refused:
            # The ledger refuses what its own row asks for: a defect. It must not spin.
            log.error("job %d: the ledger refused %s", tracked.job.id, refused)
        elif step.change is not None:
            if view is not None and view.start_failed:
                # Before the job is queued again, or it would go there again.
                self._tell_sender(StartFailed(node.node_id, view.tell_trouble()))
            self._decide(tracked, step.change)
        key, requests = tracked.attempt.key, node.requests
        match step.need:
            case Need.LOOKUP:
                requests.lookup.request(key, tracked.attempt)
            case Need.CANCEL:
                requests.cancel.request(key, tracked.attempt)
            case Need.COLLECT if step.dispatch is not None:
                large = results_size(step.dispatch) > self._batch_bytes
                requests.bring_home(key, step.dispatch, delivered=key in node.delivered, large=large)

    def _decide(self, tracked: TrackedAttempt, change: Change) -> None:
        self._outbox.put(tracked, change)
        self.ring()

    # ------------------------------------------------------------------ what nodes say

    def _take(self, ref: NodeRef, event: NodeEvent) -> None:
        node = self._node(ref.node_id)
        if isinstance(event, Leaving):
            self._see_leaving(node, event)
            return
        if node.expected:
            self._expect(node, None)
        node.left = False
        back = not node.connected or node.ref != ref
        again = back or isinstance(event, Picture)
        if isinstance(event, Picture) and node.ref is not None and node.ref.boot == ref.boot:
            _tell_set_back(node, event)
        if node.lost:
            log.info("node %s is back", node.name, extra={"node": node.node_id})
        node.ref, node.heard, node.connected, node.lost = ref, trio.current_time(), True, False
        match event:
            case Picture(mark=mark, payloads=payloads, heartbeat=beat):
                node.mark, node.pictured_at = mark, node.heard
                node.mirror, node.beat = dict(payloads), beat
                node.delivered.clear()
                strange = payloads.keys() - node.tracked.keys() - self._unreleased.keys()
                self._strangers |= dict.fromkeys(strange, node.node_id)
                self.ring()
            case Beat(heartbeat=beat):
                # With fewer slots to have, what was about to start may have to wait after all.
                again |= (beat.slots, beat.others) != (node.beat.slots, node.beat.others)
                node.beat = beat
            case PayloadChanged(view=view, delivered=delivered):
                if delivered:
                    node.delivered.add(view.key)
                self._see(node, view)
            case PayloadGone(key=key):
                node.mirror.pop(key, None)
                self._find_gone(node, key, "the node no longer knows it")
        if isinstance(event, Picture | Beat):
            self._tell_sender(NodeSeen(replace(ref, tally=node.beat.tally), node.beat))
        if back:
            for batcher in node.requests.all:
                batcher.node_up(ref)
            self._follow(node)
        if again:
            self._reconsider(node)

    def _see(self, node: NodeMirror, view: PayloadView) -> None:
        node.see(view)
        if view.end is not None:
            node.requests.cancel.drop(view.key)
        if (tracked := node.tracked.get(view.key)) is not None:
            self._evaluate(tracked)

    def _find_gone(self, node: NodeMirror, key: str, reason: str) -> None:
        if (tracked := node.tracked.get(key)) is not None:
            tracked.gone = reason
            self._evaluate(tracked)

    def _see_leaving(self, node: NodeMirror, word: Leaving) -> None:
        """Its jobs are held for longer if it will be back: they run on there."""
        node.heard, node.left = trio.current_time(), True
        jobs = "1 job" if word.held == 1 else f"{word.held} jobs"
        node.trouble = "it was stopped" + (f" with {jobs} on it, and is to be back" if word.back else "")
        log.info("node %s has left: %s", node.name, node.trouble)
        if word.back:
            self._expect(node, node.trouble)

    def _expect(self, node: NodeMirror, reason: str | None) -> None:
        node.expected = reason is not None
        self._absences[node.node_id] = reason
        self.ring()

    def _lose(self, node: NodeMirror) -> None:
        if node.expected:
            self._expect(node, None)
        self._reconsider(node)

    def _reconsider(self, node: NodeMirror) -> None:
        for tracked in list(node.tracked.values()):
            self._evaluate(tracked)

    def _stop_overdue(self) -> None:
        """Contract-only nodes know no time limit: it is kept here, from when the run was first seen."""
        now = trio.current_time()
        for node in self._nodes.values():
            if node.ref is not None and node.ref.contract_only:
                for tracked in node.tracked.values():
                    if tracked.is_overdue(node, now):
                        node.requests.cancel.request(tracked.attempt.key, tracked.attempt)

    # ------------------------------------------------------------------ what nodes are asked

    def _node(self, node_id: str) -> NodeMirror:
        node = self._nodes.get(node_id)
        if node is None:
            node = self._nodes[node_id] = NodeMirror(
                node_id, trio.current_time(), self._make_requests(node_id), self._name_of
            )
        return node

    def _forget(self, node: NodeMirror) -> None:
        del self._nodes[node.node_id]
        for batcher in node.requests.all:
            batcher.end()

    def _make_requests(self, node_id: str) -> NodeRequests:
        def batcher(
            name: str,
            call: Callable[[NodeRef, Sequence[Item]], Awaitable[Sequence[Answer]]],
            on_answer: Callable[[NodeMirror, str, Item, Answer], bool],
            weigh: Callable[[Item], int] = lambda _: 0,
        ) -> RequestBatcher[Item, Answer]:
            return RequestBatcher(
                name,
                self.nursery,
                call=call,
                on_answer=lambda *answered: on_answer(self._node(node_id), *answered),
                on_defect=lambda key, _, error: self._on_defect(self._node(node_id), key, error),
                rng=self._rng,
                weigh=weigh,
                most_weight=self._batch_bytes,
            )

        client = self._client
        return NodeRequests(
            lookup=batcher("lookup", client.lookup, self._on_lookup),
            cancel=batcher("cancel", client.cancel, self._on_cancel),
            release=batcher("release", client.release, self._on_release),
            take=batcher("take", client.take_delivered, self._on_taken, results_size),
            collect=batcher("collect", client.collect, self._on_collect, results_size),
            collect_large=batcher("collect", client.collect, self._on_collect, results_size),
        )

    def _on_lookup(self, node: NodeMirror, key: str, attempt: Attempt, found: AttemptLookup) -> bool:
        match found.result:
            case LookupResult.FOUND if found.view is not None:
                self._see(node, found.view)
            case LookupResult.GONE:
                self._find_gone(node, key, "the node no longer has it")
            case LookupResult.TOMBSTONED:
                self._find_gone(node, key, "the node was told to forget it")
            case _:
                return False
        return True

    def _on_cancel(self, node: NodeMirror, key: str, attempt: Attempt, found: AttemptLookup) -> bool:
        match found.result:
            case LookupResult.FOUND if found.view is not None and (found.view.end or found.view.lost):
                self._see(node, found.view)
            case LookupResult.FOUND:
                return False  # it is being killed; told again until its end is
            case LookupResult.TOMBSTONED | LookupResult.GONE:
                self._find_gone(node, key, "nothing of it was on the node")
            case _:
                return False
        return True

    def _on_release(self, node: NodeMirror, key: str, attempt: Attempt, done: bool) -> bool:
        if done:
            node.mirror.pop(key, None)
            node.delivered.discard(key)
            # A picture that has it after all, as a machine may have lost the word, is of a stranger now.
            self._unreleased.pop(key, None)
            self._outbox.put(None, MoveAttempt(key, AttemptState.RELEASED, attempt.job_id))
        return done

    def _on_taken(self, node: NodeMirror, key: str, dispatch: Dispatch, answer: CollectAnswer) -> bool:
        if answer.result is CollectResult.STORED:
            return self._on_collect(node, key, dispatch, answer)
        node.delivered.discard(key)
        node.requests.take.drop(key)
        if (tracked := node.tracked.get(key)) is not None:
            self._evaluate(tracked)  # they are fetched
        return True

    def _on_collect(self, node: NodeMirror, key: str, dispatch: Dispatch, answer: CollectAnswer) -> bool:
        tracked = node.tracked.get(key)
        if tracked is None:
            return True
        match answer.result:
            case CollectResult.STORED:
                tracked.stored = answer
                self._evaluate(tracked)
            case CollectResult.GONE:
                self._find_gone(node, key, "its results are no longer on the node")
            case CollectResult.IMPOSSIBLE:
                tracked.impossible = answer.reason
                self._evaluate(tracked)
            case _ if self._is_in_vain(node, tracked, answer):
                tracked.impossible = f"they did not come within {self._collect_within:g} s: {answer.reason}"
                self._evaluate(tracked)
            case _:
                why = f"ended; its results are fetched again later: {answer.reason}"
                if not tracked.recording and tracked.job.message != why:
                    self._decide(tracked, SetMessage(dispatch.job.id, key, why))
                return False
        return True

    def _is_in_vain(self, node: NodeMirror, tracked: TrackedAttempt, answer: CollectAnswer) -> bool:
        """Whether the node has been asked for long enough. What lies with us, or with a node that is away,
        is waited for."""
        if answer.ours or not node.connected:
            tracked.uncollected_since = None
            return False
        now = trio.current_time()
        if tracked.uncollected_since is None:
            tracked.uncollected_since = now
        return now - tracked.uncollected_since >= self._collect_within

    def _on_defect(self, node: NodeMirror, key: str, error: Exception) -> None:
        if self._unreleased.pop(key, None) is not None:
            return  # read again from the ledger, and wanted again, in a while
        tracked = node.tracked.get(key)
        if tracked is not None and not tracked.recording:
            self._decide(tracked, failed(tracked, f"internal error: {error!r}"))


def _is_news(job: Job) -> bool:
    """Of one that has just come, or that the Sender sends, there is nothing to do yet."""
    if job.status is Status.QUEUED:
        return job.attempt is not None or job.updated_at != job.created_at
    return job.status is not Status.PROCESSING


def _tell_set_back(node: NodeMirror, picture: Picture) -> None:
    """See `NodeRef.has_forgotten`."""
    before, now = node.beat.tally, picture.heartbeat.tally
    if before is not None and now is not None and now.is_before(before):
        log.warning(
            "node %s was set back: it had taken over %d attempts and forgotten %d, now it is %d and %d. "
            "Was an older copy of its disk or its machine put back?",
            *(node.name, before.accepted, before.buried, now.accepted, now.buried),
        )
