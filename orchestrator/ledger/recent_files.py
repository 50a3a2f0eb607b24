"""Small files that were just written: the next step of most jobs reads them at once."""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

from actors.ports.storage import Part

MOST: Final = 16 << 20
"""Bytes that are kept at most."""


class RecentFiles:
    """By storage key and part; the oldest go when there are too many."""

    def __init__(self, most: int = MOST) -> None:
        self._most = most
        self._size = 0
        self._files: OrderedDict[tuple[str, Part], bytes] = OrderedDict()

    def get(self, storage_key: str, part: Part) -> bytes | None:
        return self._files.get((storage_key, part))

    def put(self, storage_key: str, part: Part, data: bytes) -> None:
        self.drop(storage_key, part)
        self._files[storage_key, part] = data
        self._size += len(data)
        while self._size > self._most:
            _, oldest = self._files.popitem(last=False)
            self._size -= len(oldest)

    def drop(self, storage_key: str, part: Part) -> None:
        self._size -= len(self._files.pop((storage_key, part), b""))
