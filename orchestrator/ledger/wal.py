"""The ledger's write-ahead log, watched: as long as somebody reads an old state of the database, it grows.

SQLite takes it back to its beginning once nobody needs what is in it. A process that holds a transaction open
(a shell, a backup that hangs) keeps it from that: this is said, once, with what to do; afterwards the file is
cut to its usual size.
"""

from __future__ import annotations

import logging
import os
import sqlite3
from collections.abc import Awaitable, Callable
from typing import Final

import trio

from actors.ports.ledger import LedgerError

log: Final = logging.getLogger("orchestrator.ledger")

LOOK_EVERY: Final = 5.0
USUAL: Final = 16 << 20
"""Bytes that the log may keep."""
MOVED_FROM: Final = 1000
"""Pages from which on it is moved into the database after a synced commit: 4 MiB."""
MOST: Final = 48 << 20
"""Bytes above which somebody is told."""


class WalWatch:
    """`checkpoint` moves the log into the database and cuts it; False if somebody holds it. Raises
    LedgerError."""

    def __init__(self, path: str, checkpoint: Callable[[], Awaitable[bool]]) -> None:
        self._ledger = path
        self._path = f"{path}-wal"
        self._checkpoint = checkpoint
        self._held_since: float | None = None
        self._told = False

    async def run(self) -> None:
        while True:
            await trio.sleep(LOOK_EVERY)
            await self.look()

    async def look(self) -> None:
        """Cut it if it is too long, and say so if that cannot be."""
        length = size(self._ledger)
        if length > USUAL:
            try:
                done = await self._checkpoint()
            except LedgerError as error:
                log.info("the ledger's log cannot be shortened now: %s", error)
                return
            if not done:
                self._is_held(length)
                return
            if self._told:
                log.info("the ledger's log %s is short again", self._path)
        self._held_since, self._told = None, False

    def _is_held(self, length: int) -> None:
        if self._held_since is None:
            self._held_since = trio.current_time()
        if length > MOST and not self._told:
            self._told = True
            log.warning(
                "the ledger's log %s has grown to %d MiB and cannot be shortened: another process has held a "
                "transaction open for %.0f s or more; it grows until that one ends (`fuser -v %s` names it)",
                self._path,
                length >> 20,
                trio.current_time() - self._held_since,
                self._ledger,
            )


def is_long(path: str) -> bool:
    """Whether the log of the ledger there is longer than usual: then somebody may hold it."""
    return size(path) > USUAL


def size(path: str) -> int:
    """Bytes of the log of the ledger there; 0 if it has none."""
    try:
        return os.stat(f"{path}-wal").st_size
    except OSError:
        return 0


def cut(db: sqlite3.Connection) -> bool:
    """Move the log into the database and cut it; False if somebody holds it. It waits for nobody: a commit
    stands behind it."""
    (patience,) = db.execute("PRAGMA busy_timeout").fetchone()
    db.execute("PRAGMA busy_timeout = 0")
    try:
        (busy, _, _) = db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
    finally:
        db.execute(f"PRAGMA busy_timeout = {patience}")
    return not busy
