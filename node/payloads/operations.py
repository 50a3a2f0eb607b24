"""What is done to the payload table in its thread: rows looked up, and the steps that change them."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from actors.domain.payload import Payload, PayloadMove
from actors.domain.status import ENDED, PAYLOAD, Status
from node.payloads.arrivals import Accepted, Arrived, accepted, prepared
from node.payloads.batches import Writing
from node.payloads.records import RELEASE
from node.payloads.rows import OLD_TOMBSTONES, Row, moved, row_of
from node.runs.progress_file import Said


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


def known(db: sqlite3.Connection, keys: Sequence[str]) -> tuple[dict[str, Payload], set[str]]:
    rows, stones = rows_by_key(db, keys), tombstones(db, keys)
    there = {key: row.payload for key, row in rows.items() if not row.released}
    return there, {key for key in stones if key not in there}


def move(writing: Writing, moves: Sequence[PayloadMove]) -> list[bool]:
    """Compare-and-set each. Its record is written before its row."""
    rows = rows_by_key(writing.db, [each.key for each in moves])
    done, after = [], dict(rows)
    for each in moves:
        row = after.get(each.key)
        fits = row is not None and row.payload.status is each.source
        if fits and each.target not in PAYLOAD[each.source]:
            raise ValueError(f"a payload does not go from {each.source} to {each.target}")
        if row is not None and fits:
            after[each.key] = replace(row, payload=moved(row.payload, each))
        done.append(fits)
    changed = [row for key, row in after.items() if row is not rows.get(key)]
    for row in changed:
        if row.payload.status is Status.RUNNING:
            writing.records.write_running(row.payload)
        else:
            writing.records.write(row.payload)
    writing.put(changed)
    return done


def hear(writing: Writing, key: str, said: Said) -> None:
    """What a script says of its progress, while it has not ended. In the table alone: the file that it says
    it in is the truth."""
    row = rows_by_key(writing.db, [key]).get(key)
    if row is None or row.payload.end is not None:
        return
    progress = said.after(row.payload.progress)
    if progress != row.payload.progress:
        writing.put([replace(row, payload=replace(row.payload, progress=progress))])


def take_over(
    writing: Writing, arrived: Sequence[Arrived], before: Callable[[], None] | None
) -> list[Accepted]:
    """Payloads of what has arrived, their records written and their directories in place."""
    if before is not None:
        before()
    keys, records = [item.key for item in arrived], writing.records
    there, dead = rows_by_key(writing.db, keys), tombstones(writing.db, keys)
    fresh: dict[str, Payload] = {}
    for item in arrived:
        if item.key in there or item.key in dead or item.key in fresh:
            continue
        fresh[item.key] = prepared(item, records.new_id(), writing.now)
        records.write_new(fresh[item.key], item.directory)
        place = records.directory(item.key)
        item.directory.rename(place)
        writing.undo.append(partial(place.rename, item.directory))
        writing.unsynced.add(records.payloads)
    writing.put(Row(payload, False) for payload in fresh.values())
    now = rows_by_key(writing.db, keys)
    return [accepted(item.key, item.key in fresh, now) for item in arrived]


def bury(writing: Writing, keys: Sequence[str], kind: str) -> dict[str, Row]:
    """Tombstones first, then the rows that they mark; the rows of all these keys, as they are then."""
    there = tombstones(writing.db, keys)
    # A release is never weakened to a cancel; the same again is already on disk.
    new = {key: kind for key in keys if there.get(key) not in (kind, RELEASE)}
    if new:
        writing.records.bury(new, writing.now)
        writing.unsynced.add(writing.records.tombstones)
    writing.db.executemany(
        "INSERT OR REPLACE INTO tombstone VALUES (?, ?, ?)",
        [(key, which, writing.now) for key, which in new.items()],
    )
    rows = rows_by_key(writing.db, keys)
    for key in new:
        if (row := rows.get(key)) is not None:
            cancelled = row.payload.cancelled or row.payload.status not in ENDED
            rows[key] = Row(replace(row.payload, cancelled=cancelled), kind == RELEASE)
    # The tombstone is the durable form of both marks: the record need not be written again.
    writing.put(rows[key] for key in new if key in rows)
    return rows


def forget(writing: Writing, keys: Sequence[str]) -> None:
    writing.db.executemany("DELETE FROM payload WHERE released AND key = ?", [(key,) for key in keys])


def old_tombstones(db: sqlite3.Connection, before: float) -> bool:
    return bool(db.execute(f"SELECT EXISTS ({OLD_TOMBSTONES})", (before,)).fetchone()[0])


def expire_tombstones(writing: Writing, before: float) -> int:
    keys = [key for (key,) in writing.db.execute(OLD_TOMBSTONES, (before,))]
    writing.records.unbury(keys)
    writing.db.executemany("DELETE FROM tombstone WHERE key = ?", [(key,) for key in keys])
    return len(keys)


def held(db: sqlite3.Connection) -> Mapping[str, int]:
    found = db.execute("SELECT owner, count(*) FROM payload WHERE verdict IS NULL GROUP BY owner")
    return dict(found.fetchall())
