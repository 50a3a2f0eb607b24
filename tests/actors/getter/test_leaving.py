"""Nodes that go on purpose: their jobs are held while they are expected back, and nobody warns of who has
left in order. Nor is one lost that we had no means to ask. Mock clock."""

from __future__ import annotations

import logging
import random
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial

import pytest
import trio
from support.data.ledgers import SetClock, by_owner, new_job
from support.memory.memory_ledger import MemoryLedger
from trio.testing import MockClock

from actors.domain.job import Attempt, Job
from actors.domain.node import Heartbeat, NodeAddress, NodeRef, PayloadView, StreamPosition
from actors.domain.service import ServiceLimits
from actors.domain.status import Status
from actors.getter.getter import Getter
from actors.kernel.actor import Mailbox, live
from actors.messages import Committed, NodeLost
from actors.ports.nodes import AttemptLookup, Leaving, LookupResult, NodeEvent, NoMeans, Picture

NODE = NodeRef("n", "http://n")
LOST_AFTER, BACK_WITHIN = 60.0, 600.0


@dataclass
class Node:
    """A node that runs `keys` and is there while `up`. Its last word is `word`, if it has any. While
    `unasked` nobody has the means to ask it."""

    keys: list[str] = field(default_factory=list)
    up: trio.Event = field(default_factory=trio.Event)
    down: trio.Event = field(default_factory=trio.Event)
    word: Leaving | None = None
    unasked: bool = False

    async def watch(self, address: NodeAddress, tell: Callable[[NodeRef, NodeEvent], None]) -> str:
        if self.unasked:
            raise NoMeans("Too many open files")
        await self.up.wait()
        while not self.down.is_set():
            views = {key: PayloadView(key, Status.RUNNING) for key in self.keys}
            tell(NODE, Picture(StreamPosition("one", 0), views, Heartbeat(slots=4)))
            with trio.move_on_after(1.0):
                await self.down.wait()
        if self.word is not None:
            tell(NODE, self.word)
        return "the stream ended"

    async def go(self, word: Leaving | None) -> None:
        self.word, self.up = word, trio.Event()
        self.down.set()
        await trio.sleep(0.1)

    def come(self) -> None:
        self.down = trio.Event()
        self.up.set()

    def follow(self, node_id: str, attempts: object) -> None:
        pass

    async def ask(self, node: NodeRef, attempts: Sequence[Attempt]) -> Sequence[AttemptLookup]:
        await trio.lowlevel.checkpoint()
        return [AttemptLookup(LookupResult.UNKNOWN)] * len(attempts)

    lookup = cancel = release = take_delivered = collect = ask


@dataclass
class House:
    nursery: trio.Nursery
    node: Node = field(default_factory=Node)
    ledger: MemoryLedger = field(default_factory=lambda: MemoryLedger(clock=SetClock()))
    addresses: tuple[NodeAddress, ...] = (NodeAddress("http://n", services=("example",)),)
    getter: Mailbox = field(default_factory=lambda: Mailbox("getter"))
    life: trio.CancelScope = field(default_factory=trio.CancelScope)
    told: list[object] = field(default_factory=list)
    """What the Sender heard."""

    async def start(self) -> None:
        """A life of the Getter; one that is there is killed."""
        self.life.cancel()
        scope = self.life = trio.CancelScope()
        self.getter = Mailbox("getter")
        make = partial(
            Getter,
            ledger=self.ledger,
            nodes=self.node,
            addresses=lambda: self.addresses,
            services={"example": ServiceLimits("example")},
            rng=random.Random(1),
            tell_sender=self.told.append,
            lost_after=LOST_AFTER,
            back_within=BACK_WITHIN,
        )

        async def one_life(task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
            with scope:
                await live(self.getter, make, task_status=task_status)

        await self.nursery.start(one_life)

    async def job(self) -> Job:
        job = await self.ledger.insert(new_job())
        attempt = Attempt(f"{job.id:032x}", job.id, 1, "n")
        self.node.keys.append(attempt.key)
        for change in (
            by_owner(job.id, Status.QUEUED, Status.PROCESSING, "", attempt=attempt),
            by_owner(job.id, Status.PROCESSING, Status.SUBMITTED, "", key=attempt.key, spent=True),
        ):
            (answer,) = await self.ledger.record([change])
            assert answer.job is not None
            self.getter.tell(Committed((answer.job,)))
        return answer.job

    async def status(self, job: Job) -> Status:
        row = await self.ledger.get(job.id)
        assert row is not None
        return row.status


@asynccontextmanager
async def house() -> AsyncIterator[House]:
    async with trio.open_nursery() as nursery:
        made = House(nursery)
        made.node.come()
        await made.start()
        yield made
        nursery.cancel_scope.cancel()


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [one.getMessage() for one in caplog.records if one.levelno >= logging.WARNING]


async def test_a_node_that_will_be_back_keeps_its_jobs_over_restarts_of_ours_too(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async with house() as it:
        job = await it.job()
        await trio.sleep(2.0)
        assert await it.status(job) is Status.RUNNING
        await it.node.go(Leaving(1, back=True))
        await trio.sleep(BACK_WITHIN - 10.0)
        await it.start()
        await trio.sleep(BACK_WITHIN - 10.0)
        assert (await it.status(job), warnings(caplog)) == (Status.RUNNING, [])
        it.node.come()
        await trio.sleep(2.0)
        assert await it.ledger.absences() == {}
        # This time it only dies.
        await it.node.go(None)
        await trio.sleep(LOST_AFTER + 2.0)
        assert await it.status(job) is Status.QUEUED
        assert warnings(caplog) == ["node n is lost: the stream ended"]


async def test_a_node_is_not_lost_for_want_of_means_to_ask_it(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async with house() as it:
        job = await it.job()
        await trio.sleep(2.0)
        it.node.unasked = True
        await it.node.go(None)
        await trio.sleep(LOST_AFTER * 3.5)
        assert await it.status(job) is Status.RUNNING
        assert 3 <= len(warnings(caplog)) <= 4  # one a minute
        it.node.unasked = False
        await trio.sleep(LOST_AFTER + 4.0)  # now it can be asked, and says nothing
        assert await it.status(job) is Status.QUEUED


async def test_a_node_that_does_not_come_back_is_lost_in_the_end(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async with house() as it:
        job = await it.job()
        await trio.sleep(2.0)
        await it.node.go(Leaving(1, back=True))
        await trio.sleep(BACK_WITHIN + 2.0)
        assert await it.status(job) is Status.QUEUED
        assert warnings(caplog) == ["node n is lost: it was stopped with 1 job on it, and is to be back"]
        assert NodeLost("n", "it was stopped with 1 job on it, and is to be back") in it.told
        assert await it.ledger.absences() == {}


async def test_a_node_that_leaves_with_nothing_is_let_go_without_a_warning(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async with house() as it:
        await trio.sleep(2.0)
        await it.node.go(Leaving(0, back=False))
        await trio.sleep(10 * BACK_WITHIN)
        assert (warnings(caplog), await it.ledger.absences()) == ([], {})


async def test_a_node_that_was_taken_off_is_let_go_without_a_warning(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async with house() as it:
        await trio.sleep(2.0)
        it.addresses = ()
        await trio.sleep(10 * BACK_WITHIN)
        assert warnings(caplog) == []


async def test_jobs_of_a_node_that_leaves_for_good_are_given_up_as_those_of_any_other(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    async with house() as it:
        job = await it.job()
        await trio.sleep(2.0)
        await it.node.go(Leaving(1, back=False))
        await trio.sleep(LOST_AFTER + 2.0)
        assert await it.status(job) is Status.QUEUED
        assert warnings(caplog) == ["node n is lost: it was stopped"]
        it.node.come()
        await trio.sleep(2.0)
        told = [one.getMessage() for one in caplog.records if getattr(one, "node", None) == "n"]
        assert told[-3:] == [
            "node n is lost: it was stopped",
            f"jobs of node n are begun anew or fail: {job.id}",
            "node n is back",
        ]
