"""Connections that nodes have opened, over which they are asked: kept until somebody wants one.

A node keeps a few here that nobody uses, and opens another as soon as one is taken. The one that came last is
taken first; the others are closed by the node, after a while, as any connection that is idle.
"""

from __future__ import annotations

import select
from collections import deque
from collections.abc import Callable
from typing import Final

import trio

from actors.wire.link.dialled import watch_peer

MOST: Final = 32
"""Connections of one node that nobody uses: of more, the oldest are closed."""


class DialledStream(trio.abc.Stream):
    """One of them. `over` once it is closed."""

    def __init__(self, stream: trio.abc.Stream) -> None:
        self._stream = stream
        self.over = trio.Event()
        transport = stream.transport_stream if isinstance(stream, trio.SSLStream) else stream
        assert isinstance(transport, trio.SocketStream)
        self._socket = transport.socket
        watch_peer(self._socket)
        self.came_from = str(self._socket.getpeername()[0])

    def readable(self) -> bool:
        """Whether something has come, be it its end. Of one that nobody uses nothing is to come."""
        if self._socket.fileno() < 0:
            return True
        poll = select.poll()
        poll.register(self._socket.fileno(), select.POLLIN)
        return bool(poll.poll(0))

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        await self._stream.send_all(data)

    async def wait_send_all_might_not_block(self) -> None:
        await self._stream.wait_send_all_might_not_block()

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        return await self._stream.receive_some(max_bytes)

    async def aclose(self) -> None:
        self.over.set()
        await self._stream.aclose()

    def close(self) -> None:
        """At once."""
        self.over.set()
        self._socket.close()


class DialledStreams:
    def __init__(self) -> None:
        self._parked: dict[str, deque[DialledStream]] = {}
        self._came: dict[str, trio.Event] = {}
        self._addresses: dict[str, str] = {}
        self._closed = False
        self.on_address: list[Callable[[], None]] = []
        """Are called once a node comes from elsewhere."""

    def address_of(self, node_id: str) -> str | None:
        """Where the last one of a node came from; None if there was none yet."""
        return self._addresses.get(node_id)

    async def keep(self, node_id: str, stream: trio.abc.Stream, address: str) -> None:
        """Keep one that a node has opened, until it is closed. `address` is where the node is."""
        if self._closed:
            return
        kept = DialledStream(stream)
        address = address or kept.came_from
        if self._addresses.get(node_id) != address:
            self._addresses[node_id] = address
            for tell in self.on_address:
                tell()
        parked = self._parked.setdefault(node_id, deque())
        parked.append(kept)
        if len(parked) > MOST:
            parked.popleft().close()
        if (came := self._came.pop(node_id, None)) is not None:
            came.set()
        try:
            await kept.over.wait()
        finally:
            self._forget(node_id, kept)

    async def take(self, node_id: str) -> DialledStream:
        """One of a node's, once there is one."""
        while True:
            parked = self._parked.get(node_id, deque())
            while parked:
                stream = parked.pop()
                if not stream.readable():
                    return stream
                stream.close()
            await self._came.setdefault(node_id, trio.Event()).wait()

    def drop(self, node_id: str) -> None:
        """Close what a node has here that nobody uses."""
        for stream in self._parked.pop(node_id, deque()):
            stream.close()

    def close(self) -> None:
        """Close all that nobody uses; nothing is kept any more."""
        self._closed = True
        for node_id in list(self._parked):
            self.drop(node_id)

    def _forget(self, node_id: str, stream: DialledStream) -> None:
        parked = self._parked.get(node_id)
        if parked is not None and stream in parked:
            parked.remove(stream)
        if not parked:
            self._parked.pop(node_id, None)
