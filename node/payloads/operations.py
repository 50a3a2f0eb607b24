"""What is done to a node's files in a thread, and what of the payload table changes by it."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from functools import partial
from pathlib import Path

from actors.domain.batch_request import NOTHING_REQUESTED, BatchRequest
from actors.domain.limits import UNLIMITED, JobLimits
from actors.domain.payload import Payload, PayloadMove, change_payload
from actors.domain.status import ENDED, PAYLOAD, Status
from actors.store.durable import sync_directory
from node.payloads.records import RELEASE, Records, Tombstone
from node.payloads.rows import Row, Rows, Tombstones, apply_move
from node.runs.progress_file import ProgressTail


@dataclass(frozen=True, slots=True)
class Arrival:
    """A payload whose files have arrived whole in `directory`, which becomes its own. `key` is made up by the
    sender; `owner` "" came by the contract. `through`: its sender may send it again to another boot of the
    machine, so it must be known there."""

    key: str
    directory: str
    job_id: int = 0
    n: int = 1
    service: str = ""
    user_id: int = 0
    owner: str = ""
    max_runtime: float = 0.0
    limits: JobLimits = UNLIMITED
    batch_request: BatchRequest = NOTHING_REQUESTED
    request_id: str = ""
    slot_wait: float | None = None
    through: bool = False


class AcceptResult(StrEnum):
    """KNOWN: it was here already, what has arrived now is not used. TOMBSTONED: it will never run here."""

    ACCEPTED = "accepted"
    KNOWN = "known"
    TOMBSTONED = "tombstoned"


@dataclass(frozen=True, slots=True)
class Acceptance:
    result: AcceptResult
    payload: Payload | None


@dataclass(slots=True)
class PayloadBatch:
    """What the items of one batch get to work with, in the thread: the files, the rows as they are after what
    the batch has done so far, the time of the batch (wall), and the number of the newest change. Directories
    in `unsynced` are synced at the end, once for all items that share them. `undo` takes back what was done
    to files, the last first."""

    records: Records
    rows: Rows
    stones: Tombstones
    now: float
    seq: int
    accepted: int = 0
    changed: list[Row] = field(default_factory=list)
    buried: list[Tombstone] = field(default_factory=list)
    unburied: list[str] = field(default_factory=list)
    undo: list[Callable[[], object]] = field(default_factory=list)
    unsynced: set[Path] = field(default_factory=set)
    _new: dict[str, Row] = field(default_factory=dict)
    _buried: dict[str, str] = field(default_factory=dict)

    def row(self, key: str) -> Row | None:
        return self._new.get(key) or self.rows.get(key)

    def stone(self, key: str) -> str | None:
        """The kind of its tombstone, if it has one."""
        return self._buried.get(key) or self.stones.kind(key)

    def put(self, row: Row) -> Row:
        """Keep a changed row, its file written before, with the next number, if it has not got that already;
        it is told after the batch."""
        self.seq += 1
        if row.payload.sequence != self.seq:
            row = Row(change_payload(row.payload, sequence=self.seq), row.released)
        self.changed.append(row)
        self._new[row.payload.key] = row
        return row

    def bury(self, keys: Mapping[str, str]) -> None:
        self.buried += [Tombstone(key, kind, self.now) for key, kind in keys.items()]
        self._buried.update(keys)

    def finish(self) -> None:
        for directory in self.unsynced:
            sync_directory(directory)
        if self.accepted or self.buried:
            self.records.count(self.accepted, len(self.buried))

    def place(self) -> tuple[int, int, int, int]:
        """How far it is; to come back to."""
        return self.accepted, len(self.changed), len(self.buried), len(self.undo)

    def back_to(self, place: tuple[int, int, int, int]) -> None:
        self.accepted, changed, buried, undo = place
        self.seq -= len(self.changed) - changed
        del self.changed[changed:], self.buried[buried:]
        self._new = {row.payload.key: row for row in self.changed}
        self._buried = {stone.key: stone.kind for stone in self.buried}
        while len(self.undo) > undo:
            self.undo.pop()()


def move(batch: PayloadBatch, moves: Sequence[PayloadMove]) -> list[bool]:
    """Compare-and-set each, what is to be written of it written before."""
    done = []
    for each in moves:
        row = batch.row(each.key)
        if row is None or row.payload.status is not each.source:
            done.append(False)
            continue
        if each.target not in PAYLOAD[each.source]:
            raise ValueError(f"a payload does not go from {each.source} to {each.target}")
        payload = apply_move(row.payload, each, batch.seq + 1)
        if payload.status is not Status.RUNNING:
            if not each.written:
                batch.records.write(payload)
        elif batch.records.outlives:
            batch.records.write_running(payload)
        batch.put(Row(payload, row.released))
        done.append(True)
    return done


def hear(batch: PayloadBatch, key: str, said: ProgressTail) -> None:
    """What a script says of its progress, while it has not ended. In the table alone: the file that it says
    it in is the truth."""
    row = batch.row(key)
    if row is None or row.payload.end is not None:
        return
    progress = said.after(row.payload.progress)
    if progress != row.payload.progress:
        payload = change_payload(row.payload, progress=progress, sequence=batch.seq + 1)
        batch.put(Row(payload, row.released))


def take_over(
    batch: PayloadBatch,
    arrived: Sequence[Arrival],
    before: Callable[[], None] | None,
    make_ready: Callable[[Payload, str], None],
) -> list[Acceptance]:
    """Payloads of what has arrived, their records written and their directories in place."""
    if before is not None:
        before()
    if [item for item in arrived if _goes_through(item, batch.records)]:
        # Their files: another boot would run what is torn.
        batch.records.sync()
    return [_take_over(batch, item, make_ready) for item in arrived]


def _take_over(batch: PayloadBatch, item: Arrival, make_ready: Callable[[Payload, str], None]) -> Acceptance:
    row, records = batch.row(item.key), batch.records
    if row is not None and not row.released:
        return Acceptance(AcceptResult.KNOWN, row.payload)
    if row is not None or batch.stone(item.key) is not None:
        return Acceptance(AcceptResult.TOMBSTONED, None)
    payload = _prepare(item, records, batch.now, batch.seq + 1)
    records.write_new(payload, item.directory)
    make_ready(payload, item.directory)
    place = records.place(item.key)
    os.rename(item.directory, place)
    batch.undo.append(partial(os.rename, place, item.directory))
    if payload.through:
        batch.unsynced.add(records.payloads)
    batch.accepted += 1
    return Acceptance(AcceptResult.ACCEPTED, batch.put(Row(payload, False)).payload)


def _prepare(item: Arrival, records: Records, now: float, sequence: int) -> Payload:
    """The payload that it becomes. Who brings it without a key or a boot knows nothing of what a machine
    forgets."""
    return Payload(
        key=item.key,
        id=records.new_id(),
        job_id=item.job_id,
        n=item.n,
        service=item.service,
        user_id=item.user_id,
        owner=item.owner,
        status=Status.PREPARED,
        sequence=sequence,
        created_at=now,
        max_runtime=item.max_runtime,
        limits=item.limits,
        batch_request=item.batch_request,
        request_id=item.request_id,
        slot_wait=item.slot_wait,
        through=_goes_through(item, records),
    )


def _goes_through(item: Arrival, records: Records) -> bool:
    return item.through or not item.owner or records.through


def bury(batch: PayloadBatch, keys: Sequence[str], kind: str) -> list[Row | None]:
    """Tombstones first, then the rows that they mark; the rows of all these keys, as they are then."""
    rows = {key: batch.row(key) for key in keys}
    # A release is never weakened to a cancel; the same again is already on disk.
    new = {key: kind for key in keys if batch.stone(key) not in (kind, RELEASE)}
    through = {
        key
        for key in new
        if batch.records.through or ((row := rows[key]) is not None and row.payload.through)
    }
    spent = (
        {key for key in new if (row := rows[key]) is not None and row.payload.end is not None} - through
        if kind == RELEASE
        else ()
    )
    batch.records.bury(new, batch.now, through, spent)
    if through:
        batch.unsynced.add(batch.records.tombstones)
    batch.bury(new)
    for key in new:
        if (row := rows[key]) is not None:
            cancelled = row.payload.cancelled or row.payload.status not in ENDED
            # The tombstone is the lasting form of both marks: the record need not be written again.
            payload = change_payload(row.payload, cancelled=cancelled, sequence=batch.seq + 1)
            rows[key] = batch.put(Row(payload, kind == RELEASE))
    return [rows[key] for key in keys]


def expire_tombstones(batch: PayloadBatch, before: float) -> int:
    keys = list(batch.stones.older_than(before, batch.rows))
    batch.records.unbury(keys)
    batch.unburied += keys
    return len(keys)
