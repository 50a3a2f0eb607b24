"""Ids that are given: never twice, also not by a ledger that was restored from an older copy.

Outside of the ledger stands an id that runs ahead of all that were given: it is written there, durably,
before the first id of a block is given. A start goes on behind it, unless the last end was an orderly one,
which writes down the very last id. The ledger is told first of each block, so that one which knows less than
what stands outside is an older copy.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final

import trio

from actors.domain.ids import MAX_ID
from actors.domain.job import Job

BLOCK: Final = 256


class IdBlocks:
    """Keeps enough ids reserved, from the first that this life gives. `last` is the last that was given
    before; `reserve` writes down up to which they may be, first in the ledger and then outside."""

    def __init__(self, last: int, reserve: Callable[[int], Awaitable[None]]) -> None:
        self._last = last
        self._reserved = last
        self._reserve = reserve
        self._wanted = 0
        self._reserving = trio.Lock()

    async def give(self, store: Callable[[], Awaitable[Job]]) -> Job:
        """The job that `store` stores, which gives it one id. Raises what that and `reserve` raise."""
        self._wanted += 1
        try:
            if self._last + self._wanted > self._reserved:
                await self._extend()
            stored = await store()
            self._last = max(self._last, stored.id)
            return stored
        finally:
            self._wanted -= 1

    async def _extend(self) -> None:
        async with self._reserving:
            if self._last + self._wanted > self._reserved:
                upto = min(self._last + self._wanted + BLOCK, MAX_ID)
                await self._reserve(upto)
                self._reserved = upto
