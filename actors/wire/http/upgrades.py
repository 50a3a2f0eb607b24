"""Requests that turn their connection into something else: what an app has of these, one at most.

The server asks `answer` of each request whose path it is; admits it; sends the answer; and gives the
connection away until `serve` returns.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Final, Protocol

import trio

from actors.wire.http.plain_routes import Admit
from actors.wire.link.dialled import REVERSED
from actors.wire.link.websocket import WebSocket, accept, take_over

_ANSWER: Final = (
    f"HTTP/1.1 101 Switching Protocols\r\nupgrade: {REVERSED}\r\nconnection: upgrade\r\n\r\n".encode()
)


class Upgrade(Protocol):
    @property
    def path(self) -> str: ...
    @property
    def admit(self) -> Admit:
        """Raises Refusal."""
        ...

    def answer(self, headers: Mapping[bytes, bytes]) -> bytes | None:
        """The head by which the request is answered; None for one that asks for nothing of this kind."""
        ...

    async def take(self, stream: trio.abc.Stream, came: bytes) -> None:
        """Have the connection until this returns; `came` is what was read behind the request. In the task,
        and the context, in which it was admitted."""
        ...


@dataclass(frozen=True, slots=True)
class WebSocketRoute:
    """`serve` has the WebSocket until it returns. `most`: bytes of a message."""

    path: str
    admit: Admit
    serve: Callable[[WebSocket], Awaitable[None]]
    most: int

    def answer(self, headers: Mapping[bytes, bytes]) -> bytes | None:
        if (
            headers.get(b"upgrade", b"").lower() != b"websocket"
            or headers.get(b"sec-websocket-version") != b"13"
        ):
            return None
        key = headers.get(b"sec-websocket-key")
        return None if key is None else accept(key.decode("latin-1"))

    async def take(self, stream: trio.abc.Stream, came: bytes) -> None:
        await self.serve(take_over(stream, came, self.most))


@dataclass(frozen=True, slots=True)
class ReversedRoute:
    """Where nodes offer connections over which they are asked. `serve` has one until it returns."""

    path: str
    admit: Admit
    serve: Callable[[trio.abc.Stream], Awaitable[None]]

    def answer(self, headers: Mapping[bytes, bytes]) -> bytes | None:
        if headers.get(b"upgrade", b"").lower() != REVERSED.encode():
            return None
        return (
            f"HTTP/1.1 101 Switching Protocols\r\nupgrade: {REVERSED}\r\nconnection: upgrade\r\n\r\n".encode()
        )

    async def take(self, stream: trio.abc.Stream, came: bytes) -> None:
        # Whoever offers it says nothing before it is asked.
        if not came:
            await self.serve(stream)
