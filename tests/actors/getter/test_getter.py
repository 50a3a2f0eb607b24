"""The Getter by itself: what one node says, or does not say, and what becomes of its jobs. Mock clock."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial

import pytest
import trio
from support.data.ledgers import SetClock, by_owner, new_job
from support.memory.memory_ledger import MemoryLedger
from trio.testing import MockClock

from actors.domain.changes import Change, ChangeAnswer, ChangeResult, RecordEnd, SetProgress, Transition
from actors.domain.failure import Failure
from actors.domain.job import Attempt, AttemptState, End, Job
from actors.domain.node import Heartbeat, NodeAddress, NodeRef, PayloadView, StreamPosition, Tally
from actors.domain.progress import BatchStand, Progress
from actors.domain.service import ServiceLimits
from actors.domain.status import Status
from actors.getter.getter import UNRELEASED_AGAIN, Getter
from actors.getter.reconcile import MOST_OTHERS, NodeMirror, NodeRequests
from actors.kernel.actor import Mailbox, live
from actors.messages import AttemptEnded, AttemptHanded, Committed, StartFailed
from actors.ports.ledger import LedgerError
from actors.ports.nodes import (
    AttemptLookup,
    Beat,
    CollectAnswer,
    CollectResult,
    Dispatch,
    LookupResult,
    NodeEvent,
    PayloadChanged,
    Picture,
)
from actors.request_batcher import RequestBatcher

OWN = NodeRef("n", "http://n")
FOREIGN = NodeRef("f", "http://f", contract_only=True)
DONE = End(Status.COMPLETED, "", exit_code=0)
KILLED = End(Status.KILLED, "killed")
EXAMPLE = ServiceLimits("example")


class OneNode:
    """A node that says what a test tells it to say; remembers what it was asked."""

    def __init__(self, ref: NodeRef) -> None:
        self.ref = ref
        self.send, self.events = trio.open_memory_channel[NodeEvent | Exception](100)
        self.cancelled: list[float] = []
        self.watched: list[str] = []
        self.collects: list[CollectAnswer] = []
        self.fetching = trio.Event()
        self.may_fetch = trio.Event()
        self.may_fetch.set()
        self.delivered: dict[int, CollectAnswer] = {}
        self.taken: list[int] = []
        self.lets_go = True
        self.released: list[tuple[str, float]] = []
        self.lookup_result = LookupResult.UNKNOWN
        self.answer: Callable[[int], CollectAnswer] = lambda _: self.collects.pop(0)
        self.cancel_answer = lambda attempt: AttemptLookup(
            LookupResult.FOUND, PayloadView(attempt.key, Status.RUNNING)
        )  # fmt: skip

    async def watch(self, address: NodeAddress, tell: Callable[[NodeRef, NodeEvent], None]) -> str:
        self.watched.append(address.url)
        if not self.ref.contract_only:
            incarnation = "two" if address.url == "http://copy" else "one"
            tell(self.ref, Picture(StreamPosition(incarnation, 0), {}, Heartbeat(slots=4)))
        while True:
            with trio.move_on_after(1.0):
                event = await self.events.receive()
                if isinstance(event, Exception):
                    raise event
                tell(self.ref, event)
                continue
            tell(self.ref, Beat(Heartbeat(slots=None if self.ref.contract_only else 4)))

    async def cancel(self, node: NodeRef, attempts: Sequence[Attempt]) -> Sequence[AttemptLookup]:
        await trio.lowlevel.checkpoint()
        self.cancelled.append(trio.current_time())
        return [self.cancel_answer(attempt) for attempt in attempts]

    async def collect(self, node: NodeRef, items: Sequence[Dispatch]) -> Sequence[CollectAnswer]:
        self.fetching.set()
        await self.may_fetch.wait()
        return [self.answer(item.job.id) for item in items]

    async def take_delivered(self, node: NodeRef, items: Sequence[Dispatch]) -> Sequence[CollectAnswer]:
        await trio.lowlevel.checkpoint()
        self.taken += [item.job.id for item in items]
        return [self.delivered.pop(item.job.id) for item in items]

    async def lookup(self, node: NodeRef, attempts: Sequence[Attempt]) -> Sequence[AttemptLookup]:
        await trio.lowlevel.checkpoint()
        return [AttemptLookup(self.lookup_result)] * len(attempts)

    async def release(self, node: NodeRef, attempts: Sequence[Attempt]) -> Sequence[bool]:
        await trio.lowlevel.checkpoint()
        if self.lets_go:
            self.released.append((attempts[0].key, trio.current_time()))
        return [self.lets_go] * len(attempts)

    def follow(self, node_id: str, attempts: Sequence[Attempt]) -> None:
        pass


class World:
    def __init__(self, ref: NodeRef) -> None:
        self.node = OneNode(ref)
        self.ledger = MemoryLedger(clock=SetClock())
        self.getter = Mailbox("getter")
        self.told: list[object] = []

    async def running(self, **more: object) -> Job:
        """A job that the node runs."""
        return await self.run(await self.ledger.insert(new_job(**more)))  # type: ignore[arg-type]  # any field

    def next_attempt(self, job: Job) -> Attempt:
        n = job.attempts_used + 1
        return Attempt(f"{n:016x}{job.id:016x}", job.id, n, self.node.ref.node_id)

    def answered(self, job: Job) -> AttemptHanded:
        """The node has its next attempt now, and says so."""
        attempt = self.next_attempt(job)
        return AttemptHanded(attempt, trio.current_time(), PayloadView(attempt.key, Status.PREPARED))

    async def submitted(self, job: Job) -> Job:
        """With its next attempt, of which the Getter knows nothing else yet."""
        attempt = self.next_attempt(job)
        await self.record(by_owner(job.id, Status.QUEUED, Status.PROCESSING, "", attempt=attempt))
        return await self.record(
            by_owner(job.id, Status.PROCESSING, Status.SUBMITTED, "", key=attempt.key, spent=True)
        )

    async def run(self, job: Job) -> Job:
        """Its next attempt."""
        row = await self.submitted(job)
        assert row.attempt is not None
        self.say(PayloadChanged(PayloadView(row.attempt.key, Status.RUNNING)))
        await trio.sleep(0.1)
        assert (await self.row(row)).status is Status.RUNNING
        return row

    async def record(self, change: Change) -> Job:
        (answer,) = await self.ledger.record([change])
        assert isinstance(answer, ChangeAnswer) and answer.job is not None
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

    def ended(self, job: Job, end: End, progress: Progress | None = None, *, delivered: bool = False) -> None:
        assert job.attempt is not None
        view = PayloadView(job.attempt.key, end.status, end, progress=progress)
        self.say(PayloadChanged(view, delivered=delivered))

    def says(self, job: Job, fraction: float | None, message: str = "") -> None:
        """Its script does."""
        assert job.attempt is not None
        said = Progress(fraction, message)
        self.say(PayloadChanged(PayloadView(job.attempt.key, Status.RUNNING, progress=said)))

    async def progress(self, job: Job) -> tuple[float | None, str]:
        """As the ledger has it a moment later."""
        await trio.sleep(0.1)
        row = await self.row(job)
        return row.progress, row.progress_message


@asynccontextmanager
async def world(
    ref: NodeRef = OWN,
    urls: Sequence[str] = ("http://n",),
    limits: ServiceLimits = EXAMPLE,
    **settings: float,
) -> AsyncIterator[World]:
    made = World(ref)
    addresses = tuple(NodeAddress(url, services=("example",)) for url in urls)
    make = partial(
        Getter,
        ledger=made.ledger,
        nodes=made.node,
        addresses=lambda: addresses,
        services={"example": limits},
        rng=random.Random(1),
        tell_sender=made.told.append,
        **settings,
    )
    async with trio.open_nursery() as nursery:
        await nursery.start(live, made.getter, make)
        yield made
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("told_first", [False, True])
async def test_what_a_node_has_answered_counts_as_if_it_had_told_it(
    autojump_clock: MockClock, *, told_first: bool
) -> None:
    async with world() as w:
        await trio.sleep(0.1)
        w.say(Beat(Heartbeat(slots=0)))
        queued = await w.ledger.insert(new_job())
        answered = w.answered(queued)
        if told_first:
            w.getter.tell(answered)
            await trio.sleep(0.1)
        job = await w.submitted(queued)
        assert job.attempt is not None and job.attempt.key == answered.attempt.key
        if not told_first:
            w.getter.tell(answered)
        await trio.sleep(0.1)
        row = await w.row(job)
        assert row.status is Status.PREPARED and row.message == "waits on node n for a slot"


async def test_what_a_newer_picture_lacks_is_asked_for_whatever_was_answered_before(
    autojump_clock: MockClock,
) -> None:
    async with world() as w:
        w.node.lookup_result = LookupResult.GONE
        queued = await w.ledger.insert(new_job())
        answered = w.answered(queued)
        await trio.sleep(0.1)
        w.say(Picture(StreamPosition("two", 0), {}, Heartbeat(slots=4)))
        await trio.sleep(0.1)
        w.getter.tell(answered)
        job = await w.submitted(queued)
        await trio.sleep(0.1)
        assert (await w.row(job)).status is Status.QUEUED


async def test_a_start_that_failed_by_the_node_is_tried_again_and_told_first(
    autojump_clock: MockClock,
) -> None:
    end = End(Status.FAILED, "could not be started: no bash", failure=Failure.NODE)
    # Nothing of it has run: what the service wants of lost nodes is not asked.
    async with world(limits=ServiceLimits("example", max_attempts=2, on_node_lost="fail")) as w:
        queued = w.ledger.record

        async def record(changes: Sequence[Change]) -> Sequence[ChangeAnswer]:
            if any(isinstance(one, Transition) and one.target is Status.QUEUED for one in changes):
                assert StartFailed("n", end.message) in w.told, "or it would go there again"
            return await queued(changes)

        w.ledger.record = record  # type: ignore[method-assign]
        job = await w.running()
        for status, then in (
            (Status.QUEUED, "it is queued for another attempt"),
            (Status.FAILED, "it was attempt 2 of 2"),
        ):
            assert job.attempt is not None
            w.say(PayloadChanged(PayloadView(job.attempt.key, end.status, end, lost=True)))
            await trio.sleep(0.1)
            row = await w.row(job)
            assert row.status is status
            assert row.message == f"on node n it could not be started: no bash; {then}"
            if status is Status.QUEUED:
                assert row.end is None
                job = await w.run(row)
        assert row.end == end and row.failure is Failure.NODE
        assert w.told.count(StartFailed("n", end.message)) == 2


@pytest.mark.parametrize("wanted", [True, False])
async def test_what_a_node_gives_back_waits_again_and_was_no_attempt(
    autojump_clock: MockClock, wanted: bool
) -> None:
    """Unless somebody wants it stopped meanwhile: then it is."""
    async with world(OWN) as w:
        row = await w.submitted(await w.ledger.insert(new_job()))
        assert row.attempt is not None and row.attempts_used == 1
        if not wanted:
            await w.terminate(row)
        end = End(Status.FAILED, "no slot", failure=Failure.NOT_RUN)
        w.say(PayloadChanged(PayloadView(row.attempt.key, end.status, end, lost=True)))
        await trio.sleep(0.1)
        then = await w.row(row)
        if wanted:
            assert (then.status, then.attempts_used, then.end) == (Status.QUEUED, 0, None)
            assert then.message == "waits: node n had no slot for it in time"
        else:
            assert (then.status, then.attempts_used) == (Status.KILLED, 0)
            assert then.message == "terminated before it began"
        assert AttemptEnded(row.attempt.key, given_back=True) in w.told
        await trio.sleep(5.0)
        assert row.attempt.key in [key for key, _ in w.node.released]


@pytest.mark.parametrize("ahead", [0, 1])
async def test_what_waits_on_its_node_longer_than_what_goes_ahead_is_told_so(
    autojump_clock: MockClock, ahead: int
) -> None:
    async with world(OWN) as w:
        rows = [await w.submitted(await w.ledger.insert(new_job())) for _ in range(5)]
        w.say(Beat(Heartbeat(slots=4, ahead=ahead)))
        for row in rows:
            assert row.attempt is not None
            w.say(PayloadChanged(PayloadView(row.attempt.key, Status.PREPARED)))
        await trio.sleep(0.5)
        waits = Status.SUBMITTED if ahead else Status.PREPARED
        assert (await w.row(rows[-1])).status is waits


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


async def test_results_that_came_along_wait_for_none_that_are_fetched(autojump_clock: MockClock) -> None:
    async with world() as w:
        slow, quick, torn = await w.running(), await w.running(), await w.running()
        stored = CollectAnswer(CollectResult.STORED, DONE)
        w.node.may_fetch = trio.Event()
        w.node.answer = lambda _: stored
        w.ended(slow, DONE)
        await w.node.fetching.wait()
        w.node.delivered = {quick.id: stored, torn.id: CollectAnswer(CollectResult.FAILED, reason="torn")}
        w.ended(quick, DONE, delivered=True)
        w.ended(torn, DONE, delivered=True)
        w.ended(slow, DONE, delivered=True)  # said again: it is under way
        await trio.sleep(1)
        assert [(await w.row(job)).status for job in (slow, quick)] == [Status.RUNNING, Status.COMPLETED]
        assert (await w.row(torn)).end == DONE and sorted(w.node.taken) == [quick.id, torn.id]
        w.node.may_fetch.set()
        await trio.sleep(1)
        assert {(await w.row(job)).status for job in (slow, torn)} == {Status.COMPLETED}


async def test_that_a_slot_is_free_is_told_before_the_end_is_recorded(autojump_clock: MockClock) -> None:
    """With the end's commit where the results came along; at once where they have to be fetched."""
    async with world() as w:
        slow, quick, torn = await w.running(), await w.running(), await w.running()
        stored = CollectAnswer(CollectResult.STORED, DONE)
        w.node.may_fetch = trio.Event()
        w.node.answer = lambda _: stored
        w.node.delivered = {quick.id: stored, torn.id: CollectAnswer(CollectResult.FAILED, reason="torn")}
        recorded = w.ledger.record
        told_before: list[int] = []

        async def record(changes: Sequence[Change]) -> Sequence[ChangeAnswer]:
            told_before.extend(
                one.job_id
                for one in changes
                if isinstance(one, Transition)
                and one.target is Status.COMPLETED
                and AttemptEnded(str(one.key)) in w.told
            )
            return await recorded(changes)

        w.ledger.record = record  # type: ignore[method-assign]
        for job in (slow, quick, torn):
            w.ended(job, DONE, delivered=job is not slow)
        await trio.sleep(1)
        keys = [job.attempt.key for job in (slow, quick, torn) if job.attempt is not None]
        assert {one.key for one in w.told if isinstance(one, AttemptEnded)} == set(keys)
        assert told_before == [quick.id]
        w.node.may_fetch.set()
        await trio.sleep(1)
        assert sorted(told_before) == [slow.id, quick.id, torn.id]


@pytest.mark.parametrize("late", [0.1, 0.25, 0.45])
async def test_what_a_node_has_again_after_it_let_go_is_released_again(
    autojump_clock: MockClock, late: float
) -> None:
    """Also where the ledger is asked what is owed while it has not been told of the release."""
    async with world() as w:
        job = await w.running()
        assert job.attempt is not None
        view = PayloadView(job.attempt.key, Status.COMPLETED, DONE)
        w.node.answer = lambda _: CollectAnswer(CollectResult.STORED, DONE)
        await trio.sleep(UNRELEASED_AGAIN - trio.current_time() - 0.2)
        w.ended(job, DONE)
        await trio.sleep(late)
        assert [key for key, _ in w.node.released] == [view.key]
        w.node.lets_go = False
        w.say(Picture(StreamPosition("two", 0), {view.key: view}, Heartbeat(slots=4)))
        await trio.sleep(2.5 * UNRELEASED_AGAIN)
        w.node.lets_go = True
        await trio.sleep(10)
        assert [key for key, _ in w.node.released] == [view.key] * 2


async def test_what_was_given_up_and_is_there_again_is_released_again(autojump_clock: MockClock) -> None:
    """The node let go of it, and its machine lost that word before the ledger was told."""
    async with world(tick=5.0) as w:
        job = await w.running()
        assert job.attempt is not None
        key = job.attempt.key
        w.node.lets_go = False
        await w.record(
            by_owner(
                job.id, Status.RUNNING, Status.QUEUED, "lost", key=key, attempt_state=AttemptState.GIVEN_UP
            )
        )
        await trio.sleep(2 * UNRELEASED_AGAIN)
        w.node.lets_go = True
        await trio.sleep(4.5)
        assert [one for one, _ in w.node.released] == [key]
        assert await w.ledger.attempt_states([key]) == {key: AttemptState.GIVEN_UP}
        there = {key: PayloadView(key, Status.FAILED, KILLED, lost=True)}
        w.say(Picture(StreamPosition("two", 0), there, Heartbeat(slots=4)))
        await trio.sleep(10)
        assert [one for one, _ in w.node.released] == [key] * 2
        assert await w.ledger.attempt_states([key]) == {key: AttemptState.RELEASED}


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


async def test_what_a_node_never_hands_over_is_given_up_and_what_we_cannot_store_is_not(
    autojump_clock: MockClock,
) -> None:
    async with world(collect_within=300.0) as w:
        theirs, ours = await w.running(), await w.running()
        torn = CollectAnswer(CollectResult.FAILED, reason="it trickles")
        full = CollectAnswer(CollectResult.FAILED, reason="disk full", ours=True)
        w.node.answer = lambda job_id: torn if job_id == theirs.id else full
        w.ended(theirs, DONE)
        w.ended(ours, DONE)
        await trio.sleep(290)
        assert (await w.row(theirs)).status is Status.RUNNING
        await trio.sleep(30)
        row = await w.row(theirs)
        assert row.status is Status.FAILED
        assert row.message == "its results cannot be had: they did not come within 300 s: it trickles"
        await trio.sleep(1000)
        assert (await w.row(ours)).status is Status.RUNNING


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


async def test_a_copy_of_a_node_is_refused_while_that_answers(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async with world(urls=("http://n", "http://copy")) as w:
        await trio.sleep(100)
        first, second = (w.node.watched.count(url) for url in ("http://n", "http://copy"))
        assert sorted((first, second))[0] == 1
        assert "and is another: a copy of its machine or of its data directory" in caplog.text


async def test_that_a_node_was_set_back_is_said(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async with world() as w:
        for accepted in (3, 2):
            beat = Heartbeat(slots=4, tally=Tally(accepted, 0, 10))
            w.say(Picture(StreamPosition("one", accepted), {}, beat))
            await trio.sleep(0.1)
        assert "node n was set back: it had taken over 3 attempts" in caplog.text


def told(w: World, monkeypatch: pytest.MonkeyPatch, deaf: int = 0, *, full: bool = False) -> list[Change]:
    """Every change that the ledger is asked for from now on; it takes 20 ms for each commit. The first `deaf`
    of progress it takes for stale, or has no room for (`full`)."""
    changes: list[Change] = []
    record = w.ledger.record
    left = deaf

    async def remembered(asked: Sequence[Change]) -> Sequence[ChangeAnswer]:
        nonlocal left
        changes.extend(asked)
        await trio.sleep(0.02)
        if left and isinstance(asked[0], SetProgress):
            left -= 1
            if full:
                raise LedgerError("no room")
            return [ChangeAnswer(ChangeResult.STALE, await w.ledger.get(asked[0].job_id))]
        return await record(asked)

    monkeypatch.setattr(w.ledger, "record", remembered)
    return changes


async def test_progress_is_stored_once_and_goes_back_by_nothing_but_a_word(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with world() as w:
        job = await w.running()
        changes = told(w, monkeypatch)
        w.says(job, 0.5, "half")
        assert await w.progress(job) == (0.5, "half")
        for _ in range(5):
            w.says(job, 0.5, "half")
        assert await w.progress(job) == (0.5, "half") and len(changes) == 1
        # A node that knows nothing of it (any more), and one that knows the message alone.
        assert job.attempt is not None
        w.say(PayloadChanged(PayloadView(job.attempt.key, Status.RUNNING)))
        assert await w.progress(job) == (0.5, "half")
        w.says(job, None, "more")
        assert await w.progress(job) == (0.5, "more")
        w.says(job, 0.25)
        assert await w.progress(job) == (0.25, "")
        await trio.sleep(10)
        assert len(changes) == 3


async def test_a_flood_of_progress_goes_into_few_commits(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with world() as w:
        job = await w.running()
        changes = told(w, monkeypatch)
        for n in range(1, 100):
            w.says(job, n / 100)
        assert await w.progress(job) == (0.99, "")
        assert len(changes) <= 3


async def test_the_last_word_is_stored_before_the_end_and_none_after_it(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with world() as w:
        job = await w.running()
        changes = told(w, monkeypatch)
        w.node.collects = [CollectAnswer(CollectResult.STORED, DONE)]
        w.ended(job, DONE, Progress(1.0, "done"))
        w.says(job, 0.9, "late")
        assert await w.progress(job) == (1.0, "done")
        assert (await w.row(job)).status is Status.COMPLETED
        w.says(job, 0.9, "later")
        await trio.sleep(5)
        assert await w.progress(job) == (1.0, "done")
        kinds = [type(change) for change in changes]
        assert kinds.count(SetProgress) == 1
        assert RecordEnd not in kinds or kinds.index(SetProgress) < kinds.index(RecordEnd)


@pytest.mark.parametrize("full", [False, True])
async def test_a_ledger_that_will_not_hear_of_progress_keeps_no_job_from_its_end(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch, full: bool
) -> None:
    async with world() as w:
        job = await w.running()
        changes = told(w, monkeypatch, deaf=1000, full=full)
        w.says(job, 0.5)
        await trio.sleep(5)
        assert len(changes) == 1
        w.node.collects = [CollectAnswer(CollectResult.FAILED, reason="not yet")] * 1000
        w.ended(job, DONE, Progress(0.75))
        await trio.sleep(5)
        row = await w.row(job)
        assert row.end == DONE and row.progress is None
        assert sum(isinstance(change, SetProgress) for change in changes) == 2


async def test_how_it_stands_in_a_batch_system_stays_until_it_is_told_anew(autojump_clock: MockClock) -> None:
    """A node that was started anew knows it only once the batch system has answered."""
    async with world() as w:
        job = await w.running()
        assert job.attempt is not None
        runs, over = BatchStand("slurm", "17", "RUNNING"), BatchStand("slurm", "17", "TIMEOUT", ended=True)
        view = PayloadView(job.attempt.key, Status.RUNNING, progress=Progress(batch=runs))
        w.say(PayloadChanged(view))
        await trio.sleep(0.1)
        assert (await w.row(job)).batch == runs
        w.says(job, 0.5, "half")
        assert await w.progress(job) == (0.5, "half")
        assert (await w.row(job)).batch == runs
        w.ended(job, DONE, Progress(0.5, "half", over))
        await trio.sleep(0.1)
        assert (await w.row(job)).batch == over


async def test_another_attempt_begins_without_progress_and_the_old_one_has_no_say(
    autojump_clock: MockClock,
) -> None:
    async with world() as w:
        job = await w.running()
        w.says(job, 0.5, "half")
        assert await w.progress(job) == (0.5, "half")
        assert job.attempt is not None
        back = by_owner(job.id, Status.RUNNING, Status.QUEUED, "", key=job.attempt.key)
        assert (await w.record(back)).progress is None
        attempt = Attempt("f" * 32, job.id, 2, "n")
        await w.record(by_owner(job.id, Status.QUEUED, Status.PROCESSING, "", attempt=attempt))
        await w.record(by_owner(job.id, Status.PROCESSING, Status.SUBMITTED, "", key=attempt.key, spent=True))
        w.says(job, 0.75, "of the first attempt")
        assert await w.progress(job) == (None, "")
        w.say(PayloadChanged(PayloadView(attempt.key, Status.RUNNING, progress=Progress(0.1))))
        assert await w.progress(job) == (0.1, "")


async def test_a_nodes_word_counts_for_its_own_attempts_alone(autojump_clock: MockClock) -> None:
    async with world() as w:
        job = await w.ledger.insert(new_job())
        elsewhere = Attempt("e" * 32, job.id, 1, "another node")
        await w.record(by_owner(job.id, Status.QUEUED, Status.PROCESSING, "", attempt=elsewhere))
        submitted = by_owner(job.id, Status.PROCESSING, Status.SUBMITTED, "", key=elsewhere.key, spent=True)
        before = await w.record(submitted)
        w.ended(before, DONE)
        w.say(PayloadChanged(PayloadView(elsewhere.key, Status.COMPLETED, DONE), delivered=True))
        forged = {elsewhere.key: PayloadView(elsewhere.key, Status.FAILED, DONE, lost=True)}
        w.say(Picture(StreamPosition("two", 0), forged, Heartbeat(slots=4)))
        w.says(before, 0.5, "mine")
        await trio.sleep(5)
        after = await w.row(before)
        assert (after.status, after.attempt, after.progress) == (Status.SUBMITTED, elsewhere, None)
        assert w.node.cancelled == []


async def test_a_node_that_makes_attempts_up_for_ever_fills_no_memory() -> None:
    node = NodeMirror("n", 0.0, NodeRequests(*[RequestBatcher.__new__(RequestBatcher)] * 6))
    for number in range(MOST_OTHERS + 1000):
        node.see(PayloadView(f"{number:032x}", Status.RUNNING))
    assert len(node.mirror) == MOST_OTHERS
    node.see(PayloadView(f"{7:032x}", Status.COMPLETED, DONE))
    assert node.mirror[f"{7:032x}"].end == DONE
