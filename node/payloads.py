"""The node's payload table: SQLite in memory, the truth in the records on disk.

A change is on disk before it is in the table, and in the table before anybody hears of it. Changes carry
ascending sequence numbers; they are comparable within one incarnation, which is one life of this table.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any

import outcome
import sqlite_anyio
import trio

from actors.lifecycle import ENDED, PAYLOAD
from actors.model import Mark, PayloadView
from actors.node_ports import Payload, PayloadMove
from actors.ports import Clock
from node.arrivals import Accepted, Arrived, accepted, place
from node.changes import Changes
from node.payload_rows import OLD_TOMBSTONES, PUT, SCHEMA, Row, columns_of, moved, row_of
from node.records import CANCEL, RELEASE, Records
from node.reload import Reloaded, reload


@dataclass(eq=False, slots=True)
class _Asked:
    """What one caller of `record` wants, and what came of it."""

    moves: Sequence[PayloadMove]
    came_of_it: outcome.Outcome[list[bool]] | None = None


class PayloadTable:
    """Every payload of this node. Make it with `open_table`.

    One writer at a time; each operation is wholly done or not at all, cancelled or not. Methods that write
    raise `OSError` when the disk does not take it; nothing has changed then.
    """

    def __init__(
        self,
        records: Records,
        connection: sqlite_anyio.Connection,
        writer: sqlite_anyio.Cursor,
        clock: Clock,
    ) -> None:
        self._records = records
        self._connection = connection
        self._writer = writer
        self._clock = clock
        self._lock = trio.Lock()
        self._sequence = 0
        self._asked: list[_Asked] = []
        self.heard = Changes()
        """Who hears of changes."""
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

    # ------------------------------------------------------------------ the port that the Runner knows

    async def record(self, moves: Sequence[PayloadMove]) -> Sequence[bool]:
        """Compare-and-set each; False where the payload is not in `source` any more or is unknown. What is
        asked for while one call is under way is done together in the next. Raises `OSError`."""
        asked = _Asked(moves)
        self._asked.append(asked)
        try:
            async with self._writing():
                if asked in self._asked:
                    together, self._asked = self._asked, []
                    await self._answer(together)
        finally:
            if asked in self._asked:
                self._asked.remove(asked)
        assert asked.came_of_it is not None
        return asked.came_of_it.unwrap()

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

    async def known(self, keys: Sequence[str]) -> tuple[Mapping[str, Payload], Collection[str]]:
        """Which of these keys are payloads that are not released, and which will never (again) run here."""
        rows, stones = await self._rows(keys), await self._tombstones(keys)
        there = {key: row.payload for key, row in rows.items() if not row.released}
        return there, {key for key in stones if key not in there}

    async def is_tombstoned(self, key: str) -> bool:
        return key in await self._tombstones([key])

    async def accept(self, arrived: Sequence[Arrived]) -> Sequence[Accepted]:
        """Take payloads over, Prepared, their directories renamed into place; an answer for each. Those that
        are known or tombstoned leave their `directory` where it is, for the caller to discard. Raises
        `OutOfIds` too."""
        async with self._writing():
            keys = [item.key for item in arrived]
            known, dead = await self._rows(keys), await self._tombstones(keys)
            wanted = {item.key: item for item in arrived if item.key not in known and item.key not in dead}
            fresh = await trio.to_thread.run_sync(
                place, self._records, list(wanted.values()), self._clock.now()
            )
            await self._store([Row(payload, False) for payload in fresh.values()], written=True)
            now = await self._rows(keys)
            assert all(key in now or key in dead for key in keys)
        return [accepted(item.key, item.key in fresh, now) for item in arrived]

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
        cursor = await self._connection.execute(f"SELECT EXISTS ({OLD_TOMBSTONES})", (before,))
        return bool((await cursor.fetchall())[0][0])

    async def expire_tombstones(self, before: float) -> int:
        """Take tombstones away that are older than `before` and whose payload is gone; how many."""
        async with self._writing():
            cursor = await self._connection.execute(OLD_TOMBSTONES, (before,))
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
        owner. A reader that is too many changes behind finds its channel closed."""
        async with AsyncExitStack() as stack:
            async with self._lock:
                rows = await self._select("WHERE NOT released ORDER BY id", ())
                mark = self.mark
                changes = stack.enter_context(self.heard.subscribed())
            yield [row.payload for row in rows if owner is None or row.payload.owner == owner], mark, changes

    async def wait_ended(self, key: str) -> Payload | None:
        """Wait until a payload has ended; None when it is not here (any more)."""
        while True:
            changed = self.heard.next
            payload = await self.get(key)
            if payload is None or payload.status in ENDED:
                return payload
            await changed.wait()

    # ------------------------------------------------------------------ inside

    async def _answer(self, together: Sequence[_Asked]) -> None:
        """Do what several have asked for; if the disk does not take it, each by itself, so that one payload's
        trouble is not the others'."""
        done = await outcome.acapture(self._move, [move for asked in together for move in asked.moves])
        if isinstance(done, outcome.Error) and len(together) > 1:
            for asked in together:
                asked.came_of_it = await outcome.acapture(self._move, asked.moves)
        elif isinstance(done, outcome.Error):
            together[0].came_of_it = done
        else:
            results = iter(done.value)
            for asked in together:
                asked.came_of_it = outcome.Value([next(results) for _ in asked.moves])

    async def _move(self, moves: Sequence[PayloadMove]) -> list[bool]:
        rows = await self._rows([move.key for move in moves])
        done, after = [], dict(rows)
        for move in moves:
            row = after.get(move.key)
            fits = row is not None and row.payload.status is move.source
            if fits and move.target not in PAYLOAD[move.source]:
                raise ValueError(f"a payload does not go from {move.source} to {move.target}")
            if row is not None and fits:
                after[move.key] = replace(row, payload=moved(row.payload, move))
            done.append(fits)
        await self._store([row for key, row in after.items() if row is not rows.get(key)])
        return done

    @asynccontextmanager
    async def _writing(self) -> AsyncIterator[None]:
        """One writer at a time, and what it has begun it finishes: disk and table never differ."""
        async with self._lock:
            with trio.CancelScope(shield=True):
                yield

    async def _bury(self, keys: Sequence[str], kind: str) -> dict[str, Row]:
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
                    rows[key] = Row(replace(row.payload, cancelled=cancelled), kind == RELEASE)
                    marked.append(key)
            # The tombstone is the durable form of both marks: the record need not be written again.
            await self._store([rows[key] for key in marked], written=True)
            return await self._rows(keys)

    async def _store(self, rows: Sequence[Row], *, written: bool = False) -> None:
        """Number, keep and tell changed rows; their records are written first unless they are already."""
        if not rows:
            return
        if not written:
            await trio.to_thread.run_sync(self._write, [row.payload for row in rows])
        numbered = []
        for sequence, row in enumerate(rows, self._sequence + 1):
            numbered.append(replace(row, payload=replace(row.payload, sequence=sequence)))
        await self._many(PUT, [columns_of(row) for row in numbered])
        self._sequence += len(numbered)
        # Of what is released nobody outside wants to hear; the bells ring all the same.
        self.heard.tell(row.payload for row in numbered if not row.released)

    def _write(self, payloads: Sequence[Payload]) -> None:
        for payload in payloads:
            self._records.write(payload)

    async def _many(self, sql: str, parameters: Sequence[tuple[Any, ...]]) -> None:
        if parameters:
            await self._writer.executemany(sql, parameters)
            await self._connection.commit()

    async def _select(self, where: str, parameters: Sequence[Any]) -> list[Row]:
        cursor = await self._connection.execute(f"SELECT * FROM payload {where}", parameters)
        return [row_of(columns) for columns in await cursor.fetchall()]

    async def _rows(self, keys: Sequence[str]) -> dict[str, Row]:
        rows = await self._select("WHERE key IN (SELECT value FROM json_each(?))", (json.dumps(list(keys)),))
        return {row.payload.key: row for row in rows}

    async def _tombstones(self, keys: Sequence[str]) -> dict[str, str]:
        cursor = await self._connection.execute(
            "SELECT key, kind FROM tombstone WHERE key IN (SELECT value FROM json_each(?))",
            (json.dumps(list(keys)),),
        )
        return dict(await cursor.fetchall())

    async def _begin(self, found: Reloaded) -> None:
        stones = [(stone.key, stone.kind, stone.at) for stone in found.tombstones]
        await self._many("INSERT INTO tombstone VALUES (?, ?, ?)", stones)
        await self._store(found.rows, written=True)


@asynccontextmanager
async def open_table(
    records: Records, clock: Clock, *, intended: Callable[[str], bool] = lambda _key: False
) -> AsyncIterator[PayloadTable]:
    """The table of a data directory, reloaded from its records. `intended` says of a Prepared payload whether
    somebody has already set out to start it. What an earlier boot of the machine left unended is lost."""
    connection = await sqlite_anyio.connect(":memory:")
    try:
        writer = await connection.cursor()
        await writer.executescript(SCHEMA)
        table = PayloadTable(records, connection, writer, clock)
        found = await trio.to_thread.run_sync(reload, records, clock.now(), intended)
        await table._begin(found)
        yield table
    finally:
        with trio.CancelScope(shield=True):
            await connection.close()


def view_of(payload: Payload) -> PayloadView:
    """A payload as the wire tells it."""
    return PayloadView(key=payload.key, status=payload.status, end=payload.end, lost=payload.lost)
