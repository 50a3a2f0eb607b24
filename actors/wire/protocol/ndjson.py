"""Event lines: one JSON object a line."""

from __future__ import annotations

import json
from collections.abc import AsyncIterable, AsyncIterator, Mapping
from typing import Any, Final

from actors.wire.errors import BadRequest, CutOff, TooLarge

MAX_LINE: Final = 64 << 20
"""Bytes in a line: the whole picture of a node is one."""


def encode(event: Mapping[str, Any]) -> bytes:
    """The line. ASCII, so that no character in it can be cut or taken for a line's end. Raises ValueError for
    what JSON does not hold (NaN)."""
    return json.dumps(event, separators=(",", ":"), allow_nan=False).encode("ascii") + b"\n"


class LineReader:
    """An async iterator of the objects. Empty lines are skipped.

    Raises CutOff when the body ends in a line, TooLarge for a line longer than `limit`, BadRequest for one
    that is no JSON object. What the body raises passes through.
    """

    def __init__(self, body: AsyncIterable[bytes], limit: int = MAX_LINE) -> None:
        self._body = aiter(body)
        self._limit = limit
        self._buffer = bytearray()
        self._searched = 0

    def __aiter__(self) -> AsyncIterator[dict[str, Any]]:
        return self

    async def __anext__(self) -> dict[str, Any]:
        while True:
            line = await self._line()
            if line.strip():
                return _object(line)

    async def _line(self) -> bytes:
        while (end := self._buffer.find(b"\n", self._searched)) < 0:
            self._searched = len(self._buffer)
            self._check(self._searched)
            try:
                self._buffer += await anext(self._body)
            except StopAsyncIteration:
                if self._buffer.strip():
                    raise CutOff("the stream of events ended in the middle of a line") from None
                raise
        self._check(end)
        line = bytes(self._buffer[:end])
        del self._buffer[: end + 1]
        self._searched = 0
        return line

    def _check(self, size: int) -> None:
        if size > self._limit:
            raise TooLarge(f"a line of the stream of events is longer than {self._limit} bytes", self._limit)


def _object(line: bytes) -> dict[str, Any]:
    try:
        event = json.loads(line)
    except (ValueError, RecursionError):
        event = None
    if not isinstance(event, dict):
        raise BadRequest("the stream of events holds a line that is no JSON object")
    return event
