"""The one writer of a database: group commit.

Callers hand over what they want written. Whatever piled up while a commit was on its way goes into the next
one, in the order in which it came: no delay when idle, one fsync for many when loaded. A batch is one thread
call: BEGIN, the items, what is done for all of them, COMMIT. An item that fails takes back what it did itself
and nothing of any other: the batch is begun anew then, with a savepoint for each. So what an item does it may
do twice, as long as it is done with what its batch gives it.

What somebody else would tell again may be written softly: it is seen at once, and durable with the next hard
commit, or a second later. So a power cut takes back the newest soft commits, and nothing that was written
before a hard one.

A caller that is cancelled before its item is in a batch takes it back, and nothing was written. After that it
gets its answer, cancelled or not, as with any call into a thread: so `Cancelled` always means that nothing
was done, and the caller may undo what it did before (delete the directory of a job that was not stored).
"""

from __future__ import annotations

import math
import sqlite3
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, Final, Generic, NoReturn, TypeAlias, TypeVar

import outcome
import sqlite_anyio
import trio

from actors.ports.world import Clock
from actors.process.kept_threads import KeptThreads
from actors.store.durable import is_failed_sync, is_full, is_passing
from actors.store.reserve import Reserve
from actors.store.sqlite_thread import thread_of

R = TypeVar("R")
T = TypeVar("T")
B = TypeVar("B", bound="Batch[Any]")
_Answer: TypeAlias = "outcome.Value[Any] | outcome.Error"


BYTES: Final = 4 << 20
"""Bytes of files in a commit at most, unless one item brings more."""


SOFT_FOR: Final = 1.0
"""Seconds for which a soft commit may stay unsynced."""


class NeedsHardCommit(Exception):
    """Raised by `Batch.finish` of a soft batch that has to be a hard one."""


class _ItemFailed(Exception):
    """An item of a batch without savepoints."""


class Stopped(OSError):
    """The task that commits has ended; nothing was written."""


@dataclass(slots=True)
class Batch(Generic[R]):
    """What the items of one batch get to write with, in the thread: the connection, inside a transaction,
    the time of the batch (wall), the number of the newest change, and the rows that this batch has
    changed so far. `undo` takes back what was done outside of the database, the last first."""

    db: sqlite3.Connection
    now: float
    seq: int
    changed: list[R] = field(default_factory=list)
    undo: list[Callable[[], object]] = field(default_factory=list)
    has_failed: bool = False
    """Whether an item failed."""
    found_full: bool = False
    """Whether an item failed for want of room."""
    hard: bool = True
    """Whether it is durable once it is committed."""
    hardens: bool = False
    """Whether it makes soft commits before it durable: then something has to be written, or nothing is
    synced."""

    def finish(self) -> None:
        """Do what is done once for all items, before the commit."""

    def committed(self) -> None:
        """Do what follows the commit at once, in the thread. It may not raise."""

    def back_to(self, seq: int, changed: int, undo: int) -> None:
        self.seq = seq
        del self.changed[changed:]
        while len(self.undo) > undo:
            self.undo.pop()()


@dataclass(slots=True, eq=False)
class _PendingWrite(Generic[B]):
    work: Callable[[B], Any]
    task: trio.lowlevel.Task
    urgent: bool
    size: int
    soft: bool
    answer: _Answer | None = None
    is_full: bool = False
    """It failed for want of room."""


class GroupCommit(Generic[B]):
    """Owns the connection that writes. `run` is its task."""

    def __init__(
        self,
        connection: sqlite_anyio.Connection,
        begin: Callable[[sqlite3.Connection, float], B],
        *,
        clock: Clock,
        reserve: Reserve,
        committed: Callable[[B], None],
        explain: Callable[[Exception], Exception] = lambda error: error,
        most: int,
        harden: Callable[[sqlite3.Connection, bool], None] | None = None,
        sync_failed: Callable[[Exception], NoReturn] | None = None,
        timed: Callable[[float, int], None] = lambda seconds, items: None,
    ) -> None:
        """`begin` makes a batch in the thread. `committed` is called after each commit, before anybody is
        answered; it may neither wait nor raise. `explain` makes of an error what the caller is to get. At
        most `most` items go into a commit, so that a flood does not make the first of them wait for all.
        What is urgent may use `reserve` where the disk is full. `harden` is told in the thread whether the
        next commit is to be hard; without it all are alike. `sync_failed` ends the process: what was written
        before a failed sync may be on the disk or not, and no later sync would say which. `timed` is told of
        each commit how long it took, in seconds with the way to the thread, and of how many items it was."""
        self._connection = connection
        self._begin = begin
        self._clock = clock
        self._reserve = reserve
        self._reserve_held = True
        self._committed = committed
        self._explain = explain
        self._most = most
        self._harden = harden
        self._sync_failed = sync_failed
        self._timed = timed
        self._is_hard: bool | None = None
        self._soft_until = math.inf
        self._softened = trio.Event()
        """Set when there are soft commits again."""
        self._pending: dict[_PendingWrite[B], None] = {}
        self._flying: list[_PendingWrite[B]] = []
        self._is_idle = False
        """Whether the task waits for something to write."""
        self._stopped = False
        self._well_at = -math.inf
        self._db: sqlite3.Connection
        self._thread: KeptThreads
        self._task: trio.lowlevel.Task

    async def write(
        self, work: Callable[[B], T], *, urgent: bool = False, size: int = 0, soft: bool = False
    ) -> T:
        """Have `work` done in the next batch; its result, once that is durable. Waits for `run` if that has
        not begun. Raises what the work raises, or why it could not be written, as explained; nothing of it
        was done then, nor if this raises Cancelled. `size`: bytes of files that it brings.
        `soft`: it need not be durable yet."""
        if self._stopped:
            await trio.lowlevel.checkpoint()
            raise self._explain(Stopped("it has stopped; nothing was written"))
        item = _PendingWrite(work, trio.lowlevel.current_task(), urgent, size, soft)
        self._pending[item] = None
        if self._is_idle:
            self._wake()

        def abort(_: object) -> trio.lowlevel.Abort:
            if item not in self._pending:
                return trio.lowlevel.Abort.FAILED
            del self._pending[item]
            return trio.lowlevel.Abort.SUCCEEDED

        result: T = await trio.lowlevel.wait_task_rescheduled(abort)
        return result

    def went_well(self, within: float) -> bool:
        """Whether the last commit was less than `within` seconds ago and failed for nobody. There may be
        another one under way."""
        return not self._stopped and trio.current_time() < self._well_at + within

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Commit what comes, until cancelled. A batch under way is finished and answered first. What it
        raises it raises in a group."""
        self._db, self._thread = await thread_of(self._connection)
        async with trio.open_nursery() as nursery:
            self._task = trio.lowlevel.current_task()
            nursery.start_soon(self._tell_when_due)
            task_status.started()
            try:
                while True:
                    if not self._pending and not self._is_due():
                        await self._rest()
                        continue  # perhaps it was taken back
                    await self._commit()
                    if self._pending:
                        # Who was just answered mostly goes on to write: that belongs into the same commit as
                        # what has come meanwhile. Tasks of one turn of the loop run in any order: two turns.
                        await trio.lowlevel.checkpoint()
                        await trio.lowlevel.checkpoint()
            finally:
                self._stopped = True
                self._flying += self._pending
                self._pending.clear()
                self._answer()

    async def _tell_when_due(self) -> None:
        """Wake the task when soft commits have to be made durable. This sleeps until the first of them would
        have to be, and only then looks what has become of it: no timer is set and taken back for each."""
        while True:
            if trio.current_time() < self._soft_until < math.inf:
                await trio.sleep_until(self._soft_until)
                continue
            if self._soft_until < math.inf:
                self._wake()
            self._softened = trio.Event()
            await self._softened.wait()

    def _is_due(self) -> bool:
        return self._soft_until < math.inf and trio.current_time() >= self._soft_until

    async def _rest(self) -> None:
        """Wait for something to write."""

        def abort(_: object) -> trio.lowlevel.Abort:
            self._is_idle = False
            return trio.lowlevel.Abort.SUCCEEDED

        self._is_idle = True
        await trio.lowlevel.wait_task_rescheduled(abort)

    def _wake(self) -> None:
        if self._is_idle:
            self._is_idle = False
            trio.lowlevel.reschedule(self._task)

    async def _commit(self) -> None:
        """Write the next batch, and answer whoever waits."""
        self._flying, hard = self._next()
        for item in self._flying:
            del self._pending[item]
        has_room = await self._write_out(self._flying, hard)
        if has_room and self._reserve_held:
            self._answer()
            return
        with trio.CancelScope(shield=True):
            await self._make_room()
            self._answer()
            if not self._reserve_held:
                self._reserve_held = await _ask(self._reserve.hold)

    def _next(self) -> tuple[list[_PendingWrite[B]], bool]:
        """The next batch, and whether it is a hard one."""
        size, hard = 0, self._harden is None or self._is_due()
        flying: list[_PendingWrite[B]] = []
        for item in islice(self._pending, self._most):
            size += item.size
            if flying and size > BYTES:
                break
            flying.append(item)
            hard = hard or not item.soft
        return flying, hard

    async def _write_out(self, items: Sequence[_PendingWrite[B]], hard: bool) -> bool:
        """Write these as one batch, and set their answers. False if any of them found no room."""
        began_at = trio.current_time()
        try:
            batch = await self._thread.run(self._write, self._db, items, self._clock.now(), hard)
        except Exception as error:
            # Outside any one item: nothing of the batch holds.
            self._well_at = -math.inf
            for item in items:
                self._fail(item, error)
            if self._sync_failed is not None and is_failed_sync(error):
                self._sync_failed(error)
            if not items:
                self._soften(trio.current_time() + SOFT_FOR)
            return not is_full(error)
        now = trio.current_time()
        self._timed(now - began_at, len(items))
        if batch.hard:
            self._soft_until = math.inf
        elif self._soft_until == math.inf:
            self._soften(now + SOFT_FOR)
        self._well_at = -math.inf if batch.has_failed else now
        self._committed(batch)
        return not batch.found_full

    def _soften(self, until: float) -> None:
        self._soft_until = until
        self._softened.set()

    async def _make_room(self) -> None:
        """A full disk fails the batch, but perhaps not each of its items: an order to terminate is small, and
        there is a reserve for it."""
        full = [item for item in self._flying if item.is_full]
        for item in full:
            if len(self._flying) > 1 and await self._try(item):
                continue
            if item.urgent and await _ask(self._reserve.let_go):
                self._reserve_held = False
                await self._try(item)

    async def _try(self, item: _PendingWrite[B]) -> bool:
        """Write one by itself. False if it found no room."""
        return await self._write_out([item], self._harden is None or not item.soft)

    def _answer(self) -> None:
        """Wake whoever waits. There is no checkpoint between a commit and this."""
        for item in self._flying:
            answer = item.answer
            if answer is None:
                answer = outcome.Error(self._explain(Stopped("it has stopped; nothing was written")))
            trio.lowlevel.reschedule(item.task, answer)
        self._flying = []

    # ------------------------------------------------------------------ in the thread

    def _write(self, db: sqlite3.Connection, items: Sequence[_PendingWrite[B]], now: float, hard: bool) -> B:
        """The items in one transaction. What they answer holds only if this returns."""
        apart = False
        while True:
            try:
                return self._write_as(db, items, now, hard=hard, apart=apart)
            except NeedsHardCommit:
                hard = True
            except _ItemFailed:
                apart = True

    def _write_as(
        self,
        db: sqlite3.Connection,
        items: Sequence[_PendingWrite[B]],
        now: float,
        *,
        hard: bool,
        apart: bool,
    ) -> B:
        batch: B | None = None
        if self._harden is not None and hard is not self._is_hard:
            self._harden(db, hard)
            self._is_hard = hard
        try:
            db.execute("BEGIN IMMEDIATE")
            batch = self._begin(db, now)
            batch.hard, batch.hardens = hard, hard and self._soft_until < math.inf
            if apart:
                for item in items:
                    self._apply_apart(item, batch)
            else:
                _apply_all(items, batch)
            batch.finish()
            db.execute("COMMIT")
            batch.committed()
        except BaseException:
            if batch is not None:
                batch.back_to(0, 0, 0)
            raise
        finally:
            if db.in_transaction:
                db.execute("ROLLBACK")
        return batch

    def _apply_apart(self, item: _PendingWrite[B], batch: B) -> None:
        db, before = batch.db, (batch.seq, len(batch.changed), len(batch.undo))
        db.execute("SAVEPOINT item")
        try:
            item.answer = outcome.Value(item.work(batch))
        except Exception as error:
            if not db.in_transaction:
                raise
            db.execute("ROLLBACK TO item")
            batch.back_to(*before)
            self._fail(item, error)
            batch.has_failed = True
            batch.found_full |= item.is_full
        db.execute("RELEASE item")

    def _fail(self, item: _PendingWrite[B], error: Exception) -> None:
        item.is_full = is_full(error)
        explained = self._explain(error)
        if explained is not error:
            explained.__cause__ = error
        item.answer = outcome.Error(explained)


def _apply_all(items: Sequence[_PendingWrite[B]], batch: B) -> None:
    try:
        for item in items:
            item.answer = outcome.Value(item.work(batch))
    except Exception as error:
        if not batch.db.in_transaction:
            # SQLite has taken the whole transaction back by itself (no room, no memory).
            raise
        raise _ItemFailed from error


async def _ask(reserve: Callable[[], bool]) -> bool:
    """In a thread; False also where there is none to be had."""
    try:
        return await trio.to_thread.run_sync(reserve)
    except (RuntimeError, MemoryError) as error:
        if not is_passing(error):
            raise
        return False
