"""Reading server-sent events from a server under test."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from orchestrator.http_client import Deadlines, Http, Reply


@dataclass(frozen=True)
class Event:
    id: int
    kind: str
    data: Any


class Events:
    """The events of one stream; `place` is where it stands."""

    def __init__(self, reply: Reply) -> None:
        self.headers: Mapping[str, str] = reply.headers
        self.place = -1
        self._reply = reply
        self._buffer = b""

    async def line(self) -> str | None:
        while b"\n" not in self._buffer:
            try:
                self._buffer += await anext(self._reply)
            except StopAsyncIteration:
                return None
        line, _, self._buffer = self._buffer.partition(b"\n")
        return line.decode()

    async def comment(self) -> str:
        """The next comment; events before it are dropped."""
        while not (line := await self.line() or "").startswith(":"):
            pass
        return line

    async def next(self) -> Event | None:
        """None when the stream is over."""
        kind, data = "message", ""
        while (line := await self.line()) is not None:
            name, _, value = line.partition(": ")
            if name == "id":
                self.place = int(value)
            elif name == "event":
                kind = value
            elif name == "data":
                data = value
            elif not line and data:
                return Event(self.place, kind, json.loads(data))
        return None

    async def rest(self) -> list[Event]:
        found = []
        while (event := await self.next()) is not None:
            found.append(event)
        return found


@asynccontextmanager
async def events(url: str, path: str, last: int | None = None, status: int = 200) -> AsyncIterator[Events]:
    headers = {} if last is None else {"Last-Event-ID": str(last)}
    http = Http()
    try:
        async with http.exchange("GET", url + path, headers=headers, patience=Deadlines(stall=None)) as reply:
            assert reply.status == status
            yield Events(reply)
    finally:
        await http.aclose()
