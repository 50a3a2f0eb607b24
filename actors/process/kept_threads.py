"""Threads that stay, for short calls that come all the time.

`trio.to_thread.run_sync` looks for its thread anew each time, names it, and copies what it may need to call
back; that costs two or three times what these cost, 0.1 ms for 0.04. It is the right way for all else.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable
from contextlib import suppress
from queue import SimpleQueue
from typing import Any, Final, TypeAlias, TypeVar, TypeVarTuple

import outcome
import trio

T = TypeVar("T")
Ts = TypeVarTuple("Ts")


class _Call:
    """One that waits for its turn in a thread, and the task that waits for it."""

    __slots__ = ("arguments", "claim", "task", "threads", "token", "work")

    def __init__(self, threads: KeptThreads, work: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
        self.threads, self.work, self.arguments = threads, work, arguments
        self.task = trio.lowlevel.current_task()
        self.token = trio.lowlevel.current_trio_token()
        self.claim = threading.Lock()
        """Who has it decides: the thread that begins, or the task that is cancelled before."""

    def give_up(self, _: object) -> trio.lowlevel.Abort:
        if not self.threads.takes_back or not self.claim.acquire(blocking=False):
            return trio.lowlevel.Abort.FAILED
        self.threads.under_way -= 1
        return trio.lowlevel.Abort.SUCCEEDED

    def land(self, answer: outcome.Outcome[Any]) -> None:
        self.threads.under_way -= 1
        trio.lowlevel.reschedule(self.task, answer)


_Calls: TypeAlias = "SimpleQueue[_Call | None]"


class KeptThreads:
    """`most` threads at most, each begun when all there are have something to do; they end when this is
    forgotten. Calls begin in the order in which they came; those that wait can be cancelled, if `takes_back`.
    For one thread that runs trio."""

    def __init__(self, name: str, most: int, *, takes_back: bool = True) -> None:
        self._name, self._most = name, most
        self.takes_back = takes_back
        self._calls: Final[_Calls] = SimpleQueue()
        self._threads = 0
        self.under_way = 0
        """Calls that were not answered yet."""
        weakref.finalize(self, self._calls.put, None)

    async def run(self, work: Callable[[*Ts], T], *arguments: *Ts) -> T:
        """What `work` returns or raises; RuntimeError if there is no thread to be had. Cancelled before it
        begins it is not called, if that can be taken back; once begun, it ends."""
        await trio.lowlevel.checkpoint_if_cancelled()
        if self.under_way >= self._threads and self._threads < self._most:
            self._begin()
        self._calls.put(call := _Call(self, work, arguments))
        self.under_way += 1
        answer: T = await trio.lowlevel.wait_task_rescheduled(call.give_up)
        return answer

    def _begin(self) -> None:
        # Of us it knows nothing but the queue, or we were never forgotten.
        thread = threading.Thread(target=_serve, args=(self._calls,), name=self._name, daemon=True)
        try:
            thread.start()
        except RuntimeError:
            if not self._threads:
                raise
        else:
            self._threads += 1


def _serve(calls: _Calls) -> None:
    while (call := calls.get()) is not None:
        if not call.claim.acquire(blocking=False):
            continue
        answer = outcome.capture(call.work, *call.arguments)
        with suppress(trio.RunFinishedError):
            call.token.run_sync_soon(call.land, answer)
        del call, answer  # nothing of them is kept until the next one comes
    calls.put(None)  # for the next thread
