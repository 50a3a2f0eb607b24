"""The Getter by itself: what one node says, or does not say, and what becomes of its jobs. Mock clock."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager

import trio
from fakes.ledgers import SetClock, new_job
from fakes.memory_ledger import MemoryLedger
from trio.testing import MockClock

from actors.getter import Getter
from actors.ledger_port import Change, Move, Recorded
from actors.lifecycle import Status
from actors.messages import Committed
from actors.model import Attempt, End, Heartbeat, Job, Mark, NodeRef, PayloadView
from actors.ports import (
    Beat,
    CollectAnswer,
    CollectResult,
    Dispatch,
    Look,
    LookResult,
    NodeAddress,
    NodeEvent,
    PayloadChanged,
    Picture,
    ServiceLimits,
)

OWN = NodeRef("n", "http://n")
FOREIGN = NodeRef("f", "http://f", foreign=True)
DONE = End(Status.COMPLETED, "", exit_code=0)
KILLED = End(Status.KILLED, "killed")


class OneNode:
    """A node that says what a test tells it to say; remembers what it was asked."""

    def __init__(self, ref: NodeRef) -> None:
        self.ref = ref
        self.send, self.events = trio.open_memory_channel[NodeEvent | Exception](100)
        self.cancelled: list[float] = []
        self.watched: list[str] = []
        self.collects: list[CollectAnswer] = []
        self.cancel_answer = lambda attempt: Look(
            LookResult.FOUND, PayloadView(attempt.key, Status.RUNNING)
        )  # fmt: skip

    async def watch(self, address: NodeAddress, tell: Callable[[NodeRef, NodeEvent], None]) -> str:
        self.watched.append(address.url)
        if not self.ref.foreign:
            tell(self.ref, Picture(Mark("one", 0), {}, Heartbeat(slots=4)))
        while True:
            with trio.move_on_after(1.0):
                event = await self.events.receive()
                if isinstance(event, Exception):
                    raise event
                tell(self.ref, event)
                continue
            tell(self.ref, Beat(Heartbeat(slots=None if self.ref.foreign else 4)))

    async def cancel(self, node: NodeRef, attempts: Sequence[Attempt]) -> Sequence[Look]:
        await trio.lowlevel.checkpoint()
        self.cancelled.append(trio.current_time())
        return [self.cancel_answer(attempt) for attempt in attempts]

    async def collect(self, node: NodeRef, items: Sequence[Dispatch]) -> Sequence[CollectAnswer]:
        await trio.lowlevel.checkpoint()
        return [self.collects.pop(0) for _ in items]

    async def look(self, node: NodeRef, attempts: Sequence[Attempt]) -> Sequence[Look]:
        await trio.lowlevel.checkpoint()
        return [Look(LookResult.UNKNOWN)] * len(attempts)

    async def release(self, node: NodeRef, attempts: Sequence[Attempt]) -> Sequence[bool]:
        await trio.lowlevel.checkpoint()
        return [True] * len(attempts)

    def follow(self, node_id: str, attempts: Sequence[Attempt]) -> None:
        pass


class World:
    def __init__(self, ref: NodeRef) -> None:
        self.node = OneNode(ref)
        self.ledger = MemoryLedger(clock=SetClock())
        self.getter: Getter

    async def running(self, **more: object) -> Job:
        """A job that the node runs."""
        job = await self.ledger.insert(new_job(**more))  # type: ignore[arg-type]  # any field
        attempt = Attempt(f"{job.id:032x}", job.id, 1, self.node.ref.node_id)
        await self.record(Move(job.id, Status.QUEUED, Status.PROCESSING, "", attempt=attempt))
        row = await self.record(
            Move(job.id, Status.PROCESSING, Status.SUBMITTED, "", key=attempt.key, spent=True)
        )
        self.say(PayloadChanged(PayloadView(attempt.key, Status.RUNNING)))
        await trio.sleep(0.1)
        assert (await self.row(row)).status is Status.RUNNING
        return row

    async def record(self, change: Change) -> Job:
        (answer,) = await self.ledger.record([change])
        assert isinstance(answer, Recorded) and answer.job is not None
        self.getter.tell(Committed((answer.job,)))
        return answer.job

    async def terminate(self, job: Job) -> None:
        row = await self.ledger.request_terminate(job.id)
        assert row is not None
        self.getter.tell(Committed((row,)))

    async def row(self, job: Job) -> Job:
        row = await self.ledger.get(job.id)
        assert row is not None
        return row

    def say(self, event: NodeEvent | Exception) -> None:
        self.node.send.send_nowait(event)

    def ended(self, job: Job, end: End) -> None:
        assert job.attempt is not None
        self.say(PayloadChanged(PayloadView(job.attempt.key, end.status, end)))


@asynccontextmanager
async def world(ref: NodeRef = OWN, urls: Sequence[str] = ("http://n",)) -> AsyncIterator[World]:
    made = World(ref)
    addresses = tuple(NodeAddress(url, services=("example",)) for url in urls)
    made.getter = Getter(
        ledger=made.ledger,
        nodes=made.node,
        addresses=lambda: addresses,
        services={"example": ServiceLimits("example")},
        chance=random.Random(1),
        tell_sender=lambda message: None,
    )
    async with trio.open_nursery() as nursery:
        await nursery.start(made.getter.run)
        yield made
        nursery.cancel_scope.cancel()


async def test_an_order_to_stop_is_given_again_until_the_end_is_known(autojump_clock: MockClock) -> None:
    async with world(FOREIGN) as w:
        job = await w.running()
        await w.terminate(job)
        await trio.sleep(60)
        assert len(w.node.cancelled) > 5
        assert (await w.row(job)).status is Status.LOCKED
        w.node.collects = [CollectAnswer(CollectResult.STORED, KILLED)]
        w.ended(job, KILLED)
        await trio.sleep(1)
        asked = len(w.node.cancelled)
        assert (await w.row(job)).status is Status.KILLED
        await trio.sleep(60)
        assert len(w.node.cancelled) == asked


async def test_a_foreign_node_is_held_to_the_time_limit(autojump_clock: MockClock) -> None:
    async with world(FOREIGN) as w:
        job = await w.running(max_runtime=30.0)
        await trio.sleep(28)
        assert w.node.cancelled == []
        await trio.sleep(4)
        assert w.node.cancelled
        w.node.collects = [CollectAnswer(CollectResult.STORED, KILLED)]
        w.ended(job, KILLED)
        await trio.sleep(1)
        row = await w.row(job)
        assert (row.status, row.message) == (Status.FAILED, "timed out after 30 s")


async def test_results_that_can_never_be_had_end_the_job(autojump_clock: MockClock) -> None:
    async with world() as w:
        job = await w.running()
        w.node.collects = [
            CollectAnswer(CollectResult.FAILED, reason="connection torn"),
            CollectAnswer(CollectResult.IMPOSSIBLE, reason="a file differs from the manifest"),
        ]
        w.ended(job, DONE)
        await trio.sleep(5)
        row = await w.row(job)
        assert row.status is Status.FAILED
        assert row.message == "its results cannot be had: a file differs from the manifest"


async def test_why_results_are_not_here_yet_is_in_the_message(autojump_clock: MockClock) -> None:
    async with world() as w:
        job = await w.running()
        w.node.collects = [CollectAnswer(CollectResult.FAILED, reason="disk full")] * 1000
        w.ended(job, DONE)
        await trio.sleep(30)
        row = await w.row(job)
        assert row.status is Status.RUNNING and row.end == DONE
        assert "disk full" in row.message


async def test_what_brings_out_a_defect_in_one_watch_is_no_crash(autojump_clock: MockClock) -> None:
    async with world() as w:
        job = await w.running()
        w.say(ValueError("a node that says nonsense"))
        await trio.sleep(10)
        assert len(w.node.watched) == 2
        w.node.collects = [CollectAnswer(CollectResult.STORED, DONE)]
        w.ended(job, DONE)
        await trio.sleep(1)
        assert (await w.row(job)).status is Status.COMPLETED


async def test_one_node_at_two_addresses_is_followed_once(autojump_clock: MockClock) -> None:
    async with world(urls=("http://localhost:1", "http://127.0.0.1:1")) as w:
        await trio.sleep(100)
        first, second = (w.node.watched.count(url) for url in ("http://localhost:1", "http://127.0.0.1:1"))
        assert sorted((first, second))[0] == 1
        assert sorted((first, second))[1] <= 5
