"""Nodes and spawners die; payloads go on, and the next node finds each of them as it is."""

from __future__ import annotations

import fcntl
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import trio

from actors.process import procfs
from node.executors import mark_files, shepherd, spawner
from node.executors.executor import ExecutorError, RunEnd, StartedBefore
from node.executors.shepherd_executor import ShepherdExecutor

PROGRAM = Path(__file__).with_name("agent_program.py")
ROOT = Path(__file__).parents[3]


def _agent(*arguments: str, before: tuple[str, ...] = ()) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [*before, sys.executable, str(PROGRAM), *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])},
    )


async def test_a_node_killed_amid_starts_leaves_payloads_that_the_next_one_finds(
    payloads, isolation, tier, nursery, signpost
):
    specs = [payloads.make(f"read line < signpost; NAP & exit {number}") for number in range(20)]
    posts = [signpost(spec) for spec in specs]
    with _agent(str(payloads.directory), isolation, tier) as agent:
        lines = "".join(f"{spec.directory}\n" for spec in specs)
        agent.stdin.write(lines)
        agent.stdin.close()
        told = 0
        while told < 6:
            line = await trio.to_thread.run_sync(agent.stdout.readline)
            assert line, "the agent ended before its time"
            told += line.startswith("started")
        agent.kill()
    executor = ShepherdExecutor(payloads.directory, isolation, tier=tier)
    with trio.fail_after(60):
        await nursery.start(executor.serve)
        found = [await executor.adopt(spec) for spec in specs]
        running = {n: each for n, each in enumerate(found) if not isinstance(each, RunEnd)}
        assert len(running) >= 6
        for number, each in enumerate(found):
            if isinstance(each, RunEnd):
                assert each.never_started
                assert not (specs[number].directory / "ended").exists()
                with pytest.raises(ExecutorError):
                    await executor.start(specs[number])
        for number, run in running.items():
            os.write(posts[number].descriptor, b"go\n")
            assert (await run.wait()).exit_code == number
            again = await executor.adopt(specs[number])
            assert isinstance(again, RunEnd)
            assert again.exit_code == number
    assert payloads.survivors() == []
    nursery.cancel_scope.cancel()


async def test_a_spawner_that_is_killed_is_started_again_and_ends_no_payload(executor, payloads, signpost):
    spec = payloads.make("read line < signpost; exit 9")
    post = signpost(spec)
    run = await executor.start(spec)
    first = executor.spawner_pid
    ends: list[RunEnd] = []

    async def one() -> None:
        started = await executor.start(payloads.make("exit 3"))
        ends.append(await started.wait())

    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            for number in range(30):
                nursery.start_soon(one)
                if number in (10, 20):
                    await trio.lowlevel.checkpoint()
            os.kill(first, signal.SIGKILL)
        assert [end.exit_code for end in ends] == [3] * 30
        assert executor.spawner_pid not in (0, first)
        os.write(post.descriptor, b"go\n")
        assert (await run.wait()).exit_code == 9


async def test_a_start_that_the_spawner_never_saw_is_handed_to_the_next_one(executor, payloads):
    os.kill(executor.spawner_pid, signal.SIGSTOP)
    ends: list[RunEnd] = []

    async def one() -> None:
        started = await executor.start(payloads.make("exit 3"))
        ends.append(await started.wait())

    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(one)
            await trio.testing.wait_all_tasks_blocked(0.01)
            os.kill(executor.spawner_pid, signal.SIGKILL)
    assert [end.exit_code for end in ends] == [3] * 3


async def test_a_node_that_ends_in_peace_leaves_its_payloads_to_the_next_one(
    payloads, isolation, tier, nursery, signpost
):
    spec = payloads.make("read line < signpost; exit 6")
    post = signpost(spec)
    async with trio.open_nursery() as first:
        executor = ShepherdExecutor(payloads.directory, isolation, tier=tier)
        await first.start(executor.serve)
        begun = await executor.start(spec)
        first.cancel_scope.cancel()
    executor = ShepherdExecutor(payloads.directory, isolation, tier=tier)
    await nursery.start(executor.serve)
    run = await executor.adopt(spec)
    assert not isinstance(run, RunEnd)
    assert (run.pid, run.started_at) == (begun.pid, begun.started_at)
    with trio.move_on_after(0.01) as patience:
        await run.wait()
    assert patience.cancelled_caught
    os.write(post.descriptor, b"go\n")
    with trio.fail_after(60):
        assert (await run.wait()).exit_code == 6
    nursery.cancel_scope.cancel()


async def test_an_adopted_payload_can_be_stopped(payloads, isolation, tier, nursery, signpost):
    spec = payloads.make("trap '' TERM; echo up > signpost; while :; do NAP; done")
    post = signpost(spec)
    async with trio.open_nursery() as first:
        executor = ShepherdExecutor(payloads.directory, isolation, tier=tier)
        await first.start(executor.serve)
        await executor.start(spec)
        await post.line()
        first.cancel_scope.cancel()
    run = await ShepherdExecutor(payloads.directory, isolation, tier=tier).adopt(spec)
    with trio.fail_after(60):
        await run.stop(0.05)
        assert (await run.wait()).signal == signal.SIGKILL
    assert payloads.survivors() == []
    nursery.cancel_scope.cancel()


async def test_what_was_given_up_never_starts(executor, payloads):
    spec = payloads.make("echo ran")
    for _ in range(2):
        end = await executor.adopt(spec)
        assert isinstance(end, RunEnd)
        assert end.never_started
    with pytest.raises(ExecutorError, match="given up"):
        await executor.start(spec)
    log = spec.directory / "stdout.log"
    assert not log.exists() or log.read_bytes() == b""


async def test_a_payload_of_another_boot_is_lost_unless_it_had_ended(executor, payloads):
    running, done = payloads.make("NAP"), payloads.make("exit 3")
    run = await executor.start(running)
    await (await executor.start(done)).wait()
    for spec in (running, done):
        path = spec.directory / mark_files.RUN
        values = mark_files.unpack(path.read_bytes())
        path.write_bytes(mark_files.pack(values | {"boot": "of-another-life"}))
    lost, ended = await executor.adopt(running), await executor.adopt(done)
    assert lost.lost
    assert lost.exit_code is None
    assert ended.exit_code == 3
    await run.stop(0)


async def test_a_pid_that_names_another_process_now_is_not_the_shepherd(executor, payloads):
    spec = payloads.make("exit 3")
    await (await executor.start(spec)).wait()
    path = spec.directory / mark_files.RUN
    values = mark_files.unpack(path.read_bytes())
    path.write_bytes(mark_files.pack(values | {"pid": str(os.getpid())}))
    end = await executor.adopt(spec)
    assert isinstance(end, RunEnd)
    assert end.exit_code == 3


async def test_a_second_node_on_the_same_data_is_refused(executor, payloads, isolation, tier, monkeypatch):
    monkeypatch.setattr(spawner, "_READY_WITHIN", 0.3)
    second = ShepherdExecutor(payloads.directory, isolation, tier=tier)
    with pytest.raises(ExecutorError, match="another node uses"):
        await second.serve()


def test_a_spawner_that_waits_for_another_ends_with_its_node(tmp_path):
    near, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with (tmp_path / "spawner.lock").open("w") as lock, near, far:
        fcntl.flock(lock, fcntl.LOCK_EX)
        command = [sys.executable, "-I", "-S", shepherd.__file__, str(far.fileno()), "subreaper", lock.name]
        with subprocess.Popen(command, pass_fds=[far.fileno()]) as waiting:
            far.close()
            near.close()
            try:
                assert waiting.wait(10) == 0
            finally:
                waiting.kill()


@pytest.mark.parametrize("role", ["init", "subreaper"])
async def test_a_node_to_which_orphans_fall_collects_them_and_takes_no_exit_code(payloads, role):
    before = ("unshare", "--pid", "--fork", "--mount-proc", "--kill-child")
    if os.geteuid() != 0:
        before = (*before, "--map-root-user")
    tried = await trio.run_process([*before, "true"], check=False, capture_stderr=True)
    if role == "subreaper" or tried.returncode != 0:
        before = ()  # Not PID 1 then, but heir to the same orphans.
    with _agent(str(payloads.directory), "auto", "bash", "orphans", before=before) as agent:
        output, _ = await trio.to_thread.run_sync(agent.communicate)
    assert output.splitlines() == ["ready", "codes {3} late 7 children True"]


@pytest.mark.parametrize("content", [None, b"", b"pid 99999999999999999999\n", b"\xff" * 9000])
async def test_a_shepherd_whose_mark_is_lost_is_found_by_its_name(
    executor, payloads, signpost, content, isolation
):
    spec = payloads.make("echo up > signpost; read line < go; exit 3")
    post = signpost(spec)
    os.mkfifo(spec.work / "go")
    shepherd_pid = (await executor.start(spec)).pid
    await post.line()
    mark = spec.directory / mark_files.RUN
    mark.unlink()
    if content is not None:
        mark.write_bytes(content)
    for _ in range(2):
        found = await executor.adopt(spec)
        assert not isinstance(found, RunEnd) and found.pid == shepherd_pid
        assert abs(found.started_at - time.time()) < 20
    with pytest.raises(StartedBefore):
        await executor.start(spec)
    await trio.to_thread.run_sync((spec.work / "go").write_text, "\n")
    assert (await found.wait()).exit_code == 3
    # Nobody watches it any more: its end mark tells all the same.
    end = await executor.adopt(spec)
    assert isinstance(end, RunEnd) and end.exit_code == 3
    (spec.directory / mark_files.END).write_bytes(b"key half")
    end = await executor.adopt(spec)
    assert isinstance(end, RunEnd) and end.unreadable


async def test_what_is_left_of_a_payload_without_marks_and_shepherd_is_ended(executor, payloads, isolation):
    spec = payloads.make("NAP")
    run = await executor.start(spec)
    mark = spec.directory / mark_files.RUN
    mark.write_bytes(b"")
    if isolation == "subreaper":
        # Its guard first, or that would end what is left.
        os.kill(_parent(run.pid), signal.SIGKILL)
    os.kill(run.pid, signal.SIGKILL)
    await payloads.ended(run.pid)
    end = await executor.adopt(spec)
    assert isinstance(end, RunEnd) and end.unreadable
    assert payloads.survivors() == []


def _parent(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


async def test_marks_of_an_earlier_version_are_heeded(executor, payloads):
    done, running, begun = (payloads.make("echo ran") for _ in range(3))
    for spec in (done, running, begun):
        (spec.directory / "run").mkdir()
    of_old = await trio.lowlevel.open_process(["sleep", "60"])
    identity = {
        "boot": procfs.boot_id(),
        "pid": str(of_old.pid),
        "since": str(procfs.start_time(of_old.pid)),
    }
    for spec in (done, running):
        mark = {"key": spec.key, "nonce": "once", "session": "2", "started": "1700000000.5"} | identity
        (spec.directory / "run/started").write_bytes(mark_files.pack(mark))
    figures = {"started": "1700000000.5", "ended": "1700000001.5", "wall": "1", "cpu": "0.5", "peak": "1"}
    ends = {"key": done.key, "nonce": "once", "status": str(3 << 8)} | figures
    (done.directory / "run/ended").write_bytes(mark_files.pack(ends))
    found = await executor.adopt(running)
    assert not isinstance(found, RunEnd) and found.pid == of_old.pid
    await found.stop(20)
    assert await of_old.wait() == -signal.SIGTERM
    assert (running.directory / "run/grace").read_text() == "20.000\n"
    end = await executor.adopt(done)
    assert isinstance(end, RunEnd) and end.exit_code == 3
    # It had made its directory, and comes too late now, as does a start by this version.
    end = await executor.adopt(begun)
    assert isinstance(end, RunEnd) and end.never_started
    assert (begun.directory / "run/started").read_bytes() == mark_files.ABANDONED
    for spec in (done, running, begun):
        with pytest.raises(StartedBefore):
            await executor.start(spec)
        assert not (spec.work / "out").exists()


async def test_a_request_that_is_too_large_is_refused_at_once(executor, payloads):
    spec = payloads.make("true", {f"V{number}": "x" * 60_000 for number in range(3)})
    with pytest.raises(ExecutorError, match="too large"):
        await executor.start(spec)
