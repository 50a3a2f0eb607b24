"""Two kinds of accident that auto-scaling is known for: a machine is ended with a job on it, and a cloud that
forgets a machine for a moment makes a second one boot or the first be given up. Under the mock clock, with
every delay drawn from a seed."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
import trio
from support.memory.fake_provider import FakeProvider
from support.memory.scaled_house import House, house
from trio.testing import MockClock

from actors.domain.scaling import MachineState, UnreadableMachine

# ------------------------------------------------------------------ the idle machine gets a job


async def _short_jobs(it: House, rng: random.Random, gap: tuple[float, float]) -> None:
    for _ in range(500):
        await trio.sleep(rng.uniform(*gap))
        it.pool.submit(0.3)


async def _settled(it: House) -> None:
    await trio.sleep(120.0)
    assert it.provider.machines == {}
    assert it.pool.nodes == {}


@pytest.mark.parametrize(("gap", "ends"), [((0.9, 1.1), 3), ((1.2, 1.6), 5), ((1.5, 4.0), 20)])
async def test_a_machine_is_never_ended_with_a_job_on_it(
    gap: tuple[float, float], ends: int, autojump_clock: MockClock
) -> None:
    rng = random.Random(26)
    async with house(idle_timeout=1.0, cooldown=0.0, target_wait=1.0, max_nodes=3) as it:
        it.provider.boot_seconds = 0.5
        it.provider.terminate_delay = lambda: rng.uniform(0.0, 2.0)
        await it.start()
        await _short_jobs(it, rng, gap)
        await _settled(it)
        assert it.pool.ended_by_scaling == []
        assert it.pool.completed == 500
        assert len(it.provider.terminated) >= ends, "machines did come and go"


async def test_a_pool_that_assigned_to_draining_nodes_would_be_found_out(autojump_clock: MockClock) -> None:
    rng = random.Random(26)
    async with house(idle_timeout=1.0, cooldown=0.0, target_wait=1.0, max_nodes=3) as it:
        it.pool.heeds_drains = False
        it.provider.boot_seconds = 0.5
        it.provider.terminate_delay = lambda: rng.uniform(0.0, 2.0)
        await it.start()
        await _short_jobs(it, rng, (1.5, 4.0))
        assert it.pool.ended_by_scaling


@pytest.mark.parametrize("seed", range(12))
async def test_in_any_order_of_assigning_draining_and_ending(seed: int, autojump_clock: MockClock) -> None:
    """Slow answers of the pool, slow and throttled calls, the scaler killed, the pool's owner started anew
    (it has forgotten every drain), jobs that arrive just when a node has become idle for long enough."""
    rng = random.Random(f"order/{seed}")
    slots = rng.choice([1, 3])
    async with house(seed=seed, slots=slots, idle_timeout=1.0, cooldown=0.0, target_wait=1.0) as it:
        it.provider.boot_seconds = rng.uniform(0.2, 3.0)
        it.pool.delay = lambda: rng.choice([0.0, 0.0, 0.01, 0.4, 1.5])
        it.provider.terminate_delay = lambda: rng.uniform(0.0, 2.0)
        it.provider.create_delay = lambda: rng.uniform(0.0, 2.0)
        await it.start()
        jobs = 0
        for _ in range(120):
            await trio.sleep(rng.choice([0.05, 0.3, 1.0, 1.3, 2.1, 3.0]))
            match rng.randrange(12):
                case 0:
                    it.provider.throttled_until = trio.current_time() + rng.uniform(0.0, 5.0)
                case 1:
                    await it.start()
                case _:
                    for _ in range(rng.choice([1, 1, 1, 4])):
                        it.pool.submit(rng.choice([0.1, 0.3, 2.5]))
                        jobs += 1
        await _settled(it)
        assert it.pool.ended_by_scaling == []
        assert it.pool.completed == jobs
        assert all(state is MachineState.ENDED for state in it.states())


async def test_a_decision_is_looked_at_again_before_the_machine_is_ended(autojump_clock: MockClock) -> None:
    """Between the decision and the call, which is throttled, the pool's owner starts anew: it knows of no
    drain and gives the node a job."""
    async with house(idle_timeout=5.0, cooldown=0.0, max_nodes=1) as it:
        await it.start()
        it.pool.submit(1.0)
        await it.records.until_noted("drain")
        it.provider.throttled_until = trio.current_time() + 30.0
        await it.records.until_noted("terminate")
        await trio.sleep(10.0)
        it.pool.restart()
        it.pool.submit(60.0)
        await trio.sleep(40.0)
        assert it.pool.ended_by_scaling == []
        assert it.decided("keep")
        await trio.sleep(120.0)
        assert it.pool.completed == 2
        assert it.provider.machines == {}
        assert len(it.provider.made) == 1


async def test_a_node_that_just_joined_has_its_own_grace(autojump_clock: MockClock) -> None:
    async with house(idle_timeout=20.0, cooldown=0.0) as it:
        it.provider.boot_seconds = 60.0
        await it.start()
        it.pool.up(None, "static")
        it.pool.submit(30.0)
        it.pool.submit(30.0)
        await trio.sleep(62.0)
        assert it.pool.completed == 2, "another node has done it"
        await trio.sleep(15.0)
        assert it.decided("drain") == []
        await trio.sleep(10.0)
        assert len(it.decided("drain")) == 1


async def test_what_an_operator_drains_is_not_ended(autojump_clock: MockClock) -> None:
    async with house(idle_timeout=20.0) as it:
        await it.start()
        it.pool.submit(5.0)
        await trio.sleep(32.0)
        (node,) = it.pool.nodes.values()
        node.drained_for, node.drained_at = "a new kernel", trio.current_time()
        await trio.sleep(200.0)
        assert it.provider.terminated == []


# ------------------------------------------------------------------ the cloud forgets a machine


async def test_a_new_machine_that_is_not_listed_for_half_a_minute(autojump_clock: MockClock) -> None:
    async with house() as it:
        await it.start()
        it.pool.submit(200.0)
        await trio.sleep(1.0)
        (token,) = it.records.rows
        it.provider.forget(token, trio.current_time() + 30.0)
        await trio.sleep(100.0)
        assert it.provider.made == [token]
        assert it.provider.terminated == []
        await trio.sleep(150.0)
        assert it.pool.completed == 1


@pytest.mark.parametrize("answers", [1, 2])
async def test_empty_answers_end_nothing(answers: int, autojump_clock: MockClock) -> None:
    async with house() as it:
        await it.start()
        for _ in range(3):
            it.pool.submit(400.0)
        await trio.sleep(60.0)
        it.provider.forget_all(answers)
        await trio.sleep(300.0)
        assert len(it.provider.made) == 3
        assert it.states() == [MachineState.JOINED] * 3
        assert it.provider.terminated == []
        await trio.sleep(200.0)
        assert it.pool.completed == 3


async def test_answers_without_a_machine_end_it_only_once_its_node_is_silent_too(
    autojump_clock: MockClock,
) -> None:
    async with house(max_nodes=1) as it:
        await it.start()
        it.pool.submit(900.0)
        await trio.sleep(60.0)
        it.provider.forget_all(1000)
        await trio.sleep(600.0)
        assert it.states() == [MachineState.JOINED]
        (node,) = it.pool.nodes.values()
        node.silent_since = trio.current_time()
        it.pool.submit(1.0)
        await trio.sleep(180.0)
        assert MachineState.ENDED in it.states()
        assert len(it.provider.made) >= 2, "another one takes its place"


async def test_a_lost_answer_boots_one_machine(autojump_clock: MockClock) -> None:
    for honours_tokens in (True, False):
        async with house() as it:
            it.provider.honours_tokens = honours_tokens
            it.provider.lost_answers = 3
            await it.start()
            for _ in range(3):
                it.pool.submit(20.0)
            await trio.sleep(120.0)
            assert len(it.provider.made) == 3
            assert len(set(it.provider.requests)) == 3
            assert it.pool.completed == 3
            assert all(row.machine_id for row in it.records.rows.values())


async def test_a_request_that_never_returns_has_its_deadline_and_boots_one_machine(
    autojump_clock: MockClock,
) -> None:
    async with house() as it:
        delays = iter([1000.0, 0.5, 0.5])
        it.provider.create_delay = lambda: next(delays)
        await it.start(controller={"deadline": 20.0})
        it.pool.submit(20.0)
        await trio.sleep(15.0)
        assert (await it.status()).booting == 1
        await trio.sleep(5.3)
        assert "cannot create: no answer within 20 s" in (await it.status()).trouble
        await trio.sleep(60.0)
        assert len(it.provider.made) == 1
        assert len(it.provider.requests) == 2
        assert len(set(it.provider.requests)) == 1
        assert it.pool.completed == 1


async def test_a_machine_that_may_never_have_been_made_is_looked_for_and_not_hunted(
    autojump_clock: MockClock,
) -> None:
    """The answer is lost, the cloud shows nothing, and then nobody needs the machine any more."""
    async with house(boot_timeout=30.0, boot_backoff=1000.0, boot_backoff_most=1000.0) as it:
        it.provider.lost_answers = 1000
        it.provider.boots_fail = True
        it.provider.forget_all(1000)
        await it.start()
        it.pool.submit(20.0)
        await trio.sleep(45.0)
        assert it.states() == [MachineState.ENDING]
        it.provider.machines.clear()
        before = it.provider.lists
        await trio.sleep(100.0)
        assert it.states() == [MachineState.ENDED]
        assert it.provider.lists - before <= 6


async def test_two_machines_for_one_request_end_as_one(autojump_clock: MockClock) -> None:
    """The answer is lost, the cloud does not list the machine and does not know the token again."""
    async with house() as it:
        it.provider.honours_tokens = False
        it.provider.lost_answers = 1
        it.provider.forget_all(1)
        await it.start()
        it.pool.submit(20.0)
        it.provider.forget_all(3)
        await trio.sleep(200.0)
        assert len(it.provider.machines) <= 1
        assert it.pool.completed == 1
        assert it.pool.ended_by_scaling == []


async def test_a_minute_of_throttling_is_said_and_survived(autojump_clock: MockClock) -> None:
    async with house() as it:
        it.provider.throttled_until = 60.0
        await it.start()
        for _ in range(3):
            it.pool.submit(20.0)
        await trio.sleep(30.0)
        assert "cannot create: RequestLimitExceeded" in (await it.status()).trouble
        assert len(it.records.rows) == 3
        await trio.sleep(150.0)
        assert len(it.provider.made) == 3
        assert (await it.status()).trouble == ""
        assert it.pool.completed == 3


async def test_machines_listed_twice_are_one(autojump_clock: MockClock) -> None:
    async with house() as it:
        it.provider.listed_twice = True
        await it.start()
        it.pool.submit(100.0)
        await trio.sleep(140.0)
        assert it.provider.terminated == []
        assert it.pool.completed == 1


async def test_a_listed_machine_without_an_address_is_one_that_boots(autojump_clock: MockClock) -> None:
    async with house() as it:
        await it.start()
        it.pool.submit(20.0)
        await trio.sleep(5.0)
        (machine,) = it.provider.machines.values()
        it.provider.machines[machine.machine_id] = replace(machine, running=False, address=None)
        await trio.sleep(80.0)
        assert len(it.provider.made) == 1
        assert it.pool.completed == 1


async def test_machines_of_others_are_neither_adopted_nor_ended_and_are_said_once(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async with house() as it:
        await it.start()
        it.pool.submit(1.0)
        await trio.sleep(2.0)
        (recorded,) = it.records.rows
        it.provider.stranger("a" * 32)  # its node is in our pool, whoever told it to come
        it.pool.up("a" * 32)
        it.provider.stranger("b" * 32, "cd" * 16)
        it.provider.stranger(recorded, "cd" * 16)  # a token of ours that somebody has copied
        await trio.sleep(700.0)
        assert it.pool.completed == 1
        assert all(name.startswith("i-") for name in it.provider.terminated)
        assert set(it.records.rows) == {recorded}
        assert set(it.pool.nodes) == {"node-" + "a" * 32}
        said = [one.getMessage() for one in caplog.records if "machines of others" in one.getMessage()]
        assert said == ["fake lists machines of others, which are left alone: x-0, x-1, x-2"]


async def test_what_cannot_be_read_spoils_itself_alone_and_nobody_is_missed_for_it(
    autojump_clock: MockClock,
) -> None:
    async with house() as it:
        it.provider.boot_seconds = 100.0
        await it.start()
        it.pool.submit(1.0)
        await trio.sleep(5.0)
        (machine,) = it.provider.machines.values()
        it.provider.unreadable.append(UnreadableMachine("a line that says nothing"))
        it.provider.forget(machine.token, trio.current_time() + 90.0)
        await trio.sleep(90.0)
        assert "cannot be read (1): a line that says nothing" in (await it.status()).trouble
        assert it.states() == [MachineState.BOOTING] and it.provider.terminated == []
        it.pool.submit(1.0)
        await trio.sleep(200.0)
        assert it.pool.completed == 2, "scaling goes on"
        it.provider.unreadable.clear()
        await trio.sleep(60.0)
        assert (await it.status()).trouble == ""


async def test_a_machine_without_a_record_is_not_ended_while_its_node_works(
    autojump_clock: MockClock,
) -> None:
    """The pool cannot be seen for a while, so that the machine is not adopted in its moment of grace."""
    async with house() as it:
        it.provider.boots_fail = True
        it.provider.foreign("a" * 32)
        it.pool.up("a" * 32)
        it.pool.submit(100.0)
        it.pool.deaf = True
        await it.start()
        await trio.sleep(50.0)
        assert it.provider.terminated == []
        it.pool.deaf = False
        await trio.sleep(20.0)
        assert it.provider.terminated == [] and it.records.rows["a" * 32].state is MachineState.JOINED


@pytest.mark.parametrize("seed", range(8))
async def test_whatever_the_cloud_does_no_machine_is_ended_in_use_and_none_forgotten(
    seed: int, autojump_clock: MockClock
) -> None:
    await _days_with_a_bad_cloud(seed)


async def test_a_cloud_whose_every_machine_is_taken_for_ours_would_be_found_out(
    autojump_clock: MockClock,
) -> None:
    noticed = False
    try:
        for seed in range(20):
            await _days_with_a_bad_cloud(seed, stranger=FakeProvider.owner)
    except* AssertionError:
        noticed = True
    assert noticed


async def _days_with_a_bad_cloud(seed: int, stranger: str = "cd" * 16) -> None:
    rng = random.Random(f"cloud/{seed}")
    async with house(seed=seed, idle_timeout=20.0, cooldown=5.0) as it:
        it.provider.create_delay = lambda: rng.choice([0.1, 1.0, 30.0])
        it.provider.list_delay = lambda: rng.choice([0.1, 1.0, 10.0])
        it.provider.boot_seconds = rng.choice([1.0, 40.0])
        await it.start(controller={"deadline": 20.0})
        jobs = 0
        for _ in range(60):
            await trio.sleep(rng.uniform(0.0, 30.0))
            match rng.randrange(10):
                case 8:
                    it.provider.stranger(f"{rng.getrandbits(128):032x}", rng.choice(["", stranger]))
                case 9:
                    unreadable = [UnreadableMachine("half a line")]
                    it.provider.unreadable = [] if it.provider.unreadable else unreadable
                case 0:
                    it.provider.lost_answers = rng.randrange(1, 3)
                case 1:
                    it.provider.throttled_until = trio.current_time() + rng.uniform(0.0, 60.0)
                case 2:
                    it.provider.forget_all(rng.randrange(1, 3))
                case 3:
                    await it.start(controller={"deadline": 20.0})
                case _:
                    for _ in range(rng.randrange(1, 5)):
                        it.pool.submit(rng.choice([1.0, 10.0, 60.0]))
                        jobs += 1
        it.provider.unreadable.clear()
        await trio.sleep(900.0)
        assert all(name.startswith("i-") for name in it.provider.terminated)
        assert it.pool.ended_by_scaling == []
        assert it.pool.completed == jobs
        assert it.provider.machines == {}
        assert all(state is MachineState.ENDED for state in it.states())
        assert len(it.provider.made) <= len(it.records.rows), "one machine a record at most"
