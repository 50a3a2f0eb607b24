"""A simulated batch system, for all nodes that have one: it has a life of its own, waits, runs, forgets, and
answers late or never. What a node knows of it comes through the executor that the product has, whose files
are real ones: what a batch job leaves there is what `node.executors.slurm.batch_program` leaves."""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import trio
from simulation.clock import sleep, sleep_until
from simulation.node_disk import Process
from simulation.violation import Violation

from actors.ports.world import Clock
from node.executors import mark_files
from node.executors.slurm.batch_program import BEAT, BEGUN, NOT_RUN, STOP
from node.executors.slurm.batch_system import BatchId, BatchJob, OutOfReach, Phase
from node.executors.slurm.commands import PREFIX
from node.executors.slurm.slurm_run import read_order

T = TypeVar("T")
DEADLINE = 30.0
"""Seconds after which a command ends by itself: what it has not asked for by then is never asked for."""
KILL_WAIT = 30.0


@dataclass(eq=False)
class ClusterJob:
    """`begins_at` is when there is room for it."""

    number: int
    name: str
    directory: Path
    submitted: int
    begins_at: float
    state: str = "PENDING"
    reason: str = "Priority"
    ended_at: float = 0.0
    process: Process | None = None
    told: bool = False
    """Somebody else than its node had it end."""

    @property
    def phase(self) -> Phase:
        if self.state in ("PENDING", "RUNNING"):
            return Phase.WAITING if self.state == "PENDING" else Phase.RUNNING
        return Phase.ENDED

    @property
    def key(self) -> str:
        return self.directory.name


class Watches:
    """Stands in for `Inotify`: files come into directories only when `touch` says so."""

    def __init__(self) -> None:
        self._armed: dict[Path, list[_Armed]] = {}

    async def hear(self) -> None:
        await trio.sleep_forever()

    def arm_for_new(self, directory: Path) -> _Armed:
        armed = _Armed(self, directory)
        self._armed.setdefault(directory, []).append(armed)
        return armed

    def touch(self, directory: Path) -> None:
        for armed in self._armed.pop(directory, []):
            armed.fired.set()

    def disarm(self, armed: _Armed) -> None:
        if armed in self._armed.get(armed.directory, []):
            self._armed[armed.directory].remove(armed)


class _Armed:
    def __init__(self, watches: Watches, directory: Path) -> None:
        self.fired = trio.Event()
        self.directory = directory
        self._watches = watches

    def disarm(self) -> None:
        self._watches.disarm(self)


class Cluster:
    """`begin` makes a payload's script begin on the machine that has this directory. `any_id` and
    `begins_again` are rules that a test breaks on purpose."""

    def __init__(
        self,
        top: Path,
        nursery: trio.Nursery,
        rng: random.Random,
        clock: Clock,
        watches: Watches,
        *,
        begin: Callable[[Path], Process],
        note: Callable[[str], None],
        any_id: bool,
        begins_again: bool,
    ) -> None:
        self.top = top
        self.down_until = self.slow_until = self.mute_until = self.blind_until = 0.0
        self.unheard = 0.5
        """How likely an answer gets lost while it is mute."""
        self.forgets_after = rng.choice((2.0, 20.0, 300.0))
        """Seconds after its end for which a job is known."""
        self.waits = rng.choice(((0.0, 0.5), (0.0, 5.0), (5.0, 30.0)))
        self.meddled: set[str] = set()
        """Payloads that somebody else than their node has ended."""
        self.any_id = any_id
        self._begins_again = begins_again
        self._jobs: dict[int, ClusterJob] = {}
        """That it knows, by the numbers that they have: the least that is free is given again."""
        self._live: list[ClusterJob] = []
        """That wait or run, whether it knows of them or not."""
        self._nursery = nursery
        self._rng = rng
        self._clock = clock
        self._watches = watches
        self._begin = begin
        self._note = note

    # ------------------------------------------------------------------ commands

    async def ask(self, act: Callable[[], T]) -> T:
        """What a command does at the batch system, and its answer. The command goes on when who gave it dies.
        Raises `OutOfReach`."""
        now = trio.current_time()
        arrives = now + self._rng.uniform(0.02, 0.2)
        if now < self.slow_until:
            arrives += self._rng.uniform(0.0, 1.5 * DEADLINE)
        answer: list[T] = []
        answered = trio.Event()

        async def command() -> None:
            await sleep_until(min(arrives, now + DEADLINE))
            if arrives >= now + DEADLINE:
                await sleep(0.0)
            elif trio.current_time() < self.down_until:
                await sleep(self._rng.uniform(0.1, 10.0))
            else:
                answer.append(act())
                if trio.current_time() < self.mute_until and self._rng.random() < self.unheard:
                    answer.clear()
                    await sleep_until(now + DEADLINE)
            answered.set()

        self._nursery.start_soon(command)
        await answered.wait()
        if not answer:
            raise OutOfReach("Socket timed out")
        return answer[0]

    def submit(self, name: str, directory: Path) -> BatchId:
        if any(job.name == name for job in (*self._jobs.values(), *self._live)):
            raise Violation("submitted twice", name[len(PREFIX) :][:6])
        wait = self._rng.uniform(*self.waits)
        job = ClusterJob(self._free_number(), name, directory, self._now(), trio.current_time() + wait)
        self._jobs[job.number] = job
        self._live.append(job)
        self._note(f"batch job {job.number}: {job.key[:6]} is submitted")
        self._nursery.start_soon(self._see_through, job)
        return BatchId(str(job.number))

    def _free_number(self) -> int:
        number = 1
        while number in self._jobs:
            number += 1
        return number

    def list(self, known: Mapping[str, str]) -> Mapping[str, BatchJob]:
        """`known`: names by numbers, as who asks has them."""
        if trio.current_time() < self.blind_until:
            return {}
        jobs = (self._told(job) for job in self._jobs.values())
        if self.any_id:
            return {known[job.id.number]: job for job in jobs if job.id.number in known}
        return {job.name: job for job in jobs if job.name.startswith(PREFIX)}

    def find(self, number: str, name: str) -> BatchJob | None:
        job = self._jobs.get(int(number))
        return self._told(job) if job is not None and (self.any_id or job.name == name) else None

    def cancel(self, number: str, name: str, *, gently: bool) -> None:
        job = self._jobs.get(int(number))
        if job is None or (job.name != name and not self.any_id):
            return
        if job.name != name:
            raise Violation("another's", f"batch job {number} is cancelled for {name[len(PREFIX) :][:6]}")
        self._end_by_order(job, gently=gently)

    def _told(self, job: ClusterJob) -> BatchJob:
        submitted = 0 if self.any_id else job.submitted
        return BatchJob(BatchId(str(job.number)), job.name, job.phase, job.state, job.reason, submitted)

    def _now(self) -> int:
        return int(self._clock.now())

    # ------------------------------------------------------------------ what becomes of a job

    async def _see_through(self, job: ClusterJob) -> None:
        await sleep_until(job.begins_at)
        while trio.current_time() < self.down_until:
            await sleep(1.0)
        if job.state != "PENDING":
            return
        job.state, job.reason = "RUNNING", ""
        await self._run(job)

    async def _run(self, job: ClusterJob) -> None:
        state = "FAILED" if await self._run_program(job) else "COMPLETED"
        self._live.remove(job)
        await sleep(self._rng.choice((0.0, 0.5, 5.0)))
        if job.state == "RUNNING":
            self._end(job, state)

    async def _run_program(self, job: ClusterJob) -> int:
        """As `node.executors.slurm.batch_program` has it; the exit code."""
        nonce = read_order(job.directory)
        if not isinstance(nonce, str):
            return 1
        place = os.open(job.directory, os.O_RDONLY | os.O_DIRECTORY)
        try:
            word = {"key": job.key, "nonce": nonce, "started": repr(self._clock.now())}
            try:
                mark_files.create(BEGUN, mark_files.pack(word), place)
            except FileExistsError:
                if not self._begins_again:
                    return NOT_RUN
            self._watches.touch(job.directory)
            process = job.process = self._begin(job.directory)
            self._note(f"batch job {job.number}: {job.key[:6]} begins")
            while not process.gone.is_set():
                with trio.move_on_after(BEAT):
                    await process.gone.wait()
                if job.directory.exists():
                    os.utime(job.directory / BEGUN, (self._clock.now(),) * 2)
            if process.mark is None:
                return 1
            if job.directory.exists():
                self._leave_mark(job, process, nonce, place)
            return process.mark.exit_code or (143 if process.mark.signal else 0)
        finally:
            os.close(place)

    def _leave_mark(self, job: ClusterJob, process: Process, nonce: str, place: int) -> None:
        mark = process.mark
        assert mark is not None
        asked = (job.directory / STOP).exists()
        values = {
            "key": job.key,
            "nonce": nonce,
            "status": str(mark.signal or (mark.exit_code or 0) << 8),
            "started": repr(process.started_at),
            "ended": repr(self._clock.now()),
            "wall": repr(process.plan.length),
            "cpu": "0.0",
            "peak": "0",
            "asked": str(int(mark.signal is not None and asked)),
            "told": str(int(job.told and not asked)),
        }
        mark_files.Draft(mark_files.END, place).publish(mark_files.pack(values))
        self._watches.touch(job.directory)

    def _end_by_order(self, job: ClusterJob, *, gently: bool) -> None:
        if job.state == "PENDING":
            self._live.remove(job)
            self._end(job, "CANCELLED")
        elif job.process is not None and job.state == "RUNNING":
            job.process.stop(5.0 if gently else KILL_WAIT)
            if not gently:
                self._end(job, "CANCELLED")

    def _end(self, job: ClusterJob, state: str, reason: str = "") -> None:
        self._note(f"batch job {job.number}: {job.key[:6]} is {state}")
        job.state, job.reason, job.ended_at = state, reason, trio.current_time()
        self._nursery.start_soon(self._forget_later, job)

    async def _forget_later(self, job: ClusterJob) -> None:
        await sleep(self.forgets_after)
        if self._jobs.get(job.number) is job and job.phase is Phase.ENDED:
            del self._jobs[job.number]

    # ------------------------------------------------------------------ what happens to it

    def strike(self, kind: str, length: float, likely: float) -> None:
        until = trio.current_time() + length
        match kind:
            case "batch_down":
                self.down_until = max(self.down_until, until)
            case "batch_slow":
                self.slow_until = max(self.slow_until, until)
            case "batch_mute":
                self.mute_until, self.unheard = max(self.mute_until, until), likely
            case "batch_blind":  # it has been started anew, and reads its state
                self.blind_until = max(self.blind_until, until)
            case "batch_forgets":
                self._forget_all()
            case "batch_requeue" | "batch_cancel" | "batch_node_fail":
                for job in list(self._live):
                    if self._rng.random() < likely:
                        self._meddle(job, kind)

    def _forget_all(self) -> None:
        """Its state is lost, as far as it had ended, or runs; and somebody else gets the numbers."""
        gone = [job for job in self._jobs.values() if job.state != "PENDING"]
        for job in gone:
            self._note(f"batch job {job.number}: {job.key[:6]} is forgotten")
            other = ClusterJob(job.number, "another's", self.top / "another's", self._now(), 0.0, "COMPLETED")
            self._jobs[job.number] = other

    def _meddle(self, job: ClusterJob, kind: str) -> None:
        self._note(f"{kind}: batch job {job.number}, {job.key[:6]}, {job.state}")
        self.meddled.add(job.key)
        job.told = True
        if kind == "batch_cancel":
            self._end_by_order(job, gently=False)
            job.reason = "by 0"
        elif job.state == "RUNNING" and job.process is not None:
            job.process.die()
            if kind == "batch_node_fail":
                self._end(job, "NODE_FAIL")
            elif self._jobs.get(job.number) is job:
                self._requeue(job)

    def _requeue(self, job: ClusterJob) -> None:
        job.state = "CANCELLED"
        again = ClusterJob(
            job.number,
            job.name,
            job.directory,
            self._now() + 1,
            trio.current_time() + self._rng.uniform(1, 20),
        )
        self._jobs[job.number] = again
        self._live.append(again)
        self._nursery.start_soon(self._see_through, again)

    # ------------------------------------------------------------------ for the checks

    def may_begin(self, key: str) -> bool:
        """Whether a job of this payload is still to begin."""
        return any(
            job.key == key and job.process is None and not (job.directory / BEGUN).exists()
            for job in self._live
            if job.directory.exists()
        )

    def left(self, keys: Collection[str]) -> bool:
        """Whether any of these still waits or runs."""
        return any(job.key in keys for job in self._live)

    def forget_directory(self, directory: Path) -> None:
        shutil.rmtree(directory, ignore_errors=True)


class BoundBatch:
    """The batch system as one life of a node's process asks it."""

    def __init__(self, cluster: Cluster, enter: Callable[[], None]) -> None:
        self._cluster = cluster
        self._enter = enter
        self._names: dict[str, str] = {}

    async def submit(
        self, name: str, program: str, arguments: Sequence[str], options: Sequence[str]
    ) -> BatchId:
        (directory,) = arguments
        found = await self._ask(lambda: self._cluster.submit(name, Path(directory)))
        self._names[found.number] = name
        return found

    async def list(self, clusters: Collection[str]) -> Mapping[str, BatchJob]:
        found = await self._ask(lambda: self._cluster.list(self._names))
        for name, job in found.items():
            self._names[job.id.number] = name
        return found

    async def find(self, job: BatchId, name: str) -> BatchJob | None:
        return await self._ask(lambda: self._cluster.find(job.number, name))

    async def cancel(self, job: BatchId, name: str) -> None:
        await self._ask(lambda: self._cluster.cancel(job.number, name, gently=False))

    async def stop(self, job: BatchId, name: str) -> None:
        await self._ask(lambda: self._cluster.cancel(job.number, name, gently=True))

    async def _ask(self, act: Callable[[], T]) -> T:
        self._enter()
        answer = await self._cluster.ask(act)
        self._enter()
        return answer
