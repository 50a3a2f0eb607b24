"""A real node with jobs of a server and of people who ask it by the contract: all that it does to its disk,
and all that was told of it."""

from __future__ import annotations

import random
import shlex
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import httpx
import trio

from testbed.cluster import SERVICE, Cluster, Limits, running_cluster
from testbed.power_cut import trace
from testbed.power_cut.recording import NotRecorded, Recording, read_whole
from testbed.power_cut.told import EndedThere, Finished, LetGo, StartedThere, TakenThere, Told

SLOTS: Final = 6
LONGEST: Final = 0.4
PAUSES: Final = 2
PAUSE: Final = 3.0
"""Seconds for which the server stands still: what ends meanwhile is not collected, and is written through."""
BETWEEN: Final = 1.0
"""Seconds for which it goes on before each of them."""
TIMEOUT: Final = 60.0
NODE: Final = "node-1"


@dataclass(frozen=True, slots=True)
class _Job:
    """`by_contract`: sent to the node itself. It leaves a file of these bytes."""

    serial: int
    files: dict[str, bytes]
    after: float
    by_contract: bool


def result_of(serial: int) -> bytes:
    """What the script of this job leaves in `left.txt`."""
    return b"".join(b"%d: line %d\n" % (serial, number) for number in range(100 + 50 * (serial % 7)))


def record_node(directory: Path, *, jobs: int, seed: int, control: str | None = None) -> Recording:
    """`control`: how the node is broken (`testbed.power_cut.controls`). Raises NotRecorded, ClusterFailed,
    NotUnderstood."""
    output, marks = directory / "trace", directory / "marks"
    marks.touch()
    (directory / NODE).mkdir()  # what is made of the disk begins below it

    def within(name: str) -> Sequence[str]:
        if name != NODE:
            return ()
        controls = str(Path(__file__).with_name("controls.py"))
        return (*trace.command(output), *(() if control is None else (sys.executable, controls, control)))

    limits = Limits(runs_per_user=SLOTS, max_runs=SLOTS)
    # Scripts tell outside of their directories how far they are; who asks by the contract is on this machine.
    more = {"EXECUTOR": "bash", "SERVERS": "127.0.0.1"}
    with running_cluster(
        directory, nodes=1, slots=SLOTS, limits=limits, within=within, node_environ=more
    ) as cluster:
        told = trio.run(_Users(cluster).run, list(_plan(jobs, seed, marks)))
    for line in marks.read_text().splitlines():
        at, key, serial, what = line.split()
        kind = StartedThere if what == "begun" else Finished
        told.append(kind(float(at), key, int(serial)))
    (node,) = cluster.nodes
    steps = read_whole(output, node.pid, str(directory / NODE))
    told += [LetGo(done.began, key) for done in steps if (key := _let_go(done.step))]
    return Recording(steps, sorted(told, key=lambda one: one.at))


def _let_go(step: trace.Step) -> str:
    """The key of the payload of which a node notes that it lets go, if it does so by this."""
    path = Path(step.target if isinstance(step, trace.Rename | trace.Link) else "")
    if isinstance(step, trace.Make) and not step.directory:
        path = Path(step.path)
    return path.name if path.parent.name == "tombstones" else ""


def _plan(jobs: int, seed: int, marks: Path) -> Sequence[_Job]:
    rng = random.Random(seed)
    planned = []
    for serial in range(jobs):
        # One write each to a file opened for append.
        script = (
            'key=$(basename "${PWD%/work}")\n'
            f'say() {{ echo "${{EPOCHREALTIME/,/.}} $key {serial} $1" >>{shlex.quote(str(marks))}; }}\n'
            f"say begun; sleep {rng.uniform(0, LONGEST):.3f}; "
            "mv given.txt left.txt; say over\n"
        )
        files = {"run.sh": script.encode(), "given.txt": result_of(serial)}
        planned.append(
            _Job(serial, files, rng.uniform(0, PAUSES * (BETWEEN + PAUSE)), by_contract=serial % 3 == 0)
        )
    return planned


class _Users:
    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._told: list[Told] = []

    async def run(self, jobs: Sequence[_Job]) -> list[Told]:
        (node,) = self._cluster.nodes
        async with (
            httpx.AsyncClient(base_url=self._cluster.url, timeout=TIMEOUT, trust_env=False) as server,
            httpx.AsyncClient(base_url=node.url, timeout=TIMEOUT, trust_env=False) as by_contract,
            trio.open_nursery() as nursery,
        ):
            nursery.start_soon(self._pause)
            for job in jobs:
                client = by_contract if job.by_contract else server
                nursery.start_soon(self._by_contract if job.by_contract else self._by_server, client, job)
        return self._told

    async def _pause(self) -> None:
        """The server stands still from time to time."""
        process = self._cluster.server.process
        for _ in range(PAUSES):
            await trio.sleep(BETWEEN)
            process.send_signal(signal.SIGSTOP)
            try:
                await trio.sleep(PAUSE)
            finally:
                process.send_signal(signal.SIGCONT)

    async def _by_server(self, client: httpx.AsyncClient, job: _Job) -> None:
        await trio.sleep(job.after)
        given = {"user_id": str(job.serial % 3), "service": SERVICE}
        files = [("file", (name, content)) for name, content in job.files.items()]
        number = _checked(await client.post("/upload", data=given, files=files)).json()["id"]
        while True:
            found = _checked(await client.get(f"/v1/jobs/{number}?wait=10&until=ended")).json()
            if found["status"] == "Completed":
                return
            if found["status"] in ("Failed", "Invalid", "Killed"):
                raise NotRecorded(f"job {job.serial} is {found['status']}: {found['message']}")

    async def _by_contract(self, client: httpx.AsyncClient, job: _Job) -> None:
        await trio.sleep(job.after)
        files = [(name, (name, content)) for name, content in job.files.items()]
        number = _checked(await client.post("/submit", files=files)).json()["id"]
        self._told.append(TakenThere(time.time(), number, job.serial))
        while True:
            answer = _checked(await client.get(f"/retrieve/{number}"))
            if answer.headers["Content-Type"] == "application/zip":
                self._told.append(EndedThere(time.time(), number))
                return
            if answer.json()["status"] in ("Failed", "Invalid", "Killed"):
                raise NotRecorded(f"job {job.serial}, sent to the node, is {answer.json()}")
            await trio.sleep(0.1)  # the contract has nothing that waits


def _checked(answer: httpx.Response) -> httpx.Response:
    if answer.status_code >= 300:
        raise NotRecorded(f"{answer.request.url} was answered {answer.status_code}: {answer.text[:300]}")
    return answer
