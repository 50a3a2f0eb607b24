"""Time that passes only when nobody has anything left to do at this instant."""

from __future__ import annotations

import math
from heapq import heappop, heappush

import trio


class VirtualClock(trio.abc.Clock):
    """As Trio's `MockClock` with `autojump_threshold=0`, at a fraction of the price: Trio asks how long it
    may sleep only when no task can run, and is told that it has slept. Of no use beside I/O or threads."""

    def __init__(self) -> None:
        self.now = 0.0
        self.sleepers: list[tuple[float, int, list[trio.lowlevel.Task]]] = []
        self.naps = 0

    def start_clock(self) -> None:
        pass

    def current_time(self) -> float:
        return self.now

    def deadline_to_sleep_time(self, deadline: float) -> float:
        sleepers = self.sleepers
        while sleepers and not sleepers[0][2]:
            heappop(sleepers)
        if sleepers and sleepers[0][0] <= deadline:
            self.now, _, (task,) = heappop(sleepers)
            trio.lowlevel.reschedule(task)
        elif deadline == math.inf:
            return 60.0  # only Trio's own tasks are left, at the start and the end
        else:
            self.now = max(self.now, deadline)
        return 0.0


async def sleep(seconds: float) -> None:
    """As `trio.sleep`, without a scope that is cancelled. Only under a `VirtualClock`."""
    clock = trio.lowlevel.current_clock()
    assert isinstance(clock, VirtualClock)
    sleeping = [trio.lowlevel.current_task()]
    clock.naps += 1
    heappush(clock.sleepers, (clock.now + max(0.0, seconds), clock.naps, sleeping))

    def wake(_: object) -> trio.lowlevel.Abort:
        sleeping.clear()
        return trio.lowlevel.Abort.SUCCEEDED

    await trio.lowlevel.wait_task_rescheduled(wake)


async def sleep_until(moment: float) -> None:
    await sleep(moment - trio.current_time())
