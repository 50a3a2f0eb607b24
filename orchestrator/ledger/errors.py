"""What the database cannot do, as errors of the ledger."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence
from typing import Final, TypeVar

import sqlite_anyio

from actors.domain.phrases import name_some
from actors.ports.ledger import LedgerError
from actors.store.durable import is_full, is_passing
from actors.store.group_commit import Stopped
from actors.store.sqlite_thread import run_on_connection

T = TypeVar("T")

MOST_NAMED: Final = 20
"""Jobs that an error names."""

DATABASE_ERRORS: Final = (sqlite3.Error, OverflowError, UnicodeError)
"""What sqlite3 raises: its own errors, and Python's for values that do not fit."""


class LedgerFull(LedgerError):
    """There is no room on the disk that the ledger is on."""


class LedgerDamaged(LedgerError):
    """The file is not what was written. Nothing more is to be written to it."""

    @classmethod
    def of(cls, found: object) -> LedgerDamaged:
        return cls(f"the ledger is damaged ({found}): stop, and restore it from a backup")


class IdempotencyConflict(LedgerError):
    """The idempotency key belongs to something with other content: `holder` names it."""

    def __init__(self, holder: str) -> None:
        super().__init__(f"this idempotency key was used for {holder}, which has other content")
        self.holder = holder


class UnknownJobs(LedgerError):
    """There are no such jobs, or none of theirs who ask."""

    def __init__(self, ids: Sequence[int]) -> None:
        named = name_some(ids, MOST_NAMED)
        super().__init__(f"there {'is no job' if len(ids) == 1 else 'are no jobs'} {named}")
        self.ids = ids


class CrowdedJob(LedgerError):
    """The job can be in no more batches."""


class LimitReached(LedgerError):
    """A job would be one too many: `limit` is the setting's name, and `retry_after` seconds after which it is
    worth asking again."""

    def __init__(self, limit: str, text: str, *, retry_after: int) -> None:
        super().__init__(f"{text} (setting {limit})")
        self.limit = limit
        self.retry_after = retry_after


async def run_on_ledger(connection: sqlite_anyio.Connection, work: Callable[[sqlite3.Connection], T]) -> T:
    """`run_on_connection`, whose errors are explained."""
    try:
        return await run_on_connection(connection, work)
    except Exception as error:
        explained = explain(error)
        if explained is error:
            raise
        raise explained from error


def explain(error: Exception) -> Exception:
    """A database's error, or that it finds no thread or memory, as one of ours, with what can be done about
    it; any other as it is."""
    if isinstance(error, Stopped):
        return LedgerError("the ledger has stopped; nothing was written")
    if is_passing(error):
        return LedgerError(f"the ledger finds too little to work with: {str(error) or 'memory'}")
    if not isinstance(error, DATABASE_ERRORS):
        return error
    if is_full(error):
        return LedgerFull("the disk that the ledger is on is full: make room there")
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        return LedgerError("the ledger is locked by another process: end it, two cannot share a ledger")
    if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
        return LedgerDamaged.of(error)
    if code in (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM):
        return LedgerError(
            f"the ledger cannot be written ({error}): look at the rights of its directory and at `ulimit -n`"
        )
    if code == sqlite3.SQLITE_IOERR:
        return LedgerError(f"the ledger's disk fails ({error}): look at the kernel's log")
    if isinstance(error, OverflowError):
        return LedgerError("a number does not fit into 64 bits")
    if isinstance(error, UnicodeError):
        return LedgerError("a text is no valid Unicode (half a surrogate pair)")
    return LedgerError(f"the ledger could not do it: {error}")
