"""What may lie between a node and its orchestrator: a relay of TCP on loopback that can be cut and frozen,
and an HTTP proxy that knows CONNECT alone."""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import trio

PIECE = 1 << 16
_GONE = (OSError, trio.BrokenResourceError, trio.ClosedResourceError)


class Relay:
    """`login`: it is a proxy, and lets in who says it; "" for anybody. None: it relays to `target`."""

    def __init__(self, target: str, login: str | None = None) -> None:
        self.url = ""
        self.connections = 0
        self.asked: list[str] = []
        """Where a proxy was asked to connect to."""
        self._port = int(target.rpartition(":")[2])
        self._login = login
        self._open: set[trio.SocketStream] = set()
        self._thawed = trio.Event()
        self._thawed.set()

    def cut(self) -> None:
        """End every connection."""
        for stream in self._open:
            stream.socket.close()
        self._open.clear()

    def freeze(self) -> None:
        """Pass nothing on, and end nothing."""
        self._thawed = trio.Event()

    def thaw(self) -> None:
        self._thawed.set()

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
        self.url = f"http://127.0.0.1:{listener.socket.getsockname()[1]}"
        task_status.started()
        await trio.serve_listeners(self._serve, [listener])

    async def _serve(self, near: trio.SocketStream) -> None:
        with suppress(*_GONE):
            async with near:
                if self._login is not None and not await self._agree(near):
                    return
                async with await trio.open_tcp_stream("127.0.0.1", self._port) as far:
                    if self._login is not None:
                        await near.send_all(b"HTTP/1.1 200 Connection established\r\n\r\n")
                    self.connections += 1
                    await self._relay(near, far)

    async def _agree(self, near: trio.SocketStream) -> bool:
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            if not (piece := await near.receive_some(PIECE)):
                return False
            head += piece
        line, _, rest = head.decode().partition("\r\n")
        method, target, _ = line.split()
        said = base64.b64encode((self._login or "").encode()).decode()
        if method != "CONNECT" or (self._login and f"Basic {said}" not in rest):
            await near.send_all(b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n")
            return False
        self.asked.append(target)
        return True

    async def _relay(self, near: trio.SocketStream, far: trio.SocketStream) -> None:
        both = {near, far}
        self._open |= both
        try:
            async with trio.open_nursery() as nursery:

                async def carry(source: trio.SocketStream, sink: trio.SocketStream) -> None:
                    with suppress(*_GONE):
                        while data := await source.receive_some(PIECE):
                            await self._thawed.wait()
                            await sink.send_all(data)
                    await self._thawed.wait()
                    nursery.cancel_scope.cancel()

                nursery.start_soon(carry, near, far)
                nursery.start_soon(carry, far, near)
        finally:
            self._open -= both


@asynccontextmanager
async def relay(target: str, login: str | None = None) -> AsyncIterator[Relay]:
    """One to the server at the URL `target`."""
    laid = Relay(target, login)
    async with trio.open_nursery() as nursery:
        await nursery.start(laid.run)
        yield laid
        nursery.cancel_scope.cancel()
