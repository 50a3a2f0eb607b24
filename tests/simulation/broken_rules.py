"""Fifty rules, each broken on purpose: what shows that the simulation can fail."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from typing import Any
from unittest.mock import patch

import httpx
from simulation import agent
from simulation.agent import Agent
from simulation.clock import sleep
from simulation.node_disk import Files
from simulation.world import Faulty
from support.memory.memory_ledger import MemoryLedger

from actors.domain.changes import Change, NewJob, SetProgress, Transition
from actors.domain.job import Job, QueuedJobs, job_of
from actors.domain.node import NodeRef, NodeState, PayloadView, Tally
from actors.domain.payload import UNKNOWN, Payload, RunResult
from actors.domain.service import ServiceLimits
from actors.domain.status import Owner, Status
from actors.getter import getter, liveness, reconcile
from actors.ports.nodes import (
    CollectAnswer,
    CollectResult,
    Leaving,
    NodeEvent,
    Picture,
    SubmitAnswer,
    SubmitResult,
)
from actors.ports.payloads import Running
from actors.runner import Runner, _Watch
from actors.sender import dispatcher, sender
from actors.store.group_commit import SOFT_FOR
from node.executors.slurm import slurm_run
from node.executors.slurm.batch_system import OutOfReach
from node.executors.slurm.slurm_executor import SlurmExecutor
from node.executors.slurm.slurm_run import SlurmRun
from node.payloads import recovery
from node.payloads.records import StoredPayload
from orchestrator import http_client
from orchestrator.ledger import transitions as rules
from orchestrator.nodes.native import results
from orchestrator.scheduling.kept_slots import KeptSlots
from orchestrator.scheduling.queue_manager import QueueManager
from orchestrator.scheduling.service_pool import ServicePool


@dataclass(frozen=True)
class BrokenRule:
    """`seeds` are tried before the others: the first finds it as the code is now, and where that has changed
    what happens in a run, one of those behind it often does."""

    name: str
    faulty: Faulty = field(default_factory=Faulty)
    broken: Callable[[], AbstractContextManager[object]] = nullcontext
    seeds: tuple[int, ...] = (0,)


@contextmanager
def _slot_kept_when_lost() -> Iterator[None]:
    def unreserve(self: ServicePool, key: str) -> None:
        held_on = self._slots_held.get(key) if hasattr(self, "_slots_held") else None
        node = self._nodes.get(held_on or "")
        if node is None or node.contact is not NodeState.LOST:
            original(self, key)

    original = ServicePool.unreserve

    def reserve(self: ServicePool, key: str, node_id: str, service: str = "") -> None:
        self.__dict__.setdefault("_slots_held", {})[key] = node_id
        original_hold(self, key, node_id, service)

    original_hold = ServicePool.reserve

    async def never(self: sender.Sender) -> None:
        """Given-up attempts are never asked after."""

    with (
        patch.object(ServicePool, "unreserve", unreserve),
        patch.object(ServicePool, "reserve", reserve),
        patch.object(sender.Sender, "_free_given_up", never),
    ):
        yield


@contextmanager
def _requeued_when_ambiguous() -> Iterator[None]:
    original = dispatcher._verdict_on_submit

    def verdict(answer: SubmitAnswer, node: object, earlier_doubt: bool) -> dispatcher.Verdict | None:
        if answer.result is SubmitResult.DOUBT:
            return dispatcher.Verdict.NOT_THERE
        return original(answer, node, earlier_doubt)  # type: ignore[arg-type]

    with patch.object(dispatcher, "_verdict_on_submit", verdict):
        yield


@contextmanager
def _terminate_forgotten_at_hand_over() -> Iterator[None]:
    original = getter.reconcile

    def step(
        t: reconcile.TrackedAttempt, node: reconcile.NodeMirror, limits: ServiceLimits | None
    ) -> reconcile.NextAction:
        job = t.job
        if job.status in (Status.SUBMITTED, Status.PREPARED, Status.RUNNING):
            t.job = replace(job, terminate_requested=False)
        try:
            return original(t, node, limits)
        finally:
            t.job = job

    with patch.object(getter, "reconcile", step):
        yield


@contextmanager
def _absence_believed() -> Iterator[None]:
    original = getter.reconcile

    def step(
        t: reconcile.TrackedAttempt, node: reconcile.NodeMirror, limits: ServiceLimits | None
    ) -> reconcile.NextAction:
        if node.ref is not None and t.gone is None and t.attempt.key not in node.mirror and node.connected:
            t.gone = "it is not in the picture"
        return original(t, node, limits)

    with patch.object(getter, "reconcile", step):
        yield


@contextmanager
def _old_results_accepted() -> Iterator[None]:
    original = getter.Getter._take

    def take(self: getter.Getter, ref: NodeRef, event: NodeEvent) -> None:
        original(self, ref, event)
        if not isinstance(event, Picture):
            return
        for key, view in event.payloads.items():
            job_id = self._unreleased[key].job_id if key in self._unreleased else None
            tracked = self._tracked.get(self._keys.get(job_id or 0, ""))
            if tracked is not None and view.end is not None and not view.lost:
                tracked.stored = CollectAnswer(CollectResult.STORED, view.end)
                self._evaluate(tracked)

    with patch.object(getter.Getter, "_take", take):
        yield


@contextmanager
def _quota_in_memory_only() -> Iterator[None]:
    apply, fill = QueueManager.apply, QueueManager.fill

    def begin(self: QueueManager, queued: Sequence[QueuedJobs]) -> None:
        self.__dict__["_seen_queued"] = {job_of(order) for one in queued for order in one.orders}
        fill(self, queued)

    def apply_known(self: QueueManager, job: Job) -> None:
        known = self.__dict__["_seen_queued"]
        if job.status is Status.QUEUED or job.updated_at == job.created_at:
            known.add(job.id)
        if job.id in known:  # what went before this life began is not counted
            apply(self, job)

    with patch.multiple(QueueManager, fill=begin, apply=apply_known):
        yield


@contextmanager
def _last_word_unheard() -> Iterator[None]:
    original = reconcile._progress

    def progress(t: reconcile.TrackedAttempt, view: PayloadView) -> SetProgress | None:
        return original(t, view) if view.end is None else None

    with patch.object(reconcile, "_progress", progress):
        yield


@contextmanager
def _moved_by_the_getter() -> Iterator[None]:
    """It does not wait for the Sender to hand an attempt over that it sees on a node."""
    original = getter.Getter._take_in

    def take_in(self: getter.Getter, job: Job) -> None:
        original(self, job)
        key = "" if job.attempt is None else job.attempt.key
        if job.status is Status.PROCESSING and any(key in node.mirror for node in self._nodes.values()):
            move = Transition(
                job.id, job.status, Status.SUBMITTED, "seen there", key=key, spent=True, by=Owner.GETTER
            )
            self._outbox.put(None, move)

    with patch.object(getter.Getter, "_take_in", take_in):
        yield


@contextmanager
def _gone_on_purpose_is_dead() -> Iterator[None]:
    original = getter.Getter._see_leaving

    def see_leaving(self: getter.Getter, node: reconcile.NodeMirror, word: Leaving) -> None:
        original(self, node, replace(word, back=False))

    with patch.object(getter.Getter, "_see_leaving", see_leaving):
        yield


@contextmanager
def _unreadable_is_nothing() -> Iterator[None]:
    original = Agent._recover

    def recover(self: Agent, key: str, files: Files) -> None:
        if files.record is None:
            del self._disk.files[key]
        else:
            original(self, key, files)

    with patch.object(Agent, "_recover", recover):
        yield


@contextmanager
def _lost_before_it_has_ended() -> Iterator[None]:
    original = Agent.adopt

    async def adopt(self: Agent, payload: Payload) -> Running | RunResult:
        found = self._disk.files[payload.key].process
        if payload.owner == UNKNOWN and found is not None:
            return RunResult(unreadable=True)
        return await original(self, payload)

    with patch.object(Agent, "adopt", adopt):
        yield


@contextmanager
def _start_fenced_by_one_file() -> Iterator[None]:
    original = Files.is_intended

    def is_intended(self: Files) -> bool:
        if self.running is None:
            self.process = None
        return original(self)

    with patch.object(Files, "is_intended", is_intended):
        yield


@contextmanager
def _stall_waited_for() -> Iterator[None]:
    original = http_client.Reply.__init__

    def init(self: http_client.Reply, response: httpx.Response, stall: float | None) -> None:
        original(self, response, None)

    with patch.object(http_client.Reply, "__init__", init):
        yield


@contextmanager
def _in_vain(
    judge: Callable[[getter.Getter, reconcile.NodeMirror, reconcile.TrackedAttempt, CollectAnswer], bool],
) -> Iterator[None]:
    with patch.object(getter.Getter, "_is_in_vain", judge):
        yield


@contextmanager
def _soft(*targets: Status) -> Iterator[None]:
    original = rules.is_told_again

    def is_told_again(change: Change) -> bool:
        return original(change) or (isinstance(change, Transition) and change.target in targets)

    with patch.object(rules, "is_told_again", is_told_again):
        yield


@contextmanager
def _boot_unnoticed() -> Iterator[None]:
    with patch.object(dispatcher.NodeDispatcher, "_is_of_another_boot", lambda *_: False):
        yield


@contextmanager
def _unwritten_offered() -> Iterator[None]:
    original = recovery.take_up

    def take_up(item: StoredPayload, *, written: bool, **how: Any) -> Payload:
        return original(item, written=True, **how)

    with patch.object(agent, "take_up", take_up):
        yield


def _never_given_back() -> AbstractContextManager[object]:
    return patch.object(Runner, "_give_back", lambda _: None)


def _given_back_and_started() -> AbstractContextManager[object]:
    async def end_late(self: Runner, payload: Payload, give_back: bool) -> None:
        if give_back:
            self.nursery.start_soon(self._start, payload, _Watch(self._backoff()))
            await sleep(0.1)
        await original(self, payload, give_back)

    original = Runner._end_unstarted
    return patch.object(Runner, "_end_unstarted", end_late)


def _started_without_a_slot() -> AbstractContextManager[object]:
    return patch.object(Runner, "_free", lambda _: True)


@contextmanager
def _strangers_kept() -> Iterator[None]:
    async def never(self: getter.Getter) -> None:
        self._strangers.clear()

    with patch.object(getter.Getter, "_release_strangers", never):
        yield


@contextmanager
def _numbers_given_twice() -> Iterator[None]:
    original = MemoryLedger.cut

    def cut(self: MemoryLedger) -> None:
        original(self)
        self._seq = max((job.change_seq for job in self._jobs.values()), default=0)

    with patch.object(MemoryLedger, "cut", cut):
        yield


@contextmanager
def _copies_let_in() -> Iterator[None]:
    original = liveness.LivenessMonitor.__init__

    class Followers(dict[str, object]):
        def setdefault(self, key: str, default: object = None) -> object:
            self[key] = default
            return default

    def init(self: liveness.LivenessMonitor, *args: Any, **how: Any) -> None:
        original(self, *args, **how)
        self.__dict__["_followers"] = Followers()

    with patch.object(liveness.LivenessMonitor, "__init__", init):
        yield


@contextmanager
def _submitted_again_in_doubt() -> Iterator[None]:
    original = SlurmExecutor._submit

    async def submit(self: SlurmExecutor, run: SlurmRun) -> None:
        try:
            await original(self, run)
        except OutOfReach:
            await original(self, run)

    with patch.object(SlurmExecutor, "_submit", submit):
        yield


@contextmanager
def _first_attempt_soft() -> Iterator[None]:
    original = MemoryLedger.insert

    async def insert(self: MemoryLedger, job: NewJob) -> Job:
        before, since = self._hard, self._soft_since
        if before is None or self._clock.now() >= since + SOFT_FOR:
            before, since = self._state(), self._clock.now()
        stored = await original(self, job)
        if job.first is not None:
            self._hard, self._soft_since = before, since
        return stored

    with patch.object(MemoryLedger, "insert", insert):
        yield


@contextmanager
def _reserved_past_the_quotas() -> Iterator[None]:
    def admits(self: QueueManager, service: str, user_id: int) -> bool:
        return not self._service(service).rings

    with patch.object(QueueManager, "admits", admits):
        yield


@contextmanager
def _reserved_places_not_counted() -> Iterator[None]:
    with (
        patch.object(QueueManager, "reserve", lambda *_: None),
        patch.object(QueueManager, "unreserve", lambda *_: None),
    ):
        yield


@contextmanager
def _never_in_doubt() -> Iterator[None]:
    original = sender.Sender._settle

    def settle(self: sender.Sender, key: str) -> bool:
        original(self, key)
        return True

    with patch.object(sender.Sender, "_settle", settle):
        yield


_is_in_vain = getter.Getter._is_in_vain

RULES = (
    BrokenRule("no key on a submit", Faulty(no_key=True)),
    BrokenRule(
        "results of an old attempt accepted",
        Faulty(any_attempt=True),
        _old_results_accepted,
        seeds=(47, 22, 13),
    ),
    BrokenRule("a slot not freed when a node is lost", broken=_slot_kept_when_lost, seeds=(1,)),
    BrokenRule("a transition without its compare", Faulty(no_compare=True), seeds=(1,)),
    BrokenRule(
        "a state that is not left by its owner", Faulty(any_owner=True), _moved_by_the_getter, seeds=(10, 1)
    ),
    BrokenRule("a requeue after an ambiguous submit", broken=_requeued_when_ambiguous, seeds=(39, 28)),
    BrokenRule("terminate forgotten at a hand-over", broken=_terminate_forgotten_at_hand_over, seeds=(20,)),
    BrokenRule("absence believed from an old picture", broken=_absence_believed, seeds=(13, 12)),
    BrokenRule("a release forgotten over a restart", Faulty(release_forgotten=True)),
    BrokenRule("quota counted in memory only", broken=_quota_in_memory_only, seeds=(9,)),
    BrokenRule(
        "a slot that is kept given to another service",
        broken=lambda: patch.object(KeptSlots, "may_take", lambda *_: True),
        seeds=(5, 4),
    ),
    BrokenRule("what waits for a slot never given back", broken=_never_given_back, seeds=(16, 25, 36)),
    BrokenRule("an attempt that is given back started", broken=_given_back_and_started, seeds=(16, 25, 33)),
    BrokenRule("more started than there are slots", broken=_started_without_a_slot, seeds=(13,)),
    BrokenRule("a kill that trusts the first process", Faulty(kill_trusts_first_process=True)),
    BrokenRule("who goes on purpose taken for dead", broken=_gone_on_purpose_is_dead, seeds=(29,)),
    BrokenRule("an absence forgotten over a restart", Faulty(absence_forgotten=True), seeds=(8,)),
    BrokenRule("the last word of progress unheard at the end", broken=_last_word_unheard, seeds=(5,)),
    BrokenRule("a node that forgets what it cannot read", broken=_unreadable_is_nothing, seeds=(21, 25)),
    BrokenRule(
        "nobody's run told as lost before it has ended", broken=_lost_before_it_has_ended, seeds=(39, 25)
    ),
    BrokenRule("a start fenced by one file that may be lost", broken=_start_fenced_by_one_file, seeds=(41,)),
    BrokenRule("an end and a deletion that need room on the disk", Faulty(end_needs_room=True), seeds=(4,)),
    BrokenRule(
        "an attempt sent before its key is durable", broken=lambda: _soft(Status.PROCESSING), seeds=(1, 9)
    ),
    BrokenRule(
        "an end told before it is durable",
        broken=lambda: _soft(Status.COMPLETED, Status.FAILED, Status.KILLED),
        seeds=(27, 9),
    ),
    BrokenRule("a first attempt sent before its job is durable", broken=_first_attempt_soft, seeds=(9,)),
    BrokenRule(
        "a reservation kept when the job is not stored",
        broken=lambda: patch.object(sender.Sender, "_take_back", lambda _: None),
        seeds=(2,),
    ),
    BrokenRule("a reservation past the quotas", broken=_reserved_past_the_quotas),
    BrokenRule("a reserved place that does not count", broken=_reserved_places_not_counted, seeds=(14,)),
    BrokenRule(
        "an attempt of an earlier life taken for one that was not sent",
        broken=_never_in_doubt,
        seeds=(286, 669, 102),
    ),
    BrokenRule("numbers of changes given again after a power cut", broken=_numbers_given_twice, seeds=(4,)),
    BrokenRule(
        "an attempt in doubt sent to another boot", Faulty(any_boot=True), _boot_unnoticed, seeds=(22,)
    ),
    BrokenRule("an order for another boot taken", Faulty(any_boot=True), seeds=(144,)),
    BrokenRule("an end told in another boot without its mark", broken=_unwritten_offered, seeds=(5,)),
    BrokenRule(
        "who was set back taken for what it was",
        broken=lambda: patch.object(Tally, "is_before", lambda *_: False),
        seeds=(61, 37),
    ),
    BrokenRule("a copy of a node let in beside it", broken=_copies_let_in),
    BrokenRule("an order of an older link done", Faulty(no_fence=True), seeds=(98,)),
    BrokenRule("what was asked over another link done", Faulty(any_link=True), seeds=(143,)),
    BrokenRule(
        "what a node was told to forget not told again", broken=_strangers_kept, seeds=(46, 27, 37, 4)
    ),
    BrokenRule(
        "a batch job submitted again when the answer was lost", broken=_submitted_again_in_doubt, seeds=(97,)
    ),
    BrokenRule("a reused id taken for ours", Faulty(any_batch_id=True), seeds=(42,)),
    BrokenRule(
        "a forgotten id waited for for ever",
        broken=lambda: patch.object(SlurmRun, "forget", lambda _: None),
        seeds=(42,),
    ),
    BrokenRule(
        "what a batch system has forgotten taken for ended",
        broken=lambda: patch.object(slurm_run, "BEAT_PATIENCE", 0.0),
        seeds=(101, 89),
    ),
    BrokenRule("a batch job that begins again", Faulty(begins_again=True), seeds=(42,)),
    BrokenRule(
        "another boot told of what outlives the machine", Faulty(boot_told=True), seeds=(141, 50, 108)
    ),
    BrokenRule(
        "results that trickle waited for", broken=lambda: patch.object(http_client, "PACE", 0), seeds=(23, 13)
    ),
    BrokenRule("results that stall waited for", broken=_stall_waited_for, seeds=(23, 13)),
    BrokenRule("results without an end taken in", broken=lambda: patch.object(results, "UNTOLD", math.inf)),
    BrokenRule("results asked for for ever", broken=lambda: _in_vain(lambda *_: False)),
    BrokenRule("results given up at the first failure", broken=lambda: _in_vain(lambda *_: True)),
    BrokenRule(
        "a full disk of ours taken for the node's fault",
        broken=lambda: _in_vain(lambda g, n, t, answer: _is_in_vain(g, n, t, replace(answer, ours=False))),
        seeds=(54,),
    ),
)
