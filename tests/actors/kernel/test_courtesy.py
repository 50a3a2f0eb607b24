"""Large bodies rest while small work is done, and go as fast as they can otherwise. Under the mock clock."""

from __future__ import annotations

import trio
from trio.testing import MockClock

from actors.kernel.courtesy import LARGE, LONGEST, RECENT, TIMES, Courtesy, LargeBody

PIECE = 1 << 20
TAKES = 0.01


async def move(body: LargeBody, pieces: int, *, takes: float = TAKES) -> float:
    """Seconds that so many pieces have rested."""
    began = trio.current_time()
    for _ in range(pieces):
        await trio.sleep(takes)
        await body.rest(PIECE)
    return round(trio.current_time() - began - pieces * takes, 6)


async def test_it_rests_only_beside_small_work_and_once_it_is_large(autojump_clock: MockClock) -> None:
    courtesy = Courtesy()
    alone = LargeBody(courtesy)
    assert await move(alone, 20) == 0
    courtesy.note()
    small = LargeBody(courtesy)
    assert await move(small, LARGE // PIECE) == 0
    large = LargeBody(courtesy)
    await move(large, LARGE // PIECE)
    courtesy.note()
    assert await move(large, 3) == round(3 * TIMES * TAKES, 6)
    await trio.sleep(RECENT)
    assert await move(LargeBody(courtesy), 20) == 0


async def test_a_rest_is_not_counted_as_work_and_none_is_long(autojump_clock: MockClock) -> None:
    courtesy = Courtesy()
    body = LargeBody(courtesy)
    await move(body, 10)
    for _ in range(5):
        courtesy.note()
        assert await move(body, 1) == round(TIMES * TAKES, 6)
    courtesy.note()
    assert await move(body, 1, takes=RECENT / 2) == LONGEST
