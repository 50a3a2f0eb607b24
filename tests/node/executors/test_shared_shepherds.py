"""Shepherds that watch one payload after another: nothing of one is the next one's."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import trio

from node.executors import mark_files
from node.executors.executor import RunEnd, RunSpec
from node.executors.shepherd_executor import ShepherdExecutor
from node.executors.shepherded_run import ShepherdedRun, read_end, read_run_mark
from tests.node.executors.conftest import WAYS

PROGRAM = Path(__file__).with_name("agent_program.py")
ROOT = Path(__file__).parents[3]


NAMESPACED = [way for way in WAYS if way[0] != "subreaper"]
"""Without namespaces each payload has a shepherd of its own."""


@pytest.fixture(params=NAMESPACED, ids="-".join)
def way(request: pytest.FixtureRequest) -> tuple[str, str]:
    isolation, tier = request.param
    return isolation, tier


def _agent(*arguments: str) -> subprocess.Popen[str]:
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    return subprocess.Popen(
        [sys.executable, str(PROGRAM), *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": path},
    )


async def _end(executor: ShepherdExecutor, spec: RunSpec) -> RunEnd:
    run = await executor.start(spec)
    with trio.fail_after(60):
        return await run.wait()


def _shepherd(spec: RunSpec) -> int:
    mark = read_run_mark(spec)
    assert mark is not None
    return mark.shepherd.pid


async def test_each_payload_has_its_own_end_logs_and_figures(executor, payloads):
    specs = [payloads.make(f"echo {number}; echo {number} >&2; exit {number}") for number in range(20)]
    busy = payloads.make("python3 -S -c 'x = b\"x\" * (80 << 20)'; for i in {1..50000}; do :; done")
    first = await _end(executor, busy)
    ends = [await _end(executor, spec) for spec in specs]
    # One that is not back when the next begins is not waited for.
    assert len({_shepherd(spec) for spec in (busy, *specs)}) < 10
    assert [end.exit_code for end in ends] == list(range(20))
    for number, spec in enumerate(specs):
        assert (spec.directory / "stdout.log").read_text() == f"{number}\n"
        assert (spec.directory / "stderr.log").read_text() == f"{number}\n"
    assert first.peak_bytes > 80 << 20 > max(end.peak_bytes for end in ends)
    assert first.cpu_seconds > max(end.cpu_seconds for end in ends)
    assert all(end.started_at >= first.ended_at for end in ends)


async def test_a_shepherd_says_what_it_writes(executor, payloads):
    spec = payloads.make("echo out; exec >&- 2>&-; exit 3")
    run = await executor.start(spec)
    with trio.fail_after(60):
        end = await run.wait()
    mark = read_run_mark(spec)
    assert mark is not None and not mark.pipes
    assert (mark.shepherd.pid, mark.started_at, mark.uptime) == (run.pid, run.started_at, run.uptime)
    assert end.exit_code == 3 and read_end(spec, mark.nonce) == end
    # So what it has said holds, whatever becomes of the file.
    (spec.directory / mark_files.END).write_bytes(b"")
    assert await run.wait() == end
    assert (spec.directory / "stdout.log").read_bytes() == b"out\n"


async def test_what_a_shepherd_says_of_an_earlier_start_is_not_the_end_of_this_one(executor, payloads):
    spec = payloads.make("exit 3")
    run = await executor.start(spec)
    with trio.fail_after(60):
        await run.wait()
    mark = read_run_mark(spec)
    assert mark is not None
    other = ShepherdedRun(spec, replace(mark, nonce="f" * 32), run._leash)
    with trio.fail_after(60):
        assert (await other.end()).supervision_killed


async def test_a_shepherd_keeps_no_descriptor_of_an_earlier_payload(executor, payloads):
    first, then = payloads.make("exit 0"), [payloads.make("exit 0") for _ in range(20)]
    await _end(executor, first)
    counts = []
    for spec in then:
        run = await executor.start(spec)
        await run.wait()
        # One that was not back when the next began may be one too many by now, and has gone.
        with contextlib.suppress(FileNotFoundError):
            counts.append(len(os.listdir(f"/proc/{run.pid}/fd")) if os.geteuid() == 0 else 0)
    assert len(counts) > 10 and max(counts) <= 16


@pytest.mark.parametrize("way", [way for way in NAMESPACED if way[1] == "bash"], ids="-".join, indirect=True)
async def test_mounts_of_a_payload_are_not_there_for_the_next(executor, payloads):
    mounting = payloads.make("mount -t tmpfs none /mnt && touch /mnt/mine && ls /mnt")
    looking = payloads.make("ls /mnt; grep -c ' /mnt ' /proc/self/mounts; true")
    assert (await _end(executor, mounting)).exit_code == 0
    assert (mounting.directory / "stdout.log").read_text() == "mine\n"
    await _end(executor, looking)
    assert _shepherd(mounting) == _shepherd(looking)
    assert "mine" not in (looking.directory / "stdout.log").read_text()


async def test_who_asks_a_payload_to_end_that_has_ended_does_not_end_the_next(executor, payloads, signpost):
    first, then = payloads.make("exit 0"), payloads.make("read line < signpost; exit 3")
    post = signpost(then)
    ended = await executor.start(first)
    with trio.fail_after(60):
        await ended.wait()
    # As who could not know yet that it had ended; and who sends to the pid that the first one's mark names.
    os.kill(ended.pid, signal.SIGTERM)
    os.kill(ended.pid, signal.SIGUSR1)
    run = await executor.start(then)
    assert run.pid == ended.pid and run.alive() and not ended.alive()
    with trio.fail_after(60):
        await ended.stop(1)
        await ended.stop(0)
        os.write(post.descriptor, b"go\n")
        end = await run.wait()
    assert (end.exit_code, end.asked) == (3, False)


async def test_a_killed_idle_shepherd_is_replaced(executor, payloads):
    run = await executor.start(payloads.make("exit 0"))
    await run.wait()
    os.kill(run.pid, signal.SIGKILL)
    then = await executor.start(payloads.make("exit 3"))
    assert then.pid != run.pid
    with trio.fail_after(60):
        assert (await then.wait()).exit_code == 3


async def test_the_next_node_tells_the_payloads_of_one_shepherd_apart(
    payloads, isolation, tier, nursery, signpost
):
    first, then = payloads.make("exit 4"), payloads.make("read line < signpost; exit 5")
    post = signpost(then)
    with _agent(str(payloads.directory), isolation, tier) as agent:
        for spec, awaited in ((first, f"ended {first.key}\n"), (then, f"started {then.key}\n")):
            agent.stdin.write(f"{spec.directory}\n")
            agent.stdin.flush()
            line = ""
            while line != awaited:
                line = await trio.to_thread.run_sync(agent.stdout.readline)
                assert line, "the agent ended before its time"
        agent.kill()
    assert _shepherd(first) == _shepherd(then)
    executor = ShepherdExecutor(payloads.directory, isolation, tier=tier)
    with trio.fail_after(60):
        await nursery.start(executor.serve)
        end = await executor.adopt(first)
        assert isinstance(end, RunEnd) and (end.exit_code, end.asked) == (4, False)
        run = await executor.adopt(then)
        assert not isinstance(run, RunEnd) and run.alive()
        os.write(post.descriptor, b"go\n")
        assert (await run.wait()).exit_code == 5
        # Its node has gone: it waits for nobody.
        await payloads.ended(run.pid)
    nursery.cancel_scope.cancel()


async def test_a_payload_whose_mark_is_lost_is_found_at_a_shepherd_that_had_others(
    executor, payloads, signpost
):
    assert (await _end(executor, payloads.make("exit 0"))).exit_code == 0
    spec = payloads.make("read line < signpost; exit 6")
    post = signpost(spec)
    begun = await executor.start(spec)
    (spec.directory / mark_files.RUN).write_bytes(b"")
    with trio.fail_after(60):
        run = await executor.adopt(spec)
        assert not isinstance(run, RunEnd) and run.pid == begun.pid
        assert abs(run.started_at - begun.started_at) < 1
        os.write(post.descriptor, b"go\n")
        assert (await run.wait()).exit_code == 6
