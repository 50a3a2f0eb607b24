"""A node reduced to its executor, for tests that kill it: `agent_program.py DATA ISOLATION TIER [orphans]`.

Each line of standard input names the directory of a payload to start; each answer is one line of output.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import trio

from actors.process import procfs
from node.executors import namespaces
from node.executors.executor import RunSpec
from node.executors.orphan_reaper import reap_orphans
from node.executors.shepherd_executor import ShepherdExecutor

ENVIRONMENT = {"PATH": "/usr/local/bin:/usr/bin:/bin"}


async def start_all(executor: ShepherdExecutor) -> None:
    async def one(directory: Path) -> None:
        run = await executor.start(RunSpec(directory.name, directory, ENVIRONMENT))
        print("started", directory.name, flush=True)
        await run.wait()
        print("ended", directory.name, flush=True)

    async with trio.open_nursery() as nursery:
        while line := await trio.to_thread.run_sync(sys.stdin.readline):
            nursery.start_soon(one, Path(line.strip()))
        sys.stdin.close()


async def among_orphans(executor: ShepherdExecutor, nursery: trio.Nursery) -> None:
    """Orphans by the dozen beside children whose codes matter, one of which nobody asks about for a while."""
    namespaces.adopt_orphans()  # As PID 1 does anyhow.
    late = fail_with(7)
    nursery.start_soon(reap_orphans)
    codes: set[int] = set()

    async def one() -> None:
        done = await trio.run_process(["sh", "-c", "(sleep 0.02 &) ; (true &); exit 3"], check=False)
        codes.add(done.returncode)

    async with trio.open_nursery() as children:
        for _ in range(40):
            children.start_soon(one)
    with trio.fail_after(60):
        await zombies_are([late.pid])
    print(
        "codes", codes, "late", late.wait(), "children", sorted(children_of_this()) == [executor.spawner_pid]
    )


def fail_with(code: int) -> subprocess.Popen[bytes]:
    return subprocess.Popen(["sh", "-c", f"exit {code}"])


def children_of_this() -> list[int]:
    return procfs.children("self")


async def zombies_are(expected: list[int]) -> None:
    """Nothing announces that a zombie was collected: this has to look, and look again."""
    while True:
        if [pid for pid in children_of_this() if procfs.is_zombie(pid)] == expected:
            return
        await trio.sleep(0.05)


async def main() -> None:
    executor = ShepherdExecutor(Path(sys.argv[1]), sys.argv[2], tier=sys.argv[3])
    async with trio.open_nursery() as nursery:
        await nursery.start(executor.serve)
        print("ready", flush=True)
        if sys.argv[4:] == ["orphans"]:
            await among_orphans(executor, nursery)
        else:
            await start_all(executor)
        nursery.cancel_scope.cancel()


if __name__ == "__main__":
    trio.run(main)
