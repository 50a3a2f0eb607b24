"""What the executor asks of a batch system, kept by Slurm's commands: before a real Slurm, and before the
programs that stand for it in other tests, so that these answer as it does."""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import trio
from support.processes.fake_slurm import FakeSlurm
from support.processes.slurm_cluster import MISSING, SlurmCluster, slurm_cluster

from node.executors.slurm.batch_system import BatchId, BatchJob, BatchSystem, OutOfReach, Phase, Refused
from node.executors.slurm.commands import PREFIX, SlurmCommands

PATIENCE = 60.0
HASTE = 2.0
UNTIL_TERM = "trap 'touch $1/asked; exit 5' TERM; touch $1/begun; while :; do sleep 0.05; done"


@dataclass
class World:
    """`hold`: whether what is submitted from now on waits. `cut`: nobody answers any more. `hasty` does not
    wait long for an answer. What is submitted has a directory of its own below `place`."""

    system: BatchSystem
    hasty: BatchSystem
    place: Path
    hold: Callable[[bool], None]
    cut: Callable[[], None]

    async def submit(self, script: str, name: str = "") -> tuple[BatchId, str, Path]:
        name = name or f"{PREFIX}{secrets.token_hex(16)}-{secrets.token_hex(8)}"
        here = self.place / secrets.token_hex(4)
        here.mkdir()
        options = [f"--output={here}/log"]
        return await self.system.submit(name, f"#!/bin/bash\n{script}\n", [str(here)], options), name, here

    async def until(self, name: str, *phases: Phase) -> BatchJob:
        """What is listed of it, once it is in one of these phases."""
        with trio.fail_after(PATIENCE):
            while True:
                job = (await self.system.list(())).get(name)
                if job is not None and job.phase in phases:
                    return job
                await trio.sleep(0.05)


async def until_there(file: Path) -> None:
    with trio.fail_after(PATIENCE):
        while not file.exists():  # noqa: ASYNC110, ASYNC240  # programs of their own
            await trio.sleep(0.05)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SlurmCluster]:
    with slurm_cluster(tmp_path_factory.mktemp("slurm"), cpus=4) as found:
        yield found


@pytest.fixture(
    params=[
        "fake",
        pytest.param("real", marks=pytest.mark.skipif(bool(MISSING), reason=f"missing: {MISSING}")),
    ]
)
def world(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[World]:
    place = tmp_path / "jobs"
    place.mkdir()
    if request.param == "fake":
        fake = FakeSlurm(tmp_path / "fake")
        systems = [SlurmCommands(fake.environment, deadline) for deadline in (PATIENCE, HASTE)]
        yield World(*systems, place, lambda on: fake.set("hold", on), lambda: fake.say("unreachable"))
        return
    cluster: SlurmCluster = request.getfixturevalue("cluster")

    def hold(on: bool) -> None:
        cluster.run("scontrol", "update", "PartitionName=main", f"State={'DOWN' if on else 'UP'}")

    cut: list[None] = []

    def cut_off() -> None:
        cluster.stop_controller()
        cut.append(None)

    environ = {**os.environ, **cluster.environment}
    systems = [SlurmCommands(environ, deadline) for deadline in (PATIENCE, HASTE)]
    yield World(*systems, place, hold, cut_off)
    if cut:
        cluster.begin_controller()
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            hold(False)
            return
        except AssertionError:
            if time.monotonic() > deadline:
                raise


@pytest.mark.parametrize(("script", "state"), [("exit 0", "COMPLETED"), ("exit 3", "FAILED")])
async def test_what_is_submitted_is_run_with_its_arguments_and_its_end_is_listed_and_found(
    world: World, script: str, state: str
) -> None:
    begun = time.time()
    number, name, here = await world.submit(f"echo said; touch $1/there; {script}")
    job = await world.until(name, Phase.ENDED)
    assert (job.id, job.name, job.state) == (number, name, state)
    assert abs(job.submitted - begun) < PATIENCE
    assert (here / "there").exists() and (here / "log").read_text() == "said\n"
    found = await world.system.find(number, name)
    assert found is not None and (found.phase, found.submitted) == (Phase.ENDED, job.submitted)


async def test_what_waits_says_so_and_ends_when_it_is_stopped_or_cancelled(world: World) -> None:
    world.hold(True)
    for end in (world.system.stop, world.system.cancel):
        number, name, here = await world.submit("touch $1/there")
        job = await world.until(name, Phase.WAITING)
        assert (job.id, job.state) == (number, "PENDING") and job.reason
        await end(number, name)
        assert (await world.until(name, Phase.ENDED)).state.startswith("CANCELLED")
        assert not (here / "there").exists()


async def test_what_runs_is_asked_to_end_when_it_is_stopped(world: World) -> None:
    number, name, here = await world.submit(UNTIL_TERM)
    await until_there(here / "begun")
    assert (await world.until(name, Phase.RUNNING)).host
    await world.system.stop(number, name)
    await until_there(here / "asked")
    assert (await world.until(name, Phase.ENDED)).state == "FAILED"


async def test_what_runs_is_ended_when_it_is_cancelled(world: World) -> None:
    number, name, here = await world.submit(UNTIL_TERM)
    await until_there(here / "begun")
    await world.system.cancel(number, name)
    assert (await world.until(name, Phase.ENDED)).state.startswith("CANCELLED")


async def test_whoever_has_its_id_by_now_is_neither_found_nor_ended(world: World) -> None:
    number, name, here = await world.submit(UNTIL_TERM)
    await until_there(here / "begun")
    other = f"{PREFIX}{'0' * 32}-{'1' * 16}"
    assert await world.system.find(number, other) is None
    await world.system.stop(number, other)
    await world.system.cancel(number, other)
    found = await world.system.find(number, name)
    assert found is not None and found.phase is Phase.RUNNING and not (here / "asked").exists()
    await world.system.cancel(number, name)
    await world.until(name, Phase.ENDED)


async def test_what_has_ended_or_never_was_may_be_stopped_and_cancelled(world: World) -> None:
    number, name, _ = await world.submit("exit 0")
    await world.until(name, Phase.ENDED)
    for one in (number, BatchId("999999")):
        await world.system.stop(one, name)
        await world.system.cancel(one, name)
    assert (await world.until(name, Phase.ENDED)).state == "COMPLETED"
    assert await world.system.find(BatchId("999999"), name) is None


async def test_jobs_of_another_name_are_not_told_of(world: World) -> None:
    number, name, _ = await world.submit("exit 0", name="a person's own")
    _, ours, _ = await world.submit("exit 0")
    await world.until(ours, Phase.ENDED)
    assert name not in await world.system.list(())
    with pytest.raises(OutOfReach, match="cannot be read"):
        await world.system.find(number, name)


async def test_of_two_of_one_name_the_one_that_has_not_ended_is_told(world: World) -> None:
    _, name, _ = await world.submit("exit 0")
    await world.until(name, Phase.ENDED)
    world.hold(True)
    number, _, _ = await world.submit("exit 0", name=name)
    assert (await world.until(name, Phase.WAITING)).id == number
    assert (await world.system.list(()))[name].id == number
    await world.system.cancel(number, name)
    await world.until(name, Phase.ENDED)


async def test_what_is_refused_says_why_and_is_not_there(world: World) -> None:
    name = f"{PREFIX}{'2' * 32}-{'3' * 16}"
    with pytest.raises(Refused, match=r"[iI]nvalid partition"):
        await world.system.submit(name, "#!/bin/sh\n", ["/"], ["--partition=nowhere"])
    assert name not in await world.system.list(())


async def test_that_nobody_answers_is_no_answer(world: World) -> None:
    number, name, _ = await world.submit("exit 0")
    await world.until(name, Phase.ENDED)
    world.cut()

    async def ask(question: Awaitable[object]) -> None:
        with pytest.raises(OutOfReach):
            await question

    async with trio.open_nursery() as nursery:
        for question in (
            world.hasty.submit(name, "#!/bin/sh\n", ["/"], []),
            world.hasty.list(()),
            world.hasty.find(number, name),
            world.hasty.stop(number, name),
            world.hasty.cancel(number, name),
        ):
            nursery.start_soon(ask, question)
