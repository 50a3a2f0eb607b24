"""What is done with the rest of a body whose request is answered before it has been read."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Final

import trio
from quart import Response

DRAIN: Final = 1.0
"""Seconds for which the rest of a refused body is read."""


async def drain(body: AsyncIterator[bytes], seconds: float = DRAIN) -> None:
    """Read on for a moment. To close a connection with bytes unread resets it, and the client would hear of
    the reset instead of the reason."""
    with trio.move_on_after(seconds):
        async for _chunk in body:
            pass


async def drain_after(answer: Response, unread: AsyncIterator[bytes], seconds: float = DRAIN) -> Response:
    """The answer first, whole: a client that listens while it sends need not send the rest. Then what is left
    of the request's body."""
    content = await answer.get_data(as_text=False)

    async def body() -> AsyncIterator[bytes]:
        yield content
        await drain(unread, seconds)

    answer.response = answer.iterable_body_class(body())
    answer.headers["Content-Length"] = str(len(content))
    return answer
