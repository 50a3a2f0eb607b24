"""The node's payload table: in memory, the truth in the records on disk.

A change is on disk before it is in the table, and in the table before anybody hears of it; but that a payload
runs, and how far it is, is in memory alone: that it was to be started is on disk, and the rest is said by its
executor's marks and its own file. Changes carry ascending sequence numbers; they are comparable within one
incarnation, which is one life of this table.
"""

from __future__ import annotations

import logging
import math
import secrets
import time
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from typing import Final

import trio

from actors.domain.node import PayloadView, StreamPosition, Tally
from actors.domain.payload import UNKNOWN, Payload, PayloadMove
from actors.domain.status import ENDED, Status
from actors.ports.world import Clock
from node.payloads import operations as work
from node.payloads.batch_writer import BatchWriter
from node.payloads.operations import Acceptance, Arrival, PayloadBatch
from node.payloads.records import CANCEL, RELEASE, Records
from node.payloads.recovery import Recovery, recover
from node.payloads.rows import Row, Rows, Tombstones
from node.payloads.subscriptions import Subscriptions, Wanted
from node.runs.progress_file import ProgressTail

log: Final = logging.getLogger("node.jobs")


class PayloadTable:
    """Every payload of this node. Make it with `open_table`.

    Each operation that writes is one thread call, or a part of one: see `BatchWriter`. It is wholly done or
    not at all, cancelled or not. It raises `OSError` when the disk does not take it; nothing has changed
    then.
    """

    def __init__(self, records: Records, clock: Clock, make_ready: Callable[[Payload, str], None]) -> None:
        self._records = records
        self._make_ready = make_ready
        self.subscriptions = Subscriptions()
        """Who hears of changes."""
        self._rows = Rows()
        self._stones = Tombstones()
        self._sequence = 0
        self._writer = BatchWriter(
            lambda: PayloadBatch(records, self._rows, self._stones, clock.now(), self._sequence),
            reserve=records.reserve,
            written=self._take_in,
        )
        self.incarnation = secrets.token_hex(16)

    @property
    def node_id(self) -> str:
        return self._records.node_id

    @property
    def machine_boot(self) -> str:
        return self._records.boot

    @property
    def tally(self) -> Tally | None:
        """None where the machine's own end is none of what runs: what is counted ends with that."""
        if self._records.outlives:
            return None
        return replace(self._records.tally, uptime=int(time.clock_gettime(time.CLOCK_BOOTTIME)))

    @property
    def mark(self) -> StreamPosition:
        """Where this node's life is now."""
        return StreamPosition(self.incarnation, self._sequence)

    # ------------------------------------------------------------------ the port that the Runner knows

    async def record(self, moves: Sequence[PayloadMove]) -> Sequence[bool]:
        """Compare-and-set each; False where the payload is not in `source` any more or is unknown. Raises
        `OSError`."""
        # That it was to be started is on the disk, and the executor's marks say since when it runs.
        outlives = self._records.outlives
        to_write = [
            move for move in moves if not move.written and (outlives or move.target is not Status.RUNNING)
        ]
        return await self._writer.write(
            lambda batch: work.move(batch, moves), urgent=True, in_memory=not to_write
        )

    async def hear_progress(self, key: str, said: ProgressTail) -> None:
        """What a payload's script says of its progress; nothing happens if it is nothing new, or has ended.
        Raises `OSError`."""
        await self._writer.write(lambda batch: work.hear(batch, key, said), in_memory=True)

    async def changes(self, after: int) -> Sequence[Payload]:
        return [row.payload for row in self._rows.changed_after(after)]

    async def all(self) -> tuple[Sequence[Payload], int]:
        return self._list(lambda row: not row.released or row.payload.end is None), self._sequence

    # ------------------------------------------------------------------ what the api asks

    def get(self, key: str) -> Payload | None:
        """A payload that is not released."""
        return _unreleased(self._rows.get(key))

    def by_id(self, contract_id: int) -> Payload | None:
        """A payload that is not released, by the contract's number."""
        return _unreleased(self._rows.by_id(contract_id))

    def find_known(self, keys: Sequence[str]) -> tuple[Mapping[str, Payload], Collection[str]]:
        """Which of these keys are payloads that are not released, and which will never (again) run here."""
        there = {key: payload for key in keys if (payload := self.get(key)) is not None}
        return there, {key for key in keys if key not in there and self.is_tombstoned(key)}

    def is_tombstoned(self, key: str) -> bool:
        return self._stones.kind(key) is not None

    async def accept(
        self, arrived: Sequence[Arrival], before: Callable[[], None] | None = None
    ) -> Sequence[Acceptance]:
        """Take payloads over, Prepared, their directories renamed into place; an answer for each. Those that
        are known or tombstoned leave their `directory` where it is, for the caller to discard. `before` is
        called first, in the same thread, to put into the directories what is still missing. Raises `OutOfIds`
        too."""
        return await self._writer.write(
            lambda batch: work.take_over(batch, arrived, before, self._make_ready)
        )

    async def cancel(self, keys: Sequence[str]) -> Sequence[Payload | None]:
        """Tombstone each key; a payload that has not ended is marked as cancelled, for the Runner to kill.
        The payload as it is now, None for those that are not here and never will be."""
        rows = await self._writer.write(lambda batch: work.bury(batch, keys, CANCEL), urgent=True)
        return [_unreleased(row) for row in rows]

    async def release(self, keys: Sequence[str]) -> None:
        """Tombstone each key; what runs is marked as cancelled; what has ended is to be discarded
        (`releasable`)."""
        await self._writer.write(lambda batch: work.bury(batch, keys, RELEASE), urgent=True)

    def releasable(self) -> Sequence[Payload]:
        """Released payloads that have ended: their directories may go, then `forget` them."""
        return [row.payload for row in self._rows.to_discard()]

    def ended_before(self, wall: float, *, keyed: bool) -> Sequence[Payload]:
        """Ended, unreleased payloads whose end was recorded before `wall`; with `keyed`, those that an
        orchestrator owns, else those that came by the contract."""
        return [
            row.payload
            for row in self._rows
            if not row.released and bool(row.payload.owner) is keyed and _ended_at(row.payload) < wall
        ]

    def forget(self, keys: Iterable[str]) -> None:
        """Drop released payloads from the table, their directories gone."""
        for key in keys:
            self._rows.drop(key)
            self._records.written.discard(key)

    def old_tombstones(self, before: float) -> bool:
        """Whether any tombstone is older than `before`, its payload gone."""
        return any(True for _ in self._stones.older_than(before, self._rows))

    async def expire_tombstones(self, before: float) -> int:
        """Take tombstones away that are older than `before` and whose payload is gone; how many."""
        return await self._writer.write(lambda batch: work.expire_tombstones(batch, before))

    def count_held(self) -> Mapping[str, int]:
        """For each owner, how many of its payloads hold or wait for a slot."""
        return self._rows.held

    def count_wanted(self) -> int:
        """How many payloads have not ended, or have results that an orchestrator has not fetched."""
        return self._rows.wanted

    # ------------------------------------------------------------------ hearing of changes

    @asynccontextmanager
    async def subscribe(
        self, owner: str | None, wanted: Wanted | None = None
    ) -> AsyncIterator[tuple[Sequence[Payload], StreamPosition, trio.MemoryReceiveChannel[Payload]]]:
        """The picture (of one owner's payloads, or of all), its mark, and every change after it, of whatever
        owner, that is `wanted`. A reader that is too many changes behind finds its channel closed."""
        with self.subscriptions.subscribe(owner, wanted) as changes:
            picture = self._list(lambda row: not row.released)
            yield [payload for payload in picture if is_told(payload, owner)], self.mark, changes

    async def wait_ended(self, key: str) -> Payload | None:
        """Wait until a payload has ended; None when it is not here (any more)."""
        while True:
            changed = self.subscriptions.next_change(key)
            payload = self.get(key)
            if payload is None or payload.status in ENDED:
                return payload
            await changed.wait()

    # ------------------------------------------------------------------ inside

    def _list(self, wanted: Callable[[Row], bool]) -> list[Payload]:
        """In the order of their numbers."""
        return sorted((row.payload for row in self._rows if wanted(row)), key=lambda payload: payload.id)

    def _take_in(self, batch: PayloadBatch) -> None:
        self._sequence = batch.seq
        if batch.unburied:
            self._stones.drop(batch.unburied)
        if batch.buried:
            self._stones.put(batch.buried)
        if not batch.changed:
            return
        for row in batch.changed:
            self._rows.put(row)
        if log.isEnabledFor(logging.DEBUG):
            for row in batch.changed:
                _log_step(row.payload)
        self.subscriptions.publish(batch.changed)

    async def _begin(self, found: Recovery) -> None:
        self._stones.put(found.tombstones)
        await self._writer.write(partial(_put_all, found.rows))


@asynccontextmanager
async def open_table(
    records: Records,
    clock: Clock,
    *,
    intended: Callable[[str], bool] = lambda _key: False,
    make_ready: Callable[[Payload, str], None] = lambda _payload, _directory: None,
) -> AsyncIterator[PayloadTable]:
    """The table of a data directory, reloaded from its records. `intended` says of a Prepared payload whether
    somebody has already set out to start it, and has nobody else do so whom an earlier process asked;
    `make_ready` is told, in a thread, of each that is taken over, and where its files are. What an earlier
    boot of the machine left unended is lost."""
    table = PayloadTable(records, clock, make_ready)
    found = await trio.to_thread.run_sync(recover, records, clock.now(), intended)
    async with trio.open_nursery() as nursery:
        await nursery.start(table._writer.run)
        await table._begin(found)
        yield table
        nursery.cancel_scope.cancel()


def _log_step(payload: Payload) -> None:
    log.debug(
        "attempt %s of job %d is %s",
        payload.key,
        payload.job_id,
        payload.status.value,
        extra={**payload.about, "status": payload.status.value},
    )


def is_told(payload: Payload, owner: str | None) -> bool:
    """Whether who asks as `owner` hears of a payload; None hears of all."""
    return owner is None or payload.owner in (owner, UNKNOWN)


def is_answered(payload: Payload) -> bool:
    """Whether nothing has befallen a payload since it was taken over, which the answer to its order tells."""
    return payload.status is Status.PREPARED and payload.progress is None and not payload.lost


def view_of(payload: Payload) -> PayloadView:
    """A payload as the wire tells it."""
    return PayloadView(payload.key, payload.status, payload.end, payload.lost, payload.progress)


def _unreleased(row: Row | None) -> Payload | None:
    return None if row is None or row.released else row.payload


def _ended_at(payload: Payload) -> float:
    if payload.end is None:
        return math.inf
    return payload.created_at if payload.end.ended_at is None else payload.end.ended_at


def _put_all(rows: Iterable[Row], batch: PayloadBatch) -> None:
    for row in rows:
        batch.put(row)
