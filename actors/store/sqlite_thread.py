"""Many statements of SQLite as one thread call."""

from __future__ import annotations

import sqlite3
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from queue import SimpleQueue
from typing import Any, Final, TypeVar

import outcome
import sqlite_anyio
import trio

T = TypeVar("T")


class _Call:
    """One that waits for its turn in the thread, and the task that waits for it."""

    __slots__ = ("task", "token", "work")

    def __init__(self, work: Callable[[sqlite3.Connection], Any]) -> None:
        self.work = work
        self.task = trio.lowlevel.current_task()
        self.token = trio.lowlevel.current_trio_token()


_Calls = SimpleQueue[_Call | None]

_calls: Final[weakref.WeakKeyDictionary[sqlite_anyio.Connection, _Calls]] = weakref.WeakKeyDictionary()


async def run_on_connection(
    connection: sqlite_anyio.Connection, work: Callable[[sqlite3.Connection], T]
) -> T:
    """Run `work` on the real connection as one thread call, after those that were asked for before. Raises
    what it raises, and RuntimeError where there is no thread to be had.

    sqlite-anyio makes a thread call (and a task group) of each statement and of each fetch, and each finds
    its thread anew. Here a connection has a thread of its own, from its first use until it is forgotten. Any
    number of statements are one call, and no cancellation interrupts it half-way.
    """
    await trio.lowlevel.checkpoint_if_cancelled()
    calls = _calls.get(connection)
    if calls is None:
        calls = await _begin(connection)
    calls.put(_Call(work))
    answer: T = await trio.lowlevel.wait_task_rescheduled(lambda _: trio.lowlevel.Abort.FAILED)
    return answer


async def _begin(connection: sqlite_anyio.Connection) -> _Calls:
    found: list[sqlite3.Connection] = []

    def factory(db: sqlite3.Connection) -> sqlite3.Cursor:
        found.append(db)
        return sqlite3.Cursor(db)

    await connection.cursor(factory)  # the one way to the real connection that is public
    if (calls := _calls.get(connection)) is not None:
        return calls  # of another task that came meanwhile
    calls = SimpleQueue()
    threading.Thread(target=_serve, args=(found[0], calls), name="sqlite", daemon=True).start()
    weakref.finalize(connection, calls.put, None)
    _calls[connection] = calls
    return calls


def _serve(db: sqlite3.Connection, calls: _Calls) -> None:
    while (call := calls.get()) is not None:
        answer = outcome.capture(call.work, db)
        with suppress(trio.RunFinishedError):
            call.token.run_sync_soon(trio.lowlevel.reschedule, call.task, answer)
        del call, answer  # nothing of them is kept until the next one comes


@contextmanager
def snapshot(db: sqlite3.Connection) -> Iterator[None]:
    """In the thread: all that is read inside is of one moment."""
    db.execute("BEGIN")
    try:
        yield
    finally:
        db.execute("ROLLBACK")
