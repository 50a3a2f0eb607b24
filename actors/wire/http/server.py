"""Serving an app until told to stop.

Hypercorn's connections and lifespan under a loop of our own, because some things have to be otherwise than in
its own: a connection that fails must not take the others along; a client that has stopped reading must not
hold the end of the process for ever; an address that cannot be listened on must be one clear line; and the
process must not run out of descriptors by connections that nobody uses.

What becomes of a connection:

1. There are never more than `_most` at once, half of the descriptors that the process may have: the rest is
   for files and for what must go on. One more makes the connection go that was idle the longest; if none is
   idle it waits in the kernel's queue until one ends.
2. When the peer has closed its side, what it asked for is still answered, if the answer begins within
   `HALF_CLOSED` seconds: it may read on, as `nc -N` does. Only an answer without a length, a stream, that has
   begun already is cut at once: such a peer has mostly gone, and nothing else would end it.
3. Nothing under way and the peer's side closed: closed at once.
4. A request for the app's upgrade (see `upgrades`) is taken over from the app and from Hypercorn: what comes
   behind it is the upgrade's, until that ends.
5. A request of a plain route (see `plain_routes`) is answered without the app. That is the only difference:
   it is read by the same parser, and its connection is kept, waited for and ended as any.
6. A request's head has to be here within the time for which an idle connection is kept, and its body may be
   silent for `BODY_SILENCE` seconds, and slower than `BODY_RATE` bytes a second for as long: who sends slower
   is not heard to the end. Who does not take what is sent for `STUCK` seconds has gone.
7. What is no HTTP/1.1 is answered by what was wrong with it, as JSON, and closed. A request with two lengths
   is such a thing: a proxy before us might have read the other one.
"""

from __future__ import annotations

import errno
import json
import logging
import math
import os
import resource
import socket
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from http import HTTPStatus
from typing import Any, Final, cast

import h11
import trio
from hypercorn.config import Config
from hypercorn.events import Closed, Event, RawData, Updated
from hypercorn.protocol.events import Body, EndBody, Response, StreamClosed
from hypercorn.protocol.events import Event as StreamEvent
from hypercorn.protocol.h11 import STREAM_ID, H11Protocol
from hypercorn.protocol.ws_stream import WSStream
from hypercorn.trio.lifespan import Lifespan
from hypercorn.trio.task_group import TaskGroup
from hypercorn.trio.tcp_server import MAX_RECV, TCPServer
from hypercorn.trio.worker_context import WorkerContext
from hypercorn.typing import AppWrapper, ConnectionState, LifespanState
from hypercorn.utils import parse_socket_addr, wrap_app

from actors.kernel.complaint import Complaint
from actors.store.durable import is_passing
from actors.wire.errors import CannotListen, PortInUse, leaves
from actors.wire.http.app import Refusal
from actors.wire.http.plain_routes import (
    Answer,
    Head,
    PlainRequest,
    PlainRoutes,
    refused_before,
)
from actors.wire.http.tls import OwnCertificate
from actors.wire.http.upgrades import Upgrade

HALF_CLOSED: Final = 5.0
"""Seconds within which an answer has to begin for a peer that has closed its side."""
PROMPT: Final = 10.0
"""Seconds in which a request is answered by the task that reads, which does not see meanwhile who leaves."""

FRESH: Final = 1.0
"""Seconds that a new connection has to send its request before it counts as idle."""
BODY_SILENCE: Final = 60.0
"""Seconds that a request's body may be waited for before it counts as given up."""
BODY_RATE: Final = 1024
"""Bytes of it that win a second back."""
STUCK: Final = 600.0
"""Seconds in which a peer has to take something of what is sent to it."""
CLOSING: Final = 0.5
"""Seconds for the end of TLS."""
HANDSHAKE: Final = 10.0
"""Seconds that a client has to agree on TLS."""
LINGER: Final = 1.0
"""Seconds for which the rest of what was refused is read."""

_BACKLOG: Final = 1024
_PIECE: Final = 1 << 16
_LEAST: Final = 16
_HEADERS: Final = 64 * 1024
_FOR_EVER: Final = 2**31

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Dialled:
    """A connection that this side has opened, to be asked over it. `spoken` is what is over its socket, and
    `came` what was read of it already."""

    socket: trio.socket.SocketType
    spoken: trio.abc.Stream
    came: bytes = b""


async def serve(
    app: Any,
    *,
    host: str | None,
    port: int,
    shutdown: trio.Event,
    task_status: trio.TaskStatus[list[str]] = trio.TASK_STATUS_IGNORED,
    graceful_timeout: float = 3.0,
    keep_alive_timeout: float = 75.0,
    on_bound: Callable[[str], None] | None = None,
    plain: PlainRoutes | None = None,
    upgrade: Upgrade | None = None,
    tls: OwnCertificate | None = None,
    dialled: trio.MemoryReceiveChannel[Dialled] | None = None,
) -> None:
    """Serve an ASGI app at host and port (0: any free one) until `shutdown` is set.

    The app's startup has run and connections are accepted when `on_bound` is called with the URL and
    `task_status.started` with a list of it. After `shutdown` no connection is accepted, idle ones are closed,
    requests under way get `graceful_timeout` seconds and are cut then; the app's own shutdown comes last. An
    app should end its endless streams itself when it is told to stop. Cancelling cuts at once. Requests that
    are of the app's `plain` routes, and those for its `upgrade`, are answered without it. `dialled` brings
    connections that were not accepted here; host None: there are no others. With `tls` nothing else is
    spoken.

    Raises PortInUse or CannotListen before anything is started.
    """
    sock = None if host is None else _bound(host, port)
    url = ""
    try:
        if host is not None and sock is not None:
            url = _url(host, sock.getsockname()[1], "http" if tls is None else "https")
        await _Serving(
            app, sock, graceful_timeout, keep_alive_timeout, plain=plain, upgrade=upgrade, tls=tls
        ).run(shutdown, url, dialled, task_status, on_bound)
    finally:
        if sock is not None:
            sock.close()


class _Serving:
    def __init__(
        self,
        app: Any,
        sock: socket.socket | None,
        graceful_timeout: float,
        keep_alive: float,
        *,
        plain: PlainRoutes | None,
        upgrade: Upgrade | None,
        tls: OwnCertificate | None,
    ) -> None:
        config = Config()
        config.accesslog = None
        config.errorlog = logging.getLogger("hypercorn.error")
        config.include_server_header = False
        config.keep_alive_timeout = keep_alive
        # A client that is told to reconnect every thousand requests gains nothing by it.
        config.keep_alive_max_requests = _FOR_EVER
        config.h11_max_incomplete_size = _HEADERS
        config.graceful_timeout = graceful_timeout
        self._config = config
        self._app: AppWrapper = wrap_app(app, config.wsgi_max_body_size, "asgi")
        self._plain = plain
        self._upgrade = upgrade
        self._tls = tls
        self._sock = sock
        self._state: LifespanState = {}
        self._context = WorkerContext(None)
        self._connections: dict[_Connection, None] = {}
        self._idle: dict[_Connection, float] = {}
        """From when on each may be ended; in the order in which they became idle."""
        self._one_left = trio.Event()
        descriptors, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        self._most = max(_LEAST, descriptors // 2) if descriptors != resource.RLIM_INFINITY else 1 << 20
        self._complaint = Complaint(_log)

    async def run(
        self,
        shutdown: trio.Event,
        url: str,
        dialled: trio.MemoryReceiveChannel[Dialled] | None,
        task_status: trio.TaskStatus[list[str]],
        on_bound: Callable[[str], None] | None,
    ) -> None:
        lifespan = Lifespan(self._app, self._config, self._state)
        async with trio.open_nursery() as around:
            await around.start(lifespan.handle_lifespan)
            await lifespan.wait_for_startup()
            async with trio.open_nursery() as connections:
                try:
                    await self._accept(
                        connections, dialled, shutdown, lambda: _tell(url, task_status, on_bound)
                    )
                    await self._let_finish()
                finally:
                    connections.cancel_scope.cancel()
                    # Hypercorn shields its writes: only closing the socket ends one that is stuck.
                    for connection in self._connections:
                        connection.sock.close()
            await lifespan.wait_for_shutdown()
            around.cancel_scope.cancel()

    async def _accept(
        self,
        connections: trio.Nursery,
        dialled: trio.MemoryReceiveChannel[Dialled] | None,
        shutdown: trio.Event,
        tell: Callable[[], None],
    ) -> None:
        async with trio.open_nursery() as accepting:
            if self._sock is not None:
                listener = trio.SocketListener(trio.socket.from_stdlib_socket(self._sock))
                accepting.start_soon(self._listen, listener, connections)
            if dialled is not None:
                accepting.start_soon(self._take_dialled, dialled, connections)
            tell()
            await shutdown.wait()
            accepting.cancel_scope.cancel()

    async def _listen(self, listener: trio.SocketListener, connections: trio.Nursery) -> None:
        async with listener:
            while True:
                try:
                    stream = await listener.accept()
                except (OSError, MemoryError) as error:
                    if not is_passing(error):
                        raise
                    self._complaint.say(
                        "connections have to wait: %s (%d are open); raise the limit, as by `ulimit -n`",
                        getattr(error, "strerror", None) or "too little memory",
                        len(self._connections),
                    )
                    self._end_the_longest_idle()
                    await self._until_one_left()
                    continue
                try:
                    while len(self._connections) >= self._most and not self._end_the_longest_idle():
                        await self._until_one_left()
                except trio.Cancelled:
                    stream.socket.close()
                    raise
                connections.start_soon(self._serve, self._connection(stream.socket, self._spoken(stream)))

    async def _take_dialled(
        self, dialled: trio.MemoryReceiveChannel[Dialled], connections: trio.Nursery
    ) -> None:
        async for one in dialled:
            connection = self._connection(one.socket, one.spoken)
            connection.came = one.came
            connections.start_soon(self._serve, connection)

    def _end_the_longest_idle(self) -> bool:
        now = trio.current_time()
        connection = next((one for one, since in self._idle.items() if since <= now), None)
        if connection is not None:
            del self._idle[connection]
            connection.stop_reading()
        return connection is not None

    async def _until_one_left(self) -> None:
        """Or for a second: descriptors may come back from elsewhere."""
        with trio.move_on_after(1):
            await self._one_left.wait()

    async def _let_finish(self) -> None:
        await self._context.terminated.set()
        for connection in list(self._idle):
            connection.stop_reading()
        with trio.move_on_after(self._config.graceful_timeout):
            while self._connections:
                await self._one_left.wait()

    def _spoken(self, stream: trio.SocketStream) -> trio.abc.Stream:
        if self._tls is None:
            return stream
        return trio.SSLStream(stream, self._tls.context(), server_side=True, https_compatible=True)

    def _connection(self, sock: trio.socket.SocketType, spoken: trio.abc.Stream) -> _Connection:
        state = ConnectionState(self._state.copy())
        # For the app, in the request's scope: ends the connection whatever it is waiting for.
        state["cut"] = sock.close
        made = _Connection(
            self._app,
            self._config,
            self._context,
            state,
            cast(Any, spoken),
            sock,
            self._idle,
            self._plain,
            self._upgrade,
        )
        self._connections[made] = None
        return made

    async def _serve(self, connection: _Connection) -> None:
        try:
            await connection.run()
        except* Exception as errors:
            if is_passing(errors):
                self._complaint.say(
                    "connections break off: %s", str(leaves(errors)[0]) or "too little memory"
                )
            else:
                _log.error("a connection failed", exc_info=errors)
        finally:
            connection.sock.close()
            del self._connections[connection]
            self._idle.pop(connection, None)
            self._one_left.set()
            self._one_left = trio.Event()


class _Connection(TCPServer):
    """Hypercorn's, with some of its waits made to end, and without a task and a turn of the loop for what
    needs none.

    A request that ends after that was announced leaves the reader waiting for a next one. Idle ones are in
    `idle`; the time of an idle connection is the deadline of its reading.
    """

    def __init__(self, *args: Any) -> None:
        *args_of_hypercorn, sock, idle, plain, upgrade = args
        super().__init__(*args_of_hypercorn)
        self.sock: trio.socket.SocketType = sock
        self._secure = isinstance(self.stream, trio.SSLStream)
        self._idle: dict[_Connection, float] = idle
        self._plain: PlainRoutes | None = plain
        self._upgrade: Upgrade | None = upgrade
        self._reading = trio.CancelScope()
        self._patience = BODY_SILENCE
        """Seconds for which the body of this request is waited for yet."""
        self.came = b""
        """What was read before this began."""
        self._read = False
        """Whether nothing more is read: then nothing is waited for either once it is answered."""
        self._rest(FRESH)

    def stop_reading(self) -> None:
        """Nothing more is asked for: a connection with nothing under way ends."""
        self._reading.cancel()

    def _rest(self, until_idle: float) -> None:
        """Nothing is under way. In `until_idle` seconds it may be ended for another connection."""
        now = trio.current_time()
        self._idle[self] = now + until_idle
        self._reading.deadline = now + self.config.keep_alive_timeout

    async def run(self) -> None:
        try:
            sock = self.sock
            client = parse_socket_addr(sock.family, sock.getpeername())
            server = parse_socket_addr(sock.family, sock.getsockname())
            if self._secure and not await self._shake_hands():
                return
            async with TaskGroup() as tasks:
                self._task_group = tasks
                self._protocol = _Protocol(
                    self._plain,
                    self._upgrade,
                    self._write_now,
                    self.app,
                    self.config,
                    self.context,
                    cast(Any, tasks),
                    ConnectionState(self.state),
                    self._secure,
                    client,
                    server,
                    self.protocol_send,
                )
                self.protocol = cast(Any, self._protocol)
                await self._read_data()
                self._read = True
        except OSError:
            pass
        finally:
            await self._close()  # noqa: ASYNC102  # it waits for nothing

    async def _shake_hands(self) -> bool:
        """Whether it speaks TLS, and in time."""
        with trio.move_on_after(HANDSHAKE):
            try:
                await self.stream.do_handshake()
                return True
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                pass
        return False

    async def _read_data(self) -> None:
        with self._reading:
            while True:
                try:
                    data = await self._receive()
                except (trio.ClosedResourceError, trio.BrokenResourceError):
                    break
                await self._protocol.handle(RawData(data))
                if self._upgrade is not None and self._protocol.upgraded is not None:
                    answer, came = self._protocol.upgraded
                    await self._write_now(answer)
                    await self._upgrade.take(cast(Any, self.stream), came)
                    break
                if not data:
                    await self._protocol.answered_or_streaming()
                    break
        await self._protocol.handle(Closed())

    async def _receive(self) -> bytes:
        """What comes. A body that comes too slowly ends the reading."""
        if self.came:
            came, self.came = self.came, b""
            return came
        if not self._protocol.receives_body:
            self._patience = BODY_SILENCE
            return bytes(await self.stream.receive_some(MAX_RECV))
        began = trio.current_time()
        self._reading.deadline = began + max(0.0, self._patience)
        data = bytes(await self.stream.receive_some(MAX_RECV))
        self._reading.deadline = math.inf
        waited = trio.current_time() - began
        self._patience = min(BODY_SILENCE, self._patience - waited + len(data) / BODY_RATE)
        return data

    async def protocol_send(self, event: Event) -> None:
        if isinstance(event, RawData):
            await self._write(event.data)
        elif isinstance(event, Updated):
            self._idle.pop(self, None)
            self._reading.deadline = math.inf
            # One whose client closed while the answer ended would be kept for its whole time.
            if event.idle and not self._read:
                self._rest(0.0)
        elif isinstance(event, Closed):
            try:
                if self._protocol.refused:
                    await self._read_the_rest()
                await self._close()
                await self._protocol.handle(Closed())
            finally:
                self._reading.cancel()

    async def _write_now(self, data: bytes) -> None:
        """As `_write`; without a turn of the loop for what the kernel takes at once."""
        if not self._secure and not self.send_lock.locked():
            try:
                # Not the stream's, which gives others a turn after each.
                data = data[os.write(self.sock.fileno(), data) :]
            except BlockingIOError:
                pass  # the kernel has no room for it now
            except OSError:
                await self._protocol.handle(Closed())
                return
        await self._write(data)

    async def _write(self, data: bytes) -> None:
        if not data:
            return
        try:
            self.send_lock.acquire_nowait()
        except trio.WouldBlock:
            await self.send_lock.acquire()
        try:
            with trio.CancelScope(shield=True):
                for start in range(0, len(data), _PIECE):
                    with trio.fail_after(STUCK):
                        await self.stream.send_all(data[start : start + _PIECE])
        except trio.TooSlowError:
            self.sock.close()
            await self._protocol.handle(Closed())
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            await self._protocol.handle(Closed())
        finally:
            self.send_lock.release()

    async def _close(self) -> None:
        sock = self.sock
        if self._secure and sock.fileno() >= 0:
            # The end of TLS, if there is room for it: some take anything else for a torn answer.
            with (
                trio.move_on_after(CLOSING, shield=True),
                suppress(trio.BrokenResourceError, trio.ClosedResourceError, trio.BusyResourceError),
            ):
                await self.stream.aclose()
        with suppress(OSError):
            sock.shutdown(socket.SHUT_WR)
        sock.close()

    async def _read_the_rest(self) -> None:
        """To close with bytes unread resets the connection, and the peer would not hear why."""
        with trio.move_on_after(LINGER), suppress(trio.BrokenResourceError):
            if self._secure:
                return  # it knows no half of an end
            await self.stream.send_eof()
            while await self.stream.receive_some(MAX_RECV):
                pass


class _Protocol(H11Protocol):
    """Hypercorn's HTTP/1.1, without a way to HTTP/2: what it refuses it says, and it knows when it has
    answered."""

    def __init__(
        self,
        plain: PlainRoutes | None,
        upgrade: Upgrade | None,
        write_now: Callable[[bytes], Awaitable[None]],
        *args: Any,
    ) -> None:
        super().__init__(*args)
        self._plain = plain
        self._upgrade = upgrade
        self.upgraded: tuple[bytes, bytes] | None = None
        """Of a request for it: how it is answered, and what came behind it."""
        self._write_now = write_now
        self._found_out: dict[str, Any] = {}
        self._begun = trio.Event()
        self._streaming = False
        self._over = trio.Event()
        self._asks_for_head = False
        self.refused = False

    @property
    def receives_body(self) -> bool:
        """Whether the body of a request is not all here yet."""
        return self.stream is not None and self.connection.their_state is h11.SEND_BODY

    @property
    def has_next(self) -> bool:
        """Whether more has been read than this request."""
        return bool(cast(h11.Connection, self.connection).trailing_data[0])

    async def answered_or_streaming(self) -> None:
        """See rules 2 and 3 of the module."""
        if self.stream is None or self._streaming:
            return
        with trio.move_on_after(HALF_CLOSED):
            await self._begun.wait()
        if self._begun.is_set():
            await self._over.wait()

    async def handle(self, event: Event) -> None:
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
        refused_before.set(False)
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
        if self._plain is not None:
            asked = self._plain.match(request, self.server, self.client, self._found_out)
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
        try:
            data = [
                connection.send(_head(answer.status, tuple(headers))),
                connection.send(h11.Data(data=answer.body)),
                connection.send(h11.EndOfMessage()),
            ]
        except h11.LocalProtocolError:
            if connection.their_state is not h11.ERROR:
                raise
            return  # what came behind the request was refused, and nothing else is said
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
        # In one piece: what answers the request before it at this very moment would cut it off.
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
        self, protocol: _Protocol, plain: PlainRoutes, request: h11.Request, asked: PlainRequest
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
            # What has come behind it may be no request: then it is refused before this is answered.
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


_NOT_HTTP: Final[dict[int, str]] = {
    HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE: f"its head is larger than {_HEADERS} bytes",
    HTTPStatus.NOT_IMPLEMENTED: "its transfer encoding is not known here; chunked is",
}


def _tell(url: str, task_status: trio.TaskStatus[list[str]], on_bound: Callable[[str], None] | None) -> None:
    if on_bound is not None:
        on_bound(url)
    task_status.started([url])


def _bound(host: str, port: int) -> socket.socket:
    where = _url(host, port).removeprefix("http://")
    if not 0 <= port <= 65535:  # the resolver would take it modulo 65536
        raise CannotListen(f"cannot listen on {where}: no such port")
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except (socket.gaierror, UnicodeError) as error:
        raise CannotListen(f"cannot listen on {where}: {error}") from None
    sock = socket.socket(family, kind, protocol)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        # Answers are small and come in two writes; accepted connections inherit this.
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setblocking(False)
        sock.bind(address)
        # Two sockets may be bound to one port as long as neither listens: only now is it known to be ours.
        sock.listen(_BACKLOG)
    except OSError as error:
        sock.close()
        if error.errno == errno.EADDRINUSE:
            raise PortInUse(f"cannot listen on {where}: the port is in use") from None
        raise CannotListen(f"cannot listen on {where}: {error.strerror}") from None
    return sock


def _url(host: str, port: int, scheme: str = "http") -> str:
    return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"
