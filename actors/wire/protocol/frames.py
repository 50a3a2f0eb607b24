"""The stream in which a node hands over what attempts produced: frames of one byte for the type, four for the
length (big-endian), and the data.

For each attempt an end record, its two logs and its zip, each in as many frames as it takes, and a finish
record that tells how much it was; or, at any point, an error that ends this attempt's part.
"""

from __future__ import annotations

import struct
from collections.abc import AsyncIterable, AsyncIterator
from typing import Final

from actors.wire.errors import BadRequest, CutOff

END: Final = b"E"
"""JSON: how the attempt ended, with the manifest."""
STDOUT: Final = b"O"
STDERR: Final = b"R"
ZIP: Final = b"Z"
INPUT: Final = b"I"
"""JSON: `{"path", "size", "crc"}`. What comes next in the zip are the bytes of this file of the attempt's
input, which need not be sent: the node has it just as it was received. Only for who asks for it so."""
FINISH: Final = b"F"
"""JSON: `{"zip_crc32", "zip_size", "stdout_size", "stderr_size"}`, the crc that of the zip's frames. An
orchestrator of one version back is told `"zip_sha256"` too."""
ERROR: Final = b"X"
"""JSON: `{"key", "error", "permanent"}`, `permanent` if asking again is of no use."""

MAX_FRAME: Final = 1 << 20
MAX_END: Final = 64 << 20
"""An end record holds a manifest, which grows with the number of files."""

_HEAD: Final = struct.Struct(">cI")
_LIMITS: Final = {
    END: MAX_END,
    STDOUT: MAX_FRAME,
    STDERR: MAX_FRAME,
    ZIP: MAX_FRAME,
    INPUT: MAX_FRAME,
    FINISH: MAX_FRAME,
    ERROR: MAX_FRAME,
}


def encode(type: bytes, data: bytes) -> bytes:
    """One frame. Raises ValueError for an unknown type or more data than a frame may hold."""
    if len(data) > _LIMITS.get(type, -1):
        raise ValueError(f"frame {type!r} of {len(data)} bytes")
    return _HEAD.pack(type, len(data)) + data


class FrameReader:
    """An async iterator of (type, data). Holds one frame in memory, nothing open.

    Raises CutOff when the body ends within a frame or before the finish or error record of the attempt that
    was begun; BadRequest for an unknown type or an excessive length. What the body raises passes through.
    """

    def __init__(self, body: AsyncIterable[bytes]) -> None:
        self._body = aiter(body)
        self._buffer = bytearray()
        self._begun = False

    def __aiter__(self) -> AsyncIterator[tuple[bytes, bytes]]:
        return self

    async def __anext__(self) -> tuple[bytes, bytes]:
        if len(self._buffer) < _HEAD.size and not await self._have(_HEAD.size):
            if self._buffer or self._begun:
                raise CutOff("the stream of results ended in the middle")
            raise StopAsyncIteration
        kind, length = _HEAD.unpack_from(self._buffer)
        limit = _LIMITS.get(kind)
        if limit is None:
            raise BadRequest(f"the stream of results holds a frame of unknown type {kind!r}")
        if length > limit:
            raise BadRequest(f"the stream of results holds a frame {kind!r} of {length} bytes")
        end = _HEAD.size + length
        if len(self._buffer) < end and not await self._have(end):
            raise CutOff("the stream of results ended in the middle")
        with memoryview(self._buffer) as view:
            data = bytes(view[_HEAD.size : end])
        del self._buffer[:end]
        self._begun = kind not in (FINISH, ERROR)
        return kind, data

    async def _have(self, size: int) -> bool:
        while len(self._buffer) < size:
            try:
                self._buffer += await anext(self._body)
            except StopAsyncIteration:
                return False
        return True
