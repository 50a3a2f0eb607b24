"""Finding an attempt's marker in a zip that is still on its way."""

from __future__ import annotations

import struct
import zlib
from collections.abc import AsyncIterator
from typing import Final

MARKER: Final = ".orchestrator-attempt"
"""Sent with the inputs; its content is the attempt's key."""

_NAME: Final = MARKER.encode()
_SIGNATURE: Final = b"PK\x03\x04"
_HEADER: Final = struct.Struct("<4s22xHH")
"""The head of a zip's member: its signature, the lengths of the name and of the extra field behind it."""

_METHOD: Final = 8
_DEFLATED: Final = 8
_OVERLAP: Final = 4096
"""Bytes that are looked at again with the next piece: more than the marker takes, with all around it."""


class UntilMarker:
    """The pieces of a zip, `first` before them, up to the one with the marker that holds `key`.

    Only that is proof: any other marker may lie inside of a file, as when a job was given a zip.
    """

    def __init__(self, first: bytes, pieces: AsyncIterator[bytes], key: str) -> None:
        self._pieces = pieces
        self._key = key.encode()
        self._seen = first
        self.found = self._holds_key()

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        if self.found:
            raise StopAsyncIteration
        piece = await anext(self._pieces)
        self._seen = self._seen[-_OVERLAP:] + piece
        self.found = self._holds_key()
        return piece

    def _holds_key(self) -> bool:
        at = self._seen.find(_NAME)
        while at >= 0:
            if self._key_is_at(at - _HEADER.size):
                return True
            at = self._seen.find(_NAME, at + 1)
        return False

    def _key_is_at(self, begin: int) -> bool:
        """Whether the member whose head begins there is the marker, with the key."""
        if begin < 0:
            return False
        signature, name_size, extra_size = _HEADER.unpack_from(self._seen, begin)
        if signature != _SIGNATURE or name_size != len(_NAME):
            return False
        data = memoryview(self._seen)[begin + _HEADER.size + name_size + extra_size :][:_OVERLAP]
        if self._seen[begin + _METHOD] != _DEFLATED:
            return bytes(data[: len(self._key)]) == self._key
        try:
            return zlib.decompressobj(-zlib.MAX_WBITS).decompress(data, len(self._key)) == self._key
        except zlib.error:
            return False
