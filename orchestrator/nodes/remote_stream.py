"""Something on a node that is being read: its bytes as they come."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Final

import trio

from orchestrator.errors import OrchestratorError

_PIECE: Final = 1 << 18


class NodeUnreachable(OrchestratorError):
    """The node cannot be asked now, or its answer makes no sense; the text says why."""


class NotOnNode(OrchestratorError):
    """The node says that it has nothing of this."""


@dataclass(frozen=True, slots=True)
class RemoteStream:
    """`headers` are the node's, names in lower case. `body` raises Unreachable when it tears."""

    headers: Mapping[str, str]
    body: AsyncIterator[bytes]


@asynccontextmanager
async def from_file(path: Path, *, remove: bool) -> AsyncIterator[RemoteStream]:
    """A zip that lies on our own disk, deleted first if `remove`: it lives as long as it is read."""
    async with AsyncExitStack() as stack:
        try:
            file = await stack.enter_async_context(await trio.open_file(path, "rb"))
        finally:
            if remove:
                with trio.CancelScope(shield=True):
                    await trio.to_thread.run_sync(os.unlink, path)
        size = (await trio.to_thread.run_sync(os.fstat, file.fileno())).st_size
        headers = {"content-type": "application/zip", "content-length": str(size)}
        yield RemoteStream(headers, _Pieces(file.read))


def from_bytes(data: bytes) -> RemoteStream:
    """A small zip that is at hand."""
    reader = BytesIO(data)

    async def read(size: int) -> bytes:
        await trio.lowlevel.checkpoint()
        return reader.read(size)

    headers = {"content-type": "application/zip", "content-length": str(len(data))}
    return RemoteStream(headers, _Pieces(read))


class _Pieces:
    def __init__(self, read: Callable[[int], Awaitable[bytes]]) -> None:
        self._read = read

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        piece = await self._read(_PIECE)
        if not piece:
            raise StopAsyncIteration
        return piece
