"""Where the last lines of a file begin, found from its end: of a long file only so much is read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

PIECE: Final = 1 << 18
"""Bytes that are looked at in one go."""

LOG_OFFSET: Final = "Log-Offset"
"""The byte that an answer with the last lines of a log begins at."""
LOG_SIZE: Final = "Log-Size"
"""How many bytes the log had then."""


@dataclass(frozen=True, slots=True)
class Tail:
    """The end of a file: the byte at which its last lines begin, and how many bytes it has."""

    offset: int
    size: int


def log_headers(tail: Tail) -> dict[str, str]:
    """What an answer that begins with the last lines of a log tells of them."""
    return {LOG_OFFSET: str(tail.offset), LOG_SIZE: str(tail.size)}


class LastLines:
    """Looks for the begin of the last `lines` lines of a file of `size` bytes, which is 0 where it has fewer.
    A line ends with its newline; what follows the last newline is a line too. As long as `missing` names
    bytes, give them to `take`."""

    def __init__(self, size: int, lines: int) -> None:
        self._size = size
        self._lines = lines
        self._seen = size
        self._begin = size if lines == 0 else None

    @property
    def missing(self) -> tuple[int, int] | None:
        """How many bytes are to be read, and from which on; None once it is known."""
        if self._begin is not None or self._seen == 0:
            return None
        length = min(PIECE, self._seen)
        return length, self._seen - length

    def take(self, piece: bytes) -> None:
        """The bytes that were missing."""
        at_end = self._seen == self._size
        self._seen -= min(PIECE, self._seen)
        end = len(piece) - (at_end and piece.endswith(b"\n"))
        newlines = piece.count(b"\n", 0, end)
        if newlines < self._lines:
            self._lines -= newlines
            return
        for _ in range(self._lines):
            end = piece.rfind(b"\n", 0, end)
        self._begin = self._seen + end + 1

    @property
    def tail(self) -> Tail:
        """What was found."""
        return Tail(self._begin or 0, self._size)
