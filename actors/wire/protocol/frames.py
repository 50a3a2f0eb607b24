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
HEAD: Final = _HEAD.size
"""Bytes of a frame before its data."""
_IN_PARTS: Final = frozenset({STDOUT, STDERR, ZIP})
_CUT_OFF: Final = "the stream of results ended in the middle"
_LIMITS: Final = {
    END: MAX_END,
    STDOUT: MAX_FRAME,
    STDERR: MAX_FRAME,
    ZIP: MAX_FRAME,
    INPUT: MAX_FRAME,
    FINISH: MAX_FRAME,
    ERROR: MAX_FRAME,
}


def encode(type: bytes, *data: bytes) -> bytes:
    """One frame, of this data one behind the other. Raises ValueError for an unknown type or more than a
    frame may hold."""
    size = sum(map(len, data))
    if size > _LIMITS.get(type, -1):
        raise ValueError(f"frame {type!r} of {size} bytes")
    return b"".join((_HEAD.pack(type, size), *data))


class FrameReader:
    """An async iterator of (type, data). Of a log or a zip the data of one frame may come in several parts,
    as the body brings them: how they are cut means nothing. Any other frame is held in memory as a whole, and
    nothing is held open.

    Raises CutOff when the body ends within a frame or before the finish or error record of the attempt that
    was begun; BadRequest for an unknown type or an excessive length. What the body raises passes through.
    """

    def __init__(self, body: AsyncIterable[bytes]) -> None:
        self._body = aiter(body)
        self._piece = b""
        """Of the body, the last that came; `_at` is how much of it was taken."""
        self._at = 0
        self._kind = b""
        self._left = 0
        """Bytes that are still to come of the frame that is given in parts, which is a `_kind`."""
        self._begun = False

    def __aiter__(self) -> AsyncIterator[tuple[bytes, bytes]]:
        return self

    async def __anext__(self) -> tuple[bytes, bytes]:
        if self._left:
            return self._kind, await self._some()
        if not (self._has_more() or await self._get_more()):
            if self._begun:
                raise CutOff(_CUT_OFF)
            raise StopAsyncIteration
        kind, length = _HEAD.unpack(await self._all(_HEAD.size))
        limit = _LIMITS.get(kind)
        if limit is None:
            raise BadRequest(f"the stream of results holds a frame of unknown type {kind!r}")
        if length > limit:
            raise BadRequest(f"the stream of results holds a frame {kind!r} of {length} bytes")
        self._begun = kind not in (FINISH, ERROR)
        if kind not in _IN_PARTS or not length:
            return kind, await self._all(length)
        self._kind, self._left = kind, length
        return kind, await self._some()

    async def _some(self) -> bytes:
        """What is here of the frame that is given in parts, or comes next."""
        if not self._has_more() and not await self._get_more():
            raise CutOff(_CUT_OFF)
        part = self._take(self._left)
        self._left -= len(part)
        return part

    async def _all(self, size: int) -> bytes:
        parts = [self._take(size)]
        missing = size - len(parts[0])
        while missing:
            if not await self._get_more():
                raise CutOff(_CUT_OFF)
            parts.append(self._take(missing))
            missing -= len(parts[-1])
        return b"".join(parts)

    def _take(self, most: int) -> bytes:
        part = self._piece[self._at : self._at + most]
        self._at += len(part)
        return part

    def _has_more(self) -> bool:
        return self._at < len(self._piece)

    async def _get_more(self) -> bool:
        """The next piece of the body, of which all was taken; False at its end."""
        self._piece, self._at = b"", 0
        async for piece in self._body:
            if piece:
                self._piece = piece
                return True
        return False
