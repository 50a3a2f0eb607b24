"""The Runner under a mock clock, on a payload table and runs in memory."""

from __future__ import annotations

import logging
import random
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial

import pytest
import trio
from support.memory.fake_runs import FakeRun, FakeRuns, MemoryPayloads
from trio.testing import MockClock, wait_all_tasks_blocked

from actors.domain.failure import Failure
from actors.domain.job import End, Job
from actors.domain.limits import JobLimits
from actors.domain.payload import Payload, RunResult
from actors.domain.progress import Progress
from actors.domain.status import Status
from actors.kernel.actor import live
from actors.kernel.supervisor import Supervisor
from actors.runner import Cause, Runner, RunnerMailbox, verdict, without_results
from actors.wire.protocol.attempts import end_from_json, end_to_json


class FixedClock:
    def now(self) -> float:
        return 1_000.0


def payload(
    n: int = 1,
    *,
    status: Status = Status.PREPARED,
    max_runtime: float = 0.0,
    pid: int = 0,
    slot_wait: float | None = None,
) -> Payload:
    return Payload(
        key=f"{n:032x}",
        id=n,
        job_id=n,
        n=1,
        service="x",
        user_id=1,
        owner="o",
        status=status,
        sequence=0,
        created_at=0.0,
        max_runtime=max_runtime,
        pid=pid,
        slot_wait=slot_wait,
    )


KEY = payload().key
WENT_DOWN = RunResult(refused="down", refused_by=Failure.LOST)
NOT_TAKEN = RunResult(refused="no such queue", refused_by=Failure.BATCH_SYSTEM)


class World:
    def __init__(self, slots: int | None = None, grace: float = 5.0) -> None:
        self.table = MemoryPayloads()
        self.runs = FakeRuns()
        self.runner = RunnerMailbox()
        self.make_runner = partial(
            Runner,
            payloads=self.table,
            runs=self.runs,
            clock=FixedClock(),
            rng=random.Random(1),
            slots=slots,
            grace=grace,
        )
        self.table.bell = self.runner.ring

    @asynccontextmanager
    async def going(self) -> AsyncIterator[None]:
        async with trio.open_nursery() as nursery:
            await nursery.start(live, self.runner, self.make_runner)
            await wait_all_tasks_blocked()
            yield
            await wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()

    def told(self, key: str = KEY) -> tuple[Status, str]:
        end = self.table.end_of(key)
        assert end is not None
        return end.status, end.message


async def test_a_prepared_payload_is_started_and_its_end_recorded(autojump_clock: MockClock) -> None:
    world = World()
    async with world.going():
        world.table.put(payload())
        await wait_all_tasks_blocked()
        row = world.table.rows[KEY]
        assert (row.status, row.pid, row.started_at) == (Status.RUNNING, 101, 50.0)
        world.runs.running[KEY].end(RunResult(exit_code=0, ended_at=60.0))
    assert world.told() == (Status.COMPLETED, "")
    end = world.table.end_of(KEY)
    assert end is not None and (end.size, end.exit_code, end.ended_at) == (10, 0, 60.0)
    assert world.runs.frozen == [KEY]


async def test_of_what_has_ended_the_runner_is_told_and_not_woken(autojump_clock: MockClock) -> None:
    mailbox = RunnerMailbox()
    woken = trio.Event()

    async def wait() -> None:
        await mailbox.wait()
        woken.set()

    ran = replace(payload(), status=Status.RUNNING, pid=1)
    ended = replace(ran, status=Status.COMPLETED, end=End(Status.COMPLETED, "", ended_at=60.0))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(wait)
        await wait_all_tasks_blocked()
        mailbox.hear([ran, ended])
        await wait_all_tasks_blocked()
        assert not woken.is_set() and mailbox.news == {KEY: ended}
        mailbox.hear([ended, payload(2)])
        await woken.wait()


async def test_what_has_ended_before_it_was_started_is_not_started(autojump_clock: MockClock) -> None:
    world = World(slots=1)
    async with world.going():
        world.table.put(payload(1))
        world.table.put(payload(2))
        await wait_all_tasks_blocked()
        assert world.runs.started == [KEY]
        other = world.table.rows[payload(2).key]
        world.runner.hear([replace(other, status=Status.KILLED, sequence=1000)])
        world.runs.running[KEY].end(RunResult(exit_code=0, ended_at=60.0))
        await trio.sleep(10.0)
    assert world.runs.started == [KEY]


async def test_of_what_is_over_at_once_the_end_alone_is_recorded(autojump_clock: MockClock) -> None:
    world = World()
    over = RunResult(exit_code=0, started_at=50.0, ended_at=60.0, pid=101)
    world.runs.at_start = lambda _payload: over
    async with world.going():
        world.table.put(payload())
    assert world.table.moves == [(KEY, Status.COMPLETED)] and world.told() == (Status.COMPLETED, "")
    assert (world.table.rows[KEY].pid, world.table.rows[KEY].started_at) == (101, 50.0)


@pytest.mark.parametrize(
    ("over", "told"),
    [
        (RunResult(exit_code=0, ended_at=60.0), (Status.COMPLETED, "")),
        (RunResult(exit_code=3, ended_at=60.0), (Status.FAILED, "exit code 3")),
        (RunResult(signal=15, asked=True, ended_at=60.0), (Status.KILLED, "terminated")),
    ],
)
async def test_what_is_cancelled_as_it_starts_and_is_over_at_once_is_told_as_it_ended(
    autojump_clock: MockClock, over: RunResult, told: tuple[Status, str]
) -> None:
    world = World()
    world.runs.at_start = lambda _payload: over
    world.runs.started_when = on = trio.Event()
    async with world.going():
        world.table.put(payload())
        await wait_all_tasks_blocked()
        world.table.cancel(KEY)
        await wait_all_tasks_blocked()
        on.set()
    assert world.told() == told and world.runs.started == [KEY] and world.runs.adopted == []


async def test_what_an_earlier_life_has_started_is_ended_before_it_is_told_as_killed(
    autojump_clock: MockClock,
) -> None:
    world = World()
    world.runs.started_when = trio.Event()
    async with world.going():
        world.table.put(payload())
        await wait_all_tasks_blocked()
        assert world.runs.started == [KEY] and world.table.moves == []
    world.table.cancel(KEY)
    async with world.going():
        await trio.sleep(1.0)
        assert world.runs.adopted == [KEY] and world.runs.running[KEY].stopped == [5.0]
        assert not world.runner.begun
    assert world.told() == (Status.KILLED, "terminated")


async def test_what_was_read_before_an_end_does_not_bring_the_run_back(autojump_clock: MockClock) -> None:
    """A change of a payload that runs is being read while its end is recorded and seen through."""
    world = World()
    table, on = world.table, trio.Event()
    async with world.going():
        table.put(payload())
        await wait_all_tasks_blocked()
        read = table.changes

        async def late(after: int) -> Sequence[Payload]:
            found = await read(after)
            await on.wait()
            return found

        table.changes = late  # type: ignore[method-assign]
        table.put(replace(table.rows[KEY], progress=Progress(0.5)))
        await wait_all_tasks_blocked()
        table.bell = lambda: world.runner.hear([table.rows[KEY]])
        world.runs.running[KEY].end(RunResult(exit_code=0))
        await wait_all_tasks_blocked()
        assert world.told() == (Status.COMPLETED, "")
        on.set()
        await wait_all_tasks_blocked()
        assert world.runs.adopted == []


async def test_no_more_run_than_there_are_slots_and_the_oldest_goes_first(autojump_clock: MockClock) -> None:
    world = World(slots=2)
    for n in (3, 1, 4, 2):
        world.table.put(payload(n))
    async with world.going():
        # Two are started in the same instant, in whatever order.
        assert sorted(world.runs.started) == [payload(1).key, payload(2).key]
        world.runs.running[payload(2).key].end(RunResult(exit_code=0))
        await wait_all_tasks_blocked()
        assert world.runs.started[2:] == [payload(3).key]


async def test_what_needs_a_card_waits_for_one_and_holds_up_nothing(autojump_clock: MockClock) -> None:
    world = World(slots=3)
    world.runs.cards = 1
    first, second, third = (payload(n).key for n in (1, 2, 3))
    for n in (1, 2, 3):
        world.table.put(payload(n))
    async with world.going():
        assert world.runs.started == [first]
        world.table.cancel(second)
        await wait_all_tasks_blocked()
        assert world.told(second) == (Status.KILLED, "terminated")
        world.runs.running[first].end(RunResult(exit_code=0))
        await wait_all_tasks_blocked()
        assert world.runs.started == [first, third]


async def test_without_slots_everything_runs_at_once(autojump_clock: MockClock) -> None:
    world = World()
    for n in range(1, 30):
        world.table.put(payload(n))
    async with world.going():
        assert len(world.runs.started) == 29


async def test_a_running_payload_is_adopted_and_takes_its_slot(autojump_clock: MockClock) -> None:
    world = World(slots=1)
    world.table.put(payload(2))
    world.table.put(payload(1, status=Status.RUNNING, pid=7))
    async with world.going():
        assert world.runs.adopted == [KEY] and world.runs.started == []
        world.runs.running[KEY].end(RunResult(exit_code=3))
    assert world.told() == (Status.FAILED, "exit code 3")
    assert world.runs.started == [payload(2).key]


async def test_what_ended_meanwhile_is_recorded_as_it_ended(autojump_clock: MockClock) -> None:
    world = World()
    world.runs.at_adopt = lambda _payload: RunResult(signal=9)
    world.table.put(payload(status=Status.RUNNING))
    async with world.going():
        pass
    assert world.told() == (Status.FAILED, "killed by signal 9")


@pytest.mark.parametrize(
    ("cancelled", "max_runtime", "told"),
    [
        (True, 0.0, (Status.KILLED, "terminated")),
        (False, 5.0, (Status.FAILED, "timed out after 5 s")),
        (False, 0.0, (Status.FAILED, "the node was stopped")),
    ],
)
async def test_what_an_earlier_process_had_asked_to_end_says_why(
    autojump_clock: MockClock, cancelled: bool, max_runtime: float, told: tuple[Status, str]
) -> None:
    world = World()
    world.runs.at_adopt = lambda _payload: RunResult(signal=9, wall_seconds=5.2, asked=True)
    world.table.put(replace(payload(status=Status.RUNNING, max_runtime=max_runtime), cancelled=cancelled))
    async with world.going():
        pass
    assert world.told() == told


async def test_a_run_over_its_time_is_stopped_and_says_so(autojump_clock: MockClock) -> None:
    world = World()
    world.table.put(payload(max_runtime=2.0))
    async with world.going():
        await trio.sleep(1.9)
        assert world.table.rows[KEY].status is Status.RUNNING
        await trio.sleep(0.2)
    assert world.told() == (Status.FAILED, "timed out after 2 s")


async def test_the_time_limit_counts_from_the_start_of_the_process(autojump_clock: MockClock) -> None:
    world = World()
    world.runs.at_adopt = lambda _payload: FakeRun(7, 0.0, age=95.0)
    world.table.put(payload(status=Status.RUNNING, max_runtime=100.0))
    async with world.going():
        await trio.sleep(5.1)
    assert world.told() == (Status.FAILED, "timed out after 100 s")


async def test_a_cancelled_run_is_stopped_with_its_grace(autojump_clock: MockClock) -> None:
    world = World(grace=3.0)
    world.table.put(payload())
    async with world.going():
        run = world.runs.running[KEY]
        run.dies_of_term = False
        world.table.cancel(KEY)
        await wait_all_tasks_blocked()
        assert run.stopped == [3.0] and world.table.rows[KEY].status is Status.RUNNING
        await trio.sleep(3.1)
    assert world.told() == (Status.KILLED, "terminated")


async def test_a_cancelled_payload_that_waits_for_a_slot_is_killed_at_once(autojump_clock: MockClock) -> None:
    world = World(slots=1)
    world.table.put(payload(1))
    world.table.put(payload(2))
    async with world.going():
        world.table.cancel(payload(2).key)
    assert world.told(payload(2).key) == (Status.KILLED, "terminated")
    assert world.runs.started == [KEY]


async def test_what_has_waited_for_a_slot_as_long_as_it_may_is_given_back(autojump_clock: MockClock) -> None:
    world = World(slots=1)
    for n, wait in ((1, 1.0), (2, 2.0), (3, None), (4, 60.0)):
        world.table.put(payload(n, slot_wait=wait))
    async with world.going():
        await trio.sleep(1.9)
        assert not any(world.table.end_of(payload(n).key) for n in (1, 2, 3, 4))
        await trio.sleep(1.0)
        end = world.table.end_of(payload(2).key)
        assert end is not None and (end.status, end.failure) == (Status.FAILED, Failure.NOT_RUN)
        assert world.table.rows[payload(2).key].lost
        await trio.sleep(30.0)
        world.runs.running[KEY].end(RunResult(exit_code=0))
        await wait_all_tasks_blocked()
        # The others have waited: one as long as it takes, one not too long yet.
        assert world.runs.started == [KEY, payload(3).key]
        await trio.sleep(40.0)
        assert world.told(payload(4).key) == world.told(payload(2).key)
    assert world.runs.started == [KEY, payload(3).key]


def with_two_that_wait() -> World:
    """Behind the first; of the third nobody said that it may be given back."""
    world = World(slots=1)
    for n, wait in ((1, 1.0), (2, 60.0), (3, None)):
        world.table.put(payload(n, slot_wait=wait))
    return world


async def test_what_waits_for_a_slot_of_a_node_that_ends_its_jobs_is_given_back_at_once(
    autojump_clock: MockClock,
) -> None:
    world = with_two_that_wait()
    async with world.going():
        await world.runner.stop_all(5.0)
        assert trio.current_time() < 60.0
    assert world.told(KEY) == (Status.FAILED, "the node was stopped")
    end = world.table.end_of(payload(2).key)
    assert end is not None and end.failure is Failure.NOT_RUN
    assert world.table.end_of(payload(3).key) is None
    assert world.runs.started == [KEY]


async def test_what_waits_for_a_slot_is_given_back_before_a_node_leaves_what_runs(
    autojump_clock: MockClock,
) -> None:
    world = with_two_that_wait()
    async with world.going():
        await world.runner.give_back_all()
        end = world.table.end_of(payload(2).key)
        assert end is not None and end.failure is Failure.NOT_RUN
        world.table.put(payload(4, slot_wait=60.0))
        world.runs.running[KEY].end(RunResult(exit_code=0))
        await wait_all_tasks_blocked()
        assert world.told(payload(4).key) == world.told(payload(2).key), "nothing begins any more"
    assert world.table.end_of(payload(3).key) is None
    assert world.told() == (Status.COMPLETED, "") and world.runs.started == [KEY]


async def test_what_waits_for_something_else_than_a_slot_is_not_given_back(
    autojump_clock: MockClock,
) -> None:
    world = World(slots=2)
    world.runs.cards = 1
    for n in (1, 2):
        world.table.put(payload(n, slot_wait=1.0))
    async with world.going():
        await trio.sleep(60.0)
        assert world.runs.started == [KEY] and world.table.end_of(payload(2).key) is None


async def test_what_may_have_started_is_not_given_back(autojump_clock: MockClock) -> None:
    """Set out to by an earlier life of the Runner that was not there any more to say so."""
    world = World(slots=1)
    world.table.put(payload(1))
    world.table.put(payload(2, slot_wait=1.0))
    world.runner.begun.add(payload(2).key)
    async with world.going():
        await trio.sleep(60.0)
        assert world.table.end_of(payload(2).key) is None


async def test_a_script_that_cannot_run_makes_its_payload_invalid(autojump_clock: MockClock) -> None:
    world = World()
    world.runs.at_start = lambda _payload: RunResult(invalid="run.sh not found")
    world.table.put(payload())
    async with world.going():
        pass
    assert world.told() == (Status.INVALID, "run.sh not found")
    end = world.table.end_of(KEY)
    assert end is not None and end.ended_at == 1_000.0 and end.exit_code is None


async def test_a_start_that_goes_wrong_harms_no_other(autojump_clock: MockClock) -> None:
    world = World()

    def start(found: Payload) -> RunResult | None:
        if found.key == KEY:
            raise RuntimeError("poisoned")
        return None

    world.runs.at_start = start
    world.runs.at_adopt = lambda _payload: RunResult(refused="never started", refused_by=Failure.LOST)
    world.table.put(payload(1))
    world.table.put(payload(2))
    async with world.going():
        pass
    assert world.told() == (Status.FAILED, "could not be started: RuntimeError: poisoned")
    assert world.table.rows[KEY].lost
    assert world.table.rows[payload(2).key].status is Status.RUNNING


@pytest.mark.parametrize(
    ("result", "warned"),
    [
        (RunResult(refused="no bash"), ["attempt 1 of job 1 could not be started: no bash; "]),
        (WENT_DOWN, []),
        (NOT_TAKEN, []),
    ],
)
async def test_a_start_that_fails_by_the_node_is_told_in_its_log(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture, result: RunResult, warned: list[str]
) -> None:
    world = World()
    world.runs.at_start = lambda _payload: result
    world.table.put(payload())
    async with world.going():
        pass
    said = [one for one in caplog.records if one.levelno == logging.WARNING]
    assert [one.getMessage()[: len(text)] for one, text in zip(said, warned, strict=True)] == warned
    assert world.table.rows[KEY].lost is (result is not NOT_TAKEN)


@pytest.mark.parametrize("wanting", [OSError(24, "no descriptor"), RuntimeError("can't start new thread")])
async def test_a_start_for_which_something_is_wanting_is_tried_again(
    autojump_clock: MockClock, wanting: Exception
) -> None:
    world, tries = World(), 0

    def start(_payload: Payload) -> RunResult | None:
        nonlocal tries
        tries += 1
        if tries < 4:
            raise wanting
        return None

    world.runs.at_start = start
    world.runs.at_adopt = lambda _payload: RunResult(refused="never started", refused_by=Failure.LOST)
    world.table.put(payload())
    async with world.going():
        await trio.sleep(30)
    assert world.table.rows[KEY].status is Status.RUNNING and tries == 4


async def test_an_order_to_end_it_is_not_kept_waiting_by_what_is_wanting(autojump_clock: MockClock) -> None:
    world = World()

    def start(_payload: Payload) -> RunResult | None:
        raise OSError(24, "no descriptor")

    world.runs.at_start = start
    world.runs.at_adopt = lambda _payload: RunResult(refused="never started", refused_by=Failure.LOST)
    world.table.put(payload())
    async with world.going():
        world.table.cancel(KEY)
    assert world.told() == (Status.KILLED, "terminated")


async def test_a_start_of_unknown_outcome_is_found_out(autojump_clock: MockClock) -> None:
    world = World()

    def start(_payload: Payload) -> RunResult | None:
        raise RuntimeError("the answer got lost")

    world.runs.at_start = start
    world.runs.at_adopt = lambda _payload: FakeRun(9, 1.0)
    world.table.put(payload())
    async with world.going():
        assert world.table.rows[KEY].pid == 9
        world.runs.running[KEY].end(RunResult(exit_code=0))
    assert world.told() == (Status.COMPLETED, "")


async def test_what_could_not_be_asked_is_no_end(autojump_clock: MockClock) -> None:
    world = World()
    world.table.put(payload())
    async with world.going():
        run = world.runs.running[KEY]
    assert world.table.rows[KEY].status is Status.RUNNING
    run.broken = [RuntimeError("no answer"), RuntimeError("no answer")]
    async with world.going():
        await trio.sleep(5)
        assert world.table.rows[KEY].status is Status.RUNNING and not run.broken
        run.end(RunResult(exit_code=0))
    assert world.told() == (Status.COMPLETED, "")


async def test_a_full_disk_delays_the_end_and_loses_nothing(autojump_clock: MockClock) -> None:
    world = World()
    world.table.put(payload())
    async with world.going():
        world.runs.freeze_fails = [OSError(28, "full")] * 40
        world.table.fails = [OSError(28, "full")] * 2
        world.runs.running[KEY].end(RunResult(exit_code=0))
        await wait_all_tasks_blocked()
        assert world.table.rows[KEY].status is Status.RUNNING
        await trio.sleep(250)
    assert world.told() == (Status.COMPLETED, "")


@pytest.mark.parametrize(
    ("result", "told"),
    [
        (RunResult(exit_code=0), (Status.FAILED, "what it left cannot be read: locked")),
        (RunResult(exit_code=3), (Status.FAILED, "exit code 3; what it left cannot be read: locked")),
    ],
)
async def test_results_that_can_never_be_listed_end_the_payload_and_free_its_slot(
    autojump_clock: MockClock, result: RunResult, told: tuple[Status, str]
) -> None:
    world = World(slots=1)
    world.table.put(payload(1))
    world.table.put(payload(2))
    async with world.going():
        world.runs.freeze_fails = [OSError(13, "locked")] * 1000
        world.runs.running[KEY].end(result)
        await trio.sleep(30)
        assert world.table.rows[KEY].status is Status.RUNNING
        await trio.sleep(70)
        assert world.table.rows[payload(2).key].status is Status.RUNNING
    assert world.told() == told


async def test_leaving_leaves_the_runs(autojump_clock: MockClock) -> None:
    world = World()
    world.table.put(payload())
    async with world.going():
        run = world.runs.running[KEY]
    assert run.stopped == [] and world.table.rows[KEY].status is Status.RUNNING


async def test_a_crash_is_begun_again_and_ends_no_run(autojump_clock: MockClock) -> None:
    world = World()
    world.table.put(payload())
    crashes = [RuntimeError("a defect"), RuntimeError("a defect")]
    changes = world.table.changes

    async def crash(after: int) -> Sequence[Payload]:
        if world.runs.started and crashes:
            raise crashes.pop()
        return await changes(after)

    world.table.changes = crash  # type: ignore[method-assign]
    async with trio.open_nursery() as nursery:
        life = partial(live, world.runner, world.make_runner)
        await nursery.start(Supervisor(random.Random(1)).keep, "runner", life)
        await trio.sleep(5)
        assert not crashes and world.runs.started == [KEY]
        run = world.runs.running[KEY]
        assert run.stopped == []
        run.end(RunResult(exit_code=0))
        await wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    assert world.told() == (Status.COMPLETED, "")


async def test_stopping_all_ends_every_run_as_lost_and_starts_nothing(autojump_clock: MockClock) -> None:
    world = World(slots=2)
    for n in (1, 2, 3):
        world.table.put(payload(n))
    async with world.going():
        world.runs.running[KEY].dies_of_term = False
        with trio.fail_after(6):
            await world.runner.stop_all(5.0)
        world.table.put(payload(4))
    for n in (1, 2):
        assert world.told(payload(n).key) == (Status.FAILED, "the node was stopped")
        assert world.table.rows[payload(n).key].lost
    assert len(world.runs.started) == 2


async def test_a_start_that_fails_while_the_node_is_stopped_is_lost(autojump_clock: MockClock) -> None:
    """Who takes the machine away ends what was about to start it, too."""
    world = World()

    def start(_payload: Payload) -> RunResult:
        world.runner.halted = True
        world.runner.closing.set()
        return RunResult(refused="it ended without a word")

    world.runs.at_start = start
    world.table.put(payload())
    async with world.going():
        with trio.fail_after(6):
            await world.runner.stop_all(5.0)
    assert world.told() == (Status.FAILED, "the node was stopped")
    assert world.table.rows[KEY].lost


async def test_a_change_that_no_bell_told_is_seen_on_the_tick(autojump_clock: MockClock) -> None:
    world = World()
    async with world.going():
        world.table.bell = lambda: None
        world.table.put(payload())
        await trio.sleep(0.6)
        assert world.runs.started == [KEY]


@pytest.mark.parametrize(
    ("result", "cause", "expected"),
    [
        (RunResult(exit_code=0), None, (Status.COMPLETED, "", False)),
        (RunResult(exit_code=0, note="converted"), None, (Status.COMPLETED, "converted", False)),
        (RunResult(exit_code=4, note="converted"), None, (Status.FAILED, "exit code 4; converted", False)),
        (RunResult(exit_code=0, loss="gone"), None, (Status.FAILED, "gone", False)),
        (RunResult(exit_code=4, loss="gone"), None, (Status.FAILED, "exit code 4; gone", False)),
        (RunResult(signal=15), None, (Status.FAILED, "killed by signal 15", False)),
        (RunResult(signal=15), Cause.CANCELLED, (Status.KILLED, "terminated", False)),
        (RunResult(exit_code=0), Cause.TIMED_OUT, (Status.FAILED, "timed out after 2.5 s", False)),
        (RunResult(supervision_killed=True), None, (Status.FAILED, "supervision was killed", False)),
        (RunResult(unreadable=True), None, (Status.FAILED, "what the node knew of it is damaged", True)),
        (RunResult(unreadable=True), Cause.CANCELLED, (Status.KILLED, "terminated", True)),
        (RunResult(lost=True), None, (Status.FAILED, "machine restarted", True)),
        (RunResult(lost=True), Cause.CANCELLED, (Status.FAILED, "machine restarted", True)),
        (RunResult(refused="no room"), None, (Status.FAILED, "could not be started: no room", True)),
        (WENT_DOWN, None, (Status.FAILED, "could not be started: down", True)),
        (NOT_TAKEN, None, (Status.FAILED, "could not be started: no such queue", False)),
        (RunResult(refused="no room"), Cause.CANCELLED, (Status.KILLED, "terminated", False)),
        (RunResult(refused="no room"), Cause.NODE_STOPPED, (Status.FAILED, "the node was stopped", True)),
        (
            RunResult(signal=9, exceeded="memory_bytes"),
            None,
            (Status.FAILED, "out of memory: its limit is 2 GiB", False),
        ),
        (
            RunResult(exit_code=0, exceeded="memory_bytes"),
            None,
            (Status.FAILED, "out of memory: its limit is 2 GiB", False),
        ),
        (
            RunResult(signal=9, exceeded="machine_memory"),
            None,
            (Status.FAILED, "out of memory: the machine had no more", False),
        ),
        (
            RunResult(signal=9, exceeded="disk_bytes"),
            Cause.TIMED_OUT,
            (Status.FAILED, "over its limit of disk: 5 MiB", False),
        ),
        (RunResult(signal=9, exceeded="cpu_seconds"), Cause.CANCELLED, (Status.KILLED, "terminated", False)),
        (
            RunResult(signal=9, exceeded="cpu_seconds"),
            None,
            (Status.FAILED, "over its limit of CPU time: 90 s", False),
        ),
        (
            RunResult(exit_code=153, exceeded="file_bytes"),
            None,
            (Status.FAILED, "over its limit of the size of a file: 1 KiB", False),
        ),
        (
            RunResult(exit_code=2, exceeded="processes"),
            None,
            (Status.FAILED, "exit code 2; it had as many processes as it may have: 7", False),
        ),
        (RunResult(exit_code=2, exceeded="forged"), None, (Status.FAILED, "exit code 2", False)),
        (RunResult(invalid="run.sh not found"), Cause.CANCELLED, (Status.INVALID, "run.sh not found", False)),
    ],
)
def test_the_verdict(result: RunResult, cause: Cause | None, expected: tuple[Status, str, bool]) -> None:
    limits = JobLimits(2 << 30, 90.0, 7, 1 << 10, None, 5 << 20)
    end, lost = verdict(result, cause, 2.5, limits)
    assert (end.status, end.message, lost) == expected


@pytest.mark.parametrize(
    ("result", "cause", "failure"),
    [
        (RunResult(exit_code=0), None, None),
        (RunResult(exit_code=4), None, Failure.EXIT_CODE),
        (RunResult(signal=15), None, Failure.SIGNAL),
        (RunResult(signal=15), Cause.CANCELLED, None),
        (RunResult(signal=15), Cause.TIMED_OUT, Failure.MAX_RUNTIME),
        (RunResult(signal=15), Cause.NODE_STOPPED, Failure.LOST),
        (RunResult(lost=True), None, Failure.LOST),
        (RunResult(signal=9, exceeded="memory_bytes"), None, Failure.MEMORY),
        (RunResult(signal=9, exceeded="machine_memory"), None, Failure.MEMORY),
        (RunResult(signal=9, exceeded="disk_bytes"), None, Failure.DISK),
        (RunResult(signal=9, exceeded="cpu_seconds"), None, Failure.CPU_TIME),
        (RunResult(exit_code=153, exceeded="file_bytes"), None, Failure.FILE_SIZE),
        (RunResult(exit_code=0, loss="gone"), None, Failure.RESULTS),
        (RunResult(exit_code=1, told="Slurm: OUT_OF_MEMORY"), None, Failure.BATCH_SYSTEM),
        (RunResult(refused="no room"), None, Failure.NODE),
        (WENT_DOWN, None, Failure.LOST),
        (NOT_TAKEN, None, Failure.BATCH_SYSTEM),
        (RunResult(invalid="run.sh not found"), None, Failure.INVALID),
    ],
)
def test_why_it_failed_goes_with_the_end_and_stays_when_the_job_is_cleaned(
    result: RunResult, cause: Cause | None, failure: Failure | None
) -> None:
    end, _ = verdict(result, cause, 2.5, JobLimits(2 << 30, 90.0, 7, 1 << 10, None, 5 << 20))
    job = Job(1, 1, "s", end.status, end.message, 1, 0.0, 0.0, "k", end=end)
    assert job.failure is replace(job, status=Status.CLEANED).failure is failure
    assert end_from_json(end_to_json(end)) == end


def test_what_left_nothing_has_failed_for_its_results_unless_for_something_else() -> None:
    done, failed = End(Status.COMPLETED, "", 0), End(Status.FAILED, "", 1, failure=Failure.DISK)
    assert without_results(done, "too many").failure is Failure.RESULTS
    assert without_results(failed, "too many").failure is Failure.DISK
    never_run = Job(1, 1, "s", Status.FAILED, "", 1, 0.0, 0.0, "k")
    assert never_run.failure is Failure.NOT_RUN
    assert replace(never_run, end=done).failure is Failure.RESULTS, "they could not be fetched"
    assert end_from_json(end_to_json(done) | {"failure": "of a newer node"}) == done
