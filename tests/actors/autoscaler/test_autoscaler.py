"""The AutoScaler with a fake cloud and a fake pool, under the mock clock: grows, shrinks, adopts, backs off,
and says what troubles it."""

from __future__ import annotations

import logging

import pytest
import trio
from support.memory.scaled_house import house
from trio.testing import MockClock

from actors.autoscaler.demand import Peak, RunTimes
from actors.domain.job import End, Job
from actors.domain.scaling import MachineEnd, MachineState
from actors.domain.status import Status
from actors.messages import Committed

BOOTING, JOINED, ENDED = MachineState.BOOTING, MachineState.JOINED, MachineState.ENDED


def row(job_id: int, seconds: float | None, status: Status = Status.COMPLETED) -> Job:
    end = None if seconds is None else End(status, "", wall_seconds=seconds)
    return Job(job_id, 1, "dock", Status.SUBMITTED, "", job_id, 0.0, 0.0, "k", end=end)


async def test_it_grows_with_the_load_and_shrinks_to_nothing_after_it(autojump_clock: MockClock) -> None:
    async with house() as it:
        await it.start()
        for _ in range(40):
            it.pool.submit(2.0)
        await trio.sleep(32.5)
        assert len(it.pool.nodes) == 4
        await trio.sleep(20.0)
        assert it.pool.completed == 40
        await trio.sleep(60.0 + 10.0)
        assert it.pool.nodes == {}
        assert it.provider.machines == {}
        assert it.states() == [ENDED] * 4
        assert it.pool.ended_by_scaling == []
        assert {one.action for one in it.records.noted} == {"create", "drain", "terminate"}
        assert len(it.provider.requests) == 4
        assert all("node-" not in one.subject + one.reason for one in it.records.noted), "they have names"
        assert any(one.subject.startswith("host-") for one in it.records.noted)


async def test_every_record_is_there_before_the_provider_is_asked(autojump_clock: MockClock) -> None:
    async with house() as it:
        await it.start()
        it.records.broken = True
        it.pool.submit(1.0)
        await trio.sleep(20.0)
        assert it.provider.requests == []
        assert "ledger" in (await it.status()).trouble
        it.records.broken = False
        await trio.sleep(20.0)
        assert it.provider.requests == list(it.records.rows)
        assert (await it.status()).trouble == ""


async def test_a_commit_rings_it_and_run_times_are_learnt_from_it(autojump_clock: MockClock) -> None:
    async with house(max_nodes=40, max_booting=40) as it:
        scaler = await it.start(tick=1000.0)
        it.pool.up(None, "static")
        scaler.tell(Committed(tuple(row(i, 0.5) for i in range(3))))
        await trio.sleep(1.0)
        for _ in range(11):
            it.pool.submit(0.5)
        scaler.tell(Committed(()))
        await trio.sleep(2.0)
        assert it.provider.requests == []
        for _ in range(60):
            it.pool.submit(0.5)
        scaler.tell(Committed(()))
        await trio.sleep(5.0)
        assert 1 <= len(it.provider.requests) <= 6


async def test_boots_that_fail_are_held_back_and_tried_again_for_ever(autojump_clock: MockClock) -> None:
    async with house(boot_timeout=30.0) as it:
        it.provider.boots_fail = True
        await it.start()
        for _ in range(9):
            it.pool.submit(1.0)
        await trio.sleep(40.0)
        assert len(it.provider.requests) == 4
        status = await it.status()
        assert "4 boots in a row have failed, scaling has given up for now" in status.trouble
        await trio.sleep(1800.0)
        assert 8 <= len(it.provider.requests) <= 4 + 1800 // (30 + 10), "one at a time, with growing pauses"
        assert len(it.provider.machines) <= 1
        it.provider.boots_fail = False
        await trio.sleep(500.0)
        assert it.pool.completed == 9
        assert (await it.status()).trouble == ""


@pytest.mark.parametrize("blameless", [True, False])
async def test_a_machine_that_is_taken_away_before_its_node_has_come_is_no_failed_boot(
    autojump_clock: MockClock, blameless: bool
) -> None:
    """As an allocation that is preempted."""
    async with house(min_nodes=1) as it:
        it.provider.boots_fail = True
        await it.start()
        for _ in range(6):
            await trio.sleep(40.0)
            it.provider.take_away(MachineEnd("Slurm says PREEMPTED", blameless=blameless))
        await trio.sleep(40.0)
        gave_up = "boots in a row have failed" in (await it.status()).trouble
        assert gave_up is not blameless
        assert (len(it.provider.requests) == 7) is blameless, "it is made anew at once"


async def test_a_provider_that_crashes_is_said_and_ends_nothing(autojump_clock: MockClock) -> None:
    async with house() as it:
        it.provider.crash = ValueError("a defect of the provider")
        await it.start()
        it.pool.submit(1.0)
        await trio.sleep(30.0)
        trouble = (await it.status()).trouble
        assert "fake cannot create: a defect of the provider" in trouble
        assert "fake cannot list" in trouble
        it.provider.crash = None
        await trio.sleep(120.0)
        assert it.pool.completed == 1
        assert (await it.status()).trouble == ""


async def test_a_sender_that_does_not_answer_is_said_and_nothing_is_decided(
    autojump_clock: MockClock,
) -> None:
    async with house() as it:
        it.pool.deaf = True
        await it.start()
        it.pool.submit(1.0)
        await trio.sleep(30.0)
        assert it.provider.requests == []
        assert "the pool cannot be seen" in (await it.status()).trouble
        it.pool.deaf = False
        await trio.sleep(60.0)
        assert it.pool.completed == 1


async def test_load_that_comes_back_keeps_a_node_that_was_about_to_go(autojump_clock: MockClock) -> None:
    async with house(cooldown=0.0) as it:
        await it.start()
        it.provider.terminate_delay = lambda: 3.0
        it.pool.submit(2.0)
        await trio.sleep(32.0)
        node = next(iter(it.pool.nodes.values()))
        await it.records.until_noted("drain")
        it.pool.submit(2.0)
        await trio.sleep(1.5)
        assert it.decided("undrain") == [node.node_id.replace("node-", "host-")]
        assert len(it.provider.requests) == 1
        await trio.sleep(5.0)
        assert it.pool.completed == 2


async def test_the_machine_of_a_lost_node_is_ended_and_another_one_made(autojump_clock: MockClock) -> None:
    async with house(max_nodes=2) as it:
        await it.start()
        it.pool.submit(500.0)
        await trio.sleep(40.0)
        (node,) = it.pool.nodes.values()
        node.silent_since = trio.current_time()
        await trio.sleep(55.0)
        assert it.provider.terminated == []
        it.pool.submit(1.0)
        await trio.sleep(60.0)
        assert len(it.provider.terminated) == 1
        assert it.pool.completed == 1


# ------------------------------------------------------------------ not as it was ordered


async def test_a_node_with_fewer_slots_than_were_ordered_is_told_once(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async with house(slots=4, min_nodes=1) as it:
        it.pool.slots = 1
        await it.start()
        await trio.sleep(200.0)
        (token,) = it.records.rows
        problem = "its node has 1 slot, and was ordered with 4"
        assert (await it.status()).trouble == f"machine i-1: {problem}"
        assert it.pool.remarks == {token: problem}
        said = [one.getMessage() for one in caplog.records if one.levelno >= logging.WARNING]
        assert said == [f"machine i-1 of service dock: {problem}"]
        it.pool.nodes[f"node-{token}"].slots = 4
        await trio.sleep(5.0)
        assert (await it.status()).trouble == "" and it.pool.remarks == {token: ""}


async def test_a_machine_whose_node_came_for_something_else_is_ended_with_that_reason(
    autojump_clock: MockClock,
) -> None:
    async with house(min_nodes=1) as it:
        it.provider.boots_fail = True
        await it.start()
        await trio.sleep(5.0)
        (token,) = it.records.rows
        it.pool.words[token] = "its node joined for other alone"
        await trio.sleep(5.0)
        assert (await it.status()).trouble == "machine i-1: its node joined for other alone"
        await trio.sleep(130.0)
        assert it.records.rows[token].reason == (
            "its node has not come within 120 s: its node joined for other alone"
        )


# ------------------------------------------------------------------ after a restart


async def test_machines_of_an_earlier_life_are_adopted(autojump_clock: MockClock) -> None:
    async with house() as it:
        await it.start()
        for _ in range(2):
            it.pool.submit(300.0)
        await trio.sleep(40.0)
        for _ in range(2):
            it.pool.submit(300.0)
        await trio.sleep(5.0)
        await it.start()
        await trio.sleep(100.0)
        assert it.states() == [JOINED] * 4
        assert len(it.provider.made) == 4
        assert it.pool.ended_by_scaling == []
        await trio.sleep(600.0)
        assert it.provider.machines == {}
        assert it.pool.completed == 4


async def test_a_kill_while_the_provider_is_asked_boots_one_machine(autojump_clock: MockClock) -> None:
    for at in (0.1, 0.3, 0.55, 0.8):
        async with house() as it:
            await it.start()
            it.pool.submit(10.0)
            await trio.sleep(at)
            await it.start()
            await trio.sleep(60.0)
            assert len(it.provider.made) == 1
            assert it.pool.completed == 1


async def test_machines_without_a_record_are_ended_and_a_node_in_use_is_adopted(
    autojump_clock: MockClock,
) -> None:
    async with house() as it:
        it.provider.boots_fail = True
        it.provider.foreign("f" * 32)
        used = it.provider.foreign("a" * 32)
        await it.start()
        await trio.sleep(5.0)
        it.pool.up("a" * 32)  # it comes back a moment after the restart
        it.pool.submit(200.0)
        await trio.sleep(15.0)
        assert it.provider.terminated == ["i-1"]
        assert it.records.rows["a" * 32].state is JOINED
        await trio.sleep(30.0)
        assert it.records.rows["a" * 32].machine_id == used.machine_id
        await trio.sleep(400.0)
        assert it.pool.completed == 1
        assert it.provider.machines == {}


async def test_a_machine_of_an_earlier_life_past_boot_timeout_has_a_grace_and_is_ended(
    autojump_clock: MockClock,
) -> None:
    async with house() as it:
        it.provider.boots_fail = True
        machine = it.provider.foreign("b" * 32)
        it.record("b" * 32, BOOTING, age=5000.0, machine_id=machine.machine_id)
        await it.start()
        await trio.sleep(55.0)
        assert it.provider.terminated == []
        await trio.sleep(10.0)
        assert it.provider.terminated == [machine.machine_id]
        assert it.states() == [ENDED]


async def test_a_wall_clock_that_jumps_ends_nothing(autojump_clock: MockClock) -> None:
    async with house(min_nodes=2) as it:
        await it.start()
        await trio.sleep(10.0)
        for jump in (1e6, -1e6, 0.0):
            it.wall.jump = jump
            await trio.sleep(5.0)
            await it.start()
        await trio.sleep(100.0)
        assert len(it.provider.made) == 2
        assert it.provider.terminated == []


async def test_machines_of_a_service_that_scales_no_more_go_once_they_are_idle(
    autojump_clock: MockClock,
) -> None:
    async with house() as it:
        machine = it.provider.foreign("c" * 32)
        it.record("c" * 32, JOINED, service="old", machine_id=machine.machine_id, node_id="node-c")
        await it.start()
        await trio.sleep(200.0)
        assert it.provider.terminated == [machine.machine_id]


# ------------------------------------------------------------------ what it remembers


def test_a_job_is_counted_once_and_only_the_newest_fifty_matter() -> None:
    times = RunTimes()
    assert times.mean is None
    times.take(row(1, None))
    times.take(row(1, 4.0))
    times.take(row(1, 4.0))
    times.take(row(2, 8.0))
    times.take(row(3, 1000.0, Status.KILLED))
    assert times.mean == 6.0
    for job_id in range(10, 60):
        times.take(row(job_id, 1.0))
    assert times.mean == 1.0


def test_the_peak_is_the_largest_of_the_window_and_unknown_before_it_is_full() -> None:
    peak = Peak(10.0, 0.0)
    for now, value in ((0.0, 5), (3.0, 9), (6.0, 2), (9.0, 4)):
        peak.take(now, value)
    assert peak.most(9.0) is None
    assert peak.most(10.0) == 9
    peak.take(14.0, 1)
    assert peak.most(14.0) == 4
