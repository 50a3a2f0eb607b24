"""Reading a contract-only node's Payload without trusting its size.

Such an answer may hold the bytes of every file as JSON number arrays: gigabytes between an `id` and a
`status`. The scanner keeps the few short values on the top level that are asked for and skips the rest, in
bounded memory, at the speed of a regular expression.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection
from typing import Any, Final

from actors.wire.protocol.attempts import Garbled

TOKEN_LIMIT: Final = 512
"""Bytes of a key or value that is kept. A longer value is as good as none."""

_OUTER: Final = re.compile(rb'["{}\[\],:]')
_INNER: Final = re.compile(rb'["{}\[\]]')
_IN_STRING: Final = re.compile(rb'["\\]')


class TopLevel:
    """Fed with the pieces of a JSON object, it collects those of its own members that are named in `wanted`
    in `found`. `complete` is set when the object has closed. It does not validate what it skips."""

    def __init__(self, wanted: Collection[str]) -> None:
        self.found: Final[dict[str, Any]] = {}
        self.complete = False
        self._wanted = frozenset(wanted)
        self._depth = 0
        self._in_string = False
        self._escaped = False
        self._key: str | None = None
        self._token = bytearray()
        self._usable = True

    @property
    def satisfied(self) -> bool:
        """Whether everything wanted was found: the rest need not be read."""
        return len(self.found) == len(self._wanted)

    def feed(self, data: bytes) -> None:
        """Raises Garbled for what is no JSON object."""
        at = 0
        while at < len(data):
            at = self._string(data, at) if self._in_string else self._structure(data, at)

    def _string(self, data: bytes, at: int) -> int:
        if self._escaped:
            self._escaped = False
            self._keep(data[at : at + 1])
            return at + 1
        match = _IN_STRING.search(data, at)
        end = match.end() if match else len(data)
        self._keep(data[at:end])
        if match:
            self._escaped = match.group() == b"\\"
            self._in_string = self._escaped
        return end

    def _structure(self, data: bytes, at: int) -> int:
        match = (_INNER if self._depth > 1 else _OUTER).search(data, at)
        between = data[at : match.start() if match else len(data)]
        if self._depth != 1:
            if self._depth == 0 and between.strip():
                raise Garbled("a JSON object was expected")
        else:
            self._keep(between)
        if match is None:
            return len(data)
        self._mark(match.group())
        return match.end()

    def _mark(self, mark: bytes) -> None:
        if self._depth == 0 and (self.complete or mark != b"{"):
            raise Garbled("a JSON object was expected")
        if mark == b'"':
            self._in_string = True
            self._keep(mark)
        elif mark in (b"{", b"["):
            self._depth += 1
            self._usable = self._depth == 1
        elif mark in (b"}", b"]"):
            self._depth -= 1
            if self._depth == 0:
                self._pair()
                self.complete = True
        elif mark == b":":
            key = self._value()
            self._key = key if isinstance(key, str) else None
        else:
            self._pair()

    def _keep(self, piece: bytes) -> None:
        if self._depth == 1 and self._usable:
            self._token += piece
            if len(self._token) > TOKEN_LIMIT:
                self._usable = False

    def _pair(self) -> None:
        key, self._key = self._key, None
        usable = self._usable
        value = self._value()
        if key in self._wanted and usable and key is not None:
            self.found.setdefault(key, value)

    def _value(self) -> Any:
        token, self._token = bytes(self._token), bytearray()
        usable, self._usable = self._usable, True
        if not usable or not token.strip():
            return None
        try:
            return json.loads(token)
        except ValueError:
            raise Garbled("an answer that is no JSON") from None
