"""The node's payload table: SQLite in memory, the truth in the records on disk.

A change is on disk before it is in the table, and in the table before anybody hears of it. Changes carry
ascending sequence numbers; they are comparable within one incarnation, which is one life of this table.
"""

from __future__ import annotations

import secrets
import sqlite3
from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from typing import Final, TypeVar

import sqlite_anyio
import trio

from actors.domain.node import PayloadView, StreamPosition
from actors.domain.payload import UNKNOWN, Payload, PayloadMove
from actors.domain.status import ENDED
from actors.ports.world import Clock
from actors.store.group_commit import GroupCommit
from actors.store.sqlite_thread import run_on_connection
from node.payloads import operations as work
from node.payloads.operations import Acceptance, Arrival, PayloadBatch
from node.payloads.records import CANCEL, RELEASE, Records
from node.payloads.recovery import Recovery, recover
from node.payloads.rows import SCHEMA
from node.payloads.subscriptions import Subscriptions
from node.runs.progress_file import ProgressTail

T = TypeVar("T")

BATCH: Final = 500
"""Items in a batch at most."""


class PayloadTable:
    """Every payload of this node. Make it with `open_table`.

    Each operation is one thread call, or a part of one: see `GroupCommit`. It is wholly done or not at all,
    cancelled or not. Methods that write raise `OSError` when the disk does not take it; nothing has changed
    then.
    """

    def __init__(self, records: Records, connection: sqlite_anyio.Connection, clock: Clock) -> None:
        self._records = records
        self.subscriptions = Subscriptions()
        """Who hears of changes."""
        self._connection = connection
        self._sequence = 0
        self._commits = GroupCommit(
            connection,
            lambda db, now: PayloadBatch(db, now, self._sequence, records=records),
            clock=clock,
            reserve=records.reserve,
            committed=self._tell,
            most=BATCH,
        )
        self.incarnation = secrets.token_hex(16)

    @property
    def node_id(self) -> str:
        return self._records.node_id

    @property
    def machine_boot(self) -> str:
        return self._records.boot

    @property
    def mark(self) -> StreamPosition:
        """Where this node's life is now."""
        return StreamPosition(self.incarnation, self._sequence)

    # ------------------------------------------------------------------ the port that the Runner knows

    async def record(self, moves: Sequence[PayloadMove]) -> Sequence[bool]:
        """Compare-and-set each; False where the payload is not in `source` any more or is unknown. Raises
        `OSError`."""
        return await self._commits.write(lambda batch: work.move(batch, moves), urgent=True)

    async def hear_progress(self, key: str, said: ProgressTail) -> None:
        """What a payload's script says of its progress; nothing happens if it is nothing new, or has ended.
        Raises `OSError`."""
        await self._commits.write(lambda batch: work.hear(batch, key, said))

    async def changes(self, after: int) -> Sequence[Payload]:
        return await self._select("WHERE sequence > ? ORDER BY sequence", after)

    async def all(self) -> tuple[Sequence[Payload], int]:
        async with self._commits.committing:
            picture = await self._select("WHERE NOT released OR verdict IS NULL ORDER BY id")
            return picture, self._sequence

    # ------------------------------------------------------------------ what the api asks

    async def get(self, key: str) -> Payload | None:
        """A payload that is not released."""
        for payload in await self._select("WHERE key = ? AND NOT released", key):
            return payload
        return None

    async def by_id(self, contract_id: int) -> Payload | None:
        """A payload that is not released, by the contract's number."""
        for payload in await self._select("WHERE id = ? AND NOT released", contract_id):
            return payload
        return None

    async def find_known(self, keys: Sequence[str]) -> tuple[Mapping[str, Payload], Collection[str]]:
        """Which of these keys are payloads that are not released, and which will never (again) run here."""
        return await self._read(lambda db: work.find_known(db, keys))

    async def is_tombstoned(self, key: str) -> bool:
        return key in await self._read(lambda db: work.tombstones(db, [key]))

    async def accept(
        self, arrived: Sequence[Arrival], before: Callable[[], None] | None = None
    ) -> Sequence[Acceptance]:
        """Take payloads over, Prepared, their directories renamed into place; an answer for each. Those that
        are known or tombstoned leave their `directory` where it is, for the caller to discard. `before` is
        called first, in the same thread, to put into the directories what is still missing. Raises `OutOfIds`
        too."""
        return await self._commits.write(lambda batch: work.take_over(batch, arrived, before))

    async def cancel(self, keys: Sequence[str]) -> Sequence[Payload | None]:
        """Tombstone each key durably; a payload that has not ended is marked as cancelled, for the Runner to
        kill. The payload as it is now, None for those that are not here and never will be."""
        rows = await self._commits.write(lambda batch: work.bury(batch, keys, CANCEL), urgent=True)
        return [None if (row := rows.get(key)) is None or row.released else row.payload for key in keys]

    async def release(self, keys: Sequence[str]) -> None:
        """Tombstone each key durably; what runs is marked as cancelled; what has ended is to be discarded
        (`releasable`)."""
        await self._commits.write(lambda batch: work.bury(batch, keys, RELEASE), urgent=True)

    async def releasable(self) -> Sequence[Payload]:
        """Released payloads that have ended: their directories may go, then `forget` them."""
        return await self._select("WHERE released AND verdict IS NOT NULL")

    async def ended_before(self, wall: float, *, keyed: bool) -> Sequence[Payload]:
        """Ended, unreleased payloads whose end was recorded before `wall`; with `keyed`, those that an
        orchestrator owns, else those that came by the contract."""
        sign = "<>" if keyed else "="
        where = f"WHERE NOT released AND ended_at < ? AND owner {sign} '' ORDER BY ended_at"
        return await self._select(where, wall)

    async def forget(self, keys: Sequence[str]) -> None:
        """Drop released payloads from the table, their directories gone."""
        if keys:
            await self._commits.write(lambda batch: work.forget(batch, keys))

    async def old_tombstones(self, before: float) -> bool:
        """Whether any tombstone is older than `before`, its payload gone."""
        return await self._read(lambda db: work.old_tombstones(db, before))

    async def expire_tombstones(self, before: float) -> int:
        """Take tombstones away that are older than `before` and whose payload is gone; how many."""
        return await self._commits.write(lambda batch: work.expire_tombstones(batch, before))

    async def count_held(self) -> Mapping[str, int]:
        """For each owner, how many of its payloads hold or wait for a slot."""
        return await self._read(work.count_held)

    async def count_wanted(self) -> int:
        """How many payloads have not ended, or have results that an orchestrator has not fetched."""
        return await self._read(work.count_wanted)

    # ------------------------------------------------------------------ hearing of changes

    @asynccontextmanager
    async def subscribe(
        self, owner: str | None
    ) -> AsyncIterator[tuple[Sequence[Payload], StreamPosition, trio.MemoryReceiveChannel[Payload]]]:
        """The picture (of one owner's payloads, or of all), its mark, and every change after it, of whatever
        owner. A reader that is too many changes behind finds its channel closed."""
        async with AsyncExitStack() as stack:
            async with self._commits.committing:
                picture = await self._select("WHERE NOT released ORDER BY id")
                mark = self.mark
                changes = stack.enter_context(self.subscriptions.subscribe())
            yield [payload for payload in picture if is_told(payload, owner)], mark, changes

    async def wait_ended(self, key: str) -> Payload | None:
        """Wait until a payload has ended; None when it is not here (any more)."""
        while True:
            changed = self.subscriptions.next_change(key)
            payload = await self.get(key)
            if payload is None or payload.status in ENDED:
                return payload
            await changed.wait()

    # ------------------------------------------------------------------ inside

    async def _select(self, where: str, *parameters: object) -> list[Payload]:
        rows = await self._read(lambda db: work.select(db, where, parameters))
        return [row.payload for row in rows]

    async def _read(self, work: Callable[[sqlite3.Connection], T]) -> T:
        return await run_on_connection(self._connection, work)

    def _tell(self, batch: PayloadBatch) -> None:
        self._sequence = batch.seq
        if batch.changed:
            self.subscriptions.publish(batch.changed)

    async def _begin(self, found: Recovery) -> None:
        await self._read(_prepare)
        await self._commits.write(partial(_store_recovery, found))


@asynccontextmanager
async def open_table(
    records: Records, clock: Clock, *, intended: Callable[[str], bool] = lambda _key: False
) -> AsyncIterator[PayloadTable]:
    """The table of a data directory, reloaded from its records. `intended` says of a Prepared payload whether
    somebody has already set out to start it. What an earlier boot of the machine left unended is lost."""
    connection = await sqlite_anyio.connect(":memory:")
    try:
        table = PayloadTable(records, connection, clock)
        found = await trio.to_thread.run_sync(recover, records, clock.now(), intended)
        async with trio.open_nursery() as nursery:
            await nursery.start(table._commits.run)
            await table._begin(found)
            yield table
            nursery.cancel_scope.cancel()
    finally:
        with trio.CancelScope(shield=True):
            await connection.close()


def is_told(payload: Payload, owner: str | None) -> bool:
    """Whether who asks as `owner` hears of a payload; None hears of all."""
    return owner is None or payload.owner in (owner, UNKNOWN)


def view_of(payload: Payload) -> PayloadView:
    """A payload as the wire tells it."""
    return PayloadView(payload.key, payload.status, payload.end, payload.lost, payload.progress)


def _prepare(db: sqlite3.Connection) -> None:
    # Transactions are begun and ended by `GroupCommit` alone.
    db.isolation_level = None
    db.executescript(SCHEMA)


def _store_recovery(found: Recovery, batch: PayloadBatch) -> None:
    batch.db.executemany(
        "INSERT INTO tombstone VALUES (?, ?, ?)",
        [(stone.key, stone.kind, stone.at) for stone in found.tombstones],
    )
    batch.put(found.rows)
