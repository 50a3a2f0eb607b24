"""One life of a simulated node's process: the real Runner, and the real rules of what a node makes of its
files after a restart, on a table in memory."""

from __future__ import annotations

import math
import random
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial

import trio
from simulation.clock import sleep
from simulation.node_disk import Files, NodeDisk, Process
from simulation.violation import Dead, Violation

from actors.domain.failure import Failure
from actors.domain.payload import UNKNOWN, Payload, PayloadMove, RunResult
from actors.domain.status import ENDED, Status
from actors.kernel.actor import live
from actors.ports.payloads import Running
from actors.ports.world import Clock
from actors.runner import Runner, RunnerMailbox
from node.executors.mark_files import BRIEF
from node.payloads.records import RELEASE, StoredPayload, known_of
from node.payloads.recovery import take_up
from node.payloads.rows import Row, apply_move
from node.runs.runs import NEVER_STARTED

TICK = 20.0
HELD_UP = 20.0
"""Seconds that an end may take to be recorded, whatever the disk is like."""


class Agent:
    """`begin_process` starts a script; `tell` passes on what has changed. `boot`: of the machine."""

    outlives = False
    """Whether what it runs goes on when its machine goes down."""

    def __init__(
        self,
        disk: NodeDisk,
        boot: str,
        clock: Clock,
        rng: random.Random,
        *,
        slots: int,
        begin_process: Callable[[Payload, Files], Process],
        tell: Callable[[Payload], None],
        ended: Callable[[], None],
        end_needs_room: bool,
        kill_trusts_first_process: bool,
        resumed: tuple[dict[str, Row], int] | None = None,
    ) -> None:
        """`resumed`: what it had in memory, in place of what it would make of its disk."""
        self.rows: dict[str, Row] = {}
        self.sequence = 0
        self.alive = True
        self.born = trio.current_time()
        self.scope = trio.CancelScope()
        self.kill_trusts_first_process = kill_trusts_first_process
        self._disk = disk
        self._boot = boot
        self._clock = clock
        self._rng = rng
        self._slots = slots
        self._begin_process = begin_process
        self._tell = tell
        self._ended = ended
        self._end_needs_room = end_needs_room
        self._mailbox = RunnerMailbox()
        self._accepted_at: dict[str, float] = {}
        self.beside: Callable[[], Awaitable[None]] | None = None
        """What the process does besides."""
        if resumed is not None:
            rows, self.sequence = resumed
            self.rows = dict(rows)
            return
        for key, files in list(disk.files.items()):
            self._recover(key, files)

    async def run(self) -> None:
        make = partial(
            Runner,
            payloads=self,
            runs=self,
            clock=self._clock,
            rng=self._rng,
            slots=self._slots,
            tick=TICK,
        )
        try:
            with self.scope:
                if self.beside is None:
                    return await self._live(make)
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self.beside)
                    await self._live(make)
        except* Dead:
            pass

    async def _live(self, make: Callable[..., Runner]) -> None:
        await live(self._mailbox, make)

    def die(self) -> None:
        self.alive = False
        self.scope.cancel()

    def enter(self) -> None:
        """At each port call: what a dead process still tries has no effect."""
        if not self.alive:
            raise Dead

    # ------------------------------------------------------------------ the table

    def _recover(self, key: str, files: Files) -> None:
        stored = known_of(key, files.record, files.running, self._boot)
        payload = take_up(
            stored,
            boot=self._boot,
            is_new=False,
            written=files.written,
            outlives=self.outlives,
            now=self._clock.now(),
            intended=lambda _: self._is_intended(key, files),
        )
        if payload.lost and payload is not stored.payload:
            files.record = StoredPayload(payload, self._boot)
        stone = self._disk.tombstones.get(key)
        cancelled = stone is not None and payload.status not in ENDED
        progress = None if files.process is None else files.process.progress
        self.put(Row(replace(payload, cancelled=cancelled, progress=progress), stone == RELEASE))

    def put(self, row: Row) -> None:
        """Keep and tell a changed row; of what is released and has ended nothing stays."""
        self.sequence += 1
        payload = replace(row.payload, sequence=self.sequence)
        self.rows[payload.key] = replace(row, payload=payload)
        self._mailbox.hear([payload])
        if not row.released:
            self._tell(payload)
        elif payload.end is not None:
            del self.rows[payload.key]
            self._discard(payload.key)

    def _discard(self, key: str) -> None:
        self._disk.remove(key, trio.current_time())

    def _is_intended(self, key: str, files: Files) -> bool:
        return files.is_intended()

    def accept(self, payload: Payload) -> None:
        self._disk.files[payload.key] = Files(StoredPayload(payload, self._boot))
        self._accepted_at[payload.key] = trio.current_time()
        self._disk.accepted += 1
        self.put(Row(payload, False))

    def there(self) -> list[Payload]:
        """What is not released."""
        return [row.payload for row in self.rows.values() if not row.released]

    def find(self, key: str) -> Payload | None:
        row = self.rows.get(key)
        return None if row is None or row.released else row.payload

    def bury(self, key: str, kind: str) -> None:
        """A tombstone, if need be made of a file of its payload. Raises `OSError`."""
        if self._disk.tombstones.get(key) in (kind, RELEASE):
            return
        files = self._disk.files.get(key)
        try:
            self._disk.take_file()
        except OSError:
            if self._end_needs_room:
                raise
            if files is not None and files.running is not None:
                files.running = None
            elif files is not None and kind == RELEASE:
                files.record = None
            else:
                self._disk.take_file(reserve=True)
        self._disk.tombstones[key] = kind
        self._disk.buried += 1
        if (row := self.rows.get(key)) is not None:
            cancelled = row.payload.cancelled or row.payload.status not in ENDED
            self.put(Row(replace(row.payload, cancelled=cancelled), kind == RELEASE))

    async def record(self, moves: Sequence[PayloadMove]) -> Sequence[bool]:
        await trio.lowlevel.checkpoint()
        self.enter()
        return [self._move(move) for move in moves]

    def _move(self, move: PayloadMove) -> bool:
        row = self.rows.get(move.key)
        if row is None or row.payload.status is not move.source:
            return False
        payload, files = apply_move(row.payload, move), self._disk.files[move.key]
        if move.target is not Status.RUNNING:
            if not move.written:
                self._write_end(payload, files)
            if trio.current_time() > max(self.born, self._ended_at(move.key, files)) + HELD_UP:
                raise Violation("held up", f"attempt {move.key[:6]}: its end is recorded late")
            self._ended()
        elif self.outlives and not self._disk.is_full():
            files.running = StoredPayload(payload, self._boot)
        self.put(replace(row, payload=payload))
        return True

    def _write_end(self, payload: Payload, files: Files) -> None:
        if self._end_needs_room:
            self._disk.take_file()
        files.record = StoredPayload(payload, self._boot)
        files.ended_at = trio.current_time()

    def _ended_at(self, key: str, files: Files) -> float:
        """When it could be told that it had ended; infinite for what never began."""
        ended = files.process is not None and not files.process.count
        return files.process.gone_at if files.process is not None and ended else math.inf

    async def changes(self, after: int) -> Sequence[Payload]:
        await trio.lowlevel.checkpoint()
        self.enter()
        changed = [row.payload for row in self.rows.values() if row.payload.sequence > after]
        return sorted(changed, key=lambda payload: payload.sequence)

    async def all(self) -> tuple[Sequence[Payload], int]:
        await trio.lowlevel.checkpoint()
        self.enter()
        return [row.payload for row in self.rows.values()], self.sequence

    # ------------------------------------------------------------------ the runs

    def claim(self, payload: Payload) -> bool:
        return True

    async def start(self, payload: Payload) -> Running | RunResult:
        self.enter()
        files = self._disk.files[payload.key]
        since = max(self.born, self._accepted_at.get(payload.key, self.born))
        waited = trio.current_time() - since
        if payload.slot_wait is not None and waited > payload.slot_wait + TICK + 1.0:
            raise Violation("waits", f"attempt {payload.key[:6]} has waited for a slot until now")
        if files.is_intended():
            return await self.adopt(payload)
        self._disk.take_file(reserve=True)
        files.running = StoredPayload(replace(payload, status=Status.RUNNING), self._boot)
        await sleep(self._rng.uniform(0.001, 0.02))
        self.enter()
        if files.process is not None or files.given_up:
            return await self.adopt(payload)
        run = _Run(self, payload.key, self._begin_process(payload, files))
        with trio.move_on_after(BRIEF):
            return await run.wait()
        return run

    async def adopt(self, payload: Payload) -> Running | RunResult:
        await trio.lowlevel.checkpoint()
        self.enter()
        files = self._disk.files[payload.key]
        ran = payload.started_at is not None or payload.owner == UNKNOWN
        if files.process is None:
            files.given_up = True
            if ran:
                return RunResult(unreadable=True)
            return RunResult(refused=NEVER_STARTED, refused_by=Failure.LOST)
        run = _Run(self, payload.key, files.process)
        if payload.owner == UNKNOWN:
            if files.process.count:
                await run.stop(5.0)
            return RunResult(unreadable=True, started_at=run.started_at)
        return run if files.process.count else await run.wait()

    async def close(self, payload: Payload, move: PayloadMove) -> PayloadMove:
        await trio.lowlevel.checkpoint()
        self.enter()
        process = self._disk.files[payload.key].process
        if process is None or move.end is None:
            return move
        move = replace(move, end=replace(move.end, size=process.plan.size))
        with suppress(OSError):
            self._write_end(apply_move(payload, move), self._disk.files[payload.key])
            move = replace(move, written=True)
        # The process of the node may end before its table has it.
        await sleep(self._rng.uniform(0.001, 0.02))
        self.enter()
        self.hear(payload.key, process)
        return move

    def hear(self, key: str, process: Process) -> None:
        row = self.rows.get(key)
        if row is not None and row.payload.end is None and row.payload.progress != process.progress:
            self.put(replace(row, payload=replace(row.payload, progress=process.progress)))


class _Run:
    pid = 1

    def __init__(self, agent: Agent, key: str, process: Process) -> None:
        self._agent = agent
        self._key = key
        self._process = process

    @property
    def started_at(self) -> float:
        return self._process.started_at

    def age(self) -> float:
        return trio.current_time() - self._process.started_at

    async def wait(self) -> RunResult:
        process = self._process
        async with trio.open_nursery() as nursery:
            if process.plan.words and process.count:
                nursery.start_soon(self._follow)
            await self._end().wait()
            nursery.cancel_scope.cancel()
        self._agent.enter()
        if process.count:
            return RunResult(signal=15, asked=True, started_at=self.started_at)
        if process.mark_damaged:
            return RunResult(unreadable=True, started_at=self.started_at)
        return process.mark or RunResult(lost=True, started_at=self.started_at)

    async def stop(self, grace: float) -> None:
        self._agent.enter()
        self._process.stop(grace)
        await self._end().wait()
        self._agent.enter()

    def _end(self) -> trio.Event:
        trusts = self._agent.kill_trusts_first_process
        return self._process.first_gone if trusts else self._process.gone

    async def _follow(self) -> None:
        while True:
            self._agent.enter()
            self._agent.hear(self._key, self._process)
            await self._process.spoke.wait()
