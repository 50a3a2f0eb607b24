"""What is done with the rest of a body whose request is answered before it has been read."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Final

import trio

DRAIN: Final = 5.0
"""Seconds for which the rest of a body is read after its request was answered."""


async def drain(body: AsyncIterator[bytes]) -> None:
    """Read on for a moment. To close a connection with bytes unread resets it, and the client would hear of
    the reset instead of the reason."""
    with trio.move_on_after(DRAIN):
        async for _chunk in body:
            pass
