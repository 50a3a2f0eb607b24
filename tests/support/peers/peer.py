"""A peer that answers exactly what a test tells it to, byte by byte: honest, slow, torn or lying."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import trio


@dataclass(frozen=True)
class Request:
    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)


Answer = Callable[[Request, trio.SocketStream], Awaitable[None]]


class Peer:
    """`answer` is called for each request, `accept` (if set) instead of reading any. A connection is kept
    while `answer` returns, and closed when it raises `Hangup`."""

    def __init__(self, answer: Answer | None = None) -> None:
        self.answer = answer
        self.accept: Callable[[trio.SocketStream], Awaitable[None]] | None = None
        self.requests: list[Request] = []
        self.connections = 0
        self.url = ""

    def seen(self, method: str, path: str) -> int:
        return sum(1 for request in self.requests if (request.method, request.path) == (method, path))

    async def serve(self, stream: trio.SocketStream) -> None:
        self.connections += 1
        try:
            async with stream:
                if self.accept is not None:
                    await self.accept(stream)
                    return
                buffer = bytearray()
                while (request := await _read(stream, buffer)) is not None:
                    self.requests.append(request)
                    assert self.answer is not None
                    await self.answer(request, stream)
        except (Hangup, trio.BrokenResourceError):
            pass


class Hangup(Exception):
    """Close the connection now."""


@asynccontextmanager
async def serving(peer: Peer) -> AsyncIterator[Peer]:
    async with trio.open_nursery() as nursery:
        listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
        peer.url = f"http://127.0.0.1:{listeners[0].socket.getsockname()[1]}"
        nursery.start_soon(trio.serve_listeners, peer.serve, listeners)
        yield peer
        nursery.cancel_scope.cancel()


async def send(
    stream: trio.SocketStream, status: int, body: bytes | str | Any, kind: str = "application/json"
) -> None:
    """One whole answer; what is neither bytes nor text goes as JSON."""
    if isinstance(body, str):
        body = body.encode()
    elif not isinstance(body, bytes):
        body = json.dumps(body).encode()
    await stream.send_all(head(status, kind, len(body)) + body)


async def problem(stream: trio.SocketStream, status: int, code: str) -> None:
    await send(stream, status, {"status": status, "code": code, "title": code, "detail": f"it is {code}"})


def head(status: int, kind: str, length: int | None) -> bytes:
    """The head alone; without a length the body ends when the connection does."""
    size = "connection: close" if length is None else f"content-length: {length}"
    return f"HTTP/1.1 {status} Some\r\ncontent-type: {kind}\r\n{size}\r\n\r\n".encode()


async def _read(stream: trio.SocketStream, buffer: bytearray) -> Request | None:
    while (end := buffer.find(b"\r\n\r\n")) < 0:
        piece = await stream.receive_some()
        if not piece:
            return None
        buffer += piece
    first, *lines = bytes(buffer[:end]).decode().split("\r\n")
    del buffer[: end + 4]
    headers = {k.lower(): v for k, _, v in (line.partition(": ") for line in lines)}
    length = int(headers.get("content-length", "0"))
    while len(buffer) < length:
        piece = await stream.receive_some()
        if not piece:
            return None
        buffer += piece
    body = bytes(buffer[:length])
    del buffer[:length]
    method, path, _ = first.split(" ")
    return Request(method, path, headers, body)
