"""A network of TCP proxies on loopback, one for each node, that refuse, hang, lose answers and reset."""

from __future__ import annotations

import socket
import struct
from collections.abc import Sequence
from contextlib import suppress
from typing import Final
from urllib.parse import urlsplit

import trio

from testbed.chaos.network import Place

PIECE: Final = 64 * 1024
HOST: Final = "127.0.0.1"

REFUSE: Final = "refuse"
HANG: Final = "hang"
HANG_AND_RESET: Final = "hang, then reset"
LOSE_ANSWERS: Final = "lose the answers, then reset"
RESET: Final = "reset"


class Wires:
    """See the module. `run` carries what goes over it."""

    modes: Sequence[str] = (REFUSE, HANG, HANG_AND_RESET, LOSE_ANSWERS, RESET)

    def __init__(self, nodes: int) -> None:
        self._wires = [_Wire() for _ in range(nodes)]

    async def run(self) -> None:
        async with trio.open_nursery() as nursery:
            for wire in self._wires:
                nursery.start_soon(wire.run)

    def url(self, node: int) -> str:
        return f"http://{HOST}:{self._wires[node - 1].port}"

    def place(self, node: int) -> Place:
        del node
        return Place(("--port", "0"))

    def node_up(self, node: int, url: str) -> None:
        split = urlsplit(url)
        assert split.hostname is not None and split.port is not None
        self._wires[node - 1].lead_to((split.hostname, split.port))

    def node_down(self, node: int) -> None:
        self._wires[node - 1].lead_to(None)

    async def fail(self, node: int, mode: str, seconds: float) -> None:
        wire = self._wires[node - 1]
        wire.set_mode(mode)
        try:
            if mode != RESET:
                await trio.sleep(seconds)
        finally:
            wire.set_mode("")


class _Wire:
    """One node's address as the orchestrator knows it. Nobody listens there while the node is down."""

    def __init__(self) -> None:
        # Bound and never listening: so the port stays ours, and connections are refused while no listener
        # stands beside it.
        self._guard = _socket()
        self._guard.bind((HOST, 0))
        self.port = int(self._guard.getsockname()[1])
        self._target: tuple[str, int] | None = None
        self._mode = ""
        self._changed = trio.Event()
        self._links: set[trio.CancelScope] = set()

    def lead_to(self, target: tuple[str, int] | None) -> None:
        self._target = target
        self._tell()

    def set_mode(self, mode: str) -> None:
        before, self._mode = self._mode, mode
        if mode in (REFUSE, RESET) or before in (HANG_AND_RESET, LOSE_ANSWERS):
            for link in self._links:
                link.cancel()
        self._tell()

    def _tell(self) -> None:
        self._changed.set()
        self._changed = trio.Event()

    async def run(self) -> None:
        with self._guard:
            async with trio.open_nursery() as nursery:
                while True:
                    while self._target is None or self._mode == REFUSE:
                        await self._changed.wait()
                    await self._listen(nursery)

    async def _listen(self, links: trio.Nursery) -> None:
        with _socket() as listening:
            listening.bind((HOST, self.port))
            listening.listen(128)
            listener = trio.SocketListener(trio.socket.from_stdlib_socket(listening))
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._accept, listener, links)
                while self._target is not None and self._mode != REFUSE:
                    await self._changed.wait()
                nursery.cancel_scope.cancel()

    async def _accept(self, listener: trio.SocketListener, links: trio.Nursery) -> None:
        await trio.serve_listeners(self._link, [listener], handler_nursery=links)

    async def _link(self, near: trio.SocketStream) -> None:
        """Carry one connection until either side ends it, and break it as the other side did."""
        target = self._target
        far: trio.SocketStream | None = None
        scope = trio.CancelScope()
        self._links.add(scope)
        whole = False
        try:
            with scope, suppress(OSError, trio.BrokenResourceError, trio.ClosedResourceError):
                if target is None:
                    return
                far = await trio.open_tcp_stream(*target)
                try:
                    async with trio.open_nursery() as nursery:
                        nursery.start_soon(self._carry, near, far, False)
                        nursery.start_soon(self._carry, far, near, True)
                    whole = True
                except* (OSError, trio.BrokenResourceError, trio.ClosedResourceError):
                    whole = False
        finally:
            self._links.discard(scope)
            for stream in (near, far):
                if stream is not None:
                    _close(stream, reset=not whole)

    async def _carry(self, source: trio.SocketStream, target: trio.SocketStream, answers: bool) -> None:
        while True:
            data = await source.receive_some(PIECE)
            while self._mode in (HANG, HANG_AND_RESET):
                await self._changed.wait()
            if answers and self._mode == LOSE_ANSWERS:
                if not data:
                    await trio.sleep_forever()  # its end is lost as well, until all of it is reset
                continue
            if not data:
                await target.send_eof()
                return
            await target.send_all(data)


def _socket() -> socket.socket:
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    return sock


def _close(stream: trio.SocketStream, *, reset: bool) -> None:
    if reset:
        with suppress(OSError):
            stream.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    stream.socket.close()
