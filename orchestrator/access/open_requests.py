"""Requests that are under way: each is cut once who asked for it would be refused.

A stream may go on for days and an upload for hours, and a token is revoked, expires, or a session is ended
meanwhile.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Final

import trio

EVERY: Final = 1.0
"""Seconds after which at the latest it is noticed."""


@dataclass(eq=False, slots=True)
class _Open:
    requests: OpenRequests
    holds: Callable[[], bool]
    cut: Callable[[], None]

    def __enter__(self) -> None:
        self.requests.add(self)

    def __exit__(self, *_: object) -> None:
        self.requests.discard(self)


class OpenRequests:
    """See the module."""

    def __init__(self) -> None:
        self._open: set[_Open] = set()
        self._came = trio.Event()

    def listed(self, holds: Callable[[], bool], cut: Callable[[], None]) -> AbstractContextManager[None]:
        """While inside, `cut` is called once `holds` says no."""
        return _Open(self, holds, cut)

    def add(self, one: _Open) -> None:
        """From now on it is looked at."""
        self._open.add(one)
        self._came.set()

    def discard(self, one: _Open) -> None:
        """No more."""
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
