"""The one writer of a node's files: who finds nobody writing writes at once; what comes meanwhile waits, and
goes together into the next thread call, in the order in which it came. An item that fails takes back what it
did itself, and nothing of any other.

A caller that is cancelled before its item is in a batch takes it back, and nothing was written. After that it
gets its answer, cancelled or not, as with any call into a thread.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, Final, TypeAlias, TypeVar

import outcome
import trio

from actors.process.kept_threads import KeptThreads
from actors.store.durable import is_full, is_passing
from actors.store.reserve import Reserve
from node.payloads.operations import PayloadBatch

T = TypeVar("T")
_Answer: TypeAlias = "outcome.Value[Any] | outcome.Error"

MOST: Final = 500
"""Items in a batch at most, so that a flood does not make the first of them wait for all."""


class Stopped(OSError):
    """The task that writes has ended; nothing was written."""


@dataclass(slots=True, eq=False)
class _PendingWrite:
    work: Callable[[PayloadBatch], Any]
    urgent: bool
    in_memory: bool
    """It touches no file."""
    task: trio.lowlevel.Task | None = None
    """Who waits for the answer; None: who writes it."""
    answer: _Answer | None = None
    is_full: bool = False
    """It failed for want of room."""

    def fail(self, error: Exception) -> None:
        self.is_full = is_full(error)
        self.answer = outcome.Error(error)


class BatchWriter:
    """`begin` makes a batch. `written` is told of each one that was written, before anybody is answered; it
    may neither wait nor raise. What is urgent may use `reserve` where the disk is full. `run` is its task."""

    def __init__(
        self,
        begin: Callable[[], PayloadBatch],
        *,
        reserve: Reserve,
        written: Callable[[PayloadBatch], None],
    ) -> None:
        self._begin = begin
        self._reserve = reserve
        self._reserve_held = True
        self._written = written
        self._pending: dict[_PendingWrite, None] = {}
        self._writing = False
        self._bell = trio.Event()
        self._stopped = False
        self._thread = KeptThreads("records", 1, takes_back=False)

    async def write(
        self, work: Callable[[PayloadBatch], T], *, urgent: bool = False, in_memory: bool = False
    ) -> T:
        """Have `work` done in the next batch; its result, once that is written. Raises what the work raises;
        nothing of it was done then, nor if this raises Cancelled. A batch of nothing but what is `in_memory`,
        so that it touches no file, needs no thread."""
        if self._stopped:
            await trio.lowlevel.checkpoint()
            raise Stopped("it has stopped; nothing was written")
        item = _PendingWrite(work, urgent, in_memory)
        if not self._writing and not self._pending:
            # What has come meanwhile is for `run`.
            await trio.lowlevel.checkpoint_if_cancelled()
            await self._write_all([item])
            assert item.answer is not None
            done: T = item.answer.unwrap()
            return done
        item.task = trio.lowlevel.current_task()
        self._pending[item] = None

        def abort(_: object) -> trio.lowlevel.Abort:
            if item not in self._pending:
                return trio.lowlevel.Abort.FAILED
            del self._pending[item]
            return trio.lowlevel.Abort.SUCCEEDED

        result: T = await trio.lowlevel.wait_task_rescheduled(abort)
        return result

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Write what comes, until cancelled. A batch under way is finished and answered first."""
        task_status.started()
        try:
            while True:
                await self._bell.wait()
                self._bell = trio.Event()
                while self._pending and not self._writing:
                    with trio.CancelScope(shield=True):
                        await self._write_all(self._next())
        finally:
            self._stopped = True
            left = list(self._pending)
            self._pending.clear()
            _land(left)

    def _next(self) -> list[_PendingWrite]:
        items = list(islice(self._pending, MOST))
        for item in items:
            del self._pending[item]
        return items

    async def _write_all(self, items: Sequence[_PendingWrite]) -> None:
        """For who is shielded, or has just found that it is not cancelled: then the thread call begins, and
        what has begun is not cancelled."""
        self._writing = True
        try:
            await self._try(items)
            if full := [item for item in items if item.is_full]:
                with trio.CancelScope(shield=True):
                    await self._make_room(full, alone=len(items) == 1)
            _land(items)
            if not self._reserve_held:
                with trio.CancelScope(shield=True):
                    self._reserve_held = await _ask(self._reserve.hold)
        finally:
            self._writing = False
            if self._pending:
                self._bell.set()

    async def _try(self, items: Sequence[_PendingWrite]) -> None:
        """Write them, and set their answers."""
        batch = self._begin()
        try:
            if [item for item in items if not item.in_memory]:
                await self._thread.run(_write, batch, items)
            else:
                _write(batch, items)
        except Exception as error:
            # Outside any one item: nothing of the batch holds.
            for item in items:
                item.fail(error)
            return
        self._written(batch)

    async def _make_room(self, full: Sequence[_PendingWrite], *, alone: bool) -> None:
        """A full disk fails the batch, but perhaps not each of its items: an order to terminate is small, and
        there is a reserve for it."""
        for item in full:
            if not alone:
                await self._try([item])
                if not item.is_full:
                    continue
            if item.urgent and await _ask(self._reserve.let_go):
                self._reserve_held = False
                await self._try([item])


def _land(items: Sequence[_PendingWrite]) -> None:
    """Wake whoever waits. There is no checkpoint between a batch and this."""
    for item in items:
        if item.task is not None:
            stopped = Stopped("it has stopped; nothing was written")
            trio.lowlevel.reschedule(item.task, item.answer or outcome.Error(stopped))


def _write(batch: PayloadBatch, items: Sequence[_PendingWrite]) -> None:
    """In the thread, if there are files to be written. What they answer holds only if this returns."""
    try:
        for item in items:
            before = batch.place()
            try:
                item.answer, item.is_full = outcome.Value(item.work(batch)), False
            except Exception as error:
                batch.back_to(before)
                item.fail(error)
        batch.finish()
    except BaseException:
        batch.back_to((0, 0, 0, 0))
        raise


async def _ask(reserve: Callable[[], bool]) -> bool:
    """In a thread; False also where there is none to be had."""
    try:
        return await trio.to_thread.run_sync(reserve)
    except (RuntimeError, MemoryError) as error:
        if not is_passing(error):
            raise
        return False
