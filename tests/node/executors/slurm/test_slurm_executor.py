"""The executor `slurm`, with a batch system that answers badly, or forgets."""

from __future__ import annotations

import ast
import inspect
import os
import secrets
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest
import trio
from support.processes.fake_slurm import FakeSlurm

from actors.domain.batch_request import BatchRequest
from actors.domain.limits import JobLimits
from actors.domain.progress import BatchStand
from node.executors import log_pipes, mark_files
from node.executors.executor import ExecutorError, NotTaken, RunEnd, RunSpec, StartedBefore
from node.executors.slurm import batch_program
from node.executors.slurm.commands import SlurmCommands
from node.executors.slurm.slurm_executor import SlurmExecutor, make_program
from node.executors.slurm.slurm_run import SlurmRun, make_order
from node.slurm_settings import SlurmOptions

PATIENCE = 60.0
OPTIONS = SlurmOptions()
PYTHONS = sorted({sys.executable, *Path("/usr/bin").glob("python3")}, key=str)
"""On a compute node may be another one than the node's own."""


@pytest.fixture
def slurm(tmp_path: Path) -> FakeSlurm:
    return FakeSlurm(tmp_path / "slurm")


def spec(tmp_path: Path, script: str, environment: Mapping[str, str] | None = None) -> RunSpec:
    key = secrets.token_hex(16)
    directory = tmp_path / key
    (directory / "work").mkdir(parents=True)
    (directory / "work" / "run.sh").write_text(script)
    return RunSpec(key, directory, {"PATH": "/usr/bin:/bin", **(environment or {})})


@asynccontextmanager
async def serving(
    slurm: FakeSlurm, untold: float = 600.0, options: SlurmOptions = OPTIONS
) -> AsyncIterator[SlurmExecutor]:
    """One that is quick, for what it waits for is not slow here."""
    commands = SlurmCommands(slurm.environment, deadline=2.0)
    executor = SlurmExecutor(
        commands,
        lambda service: options,
        fastest=0.2,
        slowest=0.4,
        absent=0.5,
        untold=untold,
        settled=1.0,
        lingers=0.5,
    )
    with trio.fail_after(PATIENCE):
        async with trio.open_nursery() as nursery:
            await nursery.start(executor.serve)
            yield executor
            nursery.cancel_scope.cancel()


async def start(executor: SlurmExecutor, what: RunSpec) -> SlurmRun:
    run = await executor.start(what)
    assert isinstance(run, SlurmRun)
    return run


async def adopted(executor: SlurmExecutor, what: RunSpec) -> SlurmRun:
    run = await executor.adopt(what)
    assert isinstance(run, SlurmRun)
    return run


async def asked_again(slurm: FakeSlurm, times: int) -> None:
    until = slurm.asked + times
    while slurm.asked < until:  # noqa: ASYNC110
        await trio.sleep(0.05)  # a program of its own counts


@pytest.mark.parametrize(
    ("script", "code", "signal"), [("exit 0", 0, None), ("exit 7", 7, None), ("kill -11 $$", None, 11)]
)
async def test_ends(
    tmp_path: Path, slurm: FakeSlurm, script: str, code: int | None, signal: int | None
) -> None:
    async with serving(slurm) as executor:
        what = spec(tmp_path, f"echo $GIVEN; echo bad >&2; {script}", {"GIVEN": "given"})
        end = await (await start(executor, what)).wait()
        assert (end.exit_code, end.signal, end.told, end.asked) == (code, signal, "", False)
        assert (what.directory / "stdout.log").read_text() == "given\n"
        assert (what.directory / "stderr.log").read_text() == "bad\n"
        with pytest.raises(StartedBefore):
            await executor.start(what)


async def test_what_it_does_not_take_is_the_job_s_doing_only_if_the_job_asks_for_it(
    tmp_path: Path, slurm: FakeSlurm
) -> None:
    async with serving(slurm, options=SlurmOptions(partition="nowhere")) as executor:
        with pytest.raises(ExecutorError, match=r"Slurm does not take it: .*nvalid partition") as raised:
            await executor.start(spec(tmp_path, ""))
        assert not isinstance(raised.value, NotTaken)
    async with serving(slurm) as executor:
        with pytest.raises(NotTaken, match="nvalid partition"):
            await executor.start(replace(spec(tmp_path, ""), batch_request=BatchRequest(partition="nowhere")))


@pytest.mark.parametrize(
    ("words", "limited", "asked"),
    [
        ("Memory specification can not be satisfied", True, True),
        ("Requested node configuration is not available", True, True),
        ("Requested time limit is invalid (missing or exceeds some limit)", True, True),
        ("Requested node configuration is not available", False, False),
        (
            "Job violates accounting/QOS policy (job submit limit, user's size and/or time limits)",
            True,
            False,
        ),
        ("error: QOSMaxWallDurationPerJobLimit sbatch: error: Batch job submission failed", True, True),
        ("error: AssocMaxMemPerJob sbatch: error: Batch job submission failed", True, True),
        ("error: QOSMaxMemoryPerNode sbatch: error: Batch job submission failed", False, False),
        ("error: QOSMaxSubmitJobPerUserLimit sbatch: error: Batch job submission failed", True, False),
        ("Invalid account or account/partition combination specified", True, False),
    ],
)
async def test_limits_are_the_job_s_where_nothing_is_as_large(
    tmp_path: Path, slurm: FakeSlurm, words: str, limited: bool, asked: bool
) -> None:
    async with serving(slurm) as executor:
        what = spec(tmp_path, "")
        run = executor._make(replace(what, limits=JobLimits(memory_bytes=1 << 50)) if limited else what, "n")
        run.refuse(words)
        end = await run.wait()
    assert (end.never_started, end.lost) == (True, not asked)
    assert end.told == f"Slurm does not take it: {words}"


@pytest.mark.parametrize("asks", [True, False])
async def test_what_cannot_begin_in_the_cluster_is_its_fault_unless_the_job_chose_the_place(
    tmp_path: Path, slurm: FakeSlurm, asks: bool
) -> None:
    async with serving(slurm, options=SlurmOptions(python="/nowhere/python3")) as executor:
        what = spec(tmp_path, "")
        run = await start(executor, replace(what, batch_request=BatchRequest(qos="low")) if asks else what)
        end = await run.wait()
    assert (end.never_started, end.lost) == (not asks, not asks)
    assert end.told.startswith("it could not begin in Slurm: Slurm says FAILED")


@pytest.mark.parametrize("module", [log_pipes, mark_files, batch_program])
def test_what_runs_on_a_compute_node_is_written_for_an_old_python(module: ModuleType) -> None:
    ast.parse(inspect.getsource(module), feature_version=(3, 7))


@pytest.mark.parametrize("python", PYTHONS)
def test_the_program_by_this_python_and_others(tmp_path: Path, python: Path | str) -> None:
    given = "\u00e4\udcff\U0001f600\n2"
    script = 'echo "$GIVEN"; (setsid sleep 600 & echo $! > ../orphan); exit 7'
    what = spec(tmp_path, script, {"GIVEN": given})
    make_order(what, {})
    (what.directory / "program").write_text(make_program(str(python)))
    program = [python, "-IS", what.directory / "program", what.directory]
    assert subprocess.run(program, check=False).returncode == 7
    assert (what.directory / "stdout.log").read_bytes() == os.fsencode(given) + b"\n"
    marks = mark_files.unpack((what.directory / mark_files.END).read_bytes())
    assert marks is not None and marks["status"] == str(7 << 8)
    with pytest.raises(ProcessLookupError):
        os.kill(int((what.directory / "orphan").read_text()), 0)
    assert subprocess.run(program, check=False, capture_output=True).returncode == batch_program.NOT_RUN


@pytest.mark.parametrize("mode", ["unreachable", "silent", "empty", "header", "hangs", "odd", "cut"])
async def test_that_it_could_not_be_asked_is_no_end(tmp_path: Path, slurm: FakeSlurm, mode: str) -> None:
    async with serving(slurm) as executor:
        what = spec(tmp_path, "while [ ! -e ../go ]; do sleep 0.05; done; exit 3")
        run = await start(executor, what)
        await run.leave_queue()
        slurm.say(mode)
        ended: list[RunEnd] = []
        async with trio.open_nursery() as nursery:

            async def wait() -> None:
                ended.append(await run.wait())

            nursery.start_soon(wait)
            await asked_again(slurm, 3)
            assert not ended
            (what.directory / "go").touch()
        assert ended[0].exit_code == 3
    assert len(list(slurm.jobs.iterdir())) == 1


async def test_one_question_for_all(tmp_path: Path, slurm: FakeSlurm) -> None:
    slurm.set("hold")
    async with serving(slurm) as executor, trio.open_nursery() as nursery:
        for _ in range(20):
            nursery.start_soon((await start(executor, spec(tmp_path, ""))).wait)
        before, begun = slurm.asked, trio.current_time()
        await asked_again(slurm, 3)
        # Never more often than the quickest pace.
        assert slurm.asked - before <= (trio.current_time() - begun) / 0.2 + 1
        nursery.cancel_scope.cancel()


async def test_what_has_ended_and_is_listed_still_is_cancelled(tmp_path: Path, slurm: FakeSlurm) -> None:
    """As with a controller that was killed before it had written down that the job has ended."""
    slurm.set("miss-ends")
    async with serving(slurm) as executor:
        end = await (await start(executor, spec(tmp_path, "exit 6"))).wait()
        assert (end.exit_code, end.told) == (6, "")
        (job,) = slurm.jobs.iterdir()
        # Until nothing is left to ask about.
        while (job / "state").read_text() != "CANCELLED\n" or executor._leaving:  # noqa: ASYNC110
            await trio.sleep(0.05)  # programs of their own


async def test_what_is_held_for_running_anew_is_cancelled(tmp_path: Path, slurm: FakeSlurm) -> None:
    """A controller that is killed forgets the last few seconds, and what it had said of them."""
    async with serving(slurm) as executor, trio.open_nursery() as nursery:
        await (await start(executor, spec(tmp_path, ""))).wait()
        while executor._leaving:  # noqa: ASYNC110
            await trio.sleep(0.05)  # until it is listed as ended
        (job,) = slurm.jobs.iterdir()
        (job / "state").write_text("RUNNING\n")
        slurm.set("hold")
        nursery.start_soon(
            (await start(executor, spec(tmp_path, ""))).wait
        )  # so that there is a reason to ask
        while (job / "state").read_text() != "CANCELLED\n":  # noqa: ASYNC110
            await trio.sleep(0.05)
        nursery.cancel_scope.cancel()


async def test_a_submission_whose_answer_was_lost_is_found(tmp_path: Path, slurm: FakeSlurm) -> None:
    slurm.set("lose-answer")
    async with serving(slurm) as executor:
        what = spec(tmp_path, f"echo begun >> {tmp_path}/marks; exit 4")
        run = await start(executor, what)
        assert run.batch_id is None
        assert (await run.wait()).exit_code == 4
    assert len(list(slurm.jobs.iterdir())) == 1
    assert (tmp_path / "marks").read_text() == "begun\n"


async def test_accounts_that_are_down_are_waited_for_but_not_for_ever(
    tmp_path: Path, slurm: FakeSlurm
) -> None:
    slurm.set("hold")
    down = "#!/bin/sh\necho 'Problem talking to the database: Connection refused' >&2; exit 1\n"
    (slurm.place / "bin" / "sacct").write_text(down)
    async with serving(slurm, untold=1.5) as executor:
        run = await start(executor, spec(tmp_path, ""))
        with trio.move_on_after(PATIENCE):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(run.leave_queue)
                await asked_again(slurm, 1)
                slurm.forget()
                nursery.cancel_scope.cancel()
        begun = trio.current_time()
        end = await run.wait()
        assert end.lost and "does not know job 1 any more" in end.told
        assert trio.current_time() - begun >= 1.0


async def test_a_node_that_comes_back_finds_its_jobs(tmp_path: Path, slurm: FakeSlurm) -> None:
    what = spec(tmp_path, "while [ ! -e ../go ]; do sleep 0.05; done; exit 5")
    async with serving(slurm) as executor:
        run = await start(executor, what)
        await run.leave_queue()
    (what.directory / "go").touch()
    async with serving(slurm) as executor:
        assert (await (await adopted(executor, what)).wait()).exit_code == 5
        fresh = await executor.adopt(spec(tmp_path, ""))
        assert isinstance(fresh, RunEnd) and fresh.never_started


async def test_one_that_waits_ends_when_it_is_stopped_and_never_begins(
    tmp_path: Path, slurm: FakeSlurm
) -> None:
    slurm.set("hold")
    async with serving(slurm) as executor:
        run = await start(executor, spec(tmp_path, ""))
        said: list[str] = []
        stood: list[BatchStand | None] = []
        async with trio.open_nursery() as nursery:

            async def hear(news: str, batch: BatchStand | None) -> None:
                said.append(news)
                stood.append(batch)

            nursery.start_soon(run.tell_news, hear)
            with trio.move_on_after(PATIENCE):
                async with trio.open_nursery() as waiting:
                    waiting.start_soon(run.leave_queue)
                    while "waits in Slurm: Priority (job 1, PENDING)" not in said:  # noqa: ASYNC110
                        await trio.sleep(0.05)
                    waiting.cancel_scope.cancel()
            await run.stop(1.0)
            nursery.cancel_scope.cancel()
        end = await run.wait()
        assert end.asked and end.exit_code is None
        assert BatchStand("slurm", "1", "PENDING", "Priority") in stood
    assert (slurm.jobs / "1" / "state").read_text() == "CANCELLED\n"


async def test_one_that_is_stopped_has_its_grace(tmp_path: Path, slurm: FakeSlurm) -> None:
    async with serving(slurm) as executor:
        what = spec(tmp_path, "trap 'echo told; exit 9' TERM; echo ready; while :; do sleep 0.05; done")
        run = await start(executor, what)
        log = what.directory / "stdout.log"
        while not log.exists() or not log.read_text():  # noqa: ASYNC110
            await trio.sleep(0.05)
        await run.stop(30.0)
        end = await run.wait()
        assert (end.exit_code, end.asked) == (9, True)
        stubborn = await start(executor, spec(tmp_path, "trap '' TERM; while :; do sleep 0.05; done"))
        await stubborn.leave_queue()
        await stubborn.stop(0.0)
        assert (await stubborn.wait()).signal == 9


async def test_what_slurm_has_forgotten_is_lost_and_its_number_nobodys_word(
    tmp_path: Path, slurm: FakeSlurm
) -> None:
    slurm.set("hold")
    async with serving(slurm) as executor:
        run = await start(executor, spec(tmp_path, ""))
        slurm.forget()
        slurm.set("hold", on=False)
        other = await start(executor, spec(tmp_path, "exit 6"))
        assert other.batch_id == run.batch_id
        end = await run.wait()
        assert end.lost and "does not know job 1 any more" in end.told
        assert (await other.wait()).exit_code == 6
