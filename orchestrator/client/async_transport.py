"""The wire for Trio and asyncio. It needs anyio, which a client that blocks does without."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Callable, Generator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import anyio
import anyio.to_thread
import httpcore

from orchestrator.client.transport import (
    BROKEN,
    CLOSING,
    CONNECTIONS,
    Answer,
    Call,
    PathLike,
    Work,
    join,
    make_request,
    make_ssl_context,
    read_headers,
    translate_errors,
)
from orchestrator.client.urls import normalize_url

T = TypeVar("T")


class AsyncWire:
    """For Trio and asyncio."""

    def __init__(self, url: str, headers: Mapping[str, str], ca_file: PathLike | None = None) -> None:
        self.url = normalize_url(url)
        self._headers = headers
        self._pool = httpcore.AsyncConnectionPool(
            ssl_context=make_ssl_context(self.url, ca_file), **CONNECTIONS
        )

    @asynccontextmanager
    async def open(self, call: Call) -> AsyncGenerator[Answer, None]:
        with translate_errors(self.url, call):
            content = None if call.body is None else self._pull(join(call.body, call.progress))
            request = make_request(self.url, call, self._headers, content)
            response = await self._pool.handle_async_request(request)

        source = response.aiter_stream()

        async def pieces() -> AsyncGenerator[bytes, None]:
            with translate_errors(self.url, call):
                async for piece in source:
                    yield piece

        try:
            yield Answer(response.status, read_headers(response.headers), pieces)
        finally:
            with anyio.move_on_after(CLOSING, shield=True):
                await _unwind(source)
                await response.aclose()

    async def sleep(self, seconds: float) -> None:
        await anyio.sleep(seconds)

    async def thread(self, function: Callable[[], T]) -> T:
        return await anyio.to_thread.run_sync(function)

    async def each(self, work: Sequence[Work], at_once: int) -> None:
        left = iter(work)

        async def go_on() -> None:
            for begin in left:
                await begin()

        async with anyio.create_task_group() as group:
            for _ in range(min(at_once, len(work))):
                group.start_soon(go_on)

    async def close(self) -> None:
        await self._pool.aclose()

    async def _pull(self, pieces: Generator[bytes, None, None]) -> AsyncGenerator[bytes, None]:
        while piece := await anyio.to_thread.run_sync(next, pieces, b""):
            yield piece


async def _unwind(source: AsyncIterator[Any]) -> None:
    """End a body that was not read to its end. The library's is a chain of generators: closing the outermost
    would leave the others to the garbage collector, while a read that is cancelled ends all of them."""
    with anyio.CancelScope() as scope:
        scope.cancel()
        while True:
            try:
                await anext(source)
            except (StopAsyncIteration, *BROKEN):
                return
