"""The node's payload table: SQLite in memory, the truth in the records on disk.

A change is on disk before it is in the table, and in the table before anybody hears of it. Changes carry
ascending sequence numbers; they are comparable within one incarnation, which is one life of this table.
"""

from __future__ import annotations

import json
import logging
import secrets
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import Any, Final

import sqlite_anyio
import trio

from actors.lifecycle import ENDED, PAYLOAD, Status
from actors.model import End, Mark, PayloadView
from actors.ports import Clock, Payload, PayloadMove
from actors.wire.attempts import end_from_json, end_to_json
from node.records import CANCEL, RELEASE, Records, Tombstone, sync_directory

log = logging.getLogger(__name__)

SUBSCRIBER_BUFFER: Final = 4096
"""Changes that a subscriber may be behind before it is cut off."""

_SCHEMA = """
CREATE TABLE payload (
    key TEXT PRIMARY KEY, id INTEGER UNIQUE NOT NULL, job_id INTEGER NOT NULL, n INTEGER NOT NULL,
    service TEXT NOT NULL, user_id INTEGER NOT NULL, owner TEXT NOT NULL, status TEXT NOT NULL,
    sequence INTEGER UNIQUE NOT NULL, created_at REAL NOT NULL, max_runtime REAL NOT NULL,
    cancelled INTEGER NOT NULL, pid INTEGER NOT NULL, started_at REAL, verdict TEXT, lost INTEGER NOT NULL,
    released INTEGER NOT NULL, ended_at REAL
) WITHOUT ROWID;
CREATE TABLE tombstone (key TEXT PRIMARY KEY, kind TEXT NOT NULL, at REAL NOT NULL) WITHOUT ROWID;
CREATE INDEX tombstone_at ON tombstone (at);
"""

_OLD: Final = "SELECT key FROM tombstone WHERE at < ? AND key NOT IN (SELECT key FROM payload)"
_PUT: Final = f"INSERT OR REPLACE INTO payload VALUES ({', '.join('?' * 18)})"


@dataclass(frozen=True, slots=True)
class Arrived:
    """A payload whose files have arrived whole in `directory`, which becomes its own. `key` is made up by the
    sender; `owner` "" came by the contract."""

    key: str
    directory: Path
    job_id: int = 0
    n: int = 1
    service: str = ""
    user_id: int = 0
    owner: str = ""
    max_runtime: float = 0.0


class AcceptResult(StrEnum):
    """KNOWN: it was here already, what has arrived now is not used. TOMBSTONED: it will never run here."""

    ACCEPTED = "accepted"
    KNOWN = "known"
    TOMBSTONED = "tombstoned"


@dataclass(frozen=True, slots=True)
class Accepted:
    result: AcceptResult
    payload: Payload | None


@dataclass(frozen=True, slots=True)
class _Row:
    payload: Payload
    released: bool


class PayloadTable:
    """Every payload of this node. Make it with `open_table`.

    One writer at a time; each operation is wholly done or not at all, cancelled or not. Methods that write
    raise `OSError` when the disk does not take it; nothing has changed then.
    """

    def __init__(self, records: Records, connection: sqlite_anyio.Connection, clock: Clock) -> None:
        self._records = records
        self._connection = connection
        self._clock = clock
        self._lock = trio.Lock()
        self._sequence = 0
        self._changed = trio.Event()
        self._subscribers: set[trio.MemorySendChannel[Payload]] = set()
        self._bells: list[Callable[[], None]] = []
        self.incarnation = secrets.token_hex(16)

    @property
    def node_id(self) -> str:
        return self._records.node_id

    @property
    def machine_boot(self) -> str:
        return self._records.boot

    @property
    def mark(self) -> Mark:
        """Where this node's life is now."""
        return Mark(self.incarnation, self._sequence)

    def on_change(self, ring: Callable[[], None]) -> None:
        """Have `ring` called after each change. It must not wait and must not raise."""
        self._bells.append(ring)

    # ------------------------------------------------------------------ the port that the Runner knows

    async def record(self, moves: Sequence[PayloadMove]) -> Sequence[bool]:
        async with self._writing():
            rows = await self._rows([move.key for move in moves])
            done, after = [], dict(rows)
            for move in moves:
                row = after.get(move.key)
                fits = row is not None and row.payload.status is move.source
                if fits and move.target not in PAYLOAD[move.source]:
                    raise ValueError(f"a payload does not go from {move.source} to {move.target}")
                if row is not None and fits:
                    after[move.key] = replace(row, payload=_moved(row.payload, move))
                done.append(fits)
            await self._store([row for key, row in after.items() if row is not rows.get(key)])
        return done

    async def changes(self, after: int) -> Sequence[Payload]:
        return [row.payload for row in await self._select("WHERE sequence > ? ORDER BY sequence", (after,))]

    async def all(self) -> tuple[Sequence[Payload], int]:
        async with self._lock:
            rows = await self._select("WHERE NOT released OR verdict IS NULL ORDER BY id", ())
            return [row.payload for row in rows], self._sequence

    # ------------------------------------------------------------------ what the api asks

    async def get(self, key: str) -> Payload | None:
        """A payload that is not released."""
        row = (await self._rows([key])).get(key)
        return None if row is None or row.released else row.payload

    async def by_id(self, contract_id: int) -> Payload | None:
        """A payload that is not released, by the contract's number."""
        for row in await self._select("WHERE id = ? AND NOT released", (contract_id,)):
            return row.payload
        return None

    async def is_tombstoned(self, key: str) -> bool:
        return key in await self._tombstones([key])

    async def accept(self, arrived: Sequence[Arrived]) -> Sequence[Accepted]:
        """Take payloads over, Prepared, their directories renamed into place; an answer for each. Those that
        are known or tombstoned leave their `directory` where it is, for the caller to discard. Raises
        `OutOfIds` too."""
        async with self._writing():
            keys = [item.key for item in arrived]
            known, dead = await self._rows(keys), await self._tombstones(keys)
            fresh: dict[str, Payload] = {}
            for item in arrived:
                if item.key not in known and item.key not in dead and item.key not in fresh:
                    fresh[item.key] = self._fresh(item)
            places = [(fresh[item.key], item.directory) for item in arrived if item.key in fresh]
            await trio.to_thread.run_sync(self._place, places)
            await self._store([_Row(payload, False) for payload in fresh.values()], written=True)
            now = await self._rows(keys)
            assert all(key in now or key in dead for key in keys)
        return [_accepted(item.key, item.key in fresh, now) for item in arrived]

    async def cancel(self, keys: Sequence[str]) -> Sequence[Payload | None]:
        """Tombstone each key durably; a payload that has not ended is marked as cancelled, for the Runner to
        kill. The payload as it is now, None for those that are not here and never will be."""
        rows = await self._bury(keys, CANCEL)
        return [None if (row := rows.get(key)) is None or row.released else row.payload for key in keys]

    async def release(self, keys: Sequence[str]) -> None:
        """Tombstone each key durably; what runs is marked as cancelled; what has ended is to be discarded
        (`releasable`)."""
        await self._bury(keys, RELEASE)

    async def releasable(self) -> Sequence[Payload]:
        """Released payloads that have ended: their directories may go, then `forget` them."""
        return [row.payload for row in await self._select("WHERE released AND verdict IS NOT NULL", ())]

    async def ended_before(self, wall: float, *, keyed: bool) -> Sequence[Payload]:
        """Ended, unreleased payloads whose end was recorded before `wall`; with `keyed`, those that an
        orchestrator owns, else those that came by the contract."""
        sign = "<>" if keyed else "="
        where = f"WHERE NOT released AND ended_at < ? AND owner {sign} '' ORDER BY ended_at"
        return [row.payload for row in await self._select(where, (wall,))]

    async def forget(self, keys: Sequence[str]) -> None:
        """Drop released payloads from the table, their directories gone."""
        async with self._writing():
            await self._many("DELETE FROM payload WHERE released AND key = ?", [(key,) for key in keys])

    async def old_tombstones(self, before: float) -> bool:
        """Whether any tombstone is older than `before`, its payload gone."""
        cursor = await self._connection.execute(f"SELECT EXISTS ({_OLD})", (before,))
        return bool((await cursor.fetchall())[0][0])

    async def expire_tombstones(self, before: float) -> int:
        """Take tombstones away that are older than `before` and whose payload is gone; how many."""
        async with self._writing():
            cursor = await self._connection.execute(_OLD, (before,))
            keys = [key for (key,) in await cursor.fetchall()]
            await trio.to_thread.run_sync(self._records.unbury, keys)
            await self._many("DELETE FROM tombstone WHERE key = ?", [(key,) for key in keys])
        return len(keys)

    async def held(self) -> Mapping[str, int]:
        """For each owner, how many of its payloads hold or wait for a slot."""
        cursor = await self._connection.execute(
            "SELECT owner, count(*) FROM payload WHERE verdict IS NULL GROUP BY owner"
        )
        return dict(await cursor.fetchall())

    # ------------------------------------------------------------------ hearing of changes

    @asynccontextmanager
    async def subscribe(
        self, owner: str | None
    ) -> AsyncIterator[tuple[Sequence[Payload], Mark, trio.MemoryReceiveChannel[Payload]]]:
        """The picture (of one owner's payloads, or of all), its mark, and every change after it, of whatever
        owner. A reader that is `SUBSCRIBER_BUFFER` changes behind finds its channel closed."""
        send, receive = trio.open_memory_channel[Payload](SUBSCRIBER_BUFFER)
        async with self._lock:
            rows = await self._select("WHERE NOT released ORDER BY id", ())
            mark = self.mark
            self._subscribers.add(send)
        try:
            picture = [row.payload for row in rows if owner is None or row.payload.owner == owner]
            with receive:
                yield picture, mark, receive
        finally:
            self._subscribers.discard(send)
            send.close()

    def end_subscriptions(self) -> None:
        """Close every subscriber's channel: the node stops."""
        for send in tuple(self._subscribers):
            send.close()
        self._subscribers.clear()

    async def wait_ended(self, key: str) -> Payload | None:
        """Wait until a payload has ended; None when it is not here (any more)."""
        while True:
            changed = self._changed
            payload = await self.get(key)
            if payload is None or payload.status in ENDED:
                return payload
            await changed.wait()

    # ------------------------------------------------------------------ inside

    @asynccontextmanager
    async def _writing(self) -> AsyncIterator[None]:
        """One writer at a time, and what it has begun it finishes: disk and table never differ."""
        async with self._lock:
            with trio.CancelScope(shield=True):
                yield

    def _fresh(self, item: Arrived) -> Payload:
        return Payload(
            key=item.key,
            id=self._records.new_id(),
            job_id=item.job_id,
            n=item.n,
            service=item.service,
            user_id=item.user_id,
            owner=item.owner,
            status=Status.PREPARED,
            sequence=0,
            created_at=self._clock.now(),
            max_runtime=item.max_runtime,
        )

    def _place(self, places: Sequence[tuple[Payload, Path]]) -> None:
        placed: list[tuple[Path, Path]] = []
        try:
            for payload, directory in places:
                self._records.write(payload, directory)
                target = self._records.directory(payload.key)
                directory.rename(target)
                placed.append((target, directory))
            if places:
                sync_directory(self._records.payloads)
        except BaseException:
            for target, directory in placed:
                target.rename(directory)
            raise

    async def _bury(self, keys: Sequence[str], kind: str) -> dict[str, _Row]:
        async with self._writing():
            there = await self._tombstones(keys)
            # A release is never weakened to a cancel; the same again is already on disk.
            new = {key: kind for key in keys if there.get(key) not in (kind, RELEASE)}
            at = self._clock.now()
            await trio.to_thread.run_sync(self._records.bury, new, at)
            await self._many(
                "INSERT OR REPLACE INTO tombstone VALUES (?, ?, ?)",
                [(key, which, at) for key, which in new.items()],
            )
            rows = await self._rows(keys)
            marked = []
            for key in new:
                if (row := rows.get(key)) is not None:
                    cancelled = row.payload.cancelled or row.payload.status not in ENDED
                    rows[key] = _Row(replace(row.payload, cancelled=cancelled), kind == RELEASE)
                    marked.append(key)
            # The tombstone is the durable form of both marks: the record need not be written again.
            await self._store([rows[key] for key in marked], written=True)
            return await self._rows(keys)

    async def _store(self, rows: Sequence[_Row], *, written: bool = False) -> None:
        """Number, keep and tell changed rows; their records are written first unless they are already."""
        if not rows:
            return
        if not written:
            await trio.to_thread.run_sync(self._write, [row.payload for row in rows])
        numbered = []
        for sequence, row in enumerate(rows, self._sequence + 1):
            numbered.append(replace(row, payload=replace(row.payload, sequence=sequence)))
        await self._many(_PUT, [_columns(row) for row in numbered])
        self._sequence += len(numbered)
        self._tell(numbered)

    def _write(self, payloads: Sequence[Payload]) -> None:
        for payload in payloads:
            self._records.write(payload)

    def _tell(self, rows: Iterable[_Row]) -> None:
        for row in rows:
            for send in tuple(self._subscribers):
                try:
                    send.send_nowait(row.payload)
                except trio.WouldBlock:
                    self._subscribers.discard(send)
                    send.close()
                except trio.BrokenResourceError:
                    self._subscribers.discard(send)
        self._changed.set()
        self._changed = trio.Event()
        for ring in self._bells:
            ring()

    async def _many(self, sql: str, parameters: Sequence[tuple[Any, ...]]) -> None:
        if parameters:
            cursor = await self._connection.cursor()
            await cursor.executemany(sql, parameters)
            await self._connection.commit()

    async def _select(self, where: str, parameters: Sequence[Any]) -> list[_Row]:
        cursor = await self._connection.execute(f"SELECT * FROM payload {where}", parameters)
        return [_row(columns) for columns in await cursor.fetchall()]

    async def _rows(self, keys: Sequence[str]) -> dict[str, _Row]:
        rows = await self._select("WHERE key IN (SELECT value FROM json_each(?))", (json.dumps(list(keys)),))
        return {row.payload.key: row for row in rows}

    async def _tombstones(self, keys: Sequence[str]) -> dict[str, str]:
        cursor = await self._connection.execute(
            "SELECT key, kind FROM tombstone WHERE key IN (SELECT value FROM json_each(?))",
            (json.dumps(list(keys)),),
        )
        return dict(await cursor.fetchall())

    async def _reload(self, intended: Callable[[str], bool]) -> None:
        stored = await trio.to_thread.run_sync(self._records.load)
        buried = {stone.key: stone for stone in await trio.to_thread.run_sync(self._records.buried)}
        for name in await trio.to_thread.run_sync(self._records.unreadable, [s.payload.key for s in stored]):
            log.warning("%s holds no readable record and is left alone", self._records.directory(name))
        rows, rewritten = [], []
        for item in stored:
            payload = item.payload
            if payload.status not in ENDED and item.boot != self._records.boot:
                payload = _taken_by_reboot(payload, self._clock.now())
                rewritten.append(payload)
            elif payload.status is Status.PREPARED and intended(payload.key):
                # The process before this one was starting it: whether it runs is for the Runner to find out.
                payload = replace(payload, status=Status.RUNNING)
                rewritten.append(payload)
            stone = buried.get(payload.key)
            payload = replace(payload, cancelled=stone is not None and payload.status not in ENDED)
            rows.append(_Row(payload, stone is not None and stone.kind == RELEASE))
        await trio.to_thread.run_sync(self._write, rewritten)
        await self._many("INSERT INTO tombstone VALUES (?, ?, ?)", [_stone(s) for s in buried.values()])
        await self._store(rows, written=True)


@asynccontextmanager
async def open_table(
    records: Records, clock: Clock, *, intended: Callable[[str], bool] = lambda _key: False
) -> AsyncIterator[PayloadTable]:
    """The table of a data directory, reloaded from its records. `intended` says of a Prepared payload whether
    somebody has already set out to start it. What an earlier boot of the machine left unended is lost."""
    connection = await sqlite_anyio.connect(":memory:")
    try:
        cursor = await connection.cursor()
        await cursor.executescript(_SCHEMA)
        table = PayloadTable(records, connection, clock)
        await table._reload(intended)
        yield table
    finally:
        with trio.CancelScope(shield=True):
            await connection.close()


def view_of(payload: Payload) -> PayloadView:
    """A payload as the wire tells it."""
    return PayloadView(key=payload.key, status=payload.status, end=payload.end, lost=payload.lost)


def _accepted(key: str, fresh: bool, now: Mapping[str, _Row]) -> Accepted:
    row = now.get(key)
    if fresh and row is not None:
        return Accepted(AcceptResult.ACCEPTED, row.payload)
    if row is not None and not row.released:
        return Accepted(AcceptResult.KNOWN, row.payload)
    return Accepted(AcceptResult.TOMBSTONED, None)


def _moved(payload: Payload, move: PayloadMove) -> Payload:
    return replace(
        payload,
        status=move.target,
        pid=move.pid or payload.pid,
        started_at=payload.started_at if move.started_at is None else move.started_at,
        end=move.end,
        lost=move.lost or payload.lost,
    )


def _taken_by_reboot(payload: Payload, now: float) -> Payload:
    end = End(Status.FAILED, "machine restarted", started_at=payload.started_at, ended_at=now)
    return replace(payload, status=Status.FAILED, end=end, lost=True)


def _stone(stone: Tombstone) -> tuple[str, str, float]:
    return stone.key, stone.kind, stone.at


def _columns(row: _Row) -> tuple[Any, ...]:
    p = row.payload
    verdict = None if p.end is None else json.dumps(end_to_json(p.end))
    ended_at = None if p.end is None else (p.created_at if p.end.ended_at is None else p.end.ended_at)
    return (
        *(
            p.key,
            p.id,
            p.job_id,
            p.n,
            p.service,
            p.user_id,
            p.owner,
            p.status.value,
            p.sequence,
            p.created_at,
        ),
        *(p.max_runtime, p.cancelled, p.pid, p.started_at, verdict, p.lost, row.released, ended_at),
    )


def _row(columns: tuple[Any, ...]) -> _Row:
    (key, id_, job_id, n, service, user_id, owner, status, sequence, created_at) = columns[:10]
    (max_runtime, cancelled, pid, started_at, verdict, lost, released, _ended_at) = columns[10:]
    payload = Payload(
        key=key,
        id=id_,
        job_id=job_id,
        n=n,
        service=service,
        user_id=user_id,
        owner=owner,
        status=Status(status),
        sequence=sequence,
        created_at=created_at,
        max_runtime=max_runtime,
        cancelled=bool(cancelled),
        pid=pid,
        started_at=started_at,
        end=None if verdict is None else end_from_json(json.loads(verdict)),
        lost=bool(lost),
    )
    return _Row(payload, bool(released))
