"""A wire between two real processes: a TCP proxy on loopback that breaks or holds single requests.

It looks no deeper into HTTP than it must: what comes from the client after an answer has begun is the next
request, and begins with its method and path. On a link each message of the orchestrator is a request, named
"link" and its kind.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from enum import Enum
from typing import Final

import trio
from wsproto import ConnectionType
from wsproto.connection import Connection
from wsproto.events import BytesMessage

PIECE: Final = 1 << 16
_REQUEST: Final = re.compile(rb"[A-Z]{3,7} /[!-~]*")
_KIND: Final = re.compile(rb'.{5}\{"kind":"([a-z]+)"', re.DOTALL)
LINK: Final = "GET /v1/link"
_GONE: Final = (OSError, trio.BrokenResourceError, trio.ClosedResourceError)


class Fault(Enum):
    """How the exchange of one request fails; the connection is closed after it."""

    UNREAD = "closed before the server has any of it"
    UNANSWERED = "closed when the server answers"
    HEADLESS = "closed after the answer's head"


@dataclass(eq=False, slots=True)
class Hold:
    """Let so many bytes of one request (`up`) or of its answer (`down`) pass, then wait for `go_on`."""

    up: int | None = None
    down: int | None = None
    reached: trio.Event = field(default_factory=trio.Event)
    go_on: trio.Event = field(default_factory=trio.Event)


@dataclass(frozen=True, slots=True)
class Instead:
    """What the client gets, byte for byte, in place of the server's answer; the connection ends with it."""

    answer: bytes


Rule = Fault | Hold | Instead | None
Send = Callable[[bytes], Awaitable[None]]


class Wire:
    """`rule` is asked about each request by its first line, such as "POST /v1/attempts"."""

    def __init__(self, target: str, rule: Callable[[str], Rule]) -> None:
        self.rule = rule
        self.url = ""
        self.requests: list[str] = []
        self._port = int(target.rpartition(":")[2])

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
        self.url = f"http://127.0.0.1:{listener.socket.getsockname()[1]}"
        task_status.started()
        await trio.serve_listeners(self._link, [listener])

    async def _link(self, near: trio.SocketStream) -> None:
        with suppress(*_GONE):
            async with near, await trio.open_tcp_stream("127.0.0.1", self._port) as far:
                await _Link(self, near, far).run()


class _Link:
    """One connection. `_rule` is that of the request under way, `_passed` the bytes it counts."""

    def __init__(self, wire: Wire, near: trio.SocketStream, far: trio.SocketStream) -> None:
        self._wire = wire
        self._near = near
        self._far = far
        self._rule: Rule = None
        self._passed = 0
        self._answering = True
        self._said: Connection | None = None
        """The orchestrator's side of a link, as it is read here."""
        # A client may have the whole of an answer, and ask again, before the task that sent it has gone on.
        self._to_near = trio.Lock()

    async def run(self) -> None:
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:
                for carry in (self._up, self._down):
                    nursery.start_soon(self._either, carry, scope)

    async def _either(self, carry: Callable[[], Awaitable[None]], scope: trio.CancelScope) -> None:
        with suppress(*_GONE):
            await carry()
        scope.cancel()

    async def _up(self) -> None:
        while data := await self._near.receive_some(PIECE):
            # A server may answer before it has read all of a request: then the rest of that comes still.
            if self._answering and (begins := _REQUEST.match(data)):
                self._answering, self._passed = False, 0
                line = begins[0].decode()
                self._wire.requests.append(line)
                self._rule = self._wire.rule(line)
                if line == LINK:
                    self._said = Connection(ConnectionType.SERVER)
            elif self._said is not None:
                self._look_into(self._said, data)
            match self._rule:
                case Fault.UNREAD:
                    return
                case Instead(answer=answer):
                    await self._send_near(answer)
                    return
                case Hold(up=int(most)) as hold:
                    await self._held(hold, most, data, self._far.send_all)
                case _:
                    await self._far.send_all(data)

    def _look_into(self, said: Connection, data: bytes) -> None:
        """What is said on a link: a message is a request, if there is a rule for it."""
        said.receive_data(data)
        for event in said.events():
            if isinstance(event, BytesMessage) and (kind := _KIND.match(bytes(event.data))):
                line = f"link {kind[1].decode()}"
                self._wire.requests.append(line)
                if (rule := self._wire.rule(line)) is not None:
                    self._rule, self._answering, self._passed = rule, False, 0

    async def _down(self) -> None:
        while data := await self._far.receive_some(PIECE):
            if not self._answering:
                self._answering, self._passed = True, 0
            match self._rule:
                case Fault.UNANSWERED:
                    return
                case Fault.HEADLESS:
                    await self._send_near(data[: data.find(b"\r\n\r\n") + 4])
                    return
                case Hold(down=int(most)) as hold:
                    await self._held(hold, most, data, self._send_near)
                case _:
                    await self._send_near(data)

    async def _send_near(self, data: bytes) -> None:
        async with self._to_near:
            await self._near.send_all(data)

    async def _held(self, hold: Hold, most: int, data: bytes, send: Send) -> None:
        room = max(0, most - self._passed)
        self._passed += len(data)
        if data[:room]:
            await send(data[:room])
        if len(data) > room:
            hold.reached.set()
            await hold.go_on.wait()
            await send(data[room:])


@asynccontextmanager
async def wire(target: str, rule: Callable[[str], Rule] = lambda line: None) -> AsyncIterator[Wire]:
    """A wire to the server at the URL `target`, which may come and go at its address."""
    laid = Wire(target, rule)
    async with trio.open_nursery() as nursery:
        await nursery.start(laid.run)
        yield laid
        nursery.cancel_scope.cancel()
