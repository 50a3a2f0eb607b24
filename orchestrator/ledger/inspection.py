"""What a start looks at before anything is written: whether the file is a ledger, whole, and the newest one.

A damaged ledger is never replaced by an empty one, and never written to: the start is refused, with what to
do. The file is opened for reading alone, as whoever closes a database for writing moves its log into it,
which may be the log of another one.
"""

from __future__ import annotations

import logging
import os
import sqlite3
import stat
import threading
from contextlib import closing, suppress
from pathlib import Path
from typing import Final

from actors.store.repair import deny_others, set_aside
from orchestrator.ledger.errors import LedgerDamaged
from orchestrator.ledger.newest import Newest, Note
from orchestrator.ledger.schema import recognise
from orchestrator.ledger.tables import meta

log: Final = logging.getLogger("orchestrator.ledger")

LOOKED_THROUGH: Final = 2.0
"""Seconds. Of a ledger that takes longer the rest is taken as it is: about 100 MB are done by then."""

_EMPTY: Final = 4096
"""Bytes of a database without tables: a page."""


def inspect(path: Path, newest: Newest, *, may_begin: bool) -> None:
    """Blocks. Raises LedgerError, LedgerDamaged; sqlite3.Error for what the database says itself. Not
    `may_begin`: there are jobs, so that there has to be a ledger. Then the file is there, and closed to
    others: secrets are in it."""
    _inspect(path, newest, may_begin=may_begin)
    with suppress(FileExistsError, FileNotFoundError):  # of a directory that is not there SQLite tells
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    for suffix in ("", "-wal", "-shm"):
        deny_others(path.with_name(path.name + suffix))


def _inspect(path: Path, newest: Newest, *, may_begin: bool) -> None:
    for suffix in ("-wal", "-shm", "-journal"):
        if (aside := set_aside(path.with_name(path.name + suffix))) is not None:
            log.warning("%s%s was a directory, and is %s now", path, suffix, aside)
    _roll_back(path)
    if _is_there(path):
        with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as db:
            if recognise(db) != 0:
                _look_through(db)
                _compare(Note(meta.read_owner(db), meta.read_seq(db)), newest)
                return
    note = newest.read()
    if note is not None and note.seq > 0:
        raise LedgerDamaged(
            f"the ledger is gone or empty, and had come to change {note.seq}: restore it from a copy; "
            f"only if there is none, remove {newest.path}, to begin anew"
        )
    if not may_begin:
        raise LedgerDamaged(
            "the ledger is gone or empty, and there are directories of jobs: name the ledger that knows "
            "them, or restore it from a copy; only if there is none, move `jobs` of the data directory away, "
            "to begin anew"
        )


def _roll_back(path: Path) -> None:
    """A start that was cut off while it made a ledger of an empty file leaves a journal, which only who may
    write takes back. A ledger with anything in it has a log instead, or is longer, and is left as it is."""
    if (
        0 < _size(path) <= _EMPTY
        and _size(path.with_name(f"{path.name}-journal")) > 0
        and _size(path.with_name(f"{path.name}-wal")) == 0
    ):
        with closing(sqlite3.connect(path)) as db:
            db.execute("PRAGMA schema_version").fetchone()


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0


def _is_there(path: Path) -> bool:
    """Whether there is a file with anything in it. SQLite deletes the log of one that is empty."""
    try:
        found = path.stat()
    except FileNotFoundError:
        found = None
    if found is not None and not stat.S_ISREG(found.st_mode):
        raise LedgerDamaged("it is no file: move it away and restore the ledger from a copy, or name another")
    if found is not None and found.st_size > 0:
        return True
    log = path.with_name(f"{path.name}-wal")
    if log.exists() and log.stat().st_size > 0:
        raise LedgerDamaged(
            f"the ledger is gone or empty, but {log.name} is there, which holds a part of it: restore the "
            "ledger from a copy; only if there is none, move that away too, to begin anew"
        )
    return False


def _look_through(db: sqlite3.Connection) -> None:
    timer = threading.Timer(LOOKED_THROUGH, db.interrupt)
    timer.start()
    try:
        (found,) = db.execute("PRAGMA integrity_check(1)").fetchone()
    except sqlite3.OperationalError as error:
        if error.sqlite_errorcode != sqlite3.SQLITE_INTERRUPT:
            raise
        found = "ok"
    finally:
        timer.cancel()
        timer.join()
    if found != "ok":
        raise LedgerDamaged.of(" ".join(str(found).split()))


def _compare(found: Note, newest: Newest) -> None:
    note = newest.read()
    if note is None:
        return
    if found.owner != note.owner:
        raise LedgerDamaged(
            f"this is another orchestrator's ledger, or its log is: restore the one that was here. Where it "
            f"was put here on purpose, remove {newest.path}"
        )
    if found.seq < note.seq:
        raise LedgerDamaged(
            f"the ledger ends at change {found.seq} and had come to {note.seq}: its log was lost or damaged, "
            "or it is an older copy. Restore the newest copy; where this is it, remove "
            f"{newest.path}: what has ended since runs again, and so may what runs now"
        )
