"""The one writer of a database: group commit.

Callers hand over what they want written. Whatever piled up while a commit was on its way goes into the next
one, in the order in which it came: no delay when idle, one fsync for many when loaded. A batch is one thread
call: BEGIN, a savepoint for each item, COMMIT. An item that fails takes back its own savepoint and no other.

A caller that is cancelled before its item is in a batch takes it back, and nothing was written. After that it
gets its answer, cancelled or not, as with any call into a thread: so `Cancelled` always means that nothing
was done, and the caller may undo what it did before (delete the directory of a job that was not stored).
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias, TypeVar

import outcome
import sqlite_anyio
import trio

from actors.domain.job import Job
from actors.ports.ledger import LedgerError
from actors.ports.world import Clock
from actors.store.reserve import Reserve
from actors.store.sqlite_thread import run_on_connection
from orchestrator.ledger.tables.meta import read_seq, store_seq

T = TypeVar("T")
_Answer: TypeAlias = "outcome.Value[Any] | outcome.Error"

BATCH: Final = 1000
"""Items in a commit at most, so that a flood does not make the first of them wait for all."""

DATABASE_ERRORS: Final = (sqlite3.Error, OverflowError, UnicodeError)
"""What sqlite3 raises: its own errors, and Python's for values that do not fit."""


class LedgerFull(LedgerError):
    """There is no room on the disk that the ledger is on."""


@dataclass(slots=True)
class Writing:
    """What an item gets to write with: the connection, inside its savepoint, the time of the batch (wall),
    the number of the newest change, and the jobs that this batch has changed so far."""

    db: sqlite3.Connection
    now: float
    seq: int
    changed: list[Job] = field(default_factory=list)


@dataclass(slots=True, eq=False)
class _Item:
    work: Callable[[Writing], Any]
    task: trio.lowlevel.Task
    urgent: bool
    answer: _Answer = field(
        default_factory=lambda: outcome.Error(LedgerError("the ledger has stopped; nothing was written"))
    )


async def on_ledger(connection: sqlite_anyio.Connection, work: Callable[[sqlite3.Connection], T]) -> T:
    """`run_on_connection`, whose errors of the database are told as LedgerError."""
    try:
        return await run_on_connection(connection, work)
    except DATABASE_ERRORS as error:
        raise explain(error) from error


class Writer:
    """Owns the connection that writes. `run` is its task. What is urgent may use the disk's reserve."""

    def __init__(
        self,
        connection: sqlite_anyio.Connection,
        clock: Clock,
        reserve: Reserve,
        committed: Callable[[Sequence[Job]], None],
        trace: Callable[[str], None] | None = None,
    ) -> None:
        self._connection = connection
        self._reserve = reserve
        self._reserve_held = True
        self._clock = clock
        self._committed = committed
        self._trace = trace
        self._pending: dict[_Item, None] = {}
        self._flying: list[_Item] = []
        self._bell = trio.Event()
        self._stopped = False

    async def write(self, work: Callable[[Writing], T], *, urgent: bool = False) -> T:
        """Have `work` done in the next batch; its result, once that is durable. Waits for `run` if that has
        not begun. Raises LedgerError if it could not be done; nothing of it was done then, nor if this
        raises Cancelled."""
        if self._stopped:
            await trio.lowlevel.checkpoint()
            raise LedgerError("the ledger has stopped; nothing was written")
        item = _Item(work, trio.lowlevel.current_task(), urgent)
        self._pending[item] = None
        self._bell.set()

        def abort(_: object) -> trio.lowlevel.Abort:
            if item not in self._pending:
                return trio.lowlevel.Abort.FAILED
            del self._pending[item]
            return trio.lowlevel.Abort.SUCCEEDED

        result: T = await trio.lowlevel.wait_task_rescheduled(abort)
        return result

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Commit what comes, until cancelled. A batch under way is finished and answered first."""
        task_status.started()
        try:
            while True:
                await self._bell.wait()
                self._bell = trio.Event()
                while self._pending:
                    await self._commit()
        finally:
            self._stopped = True
            self._flying += self._pending
            self._pending.clear()
            self._land()

    async def _commit(self) -> None:
        self._flying = list(self._pending)[:BATCH]
        for item in self._flying:
            del self._pending[item]
        try:
            await self._try(self._flying)
        except LedgerFull as full:
            await self._one_by_one(full)
        except LedgerError as error:
            _fail(self._flying, error)
        self._land()
        if not self._reserve_held:
            self._reserve_held = await trio.to_thread.run_sync(self._reserve.hold)

    async def _try(self, items: Sequence[_Item]) -> None:
        now = self._clock.now()
        answers, changed = await on_ledger(self._connection, lambda db: _batch(db, items, now))
        for item, answer in zip(items, answers, strict=True):
            item.answer = answer
        if self._trace is not None:
            self._trace("commit")
        if changed:
            self._committed(changed)

    async def _one_by_one(self, full: LedgerFull) -> None:
        """A full disk fails the batch, but perhaps not each of its items: an order to terminate is small, and
        there is a reserve for it."""
        _fail(self._flying, full)
        for item in self._flying:
            if len(self._flying) > 1 and not await self._is_full_for(item):
                continue
            if item.urgent and await trio.to_thread.run_sync(self._reserve.let_go):
                self._reserve_held = False
                await self._is_full_for(item)

    async def _is_full_for(self, item: _Item) -> bool:
        """Write it alone. Whether that failed for want of room; whatever it failed of is its answer."""
        try:
            await self._try([item])
        except LedgerError as error:
            _fail([item], error)
            return isinstance(error, LedgerFull)
        return False

    def _land(self) -> None:
        """Wake whoever waits. There is no checkpoint between a commit and this."""
        for item in self._flying:
            trio.lowlevel.reschedule(item.task, item.answer)
        self._flying = []


def _fail(items: Sequence[_Item], error: LedgerError) -> None:
    for item in items:
        own = type(error)(*error.args)
        own.__cause__ = error.__cause__
        item.answer = outcome.Error(own)


def _batch(db: sqlite3.Connection, items: Sequence[_Item], now: float) -> tuple[list[_Answer], list[Job]]:
    """In the thread: the items in one transaction. What they answer holds only if this returns, and the jobs
    that they have changed are changed."""
    try:
        db.execute("BEGIN IMMEDIATE")
        before = read_seq(db)
        writing = Writing(db, now, before)
        answers = [_apply(item, writing) for item in items]
        if writing.seq != before:
            store_seq(db, writing.seq)
        db.execute("COMMIT")
    finally:
        if db.in_transaction:
            db.execute("ROLLBACK")
    return answers, writing.changed


def _apply(item: _Item, writing: Writing) -> _Answer:
    db, seq, changed = writing.db, writing.seq, len(writing.changed)
    answer: _Answer
    db.execute("SAVEPOINT item")
    try:
        answer = outcome.Value(item.work(writing))
    except Exception as error:
        if not db.in_transaction:
            # SQLite has taken the whole transaction back by itself (no room, no memory): nobody's is left.
            raise
        db.execute("ROLLBACK TO item")
        writing.seq = seq
        del writing.changed[changed:]
        answer = outcome.Error(explain(error) if isinstance(error, DATABASE_ERRORS) else error)
    db.execute("RELEASE item")
    return answer


def explain(error: Exception) -> LedgerError:
    """A database's error as one of ours, with what can be done about it."""
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    if code == sqlite3.SQLITE_FULL:
        return LedgerFull("the disk that the ledger is on is full: make room there")
    if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        return LedgerError("the ledger is locked by another process: end it, two cannot share a ledger")
    if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
        return LedgerError(f"the ledger is damaged ({error}): stop, and restore it from a backup")
    if code in (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM):
        return LedgerError(f"the ledger cannot be written ({error}): look at the rights of its directory")
    if code == sqlite3.SQLITE_IOERR:
        return LedgerError(f"the ledger's disk fails ({error}): look at the kernel's log")
    if isinstance(error, OverflowError):
        return LedgerError("a number does not fit into 64 bits")
    if isinstance(error, UnicodeError):
        return LedgerError("a text is no valid Unicode (half a surrogate pair)")
    return LedgerError(f"the ledger could not do it: {error}")
