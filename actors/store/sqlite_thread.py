"""Many statements of SQLite as one thread call."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import sqlite_anyio

T = TypeVar("T")


async def run_on_connection(
    connection: sqlite_anyio.Connection, work: Callable[[sqlite3.Connection], T]
) -> T:
    """Run `work` on the real connection as one thread call. Raises what it raises.

    sqlite-anyio makes a thread call (and a task group) of each statement and of each fetch. Its `cursor`,
    which is public, runs a factory of ours in the connection's thread; that may do any number of statements,
    and no cancellation interrupts it half-way.
    """
    answers: list[T] = []

    def factory(db: sqlite3.Connection) -> sqlite3.Cursor:
        answers.append(work(db))
        return sqlite3.Cursor(db)

    await connection.cursor(factory)
    return answers[0]


@contextmanager
def snapshot(db: sqlite3.Connection) -> Iterator[None]:
    """In the thread: all that is read inside is of one moment."""
    db.execute("BEGIN")
    try:
        yield
    finally:
        db.execute("ROLLBACK")
