"""Every change of any job, as it comes, for whoever listens.

The ledger numbers its changes, and a listener is nothing but a place in that order: what it has not been sent
yet is read from there. So nothing is missing and nothing comes twice, whether the listener is slow, was away,
or the server was started anew in between. The newest changes are read once for all listeners and kept here, a
bounded number of them; who is further behind reads the ledger. Nobody's queue grows.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Final

import trio

from actors.domain.status import OVER
from actors.kernel.complaint import Complaint
from actors.ports.ledger import LedgerError
from orchestrator.events.waiters import JobWaiters, TooManyWaiters, WaitersClosed
from orchestrator.ledger.queries import JobChange, Queries

log: Final = logging.getLogger("orchestrator.changes")

KEPT: Final = 4096
AT_ONCE: Final = 256
"""Changes that a listener is given at a time."""

SLOW: Final = 30.0
"""Seconds that a listener may take to accept what it is sent."""

_AGAIN: Final = 1.0


@dataclass(frozen=True, slots=True)
class ChangeFilter:
    """Which changes a listener wants; None: not narrowed by this."""

    job: int | None = None
    user: int | None = None
    service: str | None = None
    services: frozenset[str] = frozenset()
    """Any of these; empty: of whatever service."""

    def fits(self, line: EncodedChange) -> bool:
        return (
            self.job in (None, line.job_id)
            and self.user in (None, line.user_id)
            and self.service in (None, line.service)
            and (not self.services or line.service in self.services)
        )


@dataclass(frozen=True, slots=True)
class EncodedChange:
    """One change, written out. `over`: the job is over with it."""

    seq: int
    job_id: int
    user_id: int
    service: str
    over: bool
    text: bytes


class Listener:
    """Somebody who is sent changes. `sending` is to be set to the time at which a piece was handed over, and
    to None once it was taken; `cut` ends the connection whatever it waits for."""

    def __init__(self, cut: Callable[[], None] | None) -> None:
        self.sending: float | None = None
        self.cut = cut


class ChangeStream:
    """See the module. `write` makes a line of a change. At most `most` listen at a time."""

    def __init__(
        self, queries: Queries, waiters: JobWaiters, write: Callable[[JobChange], bytes], *, most: int = 2000
    ) -> None:
        self._queries = queries
        self._waiters = waiters
        self._write = write
        self.most = most
        self._listeners: set[Listener] = set()
        self._wanted = trio.Event()
        self._kept: deque[EncodedChange] = deque()
        # What is kept are all changes above `_from`, up to `_upto`.
        self._from = 0
        self._upto = 0
        self._grown = trio.Event()
        self._complaint = Complaint(log)

    @property
    def listening(self) -> int:
        return len(self._listeners)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Read what changes while anybody listens, until the feed closes."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._look_for_slow_ones)
            nursery.start_soon(self._read)
            task_status.started()
            try:
                await self._waiters.until_closed()
            finally:
                self._grown.set()  # who waits finds that it is over
                nursery.cancel_scope.cancel()

    @contextmanager
    def listen(self, cut: Callable[[], None] | None = None) -> Iterator[Listener]:
        """Be counted while inside. Raises FeedFull."""
        if len(self._listeners) >= self.most:
            raise TooManyWaiters(f"{self.most} clients follow events already; ask again later")
        listener = Listener(cut)
        self._listeners.add(listener)
        self._wanted.set()
        try:
            yield listener
        finally:
            self._listeners.discard(listener)

    async def newest(self) -> int:
        """The number of the newest change."""
        return await self._queries.newest_change()

    async def after(self, place: int, wanted: ChangeFilter) -> tuple[Sequence[EncodedChange], int]:
        """The next changes that are wanted and come after `place`, and the new place; waits until there is
        anything new, wanted or not. Raises FeedClosed, LedgerError. Inside `listen` only."""
        while True:
            if self._waiters.closed:
                raise WaitersClosed("the server stops")
            if place < self._from or (wanted.job is not None and place + KEPT < self._upto):
                return await self._from_ledger(place, wanted)
            if place < self._upto:
                return self._from_kept(place, wanted)
            self._grown = self._grown if not self._grown.is_set() else trio.Event()
            await self._grown.wait()

    def _from_kept(self, place: int, wanted: ChangeFilter) -> tuple[Sequence[EncodedChange], int]:
        newer: list[EncodedChange] = []
        for line in reversed(self._kept):
            if line.seq <= place:
                break
            newer.append(line)
        newer.reverse()
        fitting = [line for line in newer if wanted.fits(line)]
        if len(fitting) > AT_ONCE:
            return fitting[:AT_ONCE], fitting[AT_ONCE - 1].seq
        return fitting, self._upto

    async def _from_ledger(self, place: int, wanted: ChangeFilter) -> tuple[Sequence[EncodedChange], int]:
        number = wanted.job
        if number is not None:
            told, upto = await self._queries.job_changes_after(number, place)
        else:
            told, upto = await self._queries.changes_after(place)
        return [line for line in map(self._line, told) if wanted.fits(line)], upto

    def _line(self, told: JobChange) -> EncodedChange:
        job = told.job
        over = job.change_seq == told.seq and job.status in OVER
        return EncodedChange(told.seq, job.id, job.user_id, job.service, over, self._write(told))

    async def _read(self) -> None:
        with suppress(WaitersClosed):
            while True:
                try:
                    await self._read_on()
                except LedgerError as error:
                    self._complaint.say("changes are told later: %s", error)
                    await trio.sleep(_AGAIN)

    async def _read_on(self) -> None:
        while not self._listeners:
            self._wanted = trio.Event()
            await self._wanted.wait()
            self._kept.clear()
            self._from = self._upto = await self.newest()
            self._grown.set()
        await self._waiters.moved(self._upto)
        if not self._listeners:
            return
        told, self._upto = await self._queries.changes_after(self._upto)
        self._kept.extend(map(self._line, told))
        while len(self._kept) > KEPT:
            self._from = self._kept.popleft().seq
        self._grown.set()

    async def _look_for_slow_ones(self) -> None:
        while True:
            await trio.sleep(SLOW / 3)
            self.cut_slow_ones()

    def cut_slow_ones(self) -> None:
        """End the connections that have taken nothing for `SLOW` seconds."""
        late = trio.current_time() - SLOW
        for listener in list(self._listeners):
            if listener.cut is not None and listener.sending is not None and listener.sending < late:
                log.warning("a client that follows events takes nothing any more; it is cut off")
                listener.cut()
