"""An alarm wakes at the earliest time that it was set to, and is set again for the next sleep."""

from __future__ import annotations

import math

import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from actors.kernel.alarm import Alarm


async def wake_at(alarm: Alarm, at: float, *times: float) -> float:
    """When who sleeps until `at` is woken, the alarm being set to these times meanwhile."""
    began = trio.current_time()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(alarm.wait, began + at)
        await wait_all_tasks_blocked()
        for time in times:
            alarm.set(began + time)
    return trio.current_time() - began


async def test_the_earliest_time_wakes(autojump_clock: MockClock) -> None:
    alarm = Alarm()
    assert await wake_at(alarm, 10.0) == 10.0
    assert await wake_at(alarm, 10.0, 3.0, 5.0, 20.0) == 3.0
    assert await wake_at(alarm, 10.0, -1.0) == 0.0
    assert await wake_at(alarm, math.inf, 4.0) == 4.0
    # Nothing of that is left.
    assert await wake_at(alarm, 10.0) == 10.0


async def test_it_is_set_while_nobody_sleeps(autojump_clock: MockClock) -> None:
    alarm = Alarm()
    alarm.set(trio.current_time() + 5.0)
    alarm.set(trio.current_time() + 2.0)
    assert await wake_at(alarm, 10.0) == 2.0
    assert await wake_at(alarm, 10.0) == 10.0


async def test_what_was_set_outlasts_a_sleep_that_is_cancelled(autojump_clock: MockClock) -> None:
    alarm = Alarm()
    with trio.move_on_after(1.0):
        await alarm.wait(7.0 + trio.current_time())
    alarm.set(trio.current_time() + 2.0)
    assert await wake_at(alarm, 10.0) == 2.0
