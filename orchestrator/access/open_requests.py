"""Requests that are under way: each is cut once who asked for it would be refused.

A stream may go on for days and an upload for hours, and a token is revoked, expires, or a session is ended
meanwhile.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

import trio

EVERY: Final = 1.0
"""Seconds after which at the latest it is noticed."""


@dataclass(eq=False, slots=True)
class _Open:
    holds: Callable[[], bool]
    cut: Callable[[], None]


class OpenRequests:
    """See the module."""

    def __init__(self) -> None:
        self._open: set[_Open] = set()
        self._came = trio.Event()

    @contextmanager
    def listed(self, holds: Callable[[], bool], cut: Callable[[], None]) -> Iterator[None]:
        """While inside, `cut` is called once `holds` says no."""
        one = _Open(holds, cut)
        self._open.add(one)
        self._came.set()
        try:
            yield
        finally:
            self._open.discard(one)

    async def run(self) -> None:
        """Look at them until cancelled."""
        while True:
            await self._came.wait()
            for one in [one for one in self._open if not one.holds()]:
                self._open.discard(one)
                one.cut()
            if not self._open:
                self._came = trio.Event()
            await trio.sleep(EVERY)
