"""A real server on a node, with a handful of users: all that it does to its disk, and all that it tells."""

from __future__ import annotations

import hashlib
import io
import json
import random
import re
import shlex
import sys
import time
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import httpx
import trio

from testbed.cluster import SERVICE, Limits, running_cluster
from testbed.portal import ENDED
from testbed.power_cut import trace
from testbed.power_cut.told import Accepted, Begun, Changed, Ordered, Taken, Told
from testbed.power_cut.trace import Done

SLOTS: Final = 6
LARGE: Final = (66_000, 300_000)
"""Bytes of an input that is not kept in the ledger."""
SMALL: Final = (0, 20_000)
HUGE: Final = (1_100_000, 1_300_000)
"""Of one that does not come back from a node whose disk tells of each change: the server copies its own."""
LONGEST: Final = 0.4
"""Seconds that a script sleeps."""
ENDLESS: Final = 600
"""Seconds of one that waits to be terminated."""
TIMEOUT: Final = 60.0
TRACED: Final = 10.0
"""Seconds that the tracer may take to its end after the server's."""


class NotRecorded(Exception):
    """The run itself went wrong: nothing can be said of cuts. The text says how."""


@dataclass(frozen=True, slots=True)
class Recording:
    """What was done below the server's directory, which began empty, and what was told; each by time."""

    steps: Sequence[Done]
    told: Sequence[Told]


@dataclass(frozen=True, slots=True)
class _Plan:
    """A job to be. `again`: its files are given to a second job, once it has ended."""

    serial: int
    files: Mapping[str, bytes]
    after: float
    terminated_after: float | None
    again: bool


def record(directory: Path, *, jobs: int, seed: int, control: str | None = None) -> Recording:
    """`control`: how the server is broken (`testbed.power_cut.controls`). Raises NotRecorded, ClusterFailed,
    NotUnderstood."""
    output, marks = directory / "trace", directory / "marks"
    marks.touch()

    def within(name: str) -> Sequence[str]:
        if name != "server":
            return ()
        broken = (
            () if control is None else (sys.executable, str(Path(__file__).with_name("controls.py")), control)
        )
        return (*trace.command(output), *broken)

    limits = Limits(runs_per_user=SLOTS, max_runs=SLOTS)
    with running_cluster(directory, nodes=1, slots=SLOTS, limits=limits, within=within) as cluster:
        told = trio.run(_Users(cluster.url).run, list(_plan(jobs, seed, marks)))
    for line in marks.read_text().splitlines():
        at, job = line.split()
        told.append(Begun(float(at), int(job)))
    told.sort(key=lambda one: one.at)
    return Recording(read_whole(output, cluster.server.pid, str(directory / "server")), told)


def read_whole(output: Path, process: int, root: str) -> list[Done]:
    """All that a process has done, which has ended or is about to. Raises NotRecorded, NotUnderstood."""
    # The tracer ends by itself, with the last of what it traces.
    deadline = time.monotonic() + TRACED
    while not re.search(rf"^{process} +\S+ \+\+\+ (.|\n)*\n\Z", _last_lines(output), re.MULTILINE):
        if time.monotonic() > deadline:
            raise NotRecorded(f"{output} has no end")
        time.sleep(0.05)
    with output.open() as lines:
        return trace.read(lines, root)


def _last_lines(path: Path) -> str:
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - 4096))
        return file.read().decode()


def _plan(jobs: int, seed: int, marks: Path) -> Sequence[_Plan]:
    rng = random.Random(seed)
    plans = []
    for serial in range(jobs):
        terminated = rng.uniform(0.1, 1.5) if serial % 5 == 3 else None
        script = (
            # One write to a file opened for append.
            f'echo "${{EPOCHREALTIME/,/.}} $ORCHESTRATOR_JOB_ID" >>{shlex.quote(str(marks))}\n'
            f"echo job {serial}\nsleep {rng.uniform(0, LONGEST) if terminated is None else ENDLESS:.3f}\n"
        )
        sizes = HUGE if serial % 12 == 2 else LARGE if serial % 3 == 2 else SMALL
        content = rng.randbytes(rng.randint(*sizes))
        files = {"run.sh": script.encode(), "sub/input.bin": content}
        plans.append(_Plan(serial, files, rng.uniform(0, jobs / 10), terminated, again=serial % 6 == 5))
    return plans


class _Users:
    def __init__(self, url: str) -> None:
        self._url = url
        self._told: list[Told] = []

    async def run(self, plans: Sequence[_Plan]) -> list[Told]:
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=8)
        self._client = httpx.AsyncClient(base_url=self._url, timeout=TIMEOUT, limits=limits, trust_env=False)
        async with self._client, trio.open_nursery() as listening:
            await listening.start(self._listen)
            async with trio.open_nursery() as nursery:
                for plan in plans:
                    nursery.start_soon(self._job, plan)
            listening.cancel_scope.cancel()
        return self._told

    async def _listen(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        async with self._client.stream("GET", "/v1/events", params={"after": 0}) as events:
            task_status.started()
            async for line in events.aiter_lines():
                if line.startswith("data:"):
                    change = json.loads(line.removeprefix("data:"))
                    told = Changed(time.time(), change["job_id"], change["version"], change["status"])
                    self._told.append(told)

    async def _job(self, plan: _Plan) -> None:
        await trio.sleep(plan.after)
        answer = await self._client.post(
            "/upload",
            data={"user_id": str(plan.serial % 3), "service": SERVICE},
            files=[("file", (name, content)) for name, content in plan.files.items()],
        )
        job = self._accepted(answer, plan)
        if plan.terminated_after is not None:
            await trio.sleep(plan.terminated_after)
            if _checked(await self._client.post(f"/terminate/{job}"), 200):
                self._told.append(Ordered(time.time(), job))
            await self._end(job, "Killed")
            return
        await self._end(job, "Completed")
        if plan.again:
            job = self._accepted(await self._client.post(f"/v1/jobs/{job}/rerun"), plan)
            await self._end(job, "Completed")

    def _accepted(self, answer: httpx.Response, plan: _Plan) -> int:
        job = int(_checked(answer, 201).json()["id"])
        self._told.append(Accepted(time.time(), job, sums(plan.files)))
        return job

    async def _end(self, job: int, expected: str) -> None:
        while True:
            found = _checked(await self._client.get(f"/v1/jobs/{job}?wait=10&until=ended"), 200).json()
            if found["status"] in ENDED:
                break
        self._told.append(Changed(time.time(), job, found["version"], found["status"]))
        if found["status"] != expected:
            raise NotRecorded(f"job {job} is {found['status']} ({found['message']}), and not {expected}")
        if expected == "Completed":
            zipped = _checked(await self._client.get(f"/download/{job}"), 200).content
            self._told.append(Taken(time.time(), job, sums(unzipped(zipped))))


def sums(files: Mapping[str, bytes]) -> dict[str, str]:
    return {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}


def unzipped(content: bytes) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        return {name: archive.read(name) for name in archive.namelist() if not name.endswith("/")}


def _checked(answer: httpx.Response, status: int) -> httpx.Response:
    if answer.status_code != status:
        raise NotRecorded(f"{answer.request.url} was answered {answer.status_code}: {answer.text[:300]}")
    return answer
