"""Sending to one node: batches, the lane for large attempts, doubt, poison. Under the mock clock."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace

import trio
from trio.testing import MockClock

from actors.domain.job import Attempt, Job
from actors.domain.node import NodeRef, Tally
from actors.domain.status import Status
from actors.kernel.actor import Doorbell
from actors.ports.nodes import AttemptLookup, Dispatch, LookupResult, SubmitAnswer, SubmitResult
from actors.sender.dispatcher import DispatchResult, NodeDispatcher, Verdict

NODE = NodeRef("n", "http://n")
FOREIGN = NodeRef("f", "http://f", contract_only=True)


def dispatch(job_id: int, size: int = 10, boot: str = "") -> Dispatch:
    attempt = Attempt(f"{job_id:032x}", job_id, 1, "n", boot=boot)
    job = Job(
        job_id, 1, "example", Status.PROCESSING, "", job_id, 0.0, 0.0, f"s{job_id}", size, attempt=attempt
    )
    return Dispatch(attempt, job)


class FakeNodes:
    """Answers each submit as `answer` says; remembers what came together."""

    def __init__(self, answer: Callable[[int], SubmitAnswer], seconds: Callable[[int], float]) -> None:
        self.answer = answer
        self.seconds = seconds
        self.calls: list[list[int]] = []
        self.cancelled: list[int] = []
        self.there: set[int] = set()
        """Jobs that it has, when it is asked."""

    async def submit(self, node: NodeRef, items: Sequence[Dispatch]) -> Sequence[SubmitAnswer]:
        jobs = [item.job.id for item in items]
        self.calls.append(jobs)
        await trio.sleep(max(self.seconds(job) for job in jobs))
        return [self.answer(job) for job in jobs]

    async def cancel(self, node: NodeRef, attempts: Sequence[Attempt]) -> Sequence[AttemptLookup]:
        self.cancelled += [a.job_id for a in attempts]
        return [AttemptLookup(LookupResult.TOMBSTONED) for _ in attempts]

    async def lookup(self, node: NodeRef, attempts: Sequence[Attempt]) -> Sequence[AttemptLookup]:
        found = {True: LookupResult.FOUND, False: LookupResult.GONE}
        return [AttemptLookup(found[a.job_id in self.there]) for a in attempts]


class Results:
    """What became of attempts, by job, and when."""

    def __init__(self) -> None:
        self.verdicts: dict[int, tuple[Verdict, float]] = {}
        self.reasons: dict[int, str] = {}
        self.refuse = 0
        self.takes = 0.001
        self.bell = Doorbell()

    async def __call__(self, results: Sequence[DispatchResult]) -> Sequence[bool]:
        await trio.sleep(self.takes)
        if self.refuse:
            self.refuse -= 1
            return [False] * len(results)
        for s in results:
            self.verdicts[s.dispatch.job.id] = (s.verdict, trio.current_time())
            self.reasons[s.dispatch.job.id] = s.reason
        self.bell.ring()
        return [True] * len(results)

    async def all(self, *jobs: int) -> dict[int, Verdict]:
        while not set(jobs) <= set(self.verdicts):
            await self.bell.wait()
        return {job: self.verdicts[job][0] for job in jobs}


@asynccontextmanager
async def sending_to(nodes: FakeNodes, ref: NodeRef = NODE) -> AsyncIterator[tuple[NodeDispatcher, Results]]:
    results = Results()
    dispatcher = NodeDispatcher(
        ref.node_id,
        nodes=nodes,  # type: ignore[arg-type]  # all that a dispatcher asks
        ref=ref,
        on_results=results,
        rng=random.Random(1),
        batch_bytes=1000,
    )
    async with trio.open_nursery() as nursery:
        nursery.start_soon(dispatcher.run)
        yield dispatcher, results
        nursery.cancel_scope.cancel()


def has(job: int) -> SubmitAnswer:
    return SubmitAnswer(SubmitResult.HAS)


async def test_what_piles_up_goes_together_and_a_batch_is_bounded(autojump_clock: MockClock) -> None:
    nodes = FakeNodes(has, lambda job: 1.0)
    async with sending_to(nodes) as (dispatcher, results):
        dispatcher.put(dispatch(1), doubt=False)
        await trio.testing.wait_all_tasks_blocked()
        for job in range(2, 6):
            dispatcher.put(dispatch(job, size=400), doubt=False)
        await results.all(1, 2, 3, 4, 5)
    assert nodes.calls == [[1], [2, 3], [4, 5]]


async def test_a_small_one_does_not_wait_behind_a_large_one(autojump_clock: MockClock) -> None:
    nodes = FakeNodes(has, lambda job: 100.0 if job == 1 else 0.1)
    async with sending_to(nodes) as (dispatcher, results):
        start = trio.current_time()
        dispatcher.put(dispatch(1, size=400_000_000), doubt=False)
        dispatcher.put(dispatch(2), doubt=False)
        await results.all(1, 2)
        assert results.verdicts[2][1] - start < 1.0
        assert results.verdicts[1][1] - start >= 100.0


async def test_a_poisoned_attempt_fails_alone(autojump_clock: MockClock) -> None:
    def answer(job: int) -> SubmitAnswer:
        if job == 2:
            raise ValueError("a name that cannot be sent")
        return has(job)

    async with sending_to(FakeNodes(answer, lambda job: 0.1)) as (dispatcher, results):
        for job in (1, 2, 3):
            dispatcher.put(dispatch(job), doubt=False)
        assert await results.all(1, 2, 3) == {1: Verdict.HAS, 2: Verdict.REFUSED, 3: Verdict.HAS}
        assert "a name that cannot be sent" in results.reasons[2]


async def test_what_becomes_due_while_another_is_told_of_is_told_of_next(autojump_clock: MockClock) -> None:
    nodes = FakeNodes(lambda job: SubmitAnswer(SubmitResult.NOT_SENT), lambda job: 0.1)
    async with sending_to(nodes) as (dispatcher, results):
        results.takes, results.refuse = 1.0, 1
        for job in (1, 2):
            dispatcher.put(dispatch(job), doubt=False)
        await trio.sleep(0.5)  # what became of both is being recorded, and will not be
        for job in (1, 2):
            dispatcher.cancel(dispatch(job).attempt.key)
        with trio.fail_after(10):
            assert await results.all(1, 2) == {1: Verdict.KILLED, 2: Verdict.KILLED}


async def test_doubt_is_sent_again_under_the_same_key_until_it_is_certain(autojump_clock: MockClock) -> None:
    answers = iter([SubmitResult.DOUBT, SubmitResult.NOT_SENT, SubmitResult.BUSY, SubmitResult.HAS])
    nodes = FakeNodes(lambda job: SubmitAnswer(next(answers)), lambda job: 0.1)
    async with sending_to(nodes) as (dispatcher, results):
        dispatcher.put(dispatch(1), doubt=False)
        assert await results.all(1) == {1: Verdict.HAS}
    assert nodes.calls == [[1]] * 4


async def test_what_was_certainly_not_sent_is_free_for_another_node(autojump_clock: MockClock) -> None:
    async with sending_to(
        FakeNodes(lambda job: SubmitAnswer(SubmitResult.NOT_SENT, "refused"), lambda job: 0.1)
    ) as (
        dispatcher,
        results,
    ):
        dispatcher.put(dispatch(1), doubt=False)
        assert await results.all(1) == {1: Verdict.NOT_THERE}


async def test_a_foreign_node_is_never_sent_what_it_may_have(autojump_clock: MockClock) -> None:
    nodes = FakeNodes(has, lambda job: 0.1)
    async with sending_to(nodes, FOREIGN) as (dispatcher, results):
        dispatcher.put(dispatch(1), doubt=True)
        assert await results.all(1) == {1: Verdict.UNKNOWABLE}
    assert nodes.calls == []


async def test_an_order_to_stop_reaches_the_node_while_a_large_attempt_is_on_its_way(
    autojump_clock: MockClock,
) -> None:
    nodes = FakeNodes(has, lambda job: 1000.0)
    async with sending_to(nodes) as (dispatcher, results):
        dispatcher.put(dispatch(1, size=400_000_000), doubt=False)
        await trio.testing.wait_all_tasks_blocked()
        start = trio.current_time()
        dispatcher.cancel(f"{1:032x}")
        assert await results.all(1) == {1: Verdict.KILLED}
        assert results.verdicts[1][1] - start < 1.0
    assert nodes.cancelled == [1]


async def test_what_was_not_sent_yet_is_stopped_without_the_node(autojump_clock: MockClock) -> None:
    nodes = FakeNodes(has, lambda job: 10.0)
    async with sending_to(nodes) as (dispatcher, results):
        dispatcher.put(dispatch(1), doubt=False)
        await trio.testing.wait_all_tasks_blocked()
        dispatcher.put(dispatch(2), doubt=False)
        dispatcher.cancel(f"{2:032x}")
        assert await results.all(2) == {2: Verdict.KILLED}
    assert nodes.calls == [[1]]
    assert nodes.cancelled == []


async def test_a_lost_node_settles_everything_and_cuts_what_is_on_its_way(autojump_clock: MockClock) -> None:
    async with sending_to(FakeNodes(has, lambda job: 1e6)) as (dispatcher, results):
        dispatcher.put(dispatch(1), doubt=False)
        dispatcher.put(dispatch(2, size=400_000_000), doubt=False)
        await trio.testing.wait_all_tasks_blocked()
        dispatcher.node_lost("silent")
        assert await results.all(1, 2) == {1: Verdict.LOST, 2: Verdict.LOST}


async def test_what_could_not_be_recorded_is_settled_again(autojump_clock: MockClock) -> None:
    async with sending_to(FakeNodes(has, lambda job: 0.1)) as (dispatcher, results):
        results.refuse = 3
        dispatcher.put(dispatch(1), doubt=False)
        assert await results.all(1) == {1: Verdict.HAS}


async def test_doubt_ends_with_the_boot_in_which_it_began(autojump_clock: MockClock) -> None:
    nodes = FakeNodes(lambda job: SubmitAnswer(SubmitResult.DOUBT), lambda job: 0.1)
    async with sending_to(nodes, replace(NODE, boot="one")) as (dispatcher, results):
        dispatcher.put(dispatch(1, boot="one"), doubt=False)
        await trio.sleep(10)
        sent = len(nodes.calls)
        dispatcher.node_seen(replace(NODE, boot="two"))
        dispatcher.put(dispatch(2, boot="one"), doubt=False)
        assert await results.all(1, 2) == {1: Verdict.GONE, 2: Verdict.LOST}
    assert sent > 1 and nodes.calls == [[1]] * sent, "nothing is sent to the other boot"


async def test_doubt_ends_where_the_node_was_set_back_however_far_it_comes_then(
    autojump_clock: MockClock,
) -> None:
    nodes = FakeNodes(lambda job: SubmitAnswer(SubmitResult.DOUBT), lambda job: 0.1)
    before, after, further = (replace(NODE, boot="one", tally=Tally(n, 0, n)) for n in (7, 6, 9))
    async with sending_to(nodes, before) as (dispatcher, results):
        dispatcher.put(dispatch(1, boot=before.moment), doubt=False)
        dispatcher.put(dispatch(2, boot=after.moment), doubt=False)
        await trio.sleep(10)
        dispatcher.node_seen(after)
        dispatcher.node_seen(further)
        nodes.answer = has
        assert await results.all(1, 2) == {1: Verdict.GONE, 2: Verdict.HAS}


async def test_doubt_without_a_boot_is_asked_for_and_never_sent_again(autojump_clock: MockClock) -> None:
    nodes = FakeNodes(has, lambda job: 0.1)
    nodes.there = {1}
    async with sending_to(nodes, replace(NODE, boot="one")) as (dispatcher, results):
        for job in (1, 2):
            dispatcher.put(dispatch(job), doubt=True)
        assert await results.all(1, 2) == {1: Verdict.HAS, 2: Verdict.TOMBSTONED}
    assert nodes.calls == [] and nodes.cancelled == [2]


async def test_doubt_whose_input_is_lost_is_asked_for_and_ends(autojump_clock: MockClock) -> None:
    lost = SubmitAnswer(SubmitResult.UNREADABLE, "no such file")
    nodes = FakeNodes(lambda job: lost, lambda job: 0.1)
    nodes.there = {1}
    async with sending_to(nodes) as (dispatcher, results):
        for job in (1, 2):
            dispatcher.put(dispatch(job), doubt=True)
        dispatcher.put(dispatch(3), doubt=False)
        wanted = {1: Verdict.HAS, 2: Verdict.TOMBSTONED, 3: Verdict.REFUSED}
        assert await results.all(1, 2, 3) == wanted
    assert nodes.calls == [[1, 2, 3]] and nodes.cancelled == [2]
