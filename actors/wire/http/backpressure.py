"""A request's body with a bound: what the handler has not taken yet is not read from the network either.

Quart takes every piece as it comes, so that a slow disk would collect a large upload in memory.

A handler may answer before it has read all, and does for what it refuses: the answer goes out at once, whole,
so that a client that listens while it sends need not send the rest. Then what is left is read for a moment.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import AsyncExitStack
from typing import Any, Final, cast

import trio
from hypercorn.typing import ASGIReceiveCallable, ASGISendCallable, ASGISendEvent
from quart import Request
from quart_trio.asgi import TrioASGIHTTPConnection
from quart_trio.wrappers.request import TrioBody, TrioRequest

from actors.wire.errors import SourceChanged
from actors.wire.http.drain_body import drain
from actors.wire.http.parser import LARGE

BUFFERED: Final = 512 * 1024
"""Bytes that wait for the handler before the network has to."""


class _Gathered:
    """In the place of Quart's bytearray, into and out of which each byte is copied. Only small pieces are,
    together: kept as they came, each would take many times its bytes."""

    def __init__(self) -> None:
        self._pieces: list[bytes | bytearray] = []
        self._size = 0

    def __len__(self) -> int:
        return self._size

    def __bytes__(self) -> bytes:
        return bytes(self._pieces[0]) if len(self._pieces) == 1 else b"".join(self._pieces)

    def extend(self, data: bytes) -> None:
        self._size += len(data)
        last = self._pieces[-1] if self._pieces else None
        if len(data) >= LARGE:
            self._pieces.append(data)
        elif isinstance(last, bytearray):
            last += data
        else:
            self._pieces.append(bytearray(data))

    def clear(self) -> None:
        self._pieces, self._size = [], 0


class BoundedBody(TrioBody):
    """A body that can be waited on for room."""

    def __init__(self, expected_content_length: int | None, max_content_length: int | None) -> None:
        super().__init__(expected_content_length, max_content_length)
        self._data = cast(Any, _Gathered())
        self._taken = trio.Event()

    async def __anext__(self) -> bytes:
        data = await super().__anext__()
        self._taken.set()
        return data

    async def room(self) -> None:
        """Return once less than `BUFFERED` bytes wait."""
        while len(self._data) >= BUFFERED:
            self._taken = trio.Event()
            await self._taken.wait()


class BoundedRequest(TrioRequest):
    """`held` is let go of when the response is over; `end` breaks it off."""

    body_class = BoundedBody

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.held: Final = AsyncExitStack()
        self.end: Callable[[], None] = lambda: None


class BoundedConnection(TrioASGIHTTPConnection):
    async def handle_request(  # type: ignore[override]  # as quart-trio's own does: it hands in the nursery
        self, nursery: trio.Nursery, request: Request, send: ASGISendCallable
    ) -> None:
        async def send_and_drain(message: ASGISendEvent) -> None:
            if message["type"] == "http.response.body" and not message.get("more_body", False):
                # All was sent but the word that this was all, after which the connection is closed.
                await drain(request.body)
            await send(message)

        cast(BoundedRequest, request).end = nursery.cancel_scope.cancel
        # A client may leave before its response's body is entered, so the body cannot see to what it holds.
        async with cast(BoundedRequest, request).held:
            try:
                await super().handle_request(nursery, request, send_and_drain)
            except SourceChanged as error:
                # Its head has gone out: that it breaks off is all that its reader can be told.
                log = logging.getLogger(self.app.name)
                log.warning("the answer to %s %s broke off: %s", request.method, request.path, error)
                nursery.cancel_scope.cancel()

    async def handle_messages(  # type: ignore[override]  # as quart-trio's own does: it hands in the nursery
        self, nursery: trio.Nursery, request: Request, receive: ASGIReceiveCallable
    ) -> None:
        body = cast(BoundedBody, request.body)
        while True:
            message = await receive()
            if message["type"] == "http.request":
                body.append(message.get("body", b""))
                if not message.get("more_body", False):
                    body.set_complete()
                await body.room()
            elif message["type"] == "http.disconnect":
                break
        nursery.cancel_scope.cancel()
