"""A generator that blocks, read by a task: each step runs in a thread and brings about 1 MiB."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import AsyncIterator, Generator
from typing import Final

import trio

PIECE: Final = 256 * 1024
"""Bytes that are handed on at a time."""
_AT_ONCE: Final = 1 << 20
"""Bytes that one hop to a thread brings, and a piece at most."""
_PROMPT: Final = 0.05
"""Seconds after which a hop brings no further one: what is packed tightly may be read for long."""


class ThreadedIterator:
    """An async iterator over the bytes of a generator, joined to pieces of `PIECE` bytes or a little more.

    What the generator holds open is closed when it ends or fails, when reading is cancelled, on `aclose`, and
    at the latest when this object is dropped: no task and no nursery hang on it, so it may be left in the
    middle. Reading on after that raises trio.ClosedResourceError, so that nobody takes it for the end.
    """

    def __init__(
        self, generator: Generator[bytes, None, None], *, limiter: trio.CapacityLimiter | None = None
    ) -> None:
        """`limiter`: how many threads it shares, and with whom; None: trio's own for everything."""
        self._generator = generator
        self._limiter = limiter
        self._pieces: deque[bytes] = deque()
        self._broken_off = False

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        if self._broken_off:
            raise trio.ClosedResourceError
        if not self._pieces:
            try:
                await trio.to_thread.run_sync(self._step, limiter=self._limiter)
            except BaseException:
                self._close()
                raise
        if not self._pieces:
            raise StopAsyncIteration
        return self._pieces.popleft()

    async def aclose(self) -> None:
        """Let go of what is open. Does not wait for anything."""
        self._close()
        await trio.lowlevel.checkpoint_if_cancelled()

    def _close(self) -> None:
        self._broken_off = True
        self._pieces.clear()
        self._generator.close()

    def _step(self) -> None:
        until, size = time.monotonic() + _PROMPT, 0
        while size < _AT_ONCE and (piece := self._gather()):
            self._pieces.append(piece)
            size += len(piece)
            if time.monotonic() > until:
                break

    def _gather(self) -> bytes:
        pieces: list[bytes] = []
        size = 0
        for piece in self._generator:
            pieces.append(piece)
            size += len(piece)
            if size >= PIECE:
                break
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)
