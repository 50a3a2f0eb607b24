"""Frames of a WebSocket (RFC 6455): written, and read as far as a link needs them, which is whole binary
messages, pings and the close. It knows no socket and waits for nothing.

What comes is checked as the RFC says, but for one thing: that a length is written as shortly as it can be.
"""

from __future__ import annotations

import os
from typing import Final

from actors.wire.errors import WireError

BINARY: Final = 2
CLOSE: Final = 8
PING: Final = 9
PONG: Final = 10

_CONTINUATION: Final = 0
_LAST: Final = 0x80
_MASKED: Final = 0x80
_LONGEST_WORD: Final = 125
"""Bytes of a ping, a pong or a close."""


class NoWebSocket(WireError):
    """What comes is no WebSocket, or one that says more at once than it may."""


def encode(code: int, payload: bytes, *, masked: bool) -> bytes:
    """A message, or a word, as one frame. Who has asked for the WebSocket masks what it sends."""
    size, mask = len(payload), _MASKED if masked else 0
    if size <= _LONGEST_WORD:
        head = bytes((_LAST | code, mask | size))
    elif size < 1 << 16:
        head = bytes((_LAST | code, mask | 126)) + size.to_bytes(2, "big")
    else:
        head = bytes((_LAST | code, mask | 127)) + size.to_bytes(8, "big")
    if not masked:
        return head + payload
    key = os.urandom(4)
    return b"".join((head, key, _xor(payload, key)))


def _xor(data: bytes, key: bytes) -> bytes:
    size = len(data)
    keys = (key * (size // 4 + 1))[:size]
    return (int.from_bytes(data, "little") ^ int.from_bytes(keys, "little")).to_bytes(size, "little")


class FrameBuffer:
    """What has come and was not read. `masked`: whether the other side has to mask. `most`: bytes of a
    message, in however many frames it comes."""

    def __init__(self, *, masked: bool, most: int) -> None:
        self._masked = masked
        self._most = most
        self._data = bytearray()
        self._at = 0
        self.left = 0
        """Bytes that were not read."""
        self._message: bytearray | None = None

    def feed(self, data: bytes | bytearray) -> None:
        if self._at:
            del self._data[: self._at]
            self._at = 0
        self._data += data
        self.left += len(data)

    def next(self) -> tuple[int, bytes] | None:
        """The next whole message, as BINARY, or PING, PONG or CLOSE with what they carry; None if more has to
        come first. Raises NoWebSocket."""
        while (frame := self._next_frame()) is not None:
            first, payload = frame
            code = first & 0x0F
            if code >= CLOSE:
                return code, payload
            if (code == _CONTINUATION) is (self._message is None):
                raise NoWebSocket("a message begins in the middle of another, or goes on that has not begun")
            if self._message is None:
                if first & _LAST:
                    return code, payload
                self._message = bytearray()
            self._message += payload
            if len(self._message) > self._most:
                raise NoWebSocket(f"the other side sends more than {self._most} bytes at once")
            if first & _LAST:
                whole, self._message = bytes(self._message), None
                return BINARY, whole
        return None

    def _next_frame(self) -> tuple[int, bytes] | None:
        data, at = self._data, self._at
        there = at + self.left
        if there < at + 2:
            return None
        first, second = data[at], data[at + 1]
        size, begin = second & 0x7F, at + 2
        self._check(first, second, size)
        if size > _LONGEST_WORD:
            begin += 2 if size == 126 else 8
            if there < begin:
                return None
            size = int.from_bytes(data[at + 2 : begin], "big")
            if size > self._most:
                raise NoWebSocket(f"the other side sends more than {self._most} bytes at once")
        if self._masked:
            begin += 4
        end = begin + size
        if there < end:
            return None
        self._at, self.left = end, there - end
        payload = bytes(memoryview(data)[begin:end])
        return first, _xor(payload, bytes(data[begin - 4 : begin])) if self._masked else payload

    def _check(self, first: int, second: int, size: int) -> None:
        code = first & 0x0F
        if first & 0x70 or code not in (_CONTINUATION, BINARY, CLOSE, PING, PONG):
            raise NoWebSocket(f"a frame that begins with {first:#04x}")
        if code >= CLOSE and (size > _LONGEST_WORD or not first & _LAST):
            raise NoWebSocket("a word that is too long, or comes in pieces")
        if bool(second & _MASKED) is not self._masked:
            raise NoWebSocket("a frame is masked by the wrong side")
