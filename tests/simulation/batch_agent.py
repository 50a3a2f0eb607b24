"""One life of the process of a simulated node whose payloads are batch jobs: the executor that the product
has, on files that are real, asking a simulated batch system."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import trio
from simulation.agent import Agent
from simulation.cluster import DEADLINE, BoundBatch, Cluster
from simulation.node_disk import Files

from actors.domain.failure import Failure
from actors.domain.payload import UNKNOWN, Payload, RunResult
from actors.domain.progress import BatchStand
from actors.domain.status import Status
from actors.ports.payloads import Running
from actors.runner import Runner
from node.executors.executor import ExecutorError, NotTaken, RunEnd, RunSpec, StartedBefore
from node.executors.slurm.batch_program import ORDER
from node.executors.slurm.slurm_executor import SlurmExecutor
from node.payloads.records import StoredPayload
from node.runs.runs import NEVER_STARTED, _PayloadRun, _result
from node.slurm_settings import SlurmOptions

GRACE = 5.0


class BatchAgent(Agent):
    outlives = True

    def __init__(self, *args: Any, cluster: Cluster, directory: Path, **how: Any) -> None:
        """`directory` is where those of its payloads are."""
        self._cluster = cluster
        self._directory = directory
        self._executor = SlurmExecutor(BoundBatch(cluster, self.enter), lambda _: SlurmOptions())
        super().__init__(*args, **how)

    async def _live(self, make: Callable[..., Runner]) -> None:
        async with trio.open_nursery() as nursery:
            await nursery.start(self._executor.serve)
            await super()._live(make)

    def accept(self, payload: Payload) -> None:
        (self._directory / payload.key).mkdir(parents=True)
        super().accept(payload)

    def _discard(self, key: str) -> None:
        super()._discard(key)
        self._cluster.forget_directory(self._directory / key)

    def _is_intended(self, key: str, files: Files) -> bool:
        return files.running is not None or (self._directory / key / ORDER).exists()

    def _ended_at(self, key: str, files: Files) -> float:
        # What has left no mark is told by the batch system, when that is to be had.
        if files.process is None or files.process.mark is None or key in self._cluster.meddled:
            return math.inf
        return super()._ended_at(key, files) + DEADLINE  # it may be over before its submission is answered

    def _spec(self, payload: Payload) -> RunSpec:
        return RunSpec(payload.key, self._directory / payload.key, {}, GRACE, service=payload.service)

    async def start(self, payload: Payload) -> Running | RunResult:
        self.enter()
        files = self._disk.files[payload.key]
        if self._is_intended(payload.key, files):
            return await self.adopt(payload)
        self._disk.take_file(reserve=True)
        files.running = StoredPayload(replace(payload, status=Status.RUNNING), self._boot)
        try:
            run = await self._executor.start(self._spec(payload))
        except StartedBefore:
            return await self.adopt(payload)
        except ExecutorError as why:
            by = Failure.BATCH_SYSTEM if isinstance(why, NotTaken) else Failure.NODE
            return RunResult(refused=str(why), refused_by=by)
        self.enter()
        return self._running(payload, run)

    async def adopt(self, payload: Payload) -> Running | RunResult:
        await trio.lowlevel.checkpoint()
        self.enter()
        files = self._disk.files[payload.key]
        ran = payload.started_at is not None or payload.owner == UNKNOWN
        if not ran and not self._is_intended(payload.key, files):
            return RunResult(refused=NEVER_STARTED, refused_by=Failure.LOST)
        found = await self._executor.adopt(self._spec(payload))
        self.enter()
        if isinstance(found, RunEnd):
            if payload.owner == UNKNOWN or (found.never_started and ran):
                return RunResult(unreadable=True, started_at=payload.started_at)
            return _result(found, "")
        if payload.owner == UNKNOWN:
            await found.stop(GRACE)
            return RunResult(unreadable=True, started_at=found.started_at)
        return self._running(payload, found)

    def _running(self, payload: Payload, run: Any) -> Running:
        async def follow() -> None:
            process = self._disk.files[payload.key].process
            while process is not None:
                self.enter()
                self.hear(payload.key, process)
                await process.spoke.wait()

        async def tell(news: str, batch: BatchStand | None) -> None:
            self.enter()

        return _PayloadRun(run, "", follow, tell)
