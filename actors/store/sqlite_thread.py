"""Many statements of SQLite as one thread call."""

from __future__ import annotations

import sqlite3
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final, TypeVar

import sqlite_anyio

from actors.process.kept_threads import KeptThreads

T = TypeVar("T")

_threads: Final[
    weakref.WeakKeyDictionary[sqlite_anyio.Connection, tuple[sqlite3.Connection, KeptThreads]]
] = weakref.WeakKeyDictionary()


async def run_on_connection(
    connection: sqlite_anyio.Connection, work: Callable[[sqlite3.Connection], T]
) -> T:
    """Run `work` on the real connection as one thread call, after those that were asked for before. Raises
    what it raises, and RuntimeError where there is no thread to be had.

    sqlite-anyio makes a thread call (and a task group) of each statement and of each fetch, and each finds
    its thread anew. Here a connection has a thread of its own, from its first use until it is forgotten. Any
    number of statements are one call, and no cancellation interrupts it half-way.
    """
    db, thread = _threads.get(connection) or await thread_of(connection)
    return await thread.run(work, db)


async def thread_of(connection: sqlite_anyio.Connection) -> tuple[sqlite3.Connection, KeptThreads]:
    """The real connection, and the thread in which alone it may be used."""
    if (begun := _threads.get(connection)) is not None:
        return begun
    found: list[sqlite3.Connection] = []

    def factory(db: sqlite3.Connection) -> sqlite3.Cursor:
        found.append(db)
        return sqlite3.Cursor(db)

    await connection.cursor(factory)  # the one way to the real connection that is public
    if (begun := _threads.get(connection)) is not None:
        return begun  # of another task that came meanwhile
    thread = KeptThreads("sqlite", 1, takes_back=False)
    _threads[connection] = found[0], thread
    return found[0], thread


@contextmanager
def snapshot(db: sqlite3.Connection) -> Iterator[None]:
    """In the thread: all that is read inside is of one moment."""
    db.execute("BEGIN")
    try:
        yield
    finally:
        db.execute("ROLLBACK")
