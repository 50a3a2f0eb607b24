"""Server-sent events from pieces of bytes, wherever they are cut."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from orchestrator.client.errors import BadAnswer

LONGEST: Final = 16 << 20
"""Bytes that one event may have."""


@dataclass(frozen=True, slots=True)
class Message:
    """An event as it came. `id` is the last one told, which a resumed stream begins after."""

    id: str
    kind: str
    data: str


class Parser:
    """See the HTML standard, 9.2.6. `retry` is the pause in seconds that the server asks for before a new
    connection, None if it asked for none. `last_id` is where the stream stands, which may have been told
    without an event."""

    def __init__(self) -> None:
        self.retry: float | None = None
        self.last_id = ""
        self._buffer = bytearray()
        self._size = 0
        self._begun = False
        self._id = ""
        self._kind = ""
        self._data: list[str] = []

    def feed(self, piece: bytes) -> Iterator[Message]:
        """The events that are complete with this piece. Raises BadAnswer for one that never ends."""
        self._buffer += piece
        if not self._begun and len(self._buffer) >= 3:
            self._begun = True
            if self._buffer.startswith(b"\xef\xbb\xbf"):
                del self._buffer[:3]
        while (line := self._line()) is not None:
            if line:
                self._field(line.decode("utf-8", "replace"))
            elif (message := self._dispatch()) is not None:
                yield message
        if len(self._buffer) + self._size > LONGEST:
            raise BadAnswer(f"an event is longer than {LONGEST} bytes; is the URL that of an orchestrator?")

    def _line(self) -> bytes | None:
        ends = [at for at in (self._buffer.find(b"\n"), self._buffer.find(b"\r")) if at >= 0]
        if not ends:
            return None
        end = min(ends)
        after = end + 1
        if self._buffer[end] == 0x0D:
            if after == len(self._buffer):
                return None  # the second half of a line's end may be on its way
            after += self._buffer[after] == 0x0A
        line = bytes(self._buffer[:end])
        del self._buffer[:after]
        return line

    def _field(self, line: str) -> None:
        name, _, value = line.partition(":")
        value = value.removeprefix(" ")
        match name:
            case "data":
                self._size += len(value)
                self._data.append(value)
            case "event":
                self._kind = value
            case "id" if "\0" not in value:
                self._id = value
            case "retry" if value.isascii() and value.isdigit():
                self.retry = int(value) / 1000
            case _:
                return  # a comment, or a field that the standard does not know

    def _dispatch(self) -> Message | None:
        # Not before: of what is cut off in the middle nothing counts.
        self.last_id = self._id
        data, kind = self._data, self._kind
        self._data, self._kind, self._size = [], "", 0
        return Message(self._id, kind or "message", "\n".join(data)) if data else None
