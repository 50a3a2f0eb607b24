"""What is done to the payload table in its thread: rows looked up, and the steps that change them."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import Any

from actors.domain.payload import Payload, PayloadMove
from actors.domain.status import ENDED, PAYLOAD, Status
from actors.store.durable import sync_directory
from actors.store.group_commit import Batch
from node.payloads.records import RELEASE, Records
from node.payloads.rows import OLD_TOMBSTONES, PUT, Row, apply_move, columns_of, row_of
from node.runs.progress_file import ProgressTail


@dataclass(frozen=True, slots=True)
class Arrival:
    """A payload whose files have arrived whole in `directory`, which becomes its own. `key` is made up by the
    sender; `owner` "" came by the contract. `through`: its sender may send it again to another boot of the
    machine, so it must be known there."""

    key: str
    directory: Path
    job_id: int = 0
    n: int = 1
    service: str = ""
    user_id: int = 0
    owner: str = ""
    max_runtime: float = 0.0
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
class PayloadBatch(Batch[Row]):
    """What an item gets to work with: the files, too, and directories that are synced before the commit, once
    for all items that share them."""

    records: Records = field(kw_only=True)
    unsynced: set[Path] = field(default_factory=set)

    def put(self, rows: Iterable[Row]) -> None:
        """Number and keep changed rows, their files written before; they are told after the commit."""
        for row in rows:
            self.seq += 1
            self.changed.append(replace(row, payload=replace(row.payload, sequence=self.seq)))
            self.db.execute(PUT, columns_of(self.changed[-1]))

    def finish(self) -> None:
        for directory in self.unsynced:
            sync_directory(directory)


def select(db: sqlite3.Connection, where: str, parameters: Sequence[Any] = ()) -> list[Row]:
    return [row_of(columns) for columns in db.execute(f"SELECT * FROM payload {where}", parameters)]


def rows_by_key(db: sqlite3.Connection, keys: Sequence[str]) -> dict[str, Row]:
    rows = select(db, "WHERE key IN (SELECT value FROM json_each(?))", (json.dumps(list(keys)),))
    return {row.payload.key: row for row in rows}


def tombstones(db: sqlite3.Connection, keys: Sequence[str]) -> dict[str, str]:
    """The kinds of those that are there."""
    found = db.execute(
        "SELECT key, kind FROM tombstone WHERE key IN (SELECT value FROM json_each(?))",
        (json.dumps(list(keys)),),
    )
    return dict(found.fetchall())


def find_known(db: sqlite3.Connection, keys: Sequence[str]) -> tuple[dict[str, Payload], set[str]]:
    rows, stones = rows_by_key(db, keys), tombstones(db, keys)
    there = {key: row.payload for key, row in rows.items() if not row.released}
    return there, {key for key in stones if key not in there}


def move(batch: PayloadBatch, moves: Sequence[PayloadMove]) -> list[bool]:
    """Compare-and-set each. Its record is written before its row."""
    rows = rows_by_key(batch.db, [each.key for each in moves])
    done, after = [], dict(rows)
    for each in moves:
        row = after.get(each.key)
        fits = row is not None and row.payload.status is each.source
        if fits and each.target not in PAYLOAD[each.source]:
            raise ValueError(f"a payload does not go from {each.source} to {each.target}")
        if row is not None and fits:
            after[each.key] = replace(row, payload=apply_move(row.payload, each))
        done.append(fits)
    changed = [row for key, row in after.items() if row is not rows.get(key)]
    for row in changed:
        if row.payload.status is Status.RUNNING:
            batch.records.write_running(row.payload)
        else:
            batch.records.write(row.payload)
    batch.put(changed)
    return done


def hear(batch: PayloadBatch, key: str, said: ProgressTail) -> None:
    """What a script says of its progress, while it has not ended. In the table alone: the file that it says
    it in is the truth."""
    row = rows_by_key(batch.db, [key]).get(key)
    if row is None or row.payload.end is not None:
        return
    progress = said.after(row.payload.progress)
    if progress != row.payload.progress:
        batch.put([replace(row, payload=replace(row.payload, progress=progress))])


def take_over(
    batch: PayloadBatch, arrived: Sequence[Arrival], before: Callable[[], None] | None
) -> list[Acceptance]:
    """Payloads of what has arrived, their records written and their directories in place."""
    if before is not None:
        before()
    keys, records = [item.key for item in arrived], batch.records
    there, dead = rows_by_key(batch.db, keys), tombstones(batch.db, keys)
    fresh: dict[str, Payload] = {}
    for item in arrived:
        if item.key in there or item.key in dead or item.key in fresh:
            continue
        fresh[item.key] = payload = _prepare(item, records, batch.now)
        records.write_new(payload, item.directory)
        place = records.directory(item.key)
        item.directory.rename(place)
        batch.undo.append(partial(place.rename, item.directory))
        if payload.through:
            batch.unsynced.add(records.payloads)
    batch.put(Row(payload, False) for payload in fresh.values())
    now = rows_by_key(batch.db, keys)
    return [_to_acceptance(item.key, item.key in fresh, now) for item in arrived]


def _to_acceptance(key: str, fresh: bool, now: Mapping[str, Row]) -> Acceptance:
    """What is to be said of one that has arrived, `now` being the rows after all were taken over."""
    row = now.get(key)
    if fresh and row is not None:
        return Acceptance(AcceptResult.ACCEPTED, row.payload)
    if row is not None and not row.released:
        return Acceptance(AcceptResult.KNOWN, row.payload)
    return Acceptance(AcceptResult.TOMBSTONED, None)


def _prepare(item: Arrival, records: Records, now: float) -> Payload:
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
        sequence=0,
        created_at=now,
        max_runtime=item.max_runtime,
        through=item.through or not item.owner or records.through,
    )


def bury(batch: PayloadBatch, keys: Sequence[str], kind: str) -> dict[str, Row]:
    """Tombstones first, then the rows that they mark; the rows of all these keys, as they are then."""
    there = tombstones(batch.db, keys)
    # A release is never weakened to a cancel; the same again is already on disk.
    new = {key: kind for key in keys if there.get(key) not in (kind, RELEASE)}
    rows = rows_by_key(batch.db, keys)
    through = {key for key in new if batch.records.through or (key in rows and rows[key].payload.through)}
    batch.records.bury(new, batch.now, through)
    if through:
        batch.unsynced.add(batch.records.tombstones)
    batch.db.executemany(
        "INSERT OR REPLACE INTO tombstone VALUES (?, ?, ?)",
        [(key, which, batch.now) for key, which in new.items()],
    )
    for key in new:
        if (row := rows.get(key)) is not None:
            cancelled = row.payload.cancelled or row.payload.status not in ENDED
            rows[key] = Row(replace(row.payload, cancelled=cancelled), kind == RELEASE)
    # The tombstone is the durable form of both marks: the record need not be written again.
    batch.put(rows[key] for key in new if key in rows)
    return rows


def forget(batch: PayloadBatch, keys: Sequence[str]) -> None:
    batch.records.written.difference_update(keys)
    batch.db.executemany("DELETE FROM payload WHERE released AND key = ?", [(key,) for key in keys])


def old_tombstones(db: sqlite3.Connection, before: float) -> bool:
    return bool(db.execute(f"SELECT EXISTS ({OLD_TOMBSTONES})", (before,)).fetchone()[0])


def expire_tombstones(batch: PayloadBatch, before: float) -> int:
    keys = [key for (key,) in batch.db.execute(OLD_TOMBSTONES, (before,))]
    batch.records.unbury(keys)
    batch.db.executemany("DELETE FROM tombstone WHERE key = ?", [(key,) for key in keys])
    return len(keys)


def count_wanted(db: sqlite3.Connection) -> int:
    """Payloads that have not ended, or whose orchestrator has not let go of them."""
    where = "verdict IS NULL OR (NOT released AND owner <> '')"
    return int(db.execute(f"SELECT count(*) FROM payload WHERE {where}").fetchone()[0])


def count_held(db: sqlite3.Connection) -> Mapping[str, int]:
    found = db.execute("SELECT owner, count(*) FROM payload WHERE verdict IS NULL GROUP BY owner")
    return dict(found.fetchall())
