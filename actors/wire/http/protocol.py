"""HTTP/1.1 on a connection by h11 and Hypercorn, with some things otherwise than theirs. See `server` for the
rules."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping
from functools import lru_cache
from http import HTTPStatus
from typing import Any, Final, cast

import h11
import trio
from hypercorn.events import Closed, Event, RawData
from hypercorn.protocol.events import Body, EndBody, Response, StreamClosed
from hypercorn.protocol.events import Event as StreamEvent
from hypercorn.protocol.h11 import STREAM_ID, H11Protocol
from hypercorn.protocol.ws_stream import WSStream

from actors.wire.http.app import Refusal
from actors.wire.http.parser import Parser
from actors.wire.http.plain_routes import Answer, Earlier, Ends, Head, PlainRequest, PlainRoutes, earlier
from actors.wire.http.polls import HALF_CLOSED, PROMPT
from actors.wire.http.upgrades import Upgrade

MOST_HEAD: Final = 64 * 1024
"""Bytes of a request's head."""


class HttpProtocol(H11Protocol):
    """Hypercorn's HTTP/1.1, without a way to HTTP/2: what it refuses it says, and it knows when it has
    answered."""

    def __init__(
        self,
        plain: PlainRoutes | None,
        ends: Ends,
        upgrade: Upgrade | None,
        write_now: Callable[[bytes], Awaitable[None]],
        *args: Any,
    ) -> None:
        super().__init__(*args)
        self.connection = Parser(h11.SERVER, max_incomplete_event_size=self.config.h11_max_incomplete_size)
        self._plain = plain
        self._upgrade = upgrade
        self.upgraded: tuple[bytes, bytes] | None = None
        """Of a request for it: how it is answered, and what came behind it."""
        self._write_now = write_now
        self._ends = ends
        self._begun = trio.Event()
        self._streaming = False
        self._over = trio.Event()
        self._asks_for_head = False
        self.refused = False
        self.next_is_apps = False
        """Whether the next request is the app's, whatever it is for."""

    @property
    def receives_body(self) -> bool:
        """Whether the body of a request is not all here yet."""
        return self.stream is not None and self.connection.their_state is h11.SEND_BODY

    @property
    def has_request(self) -> bool:
        """Whether a request is under way that is all here."""
        return self.stream is not None and not self.receives_body

    @property
    def is_at_rest(self) -> bool:
        """Whether what comes next is the begin of a request."""
        connection = self.connection
        return (
            isinstance(connection, h11.Connection)
            and connection.states == _AT_REST
            and not connection.trailing_data[0]
        )

    @property
    def has_next(self) -> bool:
        """Whether more has been read than this request."""
        return bool(cast(h11.Connection, self.connection).trailing_data[0])

    async def answered_or_streaming(self) -> None:
        """See rules 2 and 3 of `server`."""
        if self.stream is None or self._streaming:
            return
        with trio.move_on_after(HALF_CLOSED):
            await self._begun.wait()
        if self._begun.is_set():
            await self._over.wait()

    async def handle(self, event: Event) -> None:
        if isinstance(event, RawData) and event.data and self.connection.their_state is h11.MUST_CLOSE:
            return
        await super().handle(event)
        if isinstance(self.stream, WSStream) and self.stream.closed:
            # A WebSocket that was refused: Hypercorn would keep the connection, and not tell the app.
            self.stream.closed = False
            await self.send(Closed())

    async def stream_send(self, event: StreamEvent) -> None:
        if isinstance(event, Response) and event.status_code >= HTTPStatus.OK:
            self._streaming = all(name.lower() != b"content-length" for name, _ in event.headers)
            self._begun.set()
        await super().stream_send(event)

    async def _create_stream(self, request: h11.Request) -> None:
        self._begun, self._streaming, self._over = trio.Event(), False, trio.Event()
        self._asks_for_head = request.method == b"HEAD"
        if not self.next_is_apps:
            earlier.set(Earlier())
        names = {name for name, _ in request.headers}
        if {b"content-length", b"transfer-encoding"} <= names:
            await self._send_error_response(HTTPStatus.BAD_REQUEST, "it has two lengths")
            await self.send(Closed())
            return
        if self._upgrade is not None and (answer := _answer_of(self._upgrade, request)) is not None:
            await self._give_away(self._upgrade, request, answer)
            return
        if any(name == b"upgrade" and b"websocket" in value.lower() for name, value in request.headers):
            await self._send_error_response(HTTPStatus.BAD_REQUEST, "no WebSocket is spoken there")
            await self.send(Closed())
            return
        asked = None
        if self._plain is not None and not self.next_is_apps:
            asked = self._plain.match(request, self._ends)
        self.next_is_apps = False
        if asked is not None and self._plain is not None and asked.head.method == "POST":
            # Before its body: nobody's is waited for.
            asked = await self._plain.admit(asked)
        if self._plain is None or asked is None:
            await super()._create_stream(request)
        else:
            self.keep_alive_requests += 1
            self.stream = cast(Any, _PlainStream(self, self._plain, request, asked))

    async def _give_away(self, upgrade: Upgrade, request: h11.Request, answer: bytes) -> None:
        def header(name: str) -> str | None:
            found = (value for given, value in request.headers if given == name.lower().encode())
            return next((value.decode("latin-1") for value in found), None)

        names = [name.decode("latin-1") for name, _ in request.headers]
        try:
            await upgrade.admit(
                Head("GET", upgrade.path, header, names, self.server, self.client, upgrade.path)
            )
        except Refusal as refusal:
            await self._send_error_response(refusal.status, refusal.detail, refusal.headers)
            await self.send(Closed())
            return
        self.upgraded = answer, cast(h11.Connection, self.connection).trailing_data[0]

    async def hand_to_app(self, request: h11.Request) -> None:
        """Have a request without a body, or whose body was read, answered by the app after all."""
        await super()._create_stream(request)
        if self.stream is not None:
            await self.stream.handle(EndBody(stream_id=STREAM_ID))

    async def answer(self, answer: Answer) -> None:
        """Send a whole answer at once, and be ready for the next request."""
        self._begun.set()
        length = str(len(answer.body)).encode()
        headers = [(b"content-type", answer.content_type.encode()), (b"content-length", length)]
        headers += [(name.lower().encode(), value.encode()) for name, value in answer.headers.items()]
        headers += self.config.response_headers("h11")
        connection = cast(h11.Connection, self.connection)
        data = [
            connection.send(_head(answer.status, tuple(headers))),
            connection.send(h11.Data(data=answer.body)),
            connection.send(h11.EndOfMessage()),
        ]
        await self._write_now(b"".join(piece for piece in data if piece))
        await self._maybe_recycle()

    async def _close_stream(self) -> None:
        await super()._close_stream()
        self._over.set()

    async def _check_protocol(self, event: h11.Request) -> None:
        """No upgrade to HTTP/2 is known here: asked for in a request of HTTP/1.1, it is ignored."""

    async def _send_error_response(
        self, status_code: int, why: str = "", more: Mapping[str, str] | None = None
    ) -> None:
        self.refused = True
        message = why or _NOT_HTTP.get(status_code, "it is no HTTP/1.1 that can be read")
        body = json.dumps({"id": 0, "status": "Unknown", "message": f"the request is refused: {message}"})
        content = body.encode()
        headers = [
            (b"content-type", b"application/json"),
            (b"content-length", str(len(content)).encode()),
            (b"connection", b"close"),
            *((name.lower().encode(), value.encode()) for name, value in (more or {}).items()),
        ]
        connection = cast(h11.Connection, self.connection)
        # Nothing is asked when it is no request that is refused.
        bodiless = self._asks_for_head and connection.our_state is not h11.IDLE
        answer = [
            connection.send(h11.Response(status_code=status_code, headers=headers)),
            b"" if bodiless else connection.send(h11.Data(data=content)),
            connection.send(h11.EndOfMessage()),
        ]
        await self.send(RawData(data=b"".join(piece for piece in answer if piece)))


class _PlainStream:
    """In the place of Hypercorn's stream: a request of a plain route. Whoever asked may leave meanwhile where
    the request may wait. Any other is answered by the task that reads, as long as that is prompt."""

    def __init__(
        self, protocol: HttpProtocol, plain: PlainRoutes, request: h11.Request, asked: PlainRequest
    ) -> None:
        self._protocol = protocol
        self._plain = plain
        self._request = request
        self._asked = asked
        self._work = trio.CancelScope()
        self._answered = False
        self._body: list[bytes] = []

    async def handle(self, event: StreamEvent) -> None:
        if isinstance(event, Body):
            self._body.append(event.data)
        elif isinstance(event, EndBody):
            # Others have a turn, whoever sends one request behind the other.
            if self._asked.may_wait or self._protocol.has_next:
                self._protocol.task_group.spawn(self._answer_unless_left)
                return
            answer = None
            with trio.move_on_after(PROMPT) as prompt:
                answer = await self._plain.answer(self._asked)
            if prompt.cancelled_caught:
                # A disk or a ledger hangs, say: nothing was changed by it, so it begins again.
                self._protocol.task_group.spawn(self._answer_unless_left)
            else:
                await self._send(answer)
        elif isinstance(event, StreamClosed) and not self._answered:
            self._work.cancel()

    async def _answer_unless_left(self) -> None:
        with self._work:
            self._asked.put_body(self._body)
            answer = await self._plain.answer(self._asked)
            if not self._work.cancel_called:
                await self._send(answer)

    async def _send(self, answer: Answer | None) -> None:
        self._answered = True
        if answer is None:
            await self._protocol.hand_to_app(self._request)
        else:
            await self._protocol.answer(answer)


@lru_cache(maxsize=64)  # those of a second are alike, up to the length
def _head(status: int, headers: tuple[tuple[bytes, bytes], ...]) -> h11.Response:
    """Of an answer. Each header is looked at as it is made, which takes longer than all else here."""
    return h11.Response(status_code=status, headers=list(headers))


def _answer_of(upgrade: Upgrade, request: h11.Request) -> bytes | None:
    """How a request for the upgrade is answered; None for any other."""
    if request.method != b"GET" or request.target.partition(b"?")[0] != upgrade.path.encode():
        return None
    return upgrade.answer(dict(request.headers))


_AT_REST: Final = {h11.CLIENT: h11.IDLE, h11.SERVER: h11.IDLE}
_NOT_HTTP: Final[dict[int, str]] = {
    HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE: f"its head is larger than {MOST_HEAD} bytes",
    HTTPStatus.NOT_IMPLEMENTED: "its transfer encoding is not known here; chunked is",
}
