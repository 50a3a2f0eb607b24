"""Server-sent events: how they are written and sent."""

from __future__ import annotations

import json
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, Final, TypeVar

import trio
from quart import Response, request
from quart.wrappers.response import DataBody, ResponseBody

T = TypeVar("T")

EVERY: Final = 15.0
"""Seconds after which a stream that has nothing to say says so: a proxy would close it."""

TYPE: Final = "text/event-stream"
STILL_HERE: Final = b": nothing new\n\n"
RETRY: Final = b"retry: 1000\n"


def event(kind: str, number: int, body: Any) -> bytes:
    """One event. JSON has no line ends and is ASCII: nothing in it can end the event."""
    return f"id: {number}\nevent: {kind}\ndata: {json.dumps(body)}\n\n".encode()


def place(number: int) -> bytes:
    """Tells where the stream stands, without an event: who comes back goes on from there."""
    return f"id: {number}\n\n".encode()


class ContextBody(ResponseBody):
    """A body that comes from a context, which is left when the response is over, sent or not."""

    def __init__(self, context: AbstractAsyncContextManager[AsyncIterable[bytes]]) -> None:
        self._context = context

    async def __aenter__(self) -> AsyncIterable[bytes]:
        return await self._context.__aenter__()

    async def __aexit__(self, *args: Any) -> None:
        await self._context.__aexit__(*args)  # noqa: ASYNC102  # it shields itself, with a timeout


def stream_response(context: AbstractAsyncContextManager[AsyncIterable[bytes]]) -> Response:
    """The stream, unbuffered by whatever proxies there are."""
    return endless_response(context, TYPE)


def endless_response(
    context: AbstractAsyncContextManager[AsyncIterable[bytes]], content_type: str
) -> Response:
    """An answer that lasts as long as something may come. HEAD gets no more than its head."""
    body = DataBody(b"") if request.method == "HEAD" else ContextBody(context)
    answer = Response(body, content_type=content_type)
    answer.headers["Cache-Control"] = "no-store, no-transform"
    answer.headers["X-Accel-Buffering"] = "no"
    return answer


def cut() -> Callable[[], None] | None:
    """What ends the connection of this request at once; None where the host does not offer it."""
    state: Mapping[str, Any] = request.scope.get("state") or {}
    found = state.get("cut")
    return found if callable(found) else None


@asynccontextmanager
async def pump(
    source: Callable[[trio.MemorySendChannel[T]], Awaitable[None]], until: Callable[[], Awaitable[None]]
) -> AsyncIterator[trio.MemoryReceiveChannel[T]]:
    """What `source` sends, so that waiting for it can be given up without ending it. The channel ends when
    the source has returned, and as soon as `until` has."""
    send, receive = trio.open_memory_channel[T](0)
    working = trio.CancelScope()

    async def work() -> None:
        with working:
            async with send:
                await source(send)

    async def stop() -> None:
        await until()
        working.cancel()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(work)
        nursery.start_soon(stop)
        try:
            yield receive
        finally:
            nursery.cancel_scope.cancel()
