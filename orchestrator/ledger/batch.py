"""What the items of one commit of the ledger write with, and what a commit leaves to the next."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from actors.domain.job import Attempt, HistoryEntry, Job, change_job
from actors.ports.storage import Part
from actors.store.group_commit import Batch, NeedsHardCommit
from orchestrator.ledger.newest import Newest
from orchestrator.ledger.tables import attempts, history, jobs, meta

CHANGES: Final = 100_000
"""Numbers of changes that are reserved at once."""


@dataclass(slots=True, kw_only=True)
class LedgerBatch(Batch[Job]):
    """`stored` is the number of the newest change as the database has it, `reserved` the number up to which
    they may be given: that is durable before any of them is told, so that a power cut, which takes back soft
    commits, makes none be given twice. `moved` are the jobs whose attempts were moved without a change of the
    job."""

    stored: int
    reserved: int
    batches: LedgerBatches
    moved: set[int] = field(default_factory=set)
    rows: dict[int, Job] = field(default_factory=dict)
    """As this batch has changed them."""
    lines: list[tuple[HistoryEntry, int]] = field(default_factory=list)
    """Of the history, which the item under way stores at its end, with the numbers of their changes."""
    files: list[tuple[Job, Part, bytes]] = field(default_factory=list)
    """Jobs with the small files that came with a change of theirs."""

    def back_to(self, seq: int, changed: int, undo: int) -> None:
        Batch.back_to(self, seq, changed, undo)  # a class with slots is another one than `super` means
        self.lines.clear()
        self.rows = {job.id: job for job in self.changed if job.id not in self.moved}
        self.files = [one for one in self.files if one[0].change_seq <= seq]

    def known_row(self, job_id: int) -> Job | None:
        """A job's row as it is now, if it is known without reading it: the ledger has one writer."""
        if job_id in self.rows or job_id in self.moved:
            return self.rows.get(job_id)
        return self.batches.committed_row(job_id)

    def attempt(self, key: str, job_id: int | None) -> Attempt | None:
        """An attempt as it is now; `job_id` is that of its job, if it is known."""
        row = None if job_id is None else self.known_row(job_id)
        if row is not None and row.attempt is not None and row.attempt.key == key:
            return row.attempt
        return attempts.read_attempt(self.db, key)

    def move(self, attempt: Attempt) -> None:
        """An attempt has become this one: so has that of its job's row, where it is the current one."""
        row = self.known_row(attempt.job_id)
        self.moved.add(attempt.job_id)
        if row is not None:
            is_current = row.attempt is not None and row.attempt.key == attempt.key
            self.rows[attempt.job_id] = change_job(row, attempt=attempt) if is_current else row

    def store_lines(self) -> None:
        if self.lines:
            history.insert_lines(self.db, self.lines)
            self.lines = []

    def row(self, job_id: int) -> Job | None:
        """A job's row as it is now."""
        return self.known_row(job_id) or jobs.read_job(self.db, job_id)

    def finish(self) -> None:
        if self.seq > self.reserved:
            if not self.hard:
                raise NeedsHardCommit
            self.reserved = self.seq + CHANGES
            meta.store_reserved_seq(self.db, self.reserved)
        if self.seq != self.stored:
            meta.store_seq(self.db, self.seq)
        elif self.hardens:
            meta.count_sync(self.db)

    def committed(self) -> None:
        self.batches.numbers = self.seq, self.reserved
        # The note may reach the disk before what was committed softly, and must not be ahead of it.
        if self.hard and (self.hardens or self.seq != self.stored):
            self.batches.newest.keep(self.seq)


class LedgerBatches:
    """Begins each of them. `committed_row` gives the row of a job as the last commit left it, where that is
    remembered; `newest` is told the number of the newest change that is durable; what is begun goes on behind
    `begun_after`."""

    def __init__(self, newest: Newest, begun_after: int, committed_row: Callable[[int], Job | None]) -> None:
        self.newest = newest
        self.committed_row = committed_row
        self.numbers: tuple[int, int] | None = None
        """Of the newest change, and of the last that may be given, as committed last; None: not known."""
        self._begun_after = begun_after

    def begin(self, db: sqlite3.Connection, now: float) -> LedgerBatch:
        stored, reserved = self.numbers or meta.read_seqs(db)
        self.numbers = None  # if this one is not committed, they are read again
        seq = stored if stored > self._begun_after else self._begun_after
        return LedgerBatch(db, now, seq, stored=stored, reserved=reserved, batches=self)
