"""The one writer of the payload table. What is asked for while one batch is under way is done in the next, as
one thread call: rows and files together, and a directory that several share is synced once for all of them.

Each item is wholly done or not at all, and fails alone. A caller that is cancelled before its item is in a
batch takes it back, and nothing was done; after that it gets its answer, cancelled or not. So `Cancelled`
always means that nothing was done, and the caller may take away what it had got ready: disk and table never
differ.
"""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Final, TypeVar

import outcome
import sqlite_anyio
import trio

from actors.ports.world import Clock
from actors.store.durable import sync_directory
from actors.store.sqlite_thread import run_on_connection
from node.payloads.records import Records
from node.payloads.rows import PUT, Row, columns_of

T = TypeVar("T")

BATCH: Final = 500
"""Items in a batch at most, so that a flood does not make the first of them wait for all."""


@dataclass(slots=True)
class Writing:
    """What an item gets to work with, in the thread: the database, the files, the time of the batch (wall),
    and the number of the newest change."""

    db: sqlite3.Connection
    records: Records
    now: float
    sequence: int
    changed: list[Row] = field(default_factory=list)
    unsynced: set[Path] = field(default_factory=set)
    """Directories that are synced before the batch counts as done."""
    undo: list[Callable[[], object]] = field(default_factory=list)
    """What takes the files' side of this batch back, the last first."""

    def put(self, rows: Iterable[Row]) -> None:
        """Number and keep changed rows, their files written before; they are told when the batch is done."""
        for row in rows:
            self.sequence += 1
            self.changed.append(replace(row, payload=replace(row.payload, sequence=self.sequence)))
            self.db.execute(PUT, columns_of(self.changed[-1]))

    def back_to(self, sequence: int, changed: int, undo: int) -> None:
        self.sequence = sequence
        del self.changed[changed:]
        while len(self.undo) > undo:
            self.undo.pop()()


@dataclass(eq=False, slots=True)
class _Asked:
    """What one caller wants, and what came of it."""

    work: Callable[[Writing], Any]
    urgent: bool
    answer: outcome.Outcome[Any] | None = None


class Batches:
    """Owns the connection. `told` is called with what each batch has changed, before anybody is answered."""

    def __init__(
        self,
        connection: sqlite_anyio.Connection,
        records: Records,
        clock: Clock,
        told: Callable[[Sequence[Row]], None],
    ) -> None:
        self._connection = connection
        self._records = records
        self._clock = clock
        self._told = told
        self._lock = trio.Lock()
        self._asked: list[_Asked] = []
        self.sequence = 0
        """The number of the newest change."""

    async def read(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Run `work` on the real connection as one thread call. Raises what it raises."""
        return await run_on_connection(self._connection, work)

    @asynccontextmanager
    async def still(self) -> AsyncIterator[None]:
        """While it is open nothing is written."""
        async with self._lock:
            yield

    async def write(self, work: Callable[[Writing], T], *, urgent: bool = False) -> T:
        """Have `work` done in the next batch; its result. Raises what it raises, `OSError` if the disk does
        not take it: nothing has changed then, nor if it raises `Cancelled`. What is `urgent` may use the
        disk's reserve."""
        asked = _Asked(work, urgent)
        self._asked.append(asked)
        try:
            async with self._lock:
                with trio.CancelScope(shield=True):
                    # The first to hold the lock does the work of all; with very many, of the oldest first.
                    while asked.answer is None:
                        together, self._asked = self._asked[:BATCH], self._asked[BATCH:]
                        await self._do(together)
        except trio.Cancelled:  # noqa: ASYNC103  # the item is done by another task: nothing is swallowed
            if asked in self._asked:
                raise
            # Another caller's batch has it, or had it: who holds the lock after that finds the answer.
            if asked.answer is None:
                with trio.CancelScope(shield=True):
                    async with self._lock:
                        pass
        finally:
            if asked in self._asked:
                self._asked.remove(asked)
        assert asked.answer is not None
        result: T = asked.answer.unwrap()
        return result

    async def _do(self, together: Sequence[_Asked]) -> None:
        now = self._clock.now()
        try:
            changed = await self.read(lambda db: self._batch(db, together, now))
        except Exception as error:
            # Outside any one item, as the sync of what they share: nothing of the batch holds.
            for asked in together:
                if not isinstance(asked.answer, outcome.Error):
                    asked.answer = outcome.Error(error)
        else:
            if changed:
                self.sequence = changed[-1].payload.sequence
                self._told(changed)

    def _batch(self, db: sqlite3.Connection, together: Sequence[_Asked], now: float) -> list[Row]:
        """In the thread: each item in its savepoint, then one sync for what they share, then the commit."""
        writing = Writing(db, self._records, now, self.sequence)
        db.execute("BEGIN")
        try:
            for asked in together:
                apply = partial(_apply, asked.work, writing)
                reserve = self._records.reserve
                asked.answer = outcome.capture(reserve.attempt if asked.urgent else _do_once, apply)
            for directory in writing.unsynced:
                sync_directory(directory)
            db.execute("COMMIT")
        except BaseException:
            try:
                writing.back_to(self.sequence, 0, 0)
            finally:
                db.execute("ROLLBACK")
            raise
        return writing.changed


def _do_once(apply: Callable[[], T]) -> T:
    return apply()


def _apply(work: Callable[[Writing], T], writing: Writing) -> T:
    before = writing.sequence, len(writing.changed), len(writing.undo)
    writing.db.execute("SAVEPOINT item")
    try:
        return work(writing)
    except BaseException:
        writing.db.execute("ROLLBACK TO item")
        writing.back_to(*before)
        raise
    finally:
        writing.db.execute("RELEASE item")
