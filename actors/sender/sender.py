"""The Sender: takes queued jobs, within the quotas, to nodes with a free slot.

It owns Queued and Processing, the queue and the service pool. Each turn it reads the rows that changed, and
assigns: the attempt with its key is committed together with Processing, before a byte is sent. The sending
itself is done by one `NodeDispatcher` a node (see `actors/sender/dispatcher.py`), which answers here what
became of each attempt:

- the node has it: Submitted, and the Getter owns the job;
- certain that the node does not have it: Queued again, no attempt spent, the node given nothing for a while;
- in doubt: the attempt stays with its node and key, slot and quota held, and is sent again under the same key
  until the node answers or is lost.

A job that comes when nothing waits and a slot is free has its attempt from here before it is stored, see
`actors/sender/reservations.py`: it is sent once its row is seen.

All of it can be rebuilt from the ledger: a job found in Processing at the start is a job in doubt.

Of a queued job nothing is here but its id, in the queue: its row is read by the commit that lets it go, or
that ends it.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import islice
from typing import Final

import trio

from actors.domain.changes import ChangeAnswer, ChangeResult, FirstAttempt, Transition
from actors.domain.job import Attempt, AttemptState, Job, QueuedJobs, job_of
from actors.domain.node import JoinedNode, NodeRef
from actors.domain.queue_excerpt import ForecastView
from actors.domain.requeue import requeue_lost, requeue_or_fail
from actors.domain.scaling import ScalingView
from actors.domain.service import ServiceLimits, Waiting, WaitReason
from actors.domain.status import Owner, Status
from actors.kernel.actor import Actor, ActorError, Mailbox, Question, Urgency
from actors.kernel.complaint import Complaint
from actors.ledger_cursor import LedgerBackoff, LedgerCursor
from actors.messages import (
    AttemptEnded,
    AttemptHanded,
    BacklogPicture,
    Committed,
    DrainNode,
    ForecastPicture,
    NodeLost,
    NodeSeen,
    NodeSuspect,
    NodeUnreached,
    PoolPicture,
    ReserveFirst,
    ScalingPicture,
    ServicesPaused,
    SetServices,
    StartFailed,
    UndrainNode,
    WhyWaiting,
)
from actors.ports.ledger import Ledger, LedgerError
from actors.ports.nodes import Dispatch, Nodes
from actors.ports.scheduling import Pool, Queue
from actors.ports.world import Random
from actors.sender.arrivals import Arrivals
from actors.sender.dispatcher import DispatchResult, NodeDispatcher, Verdict
from actors.sender.reservations import Reservation, Reservations

log: Final = logging.getLogger("orchestrator.sender")

ASSIGN_AT_ONCE: Final = 256
"""Jobs that one commit takes to Processing, or ends because they cannot run."""


class Sender(Actor):
    """See the module. `hand_over` is told of each attempt that a node has, before that is recorded; `queue`
    and `pool` are empty, as each life begins from the ledger; `members` are the nodes that have joined by
    themselves, another object when they change; `name_of` a node's id is what people are told. `reservations`
    outlasts each life; without it nobody asks for any."""

    def __init__(
        self,
        mailbox: Mailbox,
        nursery: trio.Nursery,
        *,
        ledger: Ledger,
        nodes: Nodes,
        queue: Queue,
        pool: Pool,
        services: Mapping[str, ServiceLimits],
        rng: Random,
        hand_over: Callable[[AttemptHanded], None],
        members: Callable[[], Sequence[JoinedNode]] = tuple,
        name_of: Callable[[str], str] = str,
        reservations: Reservations | None = None,
        tick: float = 0.5,
        batch_bytes: int = 1 << 20,
    ) -> None:
        super().__init__(mailbox, nursery, tick=tick)
        self._reservations = Reservations(mailbox) if reservations is None else reservations
        self._reserved: set[str] = set()
        """Keys of reservations that are counted here."""
        self._ledger = ledger
        self._nodes = nodes
        self._queue = queue
        self._pool = pool
        self._services = services
        self._static = _addresses_of(services)
        self._rng = rng
        self._hand_over = hand_over
        self._batch_bytes = batch_bytes
        self._members = members
        self._members_seen: Sequence[JoinedNode] | None = None
        self._name_of = name_of
        self._arrivals = Arrivals(tick)
        self._back: dict[int, float] = {}
        """Since when those wait that came back from their way."""
        self._cursor = LedgerCursor(ledger, tick)
        self._doomed: dict[int, Transition] = {}
        self._keys: dict[int, str] = {}
        self._given_up: set[str] = set()
        self._given_up_read = float("-inf")
        self._dispatchers: dict[str, NodeDispatcher] = {}
        self._ledger_backoff = LedgerBackoff(rng, log)
        self._complaint = Complaint(log)

    # ------------------------------------------------------------------ life

    async def begin(self) -> None:
        self._sync()
        await self._read_pauses()
        live = await self._cursor.begin(queued=True)
        for attempt in await self._ledger.unreleased():
            if attempt.state is AttemptState.GIVEN_UP:
                self._given_up.add(attempt.key)
                self._pool.reserve(attempt.key, attempt.node_id)
        self._fill(live.queued)
        for key, one in self._reservations.out.items():
            self._hold(key, one)
        now = trio.current_time()
        for job in live.jobs:
            self._take_in(job, now)

    def _fill(self, queued: Sequence[QueuedJobs]) -> None:
        self._arrivals.note(max((job_of(one.orders[-1]) for one in queued), default=0), trio.current_time())
        self._queue.fill(queued)

    async def turn(self) -> None:
        now = trio.current_time()
        self._sync()
        if self._reserved:
            self._take_back()
        with self._ledger_backoff:
            if await self._cursor.catch_up(self._apply, now):
                await self._read_pauses()
            if self._doomed:
                await self._end_the_unwanted()
            if self._given_up:
                await self._free_given_up()
            if not self._queue.is_empty():
                await self._assign()

    # ------------------------------------------------------------------ mail

    def receive(self, message: object) -> None:
        match message:
            case Committed(jobs=jobs):
                now = trio.current_time()
                for job in self._cursor.newest(jobs):
                    self._take_in(job, now)
            case ServicesPaused(reasons=reasons):
                self._queue.set_pauses(reasons)
            case NodeSeen(node=node, heartbeat=heartbeat):
                self._pool.seen(node, heartbeat, trio.current_time())
                if dispatcher := self._dispatchers.get(node.node_id):
                    dispatcher.node_seen(node)
            case NodeSuspect(node_id=node_id, reason=reason):
                self._pool.suspect(node_id, reason)
            case NodeUnreached(address=address, reason=reason):
                if address.url in self._static:  # one that joined is known already, or has left
                    self._pool.unreached(address, reason, trio.current_time())
            case AttemptEnded(key=key, given_back=True):
                self._pool.given_back(key, trio.current_time())
            case AttemptEnded(key=key):
                self._pool.ended(key)
            case StartFailed(node_id=node_id, reason=reason):
                self._pool.start_failed(node_id, reason, trio.current_time())
            case NodeLost(node_id=node_id, reason=reason):
                self._pool.lost(node_id, reason)
                if dispatcher := self._dispatchers.get(node_id):
                    dispatcher.node_lost(f"node {self._name_of(node_id)} is lost: {reason}")
            case _:
                super().receive(message)

    def judge_urgency(self, message: object) -> Urgency:
        """Where nothing waits, what leaves room for other jobs is no work, and what is to be sent goes to its
        dispatcher as it is taken in."""
        match message:
            case Committed(jobs=jobs) if self._queue.is_empty():
                statuses = set({job.id: job.status for job in jobs}.values())
                if Status.QUEUED in statuses:
                    return Urgency.TURN
                return Urgency.TAKING if Status.PROCESSING in statuses else Urgency.LATER
            case AttemptEnded() if self._queue.is_empty():
                return Urgency.LATER
            case _:
                return Urgency.TURN

    def _sync(self) -> None:
        members = self._members()
        if members is not self._members_seen:
            self._members_seen = members
            self._pool.sync(members, trio.current_time())

    def answer(self, question: Question[object]) -> object:
        self._sync()
        match question:
            case WhyWaiting(jobs=jobs):
                return tuple(self._why(job) for job in jobs)
            case PoolPicture():
                return self._pool.views(trio.current_time())
            case ReserveFirst(service=service, user_id=user_id, requires=requires):
                return self._reserve_first(service, user_id, requires)
            case BacklogPicture(most=most):
                return self._queue.backlog(most)
            case ForecastPicture(service=service, most=most):
                return self._forecast_view(service, most)
            case ScalingPicture(service=service):
                return self._scaling_view(service)
            case DrainNode(node_id=node_id, reason=reason):
                return self._pool.drain(node_id, reason, trio.current_time())
            case UndrainNode(node_id=node_id):
                return self._pool.undrain(node_id)
            case SetServices(services=services):
                self._set_services(services)
                return None
            case _:
                return super().answer(question)

    def _set_services(self, services: Mapping[str, ServiceLimits]) -> None:
        self._services, self._static = services, _addresses_of(services)
        self._queue.set_limits(services)
        self._pool.set_limits(services)

    def _why(self, job: Job) -> Waiting | None:
        any_node = self._pool.any_node(job.service, job.requires)
        free = any_node and self._pool.choose(job.service, job.requires) is not None
        kept_for = self._pool.kept_for(job.service, job.requires) if any_node and not free else ()
        waiting = self._queue.explain_wait(job, free_slots=free, any_node=any_node, kept_for=kept_for)
        served = job.service in self._services
        if waiting is not None and waiting.reason is WaitReason.NO_NODE and served and not job.requires:
            return replace(waiting, message=f"{waiting.message}: {self._pool.why_none(job.service)}")
        return waiting

    def _forecast_view(self, service: str, most: int) -> ForecastView:
        nodes = self._pool.views(trio.current_time())
        together, more = {service}, True
        while more:
            reached = {name for node in nodes if together & {*node.services} for name in node.services}
            more = not reached <= together
            together |= reached
        return ForecastView(self._queue.excerpt(together, most), nodes)

    def _scaling_view(self, service: str) -> ScalingView:
        now = trio.current_time()
        demand = self._queue.demand(service, self._pool.machines_fit(service))
        oldest = min((self._since(job_id, now) for job_id in demand.first), default=now)
        return ScalingView(
            demand.runnable,
            now - oldest,
            demand.running,
            self._pool.facts(service, now),
            self._pool.count_kept(service),
        )

    def _since(self, job_id: int, now: float) -> float:
        return self._back.get(job_id, self._arrivals.since(job_id, now))

    # ------------------------------------------------------------------ what the ledger says

    def _apply(self, job: Job) -> None:
        """Take one row in. Rows may come twice, and an old one after a newer."""
        if self._cursor.is_new(job):
            self._take_in(job, trio.current_time())

    def _take_in(self, job: Job, now: float) -> None:
        attempt = job.attempt
        unsent = attempt is not None and self._settle(attempt.key)
        self._queue.apply(job)
        if self._doomed:
            self._doomed.pop(job.id, None)
        if job.status is not Status.QUEUED:
            if self._back:
                self._back.pop(job.id, None)
        else:
            if job.id in self._keys:
                self._back[job.id] = now
            self._arrivals.note(job.id, now)
            if job.terminate_requested:
                self._doomed[job.id] = Transition(
                    job.id, Status.QUEUED, Status.KILLED, "terminated before it began", by=Owner.SENDER
                )
                self.ring()
        self._reserve_slot(job)
        self._pool.apply(job, now)
        if job.status is Status.PROCESSING and attempt is not None:
            dispatcher = self._dispatcher(attempt.node_id)
            # What no dispatcher knows was sent, or not, by an earlier life: it is in doubt.
            dispatcher.put(Dispatch(attempt, job), doubt=not unsent)
            if job.terminate_requested:
                dispatcher.cancel(attempt.key)

    def _reserve_slot(self, job: Job) -> None:
        """An attempt holds its slot until its node has said how it ended (the pool knows), or its end is
        known; a given-up one until its node lets go of it."""
        attempt = job.attempt if job.counts else None
        key = self._keys.get(job.id)
        if attempt is not None and attempt.key == key:
            return
        if key is not None:
            del self._keys[job.id]
            if job.end is None:
                self._given_up.add(key)  # perhaps: `_free_given_up` asks the ledger
                self._given_up_read = float("-inf")
                self.ring()
            else:
                self._pool.unreserve(key)
        if attempt is not None:
            self._keys[job.id] = attempt.key
            self._pool.reserve(attempt.key, attempt.node_id, job.service)

    async def _read_pauses(self) -> None:
        """They come as messages too; one that was dropped is made up for here."""
        self._queue.set_pauses({name: why for name, (why, _) in (await self._ledger.pauses()).items()})

    async def _free_given_up(self) -> None:
        if trio.current_time() < self._given_up_read + self.tick:
            return
        self._given_up_read = trio.current_time()
        unreleased = {a.key for a in await self._ledger.unreleased() if a.state is AttemptState.GIVEN_UP}
        for key in self._given_up - unreleased:
            self._pool.unreserve(key)
        self._given_up &= unreleased

    async def _end_the_unwanted(self) -> None:
        """Some of the queued jobs that somebody wants stopped."""
        ends = list(islice(self._doomed.values(), ASSIGN_AT_ONCE))
        await self._record(ends)
        for end in ends:
            if self._doomed.get(end.job_id) is end:
                del self._doomed[end.job_id]
        if self._doomed:
            self.ring()

    # ------------------------------------------------------------------ assigning

    async def _assign(self) -> None:
        if self._ledger_backoff.lasts:
            return
        while moves := self._next_moves():
            try:
                recorded = await self._ledger.record(moves)
            except LedgerError:
                for move in moves:
                    self._unreserve(move)
                raise
            for move, answer in zip(moves, recorded, strict=True):
                job = answer.job
                if job is None:
                    raise ActorError(f"job {move.job_id} is queued here and unknown to the ledger")
                if answer.outcome is ChangeResult.DONE and job.attempt is not None:
                    self._dispatcher(job.attempt.node_id).put(Dispatch(job.attempt, job), doubt=False)
                else:
                    self._unreserve(move)
                self._apply(job)
            # What was ordered meanwhile holds for the next ones.
            self.mailbox.take(self.receive, self.answer)

    def _next_moves(self) -> list[Transition]:
        moves: list[Transition] = []
        for service in self._queue.services():
            turns = deque(self._queue.requirements(service))
            while turns and len(moves) < ASSIGN_AT_ONCE:
                requires = turns.popleft()
                if (move := self._next_move(service, requires)) is not None:
                    moves.append(move)
                    turns.append(requires)
        return moves

    def _next_move(self, service: str, requires: str) -> Transition | None:
        if self._queue.next(service, requires) is None:
            return None
        node = self._pool.choose(service, requires)
        job_id = None if node is None else self._queue.take(service, requires)
        if job_id is None or node is None:
            return None
        first = self._new_attempt(node)
        self._pool.reserve(first.attempt.key, node.node_id, service)
        return first.begin(job_id)

    def _new_attempt(self, node: NodeRef) -> FirstAttempt:
        key = f"{self._rng.getrandbits(128):032x}"
        attempt = Attempt(key, 0, 0, node.node_id, boot=node.moment)
        return FirstAttempt(attempt, f"sent to node {self._name_of(node.node_id)}")

    def _unreserve(self, move: Transition) -> None:
        assert move.attempt is not None
        self._queue.give_back(move.job_id)
        self._pool.unreserve(move.attempt.key)

    # ------------------------------------------------------------------ jobs that are just being stored

    def _reserve_first(self, service: str, user_id: int, requires: str) -> FirstAttempt | None:
        if self._ledger_backoff.lasts or not self._queue.admits(service, user_id):
            return None
        node = self._pool.choose(service, requires)
        if node is None:
            return None
        first = self._new_attempt(node)
        key = first.attempt.key
        one = Reservation(node.node_id, service, user_id)
        self._hold(key, one)
        self._reservations.out[key] = one
        return first

    def _hold(self, key: str, one: Reservation) -> None:
        self._reserved.add(key)
        self._queue.reserve(key, one.service, one.user_id)
        self._pool.reserve(key, one.node_id, one.service)

    def _settle(self, key: str) -> bool:
        """The row that has this attempt is here. Whether it was reserved: then nothing of it was sent."""
        if key not in self._reserved:
            return False
        self._reserved.remove(key)
        self._queue.unreserve(key)
        return self._reservations.out.pop(key, None) is not None

    def _take_back(self) -> None:
        """What was reserved for jobs that were not stored."""
        for key in self._reserved - self._reservations.out.keys():
            self._reserved.remove(key)
            self._queue.unreserve(key)
            self._pool.unreserve(key)

    # ------------------------------------------------------------------ what became of it

    def _dispatcher(self, node_id: str) -> NodeDispatcher:
        dispatcher = self._dispatchers.get(node_id)
        if dispatcher is None:
            dispatcher = self._dispatchers[node_id] = NodeDispatcher(
                node_id,
                nodes=self._nodes,
                ref=self._pool.ref(node_id),
                on_results=self._record_results,
                rng=self._rng,
                batch_bytes=self._batch_bytes,
                name_of=self._name_of,
            )
            self.nursery.start_soon(dispatcher.run)
        return dispatcher

    async def _record_results(self, results: Sequence[DispatchResult]) -> Sequence[bool]:
        """Record what became of attempts. False for what could not be recorded now."""
        for s in results:
            if s.verdict is Verdict.HAS and s.view is not None and s.view.start_failed:
                self._pool.start_failed(
                    s.dispatch.attempt.node_id, s.view.tell_trouble(), trio.current_time()
                )
            if s.verdict is Verdict.HAS and s.view is not None and s.view.given_back:
                self._pool.given_back(s.dispatch.attempt.key, trio.current_time())
        moves = [self._move_for(s) for s in results]
        for s, move in zip(results, moves, strict=True):
            if move.target is Status.SUBMITTED and s.node is not None:
                # Before the Getter hears that it is its own now: else it would ask the node.
                self._hand_over(AttemptHanded(s.dispatch.attempt, s.found_at, s.view))
        try:
            recorded = await self._record(moves)
        except LedgerError as error:
            self._complaint.say("what became of %d attempts is recorded later: %s", len(moves), error)
            return [False] * len(moves)
        for s in results:
            if s.verdict is Verdict.NOT_THERE:
                self._pool.back_off(s.dispatch.attempt.node_id, s.reason, trio.current_time())
                self.ring()
            elif s.node is not None and (s.view is None or not s.view.given_back):
                self._pool.took(s.node.node_id)
        return [_is_done_with(move, answer) for move, answer in zip(moves, recorded, strict=True)]

    def _move_for(self, s: DispatchResult) -> Transition:
        job, key = s.dispatch.job, s.dispatch.attempt.key
        limits = self._services.get(job.service)
        name = self._name_of(s.dispatch.attempt.node_id)
        retried = partial(requeue_or_fail, job, limits, by=Owner.SENDER, spent=True)

        def move(
            target: Status, reason: str, state: AttemptState | None, *, spent: bool = False
        ) -> Transition:
            return Transition(
                job.id,
                Status.PROCESSING,
                target,
                reason,
                key=key,
                attempt_state=state,
                foreign_id=s.foreign_id,
                spent=spent,
                by=Owner.SENDER,
            )

        untold = AttemptState.OVER if s.sent else AttemptState.RELEASED
        match s.verdict:
            case Verdict.HAS if s.view is not None and s.view.lost:
                return requeue_lost(job, limits, s.view, name, by=Owner.SENDER, spent=True)
            case Verdict.HAS:
                reason = f"node {name} has it"
                return move(Status.SUBMITTED, reason, None, spent=True)
            case Verdict.NOT_THERE:
                return move(Status.QUEUED, f"waits: {s.reason}", AttemptState.RELEASED)
            case Verdict.TOMBSTONED:
                return move(Status.QUEUED, "waits: the node was told to forget this attempt", untold)
            case Verdict.REFUSED:
                return move(Status.FAILED, s.reason, untold)
            case Verdict.KILLED:
                return move(Status.KILLED, s.reason or "terminated before it ran", untold)
            case Verdict.GONE:
                return retried(s.reason, state=AttemptState.OVER)
            case Verdict.LOST if not s.sent:
                return move(Status.QUEUED, f"waits: {s.reason}", AttemptState.RELEASED)
            case Verdict.LOST:
                return retried(s.reason, state=AttemptState.GIVEN_UP)
            case Verdict.UNKNOWABLE:
                again = limits is not None and limits.on_doubt == "resend"
                reason = (
                    f"the node's answer was lost ({s.reason}), and it cannot be asked whether it runs the job"
                )
                return retried(reason, state=AttemptState.OVER, retry=again)

    async def _record(self, moves: Sequence[Transition]) -> Sequence[ChangeAnswer]:
        recorded = await self._ledger.record(moves)
        for answer in recorded:
            if answer.job is not None:
                self._apply(answer.job)
        return recorded


def _addresses_of(services: Mapping[str, ServiceLimits]) -> set[str]:
    return {address.url for limits in services.values() for address in limits.addresses}


def _is_done_with(move: Transition, answer: ChangeAnswer) -> bool:
    """Whether the attempt is no longer the Sender's: a move refused because termination was ordered meanwhile
    leaves it in Processing."""
    job = answer.job
    still_ours = (
        job is not None
        and job.status is Status.PROCESSING
        and job.attempt is not None
        and job.attempt.key == move.key
    )
    return answer.outcome is ChangeResult.DONE or not still_ours
