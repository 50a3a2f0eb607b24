"""A node's disk and the processes beside it: what outlives the node's own process."""

from __future__ import annotations

import errno
import os
import random
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import trio
from simulation.clock import sleep
from simulation.plan import JobPlan

from actors.domain.payload import RunResult
from actors.domain.progress import Progress
from node.payloads.records import StoredPayload
from node.payloads.write_through import WITHIN

WRITTEN_WITHIN = 2 * WITHIN
"""Seconds after its end within which a payload is written through, and noted as such."""
HELD = 2
"""Files for which there is room on a full disk, once."""


class Process:
    """What a script runs as, with its shepherd: two processes if it is `stubborn`, of which the second
    ignores SIGTERM."""

    def __init__(self, plan: JobPlan, nursery: trio.Nursery, rng: random.Random) -> None:
        self.plan = plan
        self.count = 2 if plan.stubborn else 1
        self.words = 0
        self.started_at = trio.current_time()
        self.first_gone = trio.Event()
        self.gone = trio.Event()
        self.gone_at = 0.0
        self.mark: RunResult | None = None
        """What its shepherd wrote at its end: not if its machine has gone down, and it may be damaged."""
        self.mark_damaged = False
        self._nursery = nursery
        self._rng = rng
        self._asked = False
        self._script = trio.CancelScope()
        self.spoke = trio.Event()

    @property
    def progress(self) -> Progress | None:
        """What stands in its file."""
        return Progress(self.plan.told(self.words)) if self.words else None

    def copy(self) -> Process:
        """As it is now, and standing still: `resume` lets it go on."""
        other = Process(self.plan, self._nursery, self._rng)
        for name in ("count", "words", "started_at", "gone_at", "mark", "mark_damaged", "_asked"):
            setattr(other, name, getattr(self, name))
        for event in ("first_gone", "gone"):
            if getattr(self, event).is_set():
                getattr(other, event).set()
        return other

    def resume(self) -> None:
        if self.count:
            self._nursery.start_soon(*((self._kill, 1.0) if self._asked else (self.run,)))

    async def run(self) -> None:
        with self._script:
            step = self.plan.length / (self.plan.words + 1)
            await sleep(step)
            while self.words < self.plan.words:
                self.words += 1
                self.spoke.set()
                self.spoke = trio.Event()
                await sleep(step)
            self._end(RunResult(exit_code=self.plan.exit_code, started_at=self.started_at))

    def stop(self, grace: float) -> None:
        """SIGTERM, and SIGKILL for what is left after `grace`: the shepherd sees to it."""
        if not self._asked:
            self._asked = True
            self._nursery.start_soon(self._kill, grace)

    async def _kill(self, grace: float) -> None:
        await sleep(self._rng.uniform(0.01, 0.5))
        if self.count == 2:
            self.count = 1
            self._script.cancel()
            self.first_gone.set()
            await sleep(grace)
        self._end(RunResult(signal=15, asked=True, started_at=self.started_at))

    def _end(self, mark: RunResult) -> None:
        if self.count:
            self.mark = mark
            self.die()

    def die(self) -> None:
        """As all do when their machine goes down."""
        if self.count:
            self.gone_at = trio.current_time()
        self.count = 0
        self._script.cancel()
        self.first_gone.set()
        self.gone.set()


@dataclass
class Files:
    """A payload's directory: None and False stand for files that are not there, or cannot be read."""

    record: StoredPayload | None
    running: StoredPayload | None = None
    """Also of one that somebody has set out to start."""
    given_up: bool = False
    process: Process | None = None
    ended_at: float | None = None
    """When its end was recorded."""
    written: bool = False
    """It is noted that all of it was written through: told only by a start in another boot."""
    hollow: bool = False
    """The machine's end has taken bytes from what it left, whatever its record says."""

    def is_intended(self) -> bool:
        return self.running is not None or self.given_up or self.process is not None

    def damage(self, rng: random.Random, likely: float) -> str:
        """Each file in there is torn or lost with that probability; which."""
        torn = []
        for what in ("record", "running", "mark"):
            if rng.random() < likely:
                torn.append(what)
                if what in ("record", "running"):
                    setattr(self, what, None)
                elif self.process is not None and self.process.mark is not None:
                    self.process.mark_damaged = True
        return ", ".join(torn)


@dataclass
class NodeDisk:
    """Nothing on it is written through but what has ended, a while later: the machine's end takes any of the
    rest back, or leaves a record and takes what belongs to it."""

    files: dict[str, Files] = field(default_factory=dict)
    tombstones: dict[str, str] = field(default_factory=dict)
    removed: dict[str, tuple[Files, float]] = field(default_factory=dict)
    full_until: float = 0.0
    held: int = HELD
    accepted: int = 0
    buried: int = 0
    """Ever: what of it is counted again after the machine's end is of another boot."""

    def copy(self, processes: Mapping[str, Process]) -> NodeDisk:
        """What is on it now, with these processes in place of those that are there."""

        def taken(key: str, files: Files) -> Files:
            return replace(files, process=None if files.process is None else processes[key])

        return replace(
            self,
            files={key: taken(key, files) for key, files in self.files.items()},
            tombstones=dict(self.tombstones),
            removed={key: (taken(key, files), at) for key, (files, at) in self.removed.items()},
        )

    def forget(self, rng: random.Random, now: float) -> str:
        """The machine has gone down; what of."""
        forgotten = []
        for key, files in list(self.files.items()):
            if files.ended_at is not None and not files.hollow:
                files.written |= rng.uniform(WITHIN, WRITTEN_WITHIN) <= now - files.ended_at
            if not files.written and rng.random() < 0.5:
                del self.files[key]
                forgotten.append(key)
            elif not files.written and files.ended_at is not None:
                files.hollow = True
                forgotten.append(f"results of {key}")
        for key in list(self.tombstones):
            if rng.random() < 0.5:
                del self.tombstones[key]
                forgotten.append(f"tombstone of {key}")
        for key, (files, at) in self.removed.items():
            if now < at + WRITTEN_WITHIN and rng.random() < 0.5:
                self.files[key] = files
                forgotten.append(f"removal of {key}")
        self.removed.clear()
        return ", ".join(what[:-26] for what in forgotten)

    def remove(self, key: str, now: float) -> None:
        self.removed[key] = self.files.pop(key), now

    def is_full(self) -> bool:
        return trio.current_time() < self.full_until

    def take_file(self, *, reserve: bool = False) -> None:
        """Make one more file, if need be in what was held. Raises `OSError`."""
        if not self.is_full():
            self.held = HELD
        elif reserve and self.held:
            self.held -= 1
        else:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
