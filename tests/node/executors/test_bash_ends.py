"""How a script's end is told, what it leaves behind, and what it cost."""

from __future__ import annotations

import os
import time

import pytest
import trio
from support.processes.processes import promised

from actors.process import procfs
from node.executors import mark_files
from node.executors.executor import ExecutorError, RunEnd, RunSpec
from node.executors.shepherd_executor import ShepherdExecutor

ENDS = [
    ("true", 0, None),
    ("exit 3", 3, None),
    ("exit 255", 255, None),
    ("exit 137", 137, None),
    ("no-such-command", 127, None),
    ("exec python3 -c 'raise SystemExit(9)'", 9, None),
    ("trap 'exit 5' EXIT; exit 4", 5, None),
    ("sh -c 'kill -9 $$'; exit $?", 137, None),
    ("kill -9 $$; exit 77", None, 9),
    ("kill -TERM $$", None, 15),
    ("kill -SEGV $$", None, 11),
    ("trap '' TERM; kill -TERM $$; exit 6", 6, None),
]


async def _end(executor: ShepherdExecutor, spec: RunSpec) -> RunEnd:
    with trio.fail_after(60):
        run = await executor.start(spec)
        return await run.wait()


async def test_a_script_that_is_over_at_once_is_known_to_be_over_once_it_is_started(
    executor, payloads, isolation
):
    """Not where it could stop its shepherd meanwhile: there its start is told by itself, before its end."""
    over = False
    with trio.fail_after(60):
        while not over:  # A busy machine takes longer for some.
            run = await executor.start(spec := payloads.make("exit 3"))
            over = run.is_over or isolation == "subreaper"
            assert not (run.is_over and isolation == "subreaper")
            assert (await run.wait()).exit_code == 3 and run.is_over
    mark, end = ((spec.directory / name).read_bytes() for name in (mark_files.RUN, mark_files.END))
    told, written = mark_files.unpack(mark), mark_files.unpack(end)
    assert told is not None and written is not None
    assert told["pid"] == str(run.pid) and told["nonce"] == written["nonce"]


async def test_every_exit_code_and_signal_is_told_exactly(executor, payloads):
    ends: dict[str, RunEnd] = {}

    async def one(script: str) -> None:
        ends[script] = await _end(executor, payloads.make(script))

    async with trio.open_nursery() as nursery:
        for script, _, _ in ENDS:
            nursery.start_soon(one, script)
    told = {script: (end.exit_code, end.signal) for script, end in ends.items()}
    assert told == {script: (code, number) for script, code, number in ENDS}
    assert not any(end.supervision_killed or end.lost or end.never_started for end in ends.values())


async def test_a_script_stopped_from_outside_goes_on_and_ends_as_it_would(executor, payloads):
    helper = "until grep -q State:.T /proc/$$/status; do :; done; kill -CONT $$"
    spec = payloads.make(f"({helper}) & kill -STOP $$; exit 8")
    run = await executor.start(spec)
    with trio.fail_after(60):
        assert (await run.wait()).exit_code == 8


@pytest.mark.parametrize(
    ("script", "code"),
    [
        ("echo a; NAP & echo b; exit 0", 0),
        ("(NAP; echo late) & disown; exit 3", 3),
        ("setsid NAP & exit 5", 5),
        ("nohup bash -c 'NAP & disown' >/dev/null 2>&1 & wait; exit 6", 6),
        ("env -i setsid bash -c 'cd /; (NAP </dev/null >/dev/null 2>&1 &) &' ; exit 7", 7),
        ("exit 0 | NAP &\nexit 4", 4),
    ],
)
async def test_what_a_script_leaves_running_neither_delays_its_end_nor_outlives_it(
    executor, payloads, script, code
):
    end = await _end(executor, payloads.make(script))
    assert end.exit_code == code
    assert end.wall_seconds < promised(1)
    assert payloads.survivors() == []


async def test_figures_are_the_scripts_and_not_the_nodes(executor, payloads):
    ballast = bytearray(300 << 20)  # What a node that has handled a large result looks like.
    small = await _end(executor, payloads.make("true"))
    del ballast
    assert 1 << 20 < small.peak_bytes < 12 << 20
    large = await _end(executor, payloads.make("python3 -S -c 'b = bytearray(200 << 20)'"))
    assert 200 << 20 <= large.peak_bytes < 230 << 20
    busy = "import time\nwhile time.process_time() < 0.2: pass"
    before = time.time()
    # The work is done by an orphan, which the shepherd inherits.
    spec = payloads.make(f"mkfifo f; (python3 -S -c '{busy}'; echo > f) & read line < f; sleep 0.01")
    end = await _end(executor, spec)
    assert 0.2 <= end.cpu_seconds < 2
    assert end.wall_seconds >= 0.2
    assert before <= end.started_at <= end.ended_at <= time.time()


async def test_orphans_by_the_hundred_change_no_exit_code_and_leave_no_zombie(executor, payloads):
    ends: list[RunEnd] = []

    async def one() -> None:
        ends.append(await _end(executor, payloads.make("(sleep 0.05 &); exit 3")))

    async with trio.open_nursery() as nursery:
        for _ in range(100):
            nursery.start_soon(one)
    assert [end.exit_code for end in ends] == [3] * 100

    def busy() -> list[int]:
        """A guard ends just after its shepherd, and so does a shepherd that is one too many."""
        left = procfs.children(executor.spawner_pid)
        return [pid for pid in left if procfs.name_of(pid) not in (mark_files.IDLE, "")]

    with trio.fail_after(60):
        while busy():  # noqa: ASYNC110
            await trio.sleep(0.01)  # the kernel tells of others' children nothing
    left = procfs.children(executor.spawner_pid)
    assert not any(map(procfs.is_zombie, left))


@pytest.mark.parametrize("script", ["kill -9 $$", "kill -15 $$", "bash -c 'kill -9 $$'; exit $?"])
async def test_a_kill_by_nobody_is_told_late(executor, payloads, script):
    """The machine may be about to go down, which kills the shepherd before it has told of it."""
    spec = payloads.make(script)
    end = await _end(executor, spec)
    assert end.signal in (9, 15) or end.exit_code == 137
    assert not end.asked
    assert (spec.directory / mark_files.END).stat().st_mtime - end.ended_at >= 0.4
    assert end.wall_seconds == pytest.approx(end.ended_at - end.started_at, abs=promised(0.2))


async def test_that_a_shepherd_has_died_is_told_late(executor, payloads):
    run = await executor.start(payloads.make("NAP"))
    os.kill(run.pid, 9)
    killed = time.monotonic()
    with trio.fail_after(60):
        assert (await run.wait()).supervision_killed
    assert time.monotonic() - killed >= 0.4


async def test_marks_that_a_script_forges_are_not_believed(executor, payloads, isolation):
    spec = payloads.make(
        "echo 0 > .orchestrator.exit\n"
        "mark=$(cat ../run) && printf '%s\\nstatus 0\\n' \"$mark\" > ../ended\n"
        "printf 'status 0\\ncomplete\\n' > ../ended; rm ../ended.*; chmod 000 ..\n"
        "kill -9 $$"
    )
    end = await _end(executor, spec)
    assert (end.exit_code, end.signal) == (None, 9)
    spec = payloads.make("trap 'echo 0 > .orchestrator.exit' EXIT; exit 3")
    assert (await _end(executor, spec)).exit_code == 3
    if isolation != "subreaper":
        spec = payloads.make("cat ../run; rm -rf ../run ../stdout.log ../../*; exit 2")
        end = await _end(executor, spec)
        assert end.exit_code == 2


async def test_an_end_mark_of_another_start_is_no_end_mark(executor, payloads):
    first, second = payloads.make("exit 0"), payloads.make("NAP")
    await _end(executor, first)
    run = await executor.start(second)
    (second.directory / "ended").write_bytes((first.directory / "ended").read_bytes())
    os.kill(run.pid, 9)
    with trio.fail_after(60):
        end = await run.wait()
    assert end.supervision_killed
    assert end.exit_code is None


async def test_a_directory_is_started_once(executor, payloads):
    spec = payloads.make("echo ran")
    await _end(executor, spec)
    with pytest.raises(ExecutorError, match="before"):
        await executor.start(spec)
    assert (spec.directory / "stdout.log").read_text() == "ran\n"


async def test_what_cannot_be_started_says_why_and_will_never_start(executor, payloads):
    no_work = payloads.make("true")
    (no_work.work / "run.sh").unlink()
    no_work.work.rmdir()
    with pytest.raises(ExecutorError, match=r"work directory.*No such file"):
        await executor.start(no_work)
    found = await executor.adopt(no_work)  # The shepherd may not be gone yet.
    end = found if isinstance(found, RunEnd) else await found.wait()
    assert end.never_started
    linked = payloads.make("echo x")
    target = payloads.directory / "target"
    (linked.directory / "stdout.log").symlink_to(target)
    with pytest.raises(ExecutorError, match="logs"):
        await executor.start(linked)
    assert not target.exists()
    with pytest.raises(ExecutorError, match="NUL"):
        await executor.start(payloads.make("true", {"A": "b\0c"}))
    with pytest.raises(ExecutorError, match="too long"):
        await executor.start(payloads.make("true", {"A": "b" * (140 << 10)}))
