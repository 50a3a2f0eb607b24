"""h11's parser, past whose buffer large bodies go: there each byte is copied three times."""

from __future__ import annotations

from typing import Any, Final, cast

import h11
from h11._readers import ChunkedReader, ContentLengthReader

LARGE: Final = 16 * 1024
"""Bytes of a piece that is handed on as it came, and not copied: a small one is a part of a large block of
memory."""
BODY_PIECE: Final = 1 << 18
"""Bytes of a body that are taken at a time: each costs about as much as copying them."""
_PIECE: Final = 1 << 16
"""The same where it is not known how many belong to it."""
_COUNTS: Final = {ContentLengthReader: "_remaining", ChunkedReader: "_bytes_in_chunk"}
"""Where h11 has how many bytes are to come of a body, or of a chunk. It has no other word for it."""


class Parser(h11.Connection):
    """What comes in a large piece from within a body of known length, or from within a chunk, is handed on as
    it came. All else is h11's: the last byte of either, too.

    What comes behind the last request of a connection is no mistake: it is not heard. Some programs end a
    body with a line end that does not belong to it."""

    _past: bytes = b""

    def receive_data(self, data: bytes) -> None:
        if LARGE <= len(data) < (left := self._count_left()):
            setattr(self._reader, _COUNTS[type(self._reader)], left - len(data))
            self._past = data
        else:
            super().receive_data(data)

    def next_event(self) -> h11.Event | type[h11.NEED_DATA] | type[h11.PAUSED]:
        if self._past:
            past, self._past = self._past, b""
            return h11.Data(data=past)
        if self.their_state is h11.MUST_CLOSE and self.trailing_data[0]:
            return h11.NEED_DATA
        return super().next_event()

    @property
    def wanted(self) -> int:
        """Bytes to read next: of a large body, or a chunk, no more than goes past the buffer."""
        left = self._count_left()
        return min(BODY_PIECE, left - 1) if left > LARGE else _PIECE

    def _count_left(self) -> int:
        """Bytes that are to come of a body or a chunk; 0 where that is not known, or some are here."""
        name = _COUNTS.get(cast(Any, type(self._reader)))
        if name is None or self.their_state is not h11.SEND_BODY or self.trailing_data[0]:
            return 0
        return cast(int, getattr(self._reader, name))
