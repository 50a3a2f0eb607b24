"""Bytes that are here already, for who reads them as they come."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Sequence


class Pieces:
    """A body of these pieces. It may be left before its end, unlike a generator."""

    def __init__(self, pieces: Iterable[bytes] = ()) -> None:
        self._pieces = iter(pieces)

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        for piece in self._pieces:
            return piece
        raise StopAsyncIteration

    def take(self) -> Sequence[bytes]:
        """All that were not read yet."""
        return tuple(self._pieces)
