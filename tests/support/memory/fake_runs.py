"""Runs that live in memory, for the Runner: a test ends them, or they end when they are stopped."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import trio

from actors.domain.job import End
from actors.domain.payload import Payload, PayloadMove, RunResult
from actors.domain.status import ENDED, Status
from actors.ports.payloads import Running


class FakeRun:
    """`dies_of_term` False: only SIGKILL ends it, after the grace."""

    def __init__(self, pid: int, started_at: float, age: float = 0.0) -> None:
        self.pid = pid
        self.started_at = started_at
        self.dies_of_term = True
        self.stopped: list[float] = []
        self.broken: list[Exception] = []
        self._born = trio.current_time() - age
        self._ended = trio.Event()
        self._result = RunResult()

    def age(self) -> float:
        return trio.current_time() - self._born

    def end(self, result: RunResult) -> None:
        if not self._ended.is_set():
            self._result = result
            self._ended.set()

    async def wait(self) -> RunResult:
        if self.broken:
            raise self.broken.pop()
        await self._ended.wait()
        return self._result

    async def stop(self, grace: float) -> None:
        self.stopped.append(grace)
        if not self.dies_of_term:
            with trio.move_on_after(grace):
                await self._ended.wait()
        self.end(RunResult(signal=15 if self.dies_of_term else 9))


class FakeRuns:
    """`at_start` and `at_adopt` decide what comes of a start or an adoption; by default a `FakeRun`.
    `cards`: how many there are, where each payload needs one."""

    def __init__(self) -> None:
        self.started: list[str] = []
        self.cards: int | None = None
        self.claimed: set[str] = set()
        self.adopted: list[str] = []
        self.frozen: list[str] = []
        self.running: dict[str, FakeRun] = {}
        self.at_start: Callable[[Payload], RunResult | None] = lambda _payload: None
        self.started_when: trio.Event | None = None
        """Until when nobody hears that something was started."""
        self.at_adopt: Callable[[Payload], RunResult | FakeRun | None] = lambda _payload: None
        self.freeze_fails: list[OSError] = []
        self.changed = trio.Event()

    def claim(self, payload: Payload) -> bool:
        if self.cards is not None and len(self.claimed | {payload.key}) > self.cards:
            return False
        self.claimed.add(payload.key)
        return True

    async def start(self, payload: Payload) -> Running | RunResult:
        await trio.lowlevel.checkpoint()
        self.started.append(payload.key)
        run = self.at_start(payload) or self._run(payload, FakeRun(len(self.started) + 100, 50.0))
        if self.started_when is not None:
            await self.started_when.wait()
        return run

    async def adopt(self, payload: Payload) -> Running | RunResult:
        await trio.lowlevel.checkpoint()
        self.adopted.append(payload.key)
        found = self.at_adopt(payload)
        if isinstance(found, RunResult):
            return found
        known = self.running.get(payload.key)
        return self._run(payload, found or known or FakeRun(payload.pid, payload.started_at or 0.0))

    async def close(self, payload: Payload, move: PayloadMove) -> PayloadMove:
        await trio.lowlevel.checkpoint()
        if self.freeze_fails:
            raise self.freeze_fails.pop()
        self.frozen.append(payload.key)
        self.claimed.discard(payload.key)
        assert move.end is not None
        return replace(move, end=replace(move.end, size=10))

    def _run(self, payload: Payload, run: FakeRun) -> FakeRun:
        self.running[payload.key] = run
        return run


class MemoryPayloads:
    """The node's payload table as the Runner knows it, without a disk."""

    def __init__(self) -> None:
        self.rows: dict[str, Payload] = {}
        self.moves: list[tuple[str, Status]] = []
        self.fails: list[OSError] = []
        self.bell: Callable[[], None] = lambda: None
        self._sequence = 0

    def put(self, payload: Payload) -> None:
        self._sequence += 1
        self.rows[payload.key] = replace(payload, sequence=self._sequence)
        self.bell()

    def cancel(self, key: str) -> None:
        self.put(replace(self.rows[key], cancelled=True))

    def end_of(self, key: str) -> End | None:
        return self.rows[key].end

    async def record(self, moves: Sequence[PayloadMove]) -> Sequence[bool]:
        await trio.lowlevel.checkpoint()
        if self.fails:
            raise self.fails.pop()
        done = []
        for move in moves:
            row = self.rows[move.key]
            fits = row.status is move.source
            done.append(fits)
            if fits:
                assert (move.target in ENDED) == (move.end is not None)
                self.moves.append((move.key, move.target))
                pid, started_at = move.pid or row.pid, move.started_at or row.started_at
                self.put(
                    replace(
                        row,
                        status=move.target,
                        pid=pid,
                        started_at=started_at,
                        end=move.end,
                        lost=move.lost,
                    )
                )
        return done

    async def changes(self, after: int) -> Sequence[Payload]:
        await trio.lowlevel.checkpoint()
        return sorted((p for p in self.rows.values() if p.sequence > after), key=lambda p: p.sequence)

    async def all(self) -> tuple[Sequence[Payload], int]:
        await trio.lowlevel.checkpoint()
        return sorted(self.rows.values(), key=lambda p: p.id), self._sequence
