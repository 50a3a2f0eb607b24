"""The Sender with a ledger in memory: how paused services reach it, and what becomes of queued jobs."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import trio
from support.data.ledgers import SetClock, by_owner, new_job, walk
from support.memory.memory_ledger import MemoryLedger
from trio.testing import MockClock, wait_all_tasks_blocked

from actors.domain.changes import Change, ChangeAnswer, Transition
from actors.domain.failure import Failure
from actors.domain.job import End, Job
from actors.domain.node import Heartbeat, NodeAddress, NodeRef, PayloadView
from actors.domain.service import ServiceLimits, WaitReason
from actors.domain.status import ENDED, Status
from actors.kernel.actor import Mailbox, live
from actors.messages import (
    AttemptEnded,
    AttemptHanded,
    Committed,
    NodeSeen,
    PoolPicture,
    ReserveFirst,
    ScalingPicture,
    ServicesPaused,
    SetServices,
    WhyWaiting,
)
from actors.ports.nodes import Dispatch, SubmitAnswer, SubmitResult
from actors.sender.sender import ASSIGN_AT_ONCE, Sender
from orchestrator.scheduling.queue_manager import QueueManager
from orchestrator.scheduling.service_pool import ServicePool

LIMITS = {"example": ServiceLimits("example")}


class PausingLedger(MemoryLedger):
    """One with rows of paused services."""

    def __init__(self) -> None:
        super().__init__(clock=SetClock())
        self.paused: dict[str, tuple[str, float]] = {}

    async def pauses(self) -> Mapping[str, tuple[str, float]]:
        await trio.lowlevel.checkpoint()
        return self.paused


async def test_a_pause_reaches_it_as_a_message_and_where_that_is_lost_as_a_row(
    autojump_clock: MockClock,
) -> None:
    ledger, sender = PausingLedger(), Mailbox("sender")
    make = partial(
        Sender,
        ledger=ledger,
        nodes=None,  # type: ignore[arg-type]  # nothing is sent
        services=LIMITS,
        rng=random.Random(1),
        hand_over=lambda message: None,
    )

    async def why() -> WaitReason:
        (waiting,) = await sender.ask(WhyWaiting((job,)), deadline=1.0)
        assert waiting is not None
        return waiting.reason

    def fresh(mailbox: Mailbox, nursery: trio.Nursery) -> Sender:
        return make(mailbox, nursery, queue=QueueManager(LIMITS), pool=ServicePool(LIMITS, random.Random(1)))

    ledger.paused = {"example": ("maintenance", 1.0)}
    async with trio.open_nursery() as nursery:
        await nursery.start(live, sender, fresh)
        job = await ledger.insert(new_job())
        sender.tell(Committed((job,)))
        assert await why() is WaitReason.PAUSED, "ordered before this life"
        ledger.paused = {}
        sender.tell(ServicesPaused({}))
        assert await why() is WaitReason.NO_NODE
        ledger.paused = {"example": ("maintenance", 1.0)}
        assert await why() is WaitReason.NO_NODE
        await trio.sleep(1.0)
        assert await why() is WaitReason.PAUSED, "read with the tick"
        nursery.cancel_scope.cancel()


class CountingLedger(MemoryLedger):
    """One that tells how many changes came at once."""

    def __init__(self) -> None:
        super().__init__(clock=SetClock())
        self.sizes: list[int] = []

    async def record(self, changes: Sequence[Change]) -> Sequence[ChangeAnswer]:
        self.sizes.append(len(changes))
        return await super().record(changes)


def make_sender(
    ledger: MemoryLedger,
    limits: Mapping[str, ServiceLimits],
    nodes: Any = None,
    hand_over: Callable[[AttemptHanded], None] = lambda message: None,
) -> Callable[..., Sender]:
    """`nodes` None: nothing is sent."""

    def make(mailbox: Mailbox, nursery: trio.Nursery) -> Sender:
        queue = QueueManager(limits)
        return Sender(
            mailbox,
            nursery,
            ledger=ledger,
            nodes=nodes,
            queue=queue,
            pool=ServicePool(limits, random.Random(1), going=queue.going),
            services=limits,
            rng=random.Random(1),
            hand_over=hand_over,
        )

    return make


async def test_jobs_of_a_service_that_is_gone_wait_with_that_reason(autojump_clock: MockClock) -> None:
    """Gone before this life, or while it lasts; and they go on when it is back."""
    ledger, sender = CountingLedger(), Mailbox("sender")
    gone, stays = await ledger.insert(new_job(service="gone")), await ledger.insert(new_job())

    async def why(*jobs: Job) -> list[tuple[WaitReason, str]]:
        found = await sender.ask(WhyWaiting(jobs), deadline=1.0)
        return [(one.reason, one.message) for one in found if one is not None]

    async with trio.open_nursery() as nursery:
        await nursery.start(live, sender, make_sender(ledger, LIMITS))
        await trio.sleep(5.0)
        no_service = "waits: there is no service {} any more; ask the operator"
        no_node = "waits for a node of service {}: service {} has no node yet"
        told = [(WaitReason.NO_NODE, no_service.format("gone"))]
        assert await why(gone, stays) == [*told, (WaitReason.NO_NODE, no_node.format("example", "example"))]
        await sender.ask(SetServices({"gone": ServiceLimits("gone")}), deadline=1.0)
        assert await why(gone, stays) == [
            (WaitReason.NO_NODE, no_node.format("gone", "gone")),
            (WaitReason.NO_NODE, no_service.format("example")),
        ]
        nursery.cancel_scope.cancel()
    assert [await ledger.get(job.id) for job in (gone, stays)] == [gone, stays]


async def test_a_job_that_waits_for_slots_that_are_kept_says_so(autojump_clock: MockClock) -> None:
    """And scaling is told that these slots are none for it."""
    ledger, sender = CountingLedger(), Mailbox("sender")
    address = (NodeAddress("http://n:1"),)
    limits = {name: ServiceLimits(name, addresses=address) for name in ("example", "dock")}
    keeping = limits | {"dock": replace(limits["dock"], keep_slots=2)}
    job = await ledger.insert(new_job())
    async with trio.open_nursery() as nursery:
        await nursery.start(live, sender, make_sender(ledger, keeping))
        sender.tell(NodeSeen(NodeRef("n" * 32, "http://n:1"), Heartbeat(slots=2)))
        await trio.sleep(5.0)
        (why,) = await sender.ask(WhyWaiting((job,)), deadline=1.0)
        assert why is not None and why.reason is WaitReason.KEPT
        assert why.message == "waits: the free slots are kept for dock; it goes next"
        view = await sender.ask(ScalingPicture("example"), deadline=1.0)
        assert (view.runnable, view.kept, view.nodes[0].free) == (1, 2, 2)
        assert (await sender.ask(ScalingPicture("dock"), deadline=1.0)).kept == 0
        nursery.cancel_scope.cancel()


async def test_queued_jobs_that_are_to_end_do_so_some_at_a_time(autojump_clock: MockClock) -> None:
    """Also where one of them has ended already, and its row says nothing new."""
    ledger, sender, many = CountingLedger(), Mailbox("sender"), 2 * ASSIGN_AT_ONCE + 5
    for number in range(many):
        await ledger.insert(new_job())
        await ledger.request_terminate(number + 1)
    over, stays = await ledger.insert(new_job()), await ledger.insert(new_job())
    await ledger.record([by_owner(over.id, Status.QUEUED, Status.KILLED, "by somebody else")])
    ledger.sizes.clear()
    make = make_sender(ledger, LIMITS)

    def late(mailbox: Mailbox, nursery: trio.Nursery) -> Sender:
        one = make(mailbox, nursery)
        one._doomed[over.id] = by_owner(over.id, Status.QUEUED, Status.KILLED, "")
        return one

    async with trio.open_nursery() as nursery:
        await nursery.start(live, sender, late)
        await trio.sleep(30.0)
        nursery.cancel_scope.cancel()
    assert max(ledger.sizes) == ASSIGN_AT_ONCE and len(ledger.sizes) <= 4
    assert [job.status for job in await ended(ledger)] == [Status.KILLED] * (many + 1)
    assert await ledger.get(stays.id) == stays


async def ended(ledger: MemoryLedger) -> list[Job]:
    return [job for job in await ledger.changes(0, 10_000) if job.status in ENDED]


async def test_a_job_has_waited_since_it_came_or_came_back(autojump_clock: MockClock) -> None:
    ledger, sender = MemoryLedger(clock=SetClock()), Mailbox("sender")

    async def oldest() -> float:
        return (await sender.ask(ScalingPicture("example"), deadline=1.0)).oldest_wait

    async with trio.open_nursery() as nursery:
        first = await ledger.insert(new_job())
        await nursery.start(live, sender, make_sender(ledger, LIMITS))
        await trio.sleep(10.0)
        second = await ledger.insert(new_job())
        sender.tell(Committed((second,)))
        await trio.sleep(10.0)
        assert await oldest() == pytest.approx(20.0)
        await walk(ledger, first, Status.PROCESSING)
        await trio.sleep(1.0)
        assert await oldest() == pytest.approx(11.0)
        nursery.cancel_scope.cancel()


class Unable:
    """A node that takes each attempt, and says with its answer that it could not start it."""

    async def submit(self, node: NodeRef, items: Sequence[Dispatch]) -> Sequence[SubmitAnswer]:
        await trio.lowlevel.checkpoint()
        end = End(Status.FAILED, "could not be started: no bash", failure=Failure.NODE)
        return [
            SubmitAnswer(SubmitResult.HAS, view=PayloadView(one.attempt.key, end.status, end, lost=True))
            for one in items
        ]


async def test_a_node_that_cannot_start_jobs_gets_one_from_time_to_time_and_the_others_wait(
    autojump_clock: MockClock,
) -> None:
    ledger, sender = CountingLedger(), Mailbox("sender")
    limits = {"example": ServiceLimits("example", addresses=(NodeAddress("http://n:1"),))}
    jobs = [await ledger.insert(new_job()) for _ in range(10)]

    async def is_there(seconds: float) -> None:
        for _ in range(int(seconds)):
            sender.tell(NodeSeen(NodeRef("n" * 32, "http://n:1"), Heartbeat(slots=1)))
            await trio.sleep(1.0)

    async with trio.open_nursery() as nursery:
        await nursery.start(live, sender, make_sender(ledger, limits, Unable()))
        await is_there(5.0)
        (view,) = await sender.ask(PoolPicture(), deadline=1.0)
        assert view.set_aside is not None and "a job could not be started: no bash" in view.set_aside
        first = await ledger.get(jobs[0].id)
        assert first is not None and (first.status, first.attempts_used) == (Status.QUEUED, 1)
        await is_there(3600.0)
        nursery.cancel_scope.cancel()
    lost = await ended(ledger)
    assert 1 <= len(lost) <= 4, "an hour cost no more"
    for job in lost:
        assert (job.status, job.failure, job.attempts_used) == (Status.FAILED, Failure.NODE, 3)
        assert job.message.endswith("it could not be started: no bash; it was attempt 3 of 3")


class Returning:
    """A node that has no slot for the first attempt, and takes what comes then."""

    def __init__(self) -> None:
        self.keys: list[str] = []

    async def submit(self, node: NodeRef, items: Sequence[Dispatch]) -> Sequence[SubmitAnswer]:
        await trio.lowlevel.checkpoint()
        views = []
        for one in items:
            self.keys.append(one.attempt.key)
            end = End(Status.FAILED, "no slot", failure=Failure.NOT_RUN) if len(self.keys) == 1 else None
            status = Status.PREPARED if end is None else end.status
            views.append(PayloadView(one.attempt.key, status, end, lost=end is not None))
        return [SubmitAnswer(SubmitResult.HAS, view=view) for view in views]


async def test_what_a_node_gives_back_with_its_answer_is_queued_again_and_no_attempt(
    autojump_clock: MockClock,
) -> None:
    ledger, sender, node = CountingLedger(), Mailbox("sender"), Returning()
    limits = {
        "example": ServiceLimits("example", max_attempts=1, addresses=(NodeAddress("http://n:1"),)),
    }
    job = await ledger.insert(new_job())
    async with trio.open_nursery() as nursery:
        await nursery.start(live, sender, make_sender(ledger, limits, node))
        sender.tell(NodeSeen(NodeRef("n" * 32, "http://n:1"), Heartbeat(slots=1)))
        await trio.sleep(5.0)
        nursery.cancel_scope.cancel()
    assert len(set(node.keys)) == 2
    row = await ledger.get(job.id)
    assert row is not None and (row.status, row.attempts_used) == (Status.SUBMITTED, 1)
    said = [entry.reason for entry in await ledger.history(job.id)]
    assert f"waits: node {'n' * 32} had no slot for it in time" in said


class Full:
    """A node that has no slot for any attempt, though it says that it has one."""

    def __init__(self) -> None:
        self.asked = 0

    async def submit(self, node: NodeRef, items: Sequence[Dispatch]) -> Sequence[SubmitAnswer]:
        self.asked += 1
        await trio.sleep(1.0)
        end = End(Status.FAILED, "no slot", failure=Failure.NOT_RUN)
        views = [PayloadView(one.attempt.key, end.status, end, lost=True) for one in items]
        return [SubmitAnswer(SubmitResult.HAS, view=view) for view in views]


async def test_a_node_that_gives_back_what_should_have_had_a_slot_is_asked_less_and_less_often(
    autojump_clock: MockClock,
) -> None:
    """As one on which payloads of ours run that a restored ledger does not know."""
    ledger, sender, node = CountingLedger(), Mailbox("sender"), Full()
    limits = {"example": ServiceLimits("example", addresses=(NodeAddress("http://n:1"),))}
    job = await ledger.insert(new_job())
    async with trio.open_nursery() as nursery:
        await nursery.start(live, sender, make_sender(ledger, limits, node))
        for _ in range(1000):
            sender.tell(NodeSeen(NodeRef("n" * 32, "http://n:1"), Heartbeat(slots=1)))
            await trio.sleep(1.0)
        nursery.cancel_scope.cancel()
    row = await ledger.get(job.id)
    assert row is not None and row.attempts_used == 0
    assert 1000 / 60 < node.asked < 40


class Taking:
    """A node that takes each attempt."""

    async def submit(self, node: NodeRef, items: Sequence[Dispatch]) -> Sequence[SubmitAnswer]:
        await trio.lowlevel.checkpoint()
        return [
            SubmitAnswer(SubmitResult.HAS, view=PayloadView(one.attempt.key, Status.PREPARED))
            for one in items
        ]


async def test_what_a_node_has_is_handed_over_before_it_is_recorded(autojump_clock: MockClock) -> None:
    """Or the Getter would hear of the job first, and ask the node for it."""
    handed: list[str] = []
    recorded = trio.Event()

    class Watching(MemoryLedger):
        async def record(self, changes: Sequence[Change]) -> Sequence[ChangeAnswer]:
            for change in changes:
                if isinstance(change, Transition) and change.target is Status.SUBMITTED:
                    assert handed == [change.key]
                    recorded.set()
            return await super().record(changes)

    ledger, sender = Watching(clock=SetClock()), Mailbox("sender")
    limits = {"example": ServiceLimits("example", addresses=(NodeAddress("http://n:1"),))}
    await ledger.insert(new_job())
    make = make_sender(ledger, limits, Taking(), lambda message: handed.append(message.attempt.key))
    async with trio.open_nursery() as nursery:
        await nursery.start(live, sender, make)
        sender.tell(NodeSeen(NodeRef("n" * 32, "http://n:1"), Heartbeat(slots=1)))
        await recorded.wait()
        nursery.cancel_scope.cancel()


async def test_what_leaves_room_is_acted_on_at_once_where_a_job_waits_and_else_left(
    autojump_clock: MockClock,
) -> None:
    ledger, sender = MemoryLedger(clock=SetClock()), Mailbox("sender")
    limits = {"example": ServiceLimits("example", addresses=(NodeAddress("http://n:1"),))}
    first, second = [await ledger.insert(new_job()) for _ in range(2)]

    async def key_of(job: Job) -> str:
        row = await ledger.get(job.id)
        assert row is not None and row.status is Status.SUBMITTED and row.attempt is not None
        return row.attempt.key

    async with trio.open_nursery() as nursery:
        await nursery.start(live, sender, make_sender(ledger, limits, Taking()))
        sender.tell(NodeSeen(NodeRef("n" * 32, "http://n:1"), Heartbeat(slots=1)))
        await wait_all_tasks_blocked()
        now = trio.current_time()
        sender.tell(AttemptEnded(await key_of(first)))
        await wait_all_tasks_blocked()
        ended = AttemptEnded(await key_of(second))
        assert trio.current_time() == now, "no tick was waited for"
        sender.tell(ended)
        await wait_all_tasks_blocked()
        assert sender.waiting == 1
        assert sender.ask_now(ReserveFirst("example", 1, "")) is not None, "the slot is known to be free"
        nursery.cancel_scope.cancel()
