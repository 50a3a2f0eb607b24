"""What a job's output may do to a terminal: be text, with its colours."""

from __future__ import annotations

import codecs
import re
from typing import Final

# Colours, and nothing else that begins with ESC.
_COLOUR: Final = re.compile(r"\x1b\[[0-9;:]{0,40}m")
_BEGUN: Final = re.compile(r"\x1b(\[[0-9;:]{0,40})?\Z")
_CONTROL: Final = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1a\x1c-\x1f\x7f-\x9f]|\x1b(?!\[[0-9;:]{0,40}m)")


class Filter:
    """Bytes of a log as they may be written: unchanged into a file or a pipe; on a terminal as text, without
    what would move the cursor, rename the window or answer on the keyboard. Characters and colours that are
    cut in two by `feed` stay whole."""

    def __init__(self, *, tty: bool) -> None:
        self._tty = tty
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._kept = ""
        self._coloured = False

    def feed(self, piece: bytes) -> bytes:
        """What of it may be written now."""
        if not self._tty:
            return piece
        text = self._kept + self._decoder.decode(piece)
        begun = _BEGUN.search(text)
        self._kept = text[begun.start() :] if begun else ""
        text = text[: len(text) - len(self._kept)]
        self._coloured = self._coloured or "\x1b" in text
        return _encode(text)

    def end(self) -> bytes:
        """What was kept back."""
        if not self._tty:
            return b""
        text, self._kept = self._kept + self._decoder.decode(b"", final=True), ""
        # Colours end with the log that switched them on.
        return _encode(text) + (b"\x1b[0m" if self._coloured else b"")


def _encode(text: str) -> bytes:
    return _CONTROL.sub("\N{REPLACEMENT CHARACTER}", text).encode("utf-8", "replace")
