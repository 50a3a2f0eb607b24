"""Threads that stay, for short calls that come all the time.

`trio.to_thread.run_sync` looks for its thread anew each time, names it, and copies what it may need to call
back; then it wakes a task of trio's own, which wakes the one that waits, a turn of the loop later. Here a
thread wakes who waits. For all else trio's way is the right one.
"""

from __future__ import annotations

import os
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

_LOOK_EVERY: Final = 0.01
"""Seconds, where nobody says when a call is over."""


class _Wake:
    """What a thread writes to and a task waits for: it is closed when neither has it any more, so that no
    thread writes to what has been closed, and may be another's by then."""

    __slots__ = ("fd",)

    def __init__(self, fd: int) -> None:
        self.fd: Final = fd

    async def wait(self) -> None:
        while True:
            try:
                await trio.lowlevel.wait_readable(self.fd)
            except OSError:
                # The kernel has no room to watch it; what the thread has begun goes on all the same.
                await trio.sleep(_LOOK_EVERY)
            try:
                os.eventfd_read(self.fd)
            except BlockingIOError:
                continue
            return

    def __del__(self) -> None:
        os.close(self.fd)


class _Call:
    """One that waits for its turn in a thread. `wake` None: trio wakes the task that waits for it."""

    __slots__ = ("answer", "arguments", "claim", "task", "token", "wake", "work")

    def __init__(
        self,
        work: Callable[..., Any],
        arguments: tuple[Any, ...],
        wake: _Wake | None,
        *,
        takes_back: bool,
    ) -> None:
        self.work, self.arguments, self.wake = work, arguments, wake
        self.answer: outcome.Outcome[Any]
        self.claim = threading.Lock() if takes_back else None
        """Who has it decides: the thread that begins, or the task that is cancelled before."""
        if wake is None:
            self.task = trio.lowlevel.current_task()
            self.token = trio.lowlevel.current_trio_token()

    async def wait(self) -> None:
        """Until there is an answer. Cancelled it is taken back, if that can be and it has not begun."""
        if self.wake is None:
            await trio.lowlevel.wait_task_rescheduled(self._give_up)
            return
        try:
            await self.wake.wait()
        except trio.Cancelled:  # noqa: ASYNC103  # what has begun ends, and its answer is told
            if self._take_back():
                raise
            with trio.CancelScope(shield=True):
                await self.wake.wait()

    def _take_back(self) -> bool:
        return self.claim is not None and self.claim.acquire(blocking=False)

    def _give_up(self, _: object) -> trio.lowlevel.Abort:
        return trio.lowlevel.Abort.SUCCEEDED if self._take_back() else trio.lowlevel.Abort.FAILED

    def land(self, answer: outcome.Outcome[Any]) -> None:
        """In the thread."""
        self.answer = answer
        if self.wake is not None:
            os.eventfd_write(self.wake.fd, 1)
            return
        with suppress(trio.RunFinishedError):
            self.token.run_sync_soon(trio.lowlevel.reschedule, self.task)


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
        self._wakes: list[_Wake] = []
        """Of calls that are over."""
        self.under_way = 0
        """Calls that were not answered yet."""
        weakref.finalize(self, self._calls.put, None)

    async def run(self, work: Callable[[*Ts], T], *arguments: *Ts) -> T:
        """What `work` returns or raises; RuntimeError if there is no thread to be had. Cancelled before it
        begins it is not called, if that can be taken back; once begun, it ends."""
        await trio.lowlevel.checkpoint_if_cancelled()
        if self.under_way >= self._threads and self._threads < self._most:
            self._begin()
        call = _Call(work, arguments, wake := self._take_wake(), takes_back=self.takes_back)
        self._calls.put(call)
        self.under_way += 1
        try:
            await call.wait()
        finally:
            self.under_way -= 1
        if wake is not None:
            self._wakes.append(wake)
        answer: T = call.answer.unwrap()
        return answer

    def _take_wake(self) -> _Wake | None:
        """None where as many wait as there may be threads, or there is no descriptor to be had."""
        if self._wakes:
            return self._wakes.pop()
        if self.under_way < self._most:
            with suppress(OSError):
                return _Wake(os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK))
        return None

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
        if call.claim is None or call.claim.acquire(blocking=False):
            call.land(outcome.capture(call.work, *call.arguments))
        del call  # nothing of it is kept until the next one comes
    calls.put(None)  # for the next thread
