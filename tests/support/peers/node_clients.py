"""Talking to a node of ours from a test, by its own protocol."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import httpx
import trio

KEY = "a" * 32
OTHER = "b" * 32
SCRIPT = {"run.sh": b"true\n"}


@dataclass(slots=True)
class NodeClient:
    url: str
    client: httpx.AsyncClient

    async def submit(
        self,
        files: dict[str, dict[str, bytes]],
        *,
        owner: str = "o",
        max_runtime: float = 0.0,
        form: Any = None,
        named: bool = False,
    ) -> httpx.Response:
        """`POST /v1/attempts` with these files for each key. `named`: for this node alone, in this boot."""
        attempts = [
            {
                "key": key,
                "job": 7,
                "n": 2,
                "service": "haddock",
                "user": -1,
                "max_runtime_seconds": max_runtime,
            }
            for key in files
        ]
        said = {"owner": owner, "attempts": attempts} if form is None else form
        parts: list[Any] = [("attempts", (None, json.dumps(said), "application/json"))]
        for key, sent in files.items():
            parts += [(f"{key}/{path}", (f"{key}/{path}", body)) for path, body in sent.items()]
        headers = {}
        if named:
            info = (await self.client.get("/v1/info")).json()
            headers = {"X-Node-Id": info["node_id"], "X-Node-Boot": info["machine_boot"]}
        return await self.client.post("/v1/attempts", files=parts, headers=headers)

    @asynccontextmanager
    async def events(self, owner: str | None = None) -> AsyncIterator[EventLines]:
        """The stream of events, as a client reads it that may leave at any time."""
        host, port = self.url.removeprefix("http://").split(":")
        async with await trio.open_tcp_stream(host, int(port)) as stream:
            query = "" if owner is None else f"?owner={owner}"
            # By HTTP/1.0 the body is not chunked, and ends with the connection.
            await stream.send_all(f"GET /v1/events{query} HTTP/1.0\r\nHost: x\r\n\r\n".encode())
            lines = EventLines(stream)
            assert (await lines.head()).startswith("HTTP/1.1 200")
            yield lines

    async def until(self, key: str, *statuses: str) -> dict[str, Any]:
        """The view of a payload once it is in one of these states, as the events tell it."""
        async with self.events() as events:
            while True:
                event = await events.next()
                views = event["payloads"] if event["event"] == "picture" else [event.get("payload")]
                for view in views:
                    if view is not None and view["key"] == key and view["status"] in statuses:
                        found: dict[str, Any] = view
                        return found


class EventLines:
    def __init__(self, stream: trio.SocketStream) -> None:
        self._stream = stream
        self._buffer = b""

    async def head(self) -> str:
        return (await self._until(b"\r\n\r\n")).decode()

    async def next(self) -> dict[str, Any]:
        """The next event. Raises `EOFError` when the stream has ended."""
        event: dict[str, Any] = json.loads(await self._until(b"\n"))
        return event

    async def next_of(self, kind: str) -> dict[str, Any]:
        while (event := await self.next())["event"] != kind:
            pass
        return event

    async def _until(self, mark: bytes) -> bytes:
        while mark not in self._buffer:
            piece = await self._stream.receive_some()
            if not piece:
                raise EOFError
            self._buffer += piece
        found, _, self._buffer = self._buffer.partition(mark)
        return found
