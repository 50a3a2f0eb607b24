"""First attempts of jobs that are just being stored: what the Sender gives, holds, takes back and sends."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest
import trio
import trio.testing
from support.data.ledgers import SetClock, new_job
from support.memory.memory_ledger import MemoryLedger
from trio.testing import MockClock

from actors.domain.changes import JobDetails, NewJob
from actors.domain.job import AttemptState, Job
from actors.domain.node import Heartbeat, NodeAddress, NodeRef
from actors.domain.service import ServiceLimits
from actors.domain.status import Status
from actors.kernel.actor import Mailbox, live
from actors.messages import Committed, DrainNode, NodeLost, NodeSeen, PoolPicture, ServicesPaused
from actors.ports.ledger import LedgerError
from actors.ports.nodes import Dispatch, SubmitAnswer
from actors.sender.reservations import Reservations
from actors.sender.sender import Sender
from orchestrator.scheduling.queue_manager import QueueManager
from orchestrator.scheduling.service_pool import ServicePool

ADDRESS = (NodeAddress("http://n:1"),)
LIMITS = {"example": ServiceLimits("example", runs_per_user=2, max_runs=3, addresses=ADDRESS)}
NODE = NodeRef("n" * 32, "http://n:1", boot="b")


class Nodes:
    """Remembers what it is sent, and never answers."""

    def __init__(self) -> None:
        self.sent: list[str] = []

    async def submit(self, node: NodeRef, items: Sequence[Dispatch]) -> Sequence[SubmitAnswer]:
        self.sent += [one.attempt.key for one in items]
        await trio.sleep_forever()
        raise AssertionError


class Orchestrator:
    """The Sender in one life after the other, and a portal. `insert` stores, and tells the Sender as the
    server does."""

    def __init__(self, nursery: trio.Nursery, limits: dict[str, ServiceLimits] | None = None) -> None:
        self.limits = LIMITS if limits is None else limits
        self.ledger = MemoryLedger(clock=SetClock())
        self.mailbox = Mailbox("sender")
        self.reservations = Reservations(self.mailbox)
        self.nodes = Nodes()
        self.tells = True
        self.sender: Sender | None = None
        self._nursery = nursery
        self._life = trio.CancelScope()

    def _make(self, mailbox: Mailbox, nursery: trio.Nursery) -> Sender:
        queue = QueueManager(self.limits)
        self.sender = Sender(
            mailbox,
            nursery,
            ledger=self.ledger,
            nodes=self.nodes,  # type: ignore[arg-type]  # nothing else is asked of it
            queue=queue,
            pool=ServicePool(self.limits, random.Random(1), going=queue.going),
            services=self.limits,
            rng=random.Random(len(self.nodes.sent)),
            hand_over=lambda message: None,
            reservations=self.reservations,
        )
        return self.sender

    async def begin_life(self, slots: int | None = 2) -> None:
        """Another one, which sees the node if it has `slots`."""
        self._life.cancel()
        self._life = trio.CancelScope()

        async def run(*, task_status: trio.TaskStatus[None]) -> None:
            with self._life:
                await live(self.mailbox, self._make, task_status=task_status)

        await self._nursery.start(run)
        if slots is not None:
            self.tell(NodeSeen(NODE, Heartbeat(slots=slots)))
        await trio.testing.wait_all_tasks_blocked()

    def tell(self, message: object) -> None:
        self.mailbox.tell(message)

    async def insert(self, job: NewJob) -> Job:
        stored = await self.ledger.insert(job)
        if self.tells:
            self.tell(Committed((stored,)))
        return stored

    async def upload(self, **more: Any) -> Job:
        job = await self.reservations.store(new_job(**more), self.insert)
        await trio.testing.wait_all_tasks_blocked()
        return job

    async def held(self) -> int:
        (view,) = await self.mailbox.ask(PoolPicture(), deadline=1.0)
        return view.held

    def going(self) -> int:
        assert self.sender is not None
        queue = self.sender._queue
        assert isinstance(queue, QueueManager)
        return queue.going("example")


@asynccontextmanager
async def orchestrator(
    limits: dict[str, ServiceLimits] | None = None, slots: int | None = 2
) -> AsyncIterator[Orchestrator]:
    async with trio.open_nursery() as nursery:
        one = Orchestrator(nursery, limits)
        await one.begin_life(slots)
        yield one
        nursery.cancel_scope.cancel()


class Storing:
    """An insertion that is under way until it is told how it ends."""

    def __init__(self, one: Orchestrator, nursery: trio.Nursery, **more: Any) -> None:
        self.job: Job | None = None
        self.given: NewJob | None = None
        self.error: BaseException | None = None
        self.scope = trio.CancelScope()
        self._one = one
        self._goes_on = trio.Event()
        self._ended = trio.Event()
        self._how: Callable[[], None] = lambda: None
        nursery.start_soon(self._run, new_job(**more))

    async def _run(self, job: NewJob) -> None:
        with self.scope:
            try:
                self.job = await self._one.reservations.store(job, self._insert)
            except LedgerError as error:
                self.error = error
        self._ended.set()

    async def _insert(self, job: NewJob) -> Job:
        self.given = job
        await self._goes_on.wait()
        self._how()
        return await self._one.insert(job)

    @property
    def is_reserved(self) -> bool:
        return self.given is not None and self.given.first is not None

    async def end(self, how: Callable[[], None] = lambda: None) -> None:
        self._how = how
        self._goes_on.set()
        await self._ended.wait()
        await trio.testing.wait_all_tasks_blocked()


async def storing_for(one: Orchestrator, nursery: trio.Nursery, *users: int) -> list[Storing]:
    """Insertions of these users, one after the other."""
    begun = []
    for user in users:
        begun.append(Storing(one, nursery, user=user))
        await trio.testing.wait_all_tasks_blocked()
    return begun


def fail() -> None:
    raise LedgerError("disk full")


async def test_where_nothing_waits_a_job_is_stored_with_its_first_attempt_and_sent_at_once() -> None:
    async with orchestrator() as one:
        job = await one.upload()
        assert job.status is Status.PROCESSING and job.attempt is not None
        assert (job.attempt.n, job.attempt.node_id, job.attempt.boot) == (1, NODE.node_id, NODE.moment)
        assert job.message == f"sent to node {NODE.node_id}"
        assert one.nodes.sent == [job.attempt.key]
        assert one.reservations.out == {}
        assert (await one.held(), one.going()) == (1, 1)


async def test_nothing_is_sent_before_the_row_is_committed() -> None:
    async with orchestrator() as one, trio.open_nursery() as nursery:
        storing = Storing(one, nursery)
        await trio.testing.wait_all_tasks_blocked()
        assert storing.is_reserved
        assert (await one.held(), one.going()) == (1, 1), "slot and quota count from now on"
        assert one.nodes.sent == []
        await storing.end()
        assert storing.job is not None and storing.job.attempt is not None
        assert one.nodes.sent == [storing.job.attempt.key]


async def test_reservations_keep_to_the_quotas_and_to_the_slots() -> None:
    async with orchestrator(slots=9) as one, trio.open_nursery() as nursery:
        storing = await storing_for(one, nursery, 7, 7, 7, 8)
        # The third is one too many of its user, and none goes before one that has to wait.
        assert [each.is_reserved for each in storing] == [True, True, False, False]
        for each in storing:
            await each.end()
        rows = [await one.ledger.get(job_id) for job_id in (1, 2, 3, 4)]
        going = [job.user_id for job in rows if job is not None and job.status is Status.PROCESSING]
        assert sorted(going) == [7, 7, 8]
        assert (await one.held(), one.going()) == (3, 3)
    async with orchestrator(slots=9) as one, trio.open_nursery() as nursery:
        storing = await storing_for(one, nursery, 1, 2, 3, 4)
        assert [each.is_reserved for each in storing] == [True, True, True, False], "the service's quota"
        for each in storing:
            await each.end()
        assert (await one.held(), one.going()) == (3, 3)
    async with orchestrator(slots=1) as one, trio.open_nursery() as nursery:
        storing = await storing_for(one, nursery, 7, 8)
        assert [each.is_reserved for each in storing] == [True, False]
        for each in storing:
            await each.end()
        assert len(one.nodes.sent) == 1


async def test_none_is_given_past_a_job_that_waits() -> None:
    gpu = JobDetails(requires={"gpu": ""})
    async with orchestrator() as one:
        waits = await one.upload(details=gpu)
        assert waits.status is Status.QUEUED
        stored: list[NewJob] = []

        async def insert(job: NewJob) -> Job:
            stored.append(job)
            return await one.insert(job)

        await one.reservations.store(new_job(user=8), insert)
        assert [job.first for job in stored] == [None]
        await trio.testing.wait_all_tasks_blocked()
        assert len(one.nodes.sent) == 1, "it goes all the same"


async def test_none_is_given_for_what_the_node_lacks_nor_where_the_service_is_paused_or_unknown() -> None:
    async with orchestrator() as one:
        assert (await one.upload(service="other")).status is Status.QUEUED
        one.tell(ServicesPaused({"example": "maintenance"}))
        await trio.testing.wait_all_tasks_blocked()
        paused = await one.upload()
        assert paused.status is Status.QUEUED
        assert one.nodes.sent == []
        assert one.reservations.out == {}


@pytest.mark.parametrize("order", [DrainNode(NODE.node_id, "repair"), NodeLost(NODE.node_id, "silent")])
async def test_none_is_given_on_a_node_that_takes_no_jobs(order: object) -> None:
    async with orchestrator() as one:
        if isinstance(order, DrainNode):
            assert await one.mailbox.ask(order, deadline=1.0)
        else:
            one.tell(order)
        await trio.testing.wait_all_tasks_blocked()
        assert (await one.upload()).status is Status.QUEUED
        assert one.nodes.sent == []


async def test_slots_that_are_kept_for_others_are_none_for_a_reservation() -> None:
    keeping = LIMITS | {"dock": ServiceLimits("dock", keep_slots=2, addresses=ADDRESS)}
    async with orchestrator(keeping) as one:
        assert (await one.upload()).status is Status.QUEUED
        assert (await one.upload(service="dock")).status is Status.PROCESSING


async def test_a_sender_that_has_something_to_do_gives_none() -> None:
    async with orchestrator() as one:
        one.tell(ServicesPaused({}))
        job = await one.reservations.store(new_job(), one.insert)
        assert job.status is Status.QUEUED
        await trio.testing.wait_all_tasks_blocked()
        assert len(one.nodes.sent) == 1


@pytest.mark.parametrize("how", ["fails", "cancelled"])
async def test_what_is_not_stored_gives_its_attempt_back(how: str) -> None:
    async with orchestrator(slots=1) as one, trio.open_nursery() as nursery:
        storing = Storing(one, nursery)
        await trio.testing.wait_all_tasks_blocked()
        waits = await one.upload(user=8)
        assert waits.status is Status.QUEUED and one.nodes.sent == []
        if how == "fails":
            await storing.end(fail)
            assert storing.error is not None
        else:
            storing.scope.cancel()
            await trio.testing.wait_all_tasks_blocked()
        assert one.reservations.out == {}
        assert (await one.held(), one.going()) == (1, 1), "the job that waited has it"
        assert len(one.nodes.sent) == 1


async def test_a_job_that_was_there_already_gives_the_attempt_back() -> None:
    async with orchestrator(slots=4) as one:
        first = await one.upload(idempotency_key="k", fingerprint="f")
        again = await one.upload(idempotency_key="k", fingerprint="f")
        assert again.id == first.id and first.attempt is not None
        assert (await one.held(), one.going()) == (1, 1)
        assert one.nodes.sent == [first.attempt.key]


async def test_a_row_that_no_message_tells_is_found_and_sent(autojump_clock: MockClock) -> None:
    async with orchestrator() as one:
        one.tells = False
        job = await one.reservations.store(new_job(), one.insert)
        await trio.sleep(2.0)
        assert job.attempt is not None and one.nodes.sent == [job.attempt.key]
        assert (await one.held(), one.going()) == (1, 1)


async def test_a_life_that_begins_counts_what_an_earlier_one_has_reserved() -> None:
    """Its insertion is under way; committed later, it is no attempt in doubt: nothing of it was sent."""
    limits = {"example": replace(LIMITS["example"], runs_per_user=1)}
    async with orchestrator(limits, slots=1) as one, trio.open_nursery() as nursery:
        storing = Storing(one, nursery)
        await trio.testing.wait_all_tasks_blocked()
        await one.begin_life(slots=2)
        assert (await one.held(), one.going()) == (1, 1)
        assert (await one.upload()).status is Status.QUEUED, "its user is at the quota"
        await storing.end()
        assert storing.job is not None and storing.job.attempt is not None
        assert one.nodes.sent == [storing.job.attempt.key]
        assert one.reservations.out == {}
        assert (await one.held(), one.going()) == (1, 1)


async def test_a_life_that_begins_holds_nothing_of_what_failed_before_it() -> None:
    async with orchestrator(slots=1) as one, trio.open_nursery() as nursery:
        storing = Storing(one, nursery)
        await trio.testing.wait_all_tasks_blocked()
        one._life.cancel()
        await storing.end(fail)
        await one.begin_life(slots=1)
        assert (await one.held(), one.going()) == (0, 0)
        assert (await one.upload()).status is Status.PROCESSING


async def test_a_row_that_was_committed_between_two_lives_is_sent_and_one_of_another_process_is_in_doubt(
    autojump_clock: MockClock,
) -> None:
    """Where the boot of the node is another one meanwhile, that tells them apart: the first waits again and
    has cost no attempt, the other one may have run."""
    for same_process in (True, False):
        async with orchestrator() as one:
            one._life.cancel()
            await trio.testing.wait_all_tasks_blocked()
            await one.begin_life()
            async with trio.open_nursery() as nursery:
                storing = Storing(one, nursery)
                await trio.testing.wait_all_tasks_blocked()
                one._life.cancel()
                await trio.testing.wait_all_tasks_blocked()
                await storing.end()
            assert storing.job is not None and storing.job.attempt is not None
            assert one.nodes.sent == []
            if not same_process:
                one.reservations.out.clear()
            await one.begin_life(slots=None)
            one.tell(NodeSeen(replace(NODE, boot="another"), Heartbeat(slots=2)))
            await trio.sleep(3.0)
            (first, *_) = await one.ledger.attempts(1)
            assert first.key == storing.job.attempt.key and first.key not in one.nodes.sent
            row = await one.ledger.get(1)
            assert row is not None and row.attempts_used == (0 if same_process else 1)
            assert first.state is (AttemptState.RELEASED if same_process else AttemptState.OVER)


async def test_a_node_that_is_lost_before_the_commit_is_not_sent_the_attempt_and_it_costs_none(
    autojump_clock: MockClock,
) -> None:
    async with orchestrator() as one:
        before = await one.upload(user=9)  # so that the node has its dispatcher
        async with trio.open_nursery() as nursery:
            storing = Storing(one, nursery)
            await trio.testing.wait_all_tasks_blocked()
            one.tell(NodeLost(NODE.node_id, "silent"))
            await trio.testing.wait_all_tasks_blocked()
            await storing.end()
        assert storing.job is not None and storing.job.attempt is not None and before.attempt is not None
        await trio.sleep(3.0)
        assert one.nodes.sent == [before.attempt.key]
        row = await one.ledger.get(storing.job.id)
        assert row is not None and (row.status, row.attempts_used) == (Status.QUEUED, 0)
        (first,) = await one.ledger.attempts(storing.job.id)
        assert first.state is AttemptState.RELEASED


async def test_an_order_to_terminate_that_comes_before_the_row_is_seen_ends_the_job_unsent(
    autojump_clock: MockClock,
) -> None:
    async with orchestrator() as one:
        one.tells = False
        job = await one.reservations.store(new_job(), one.insert)
        ordered = await one.ledger.request_terminate(job.id)
        assert ordered is not None
        one.tell(Committed((ordered,)))
        await trio.sleep(3.0)
        row = await one.ledger.get(job.id)
        assert row is not None and row.status is Status.KILLED
        assert row.message == "terminated before it was sent"
        assert one.nodes.sent == []
        assert (await one.held(), one.going()) == (0, 0)


async def test_a_ledger_in_trouble_is_not_asked_for_more(autojump_clock: MockClock) -> None:
    class Broken(MemoryLedger):
        async def changes(self, after: int, limit: int = 500) -> Sequence[Job]:
            raise LedgerError("locked")

    async with trio.open_nursery() as nursery:
        one = Orchestrator(nursery)
        one.ledger = Broken(clock=SetClock())
        await one.begin_life()
        await trio.sleep(0.51)  # the next reading fails
        await trio.testing.wait_all_tasks_blocked()
        assert (await one.upload()).status is Status.QUEUED
        nursery.cancel_scope.cancel()
