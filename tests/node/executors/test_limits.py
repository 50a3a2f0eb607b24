"""Real scripts that go over each of their limits, which control groups keep or, without any, who looks."""

from __future__ import annotations

import os
import shlex
import sys
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import trio

from actors.domain.limits import JobLimits
from node.confinement.tier_settings import RANGES
from node.executors.executor import ExecutorError, RunEnd, RunSpec
from node.executors.limit_watch import LEAST, disk_usage
from node.executors.shepherd_executor import ShepherdExecutor
from tests.node.executors.conftest import ISOLATIONS

PYTHON = shlex.quote(os.path.realpath(sys.executable))
MIB = 1 << 20


@pytest.fixture(params=ISOLATIONS)
def isolation(request) -> str:
    return str(request.param)


@pytest.fixture(params=["groups", "looking"])
async def executor(payloads, isolation, nursery, request) -> AsyncIterator[ShepherdExecutor]:
    made = ShepherdExecutor(
        payloads.directory, isolation, tier="bash", control_groups=request.param == "groups"
    )
    await nursery.start(made.serve)
    yield made
    nursery.cancel_scope.cancel()


def limited(spec: RunSpec, **limits: Any) -> RunSpec:
    (spec.directory / "home").mkdir()
    environment = {**spec.environment, "HOME": str(spec.directory / "home")}
    return replace(spec, environment=environment, limits=JobLimits(**limits))


def test_many_names_of_one_file_count_by_what_their_directory_takes(tmp_path: Path) -> None:
    (work := tmp_path / "work").mkdir()
    (work / "file").touch()
    for number in range(4000):
        (work / f"{number:0>200}").hardlink_to(work / "file")
    taken = work.stat().st_blocks * 512
    above = os.open(tmp_path, os.O_RDONLY)
    try:
        assert list(disk_usage([b"home", b"work"], above))[-1] == taken + LEAST
    finally:
        os.close(above)
    if taken < 4000 * 200:
        pytest.skip("this file system does not say what directories take")


async def end_of(executor: ShepherdExecutor, spec: RunSpec) -> RunEnd:
    with trio.fail_after(60):
        return await (await executor.start(spec)).wait()


ALLOCATE = f"{PYTHON} -c 'import time; x = bytearray(b\"x\") * (SIZE << 20); print(len(x)); time.sleep(600)'"


async def test_one_process_with_too_much_memory_ends_all_of_its_job(executor, payloads):
    script = f"NAP & {ALLOCATE.replace('SIZE', '300')}; NAP"
    end = await end_of(executor, limited(payloads.make(script), memory_bytes=100 * MIB))
    assert end.exceeded == "memory_bytes"
    assert payloads.survivors() == []


async def test_processes_that_only_together_have_too_much_memory_end_their_job(executor, payloads):
    script = f"for i in 1 2 3 4 5 6; do {ALLOCATE.replace('SIZE', '30')} & done; wait"
    end = await end_of(executor, limited(payloads.make(script), memory_bytes=120 * MIB))
    assert end.exceeded == "memory_bytes"


async def test_memory_that_processes_share_counts_once(executor, payloads):
    script = (
        f'{PYTHON} -c \'import os; x = bytearray(b"x") * (80 << 20)\n'
        "for n in range(5):\n"
        '    if os.fork() == 0: print(len(x)); os.execv("/bin/sleep", ["sleep", "0.5"]) if n > 3 else'
        ' __import__("time").sleep(0.5); os._exit(0)\n'
        "while True:\n"
        "    try: os.wait()\n"
        "    except ChildProcessError: break'"
    )
    end = await end_of(executor, limited(payloads.make(script), memory_bytes=200 * MIB))
    assert (end.exceeded, end.exit_code) == ("", 0)


@pytest.mark.parametrize(
    "script", ["while :; do :; done", "for i in 1 2 3; do (while :; do :; done) & done; wait"]
)
async def test_cpu_time_is_that_of_all_processes_together(executor, payloads, script):
    end = await end_of(executor, limited(payloads.make(script), cpu_seconds=0.5))
    assert end.exceeded == "cpu_seconds"
    assert 0.4 < end.cpu_seconds < 5


async def test_who_sleeps_uses_no_cpu_time(executor, payloads):
    end = await end_of(executor, limited(payloads.make("sleep 0.6"), cpu_seconds=0.5))
    assert (end.exceeded, end.exit_code) == ("", 0)


FORK_BOMB = f"""{PYTHON} -c '
import os, sys
for n in range(60):
    try:
        if os.fork() == 0: os.execlp("sleep", *"NAP".split())
    except BlockingIOError:
        sys.exit(f"{{n}} processes")
'
"""


async def test_a_fork_bomb_gets_no_more_processes_than_it_may_have(executor, payloads):
    spec = limited(payloads.make(FORK_BOMB), processes=20)
    if not executor.keeps_processes:
        # Nothing counts those of one payload, and the start says so.
        assert not executor.controllers
        return
    end = await end_of(executor, spec)
    assert end.exit_code == 1
    # Without a control group the kernel does not tell that it was that.
    assert end.exceeded == ("processes" if "pids" in executor.controllers else "")
    number, _, said = (spec.directory / "stderr.log").read_text().partition(" ")
    assert (16 <= int(number) <= 19, said) == (True, "processes\n")
    assert payloads.survivors() == []


@pytest.mark.parametrize("script", ["head -c 9M /dev/zero > big", "exec head -c 9M /dev/zero > big"])
async def test_a_file_does_not_become_larger_than_it_may_be(executor, payloads, script):
    spec = limited(payloads.make(script), file_bytes=MIB)
    end = await end_of(executor, spec)
    assert end.exceeded == "file_bytes"
    assert (spec.work / "big").stat().st_size == MIB


async def test_a_process_opens_no_more_files_than_it_may(executor, payloads):
    script = 'for i in {10..90}; do eval "exec $i</dev/null" || break; done 2>/dev/null; echo $i; exit 4'
    spec = limited(payloads.make(script), open_files=40)
    end = await end_of(executor, spec)
    assert (end.exceeded, end.exit_code) == ("", 4)
    assert (spec.directory / "stdout.log").read_text() == "40\n"


@pytest.mark.parametrize(
    "script",
    [
        "head -c 20M /dev/zero > big; NAP",
        "head -c 20M /dev/zero > $HOME/big; NAP",
        "mkdir -p a/b; for i in {1..3000}; do echo $i > a/b/$i; done; NAP",
        "head -c 3M /dev/zero > a; for i in b c; do cp a $i; done; NAP",
        "exec 9>big; rm big; head -c 20M /dev/zero >&9; NAP",
    ],
)
async def test_what_a_job_has_on_disk_is_all_of_its_files(executor, payloads, script):
    end = await end_of(executor, limited(payloads.make(script), disk_bytes=6 * MIB))
    assert end.exceeded == "disk_bytes"


async def test_holes_second_names_and_links_take_no_disk(executor, payloads):
    script = (
        "truncate -s 1G hole; head -c 3M /dev/zero > a; for i in {1..50}; do ln a a$i; done; ln -s / root;"
        " mkfifo pipe; sleep 0.5"
    )
    end = await end_of(executor, limited(payloads.make(script), disk_bytes=6 * MIB))
    assert (end.exceeded, end.exit_code) == ("", 0)


async def test_directories_that_no_path_reaches_count(executor, payloads):
    # Not by its working directory: whoever looks at all processes of the machine would stumble over that.
    script = f"""{PYTHON} -c '
import os, time
at = os.open(".", os.O_RDONLY)
for n in range(400):
    os.mkdir("d" * 200, dir_fd=at)
    at, above = os.open("d" * 200, os.O_RDONLY, dir_fd=at), at
    os.close(above)
os.write(os.open("big", os.O_WRONLY | os.O_CREAT, dir_fd=at), bytes(9 << 20))
time.sleep(600)'"""
    spec = limited(payloads.make(script), disk_bytes=8 * MIB)
    end = await end_of(executor, spec)
    assert end.exceeded == "disk_bytes"


async def test_a_job_within_all_of_its_limits_ends_as_it_would(executor, payloads):
    everything = JobLimits(200 * MIB, 20.0, 50, MIB, 64, 20 * MIB)
    spec = replace(payloads.make("ulimit -c; echo x > f; NAP & exit 3"), limits=everything)
    end = await end_of(executor, spec)
    assert (end.exceeded, end.exit_code, end.signal) == ("", 3, None)
    assert (spec.directory / "stdout.log").read_text() == "0\n"
    assert payloads.survivors() == []


async def test_a_script_does_not_lift_the_limits_of_its_processes(executor, payloads):
    spec = limited(
        payloads.make("ulimit -n 100; ulimit -f unlimited; ulimit -n"), open_files=40, file_bytes=MIB
    )
    end = await end_of(executor, spec)
    assert (spec.directory / "stdout.log").read_text() == "40\n"
    assert end.exceeded == ""


async def test_no_group_is_left_of_a_job(executor, payloads):
    spec = limited(payloads.make("echo $$ > pid; cat /proc/self/cgroup > groups"), memory_bytes=200 * MIB)
    assert (await end_of(executor, spec)).exit_code == 0
    assert (f"-{spec.key}" in (spec.work / "groups").read_text()) is bool(executor.controllers)
    left = [place for place, _, _ in os.walk("/sys/fs/cgroup") if spec.key in place]
    assert left == []


async def test_a_job_without_limits_gets_no_group(executor, payloads):
    spec = payloads.make("cat /proc/self/cgroup > groups")
    assert (await end_of(executor, spec)).exit_code == 0
    assert spec.key not in (spec.work / "groups").read_text()


async def test_a_job_is_asked_to_end_as_ever_while_it_is_watched(executor, payloads, signpost):
    spec = limited(
        payloads.make("trap 'exit 7' TERM; echo > signpost; NAP & wait"), disk_bytes=MIB, cpu_seconds=9
    )
    post = signpost(spec)
    run = await executor.start(spec)
    await post.line()
    begun = time.monotonic()
    await run.stop(100.0)
    end = await run.wait()
    assert (end.exit_code, end.asked, end.exceeded) == (7, True, "")
    assert time.monotonic() - begun < 99, "nobody waited for the grace to pass"


LIFT = """
ulimit -n 200
prlimit --pid $$ --nofile=200:200
for group in /sys/fs/cgroup/*/cgroup.procs /sys/fs/cgroup/cgroup.procs; do echo 0 > $group; done
for mark in ended run grace; do echo exceeded > ../$mark; rm -f ../$mark; done
kill -9 $PPID
ulimit -n > said
head -c 150M /dev/zero | tail -c 120M | NAP
"""


@pytest.mark.parametrize("tier", ["bubblewrap", "landlock", "bash"])
async def test_a_script_that_has_a_user_of_its_own_or_is_contained_does_not_lift_its_limits(
    payloads, nursery, tier
):
    uids = RANGES[0] if tier == "bash" else None
    executor = ShepherdExecutor(payloads.directory, tier=tier, uids=uids)
    try:
        await nursery.start(executor.serve)
    except ExecutorError as error:
        pytest.skip(str(error))
    spec = limited(payloads.make(LIFT), open_files=40, memory_bytes=80 * MIB)
    end = await end_of(executor, spec)
    assert end.exceeded == "memory_bytes"
    assert (spec.work / "said").read_text() == "40\n"
    nursery.cancel_scope.cancel()
