"""An executor in memory: a test reads what was started, writes what a script would, and ends it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import trio

from node.confinement.visible import View
from node.executors import mark_files
from node.executors.executor import Run, RunEnd, RunSpec
from node.executors.shepherded_run import NEVER_STARTED


def end(exit_code: int | None = 0, signal: int | None = None) -> RunEnd:
    return RunEnd(
        exit_code=exit_code,
        signal=signal,
        started_at=1_700_000_000.0,
        ended_at=1_700_000_001.5,
        wall_seconds=1.5,
        cpu_seconds=0.25,
        peak_bytes=1 << 20,
    )


class PretendedRun:
    """`stubborn`: it does not end when it is stopped."""

    def __init__(self, spec: RunSpec) -> None:
        self.spec = spec
        self.pid = 4321
        self.is_over = False
        self.started_at = 1_700_000_000.0
        self.stubborn = False
        self._ended = trio.Event()
        self._end = end()

    def print(self, text: str, stream: str = "stdout") -> None:
        with (self.spec.directory / f"{stream}.log").open("a") as log:
            log.write(text)

    def finish(self, how: RunEnd | None = None) -> None:
        if not self._ended.is_set():
            self._end = how or end()
            self._ended.set()

    async def wait(self) -> RunEnd:
        await self._ended.wait()
        return self._end

    async def stop(self, grace: float) -> None:
        if self.stubborn:
            await trio.sleep_forever()
        self.finish(end(None, 15))


class PretendExecutor:
    name = "pretended"
    limits = "Nothing runs."
    outlives_machine = False
    leaves_word = False
    """Else it does so as a shepherd does."""
    view: View | None = None

    def __init__(self) -> None:
        self.runs: dict[str, PretendedRun] = {}
        self.adopted: list[str] = []
        self.refusal: Exception | None = None
        """What a start ends with."""
        self.at_once: RunEnd | None = None
        """How what is started has ended by then, if it has."""
        self._started = trio.Event()

    def prepare(self, spec: RunSpec) -> bool:
        return False

    async def start(self, spec: RunSpec) -> Run:
        await trio.lowlevel.checkpoint()
        if self.refusal is not None:
            raise self.refusal
        if self.leaves_word:
            directory = os.open(spec.directory, os.O_RDONLY)
            mark_files.leave_word(directory)
            os.close(directory)
        for name in ("stdout.log", "stderr.log"):
            (spec.directory / name).touch()
        run = self.runs[spec.key] = PretendedRun(spec)
        if self.at_once is not None:
            run.finish(self.at_once)
            run.is_over = True
        self._started.set()
        self._started = trio.Event()
        return run

    async def adopt(self, spec: RunSpec) -> Run | RunEnd:
        self.adopted.append(spec.key)
        return NEVER_STARTED if self.refusal is not None else await self.start(spec)

    async def serve(self, *, task_status: Any = trio.TASK_STATUS_IGNORED) -> None:
        task_status.started()
        await trio.sleep_forever()

    async def run_of(self, key: str) -> PretendedRun:
        """The run of a payload, once it was started."""
        while key not in self.runs:
            await self._started.wait()
        return self.runs[key]

    def environment(self, key: str) -> Mapping[str, str]:
        return self.runs[key].spec.environment
