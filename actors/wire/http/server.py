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
5. A request of a plain route (see `plain_routes`) is answered without the app, and as most programs write it
   without Hypercorn too (see `polls`). No answer, limit or end of a connection differs by that.
6. A request's head has to be here within the time for which an idle connection is kept, and its body may be
   silent for `BODY_SILENCE` seconds, and slower than `BODY_RATE` bytes a second for as long: who sends slower
   is not heard to the end. Who does not take what is sent for `STUCK` seconds has gone.
7. What is no HTTP/1.1 is answered by what was wrong with it, as JSON, and closed. A request with two lengths
   is such a thing: a proxy before us might have read the other one.
"""

from __future__ import annotations

import errno
import ipaddress
import logging
import math
import resource
import socket
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, cast

import trio
from hypercorn.config import Config
from hypercorn.events import Closed, Event, RawData, Updated
from hypercorn.trio.lifespan import Lifespan
from hypercorn.trio.task_group import TaskGroup
from hypercorn.trio.tcp_server import MAX_RECV, TCPServer
from hypercorn.trio.worker_context import WorkerContext
from hypercorn.typing import AppWrapper, ConnectionState, LifespanState
from hypercorn.utils import parse_socket_addr, wrap_app

from actors.kernel.complaint import Complaint
from actors.store.durable import is_passing
from actors.wire.errors import CannotListen, PortInUse, leaves
from actors.wire.http.parser import BODY_PIECE
from actors.wire.http.plain_routes import Ends, PlainRoutes
from actors.wire.http.polls import FRESH, PROMPT, STUCK, Other, PolledConnection, Polls, Resting, Turns
from actors.wire.http.protocol import MOST_HEAD, HttpProtocol
from actors.wire.http.tls import OwnCertificate
from actors.wire.http.upgrades import Upgrade
from actors.wire.sockets import receive_some, send_now

BODY_SILENCE: Final = 60.0
"""Seconds that a request's body may be waited for before it counts as given up."""
BODY_RATE: Final = 1024
"""Bytes of it that win a second back."""
CLOSING: Final = 0.5
"""Seconds for the end of TLS."""
HANDSHAKE: Final = 10.0
"""Seconds that a client has to agree on TLS."""
LINGER: Final = 1.0
"""Seconds for which the rest of what was refused is read."""

_BACKLOG: Final = 1024
_AT_ONCE: Final = 64
"""Connections that are accepted before others have a turn."""
_PIECE: Final = 1 << 16
_LEAST: Final = 16
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
        config.h11_max_incomplete_size = MOST_HEAD
        config.graceful_timeout = graceful_timeout
        self._config = config
        self._app: AppWrapper = wrap_app(app, config.wsgi_max_body_size, "asgi")
        self._upgrade = upgrade
        self._tls = tls
        self._sock = sock
        self._family = socket.AF_INET if sock is None else sock.family
        self._named = None if sock is None else _address_of_all(sock)
        self._state: LifespanState = {}
        self._context = WorkerContext(None)
        self._connections: dict[_Connection | PolledConnection, None] = {}
        self._idle = Turns[Resting](keep_alive, lambda one: one.stop_reading())
        self._polls: Polls | None = None
        if plain is not None:
            self._polls = Polls(plain, self._idle, partial(config.response_headers, "h11"))
        self._one_left: trio.Event | None = None
        """Where somebody waits for the end of a connection."""
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
            around.start_soon(self._idle.run)
            if self._polls is not None:
                await around.start(self._polls.run)
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
                accepting.start_soon(self._listen, self._sock, connections)
            if dialled is not None:
                accepting.start_soon(self._take_dialled, dialled, connections)
            tell()
            await shutdown.wait()
            accepting.cancel_scope.cancel()

    async def _listen(self, listener: socket.socket, connections: trio.Nursery) -> None:
        with listener:
            while True:
                await trio.lowlevel.wait_readable(listener)
                for _ in range(_AT_ONCE):
                    if not await self._accept_one(listener, connections):
                        break

    async def _accept_one(self, listener: socket.socket, connections: trio.Nursery) -> bool:
        """Whether there may be another one, for which nobody has to leave first."""
        try:
            sock, peer = listener.accept()
        except BlockingIOError:
            return False
        except (OSError, MemoryError) as error:
            if isinstance(error, OSError) and error.errno in _LEFT_ALREADY:
                return True
            if not is_passing(error):
                raise
            self._complaint.say(
                "connections have to wait: %s (%d are open); raise the limit, as by `ulimit -n`",
                getattr(error, "strerror", None) or "too little memory",
                len(self._connections),
            )
            self._idle.end_first()
            await self._until_one_left()
            return True
        try:
            sock.setblocking(False)
            crowded = len(self._connections) >= self._most
            while len(self._connections) >= self._most and not self._idle.end_first():
                await self._until_one_left()
        except trio.Cancelled:
            sock.close()
            raise
        if self._polls is None or self._tls is not None:
            connections.start_soon(self._serve, self._accepted(sock))
        else:
            connections.start_soon(self._serve_polls, self._polled(sock, peer, self._polls))
        return not crowded

    def _polled(self, sock: socket.socket, peer: Any, polls: Polls) -> PolledConnection:
        server = self._named or parse_socket_addr(self._family, sock.getsockname())
        connection = PolledConnection(sock, polls, Ends(server, parse_socket_addr(self._family, peer)))
        self._connections[connection] = None
        return connection

    def _accepted(self, sock: socket.socket) -> _Connection:
        stream = trio.SocketStream(trio.socket.from_stdlib_socket(sock))
        return self._connection(stream.socket, self._spoken(stream))

    def _take_over(self, polled: PolledConnection, other: Other) -> _Connection:
        """One that was idle stays so, and from when it was."""
        connection = self._accepted(polled.sock)
        self._idle.drop(connection)
        connection.resting, polled.taken_over_by = polled, connection
        connection.came, connection.next_is_apps = other.read, other.is_apps
        connection.stopped = polled.stopped
        return connection

    async def _serve_polls(self, polled: PolledConnection) -> None:
        other = None
        try:
            other = await polled.run()
        except* OSError:
            pass  # its peer has gone
        except* Exception as errors:
            self._tell_failure(errors)
        finally:
            if other is None:
                self._idle.drop(polled)
                polled.sock.close()
            self._forget(polled)
        if other is not None:
            await self._serve(self._take_over(polled, other))

    async def _take_dialled(
        self, dialled: trio.MemoryReceiveChannel[Dialled], connections: trio.Nursery
    ) -> None:
        async for one in dialled:
            connection = self._connection(one.socket, one.spoken)
            connection.came = one.came
            connections.start_soon(self._serve, connection)

    async def _until_one_left(self) -> None:
        """Or for a second: descriptors may come back from elsewhere."""
        with trio.move_on_after(1):
            await self._one_less()

    async def _let_finish(self) -> None:
        await self._context.terminated.set()
        if self._polls is not None:
            self._polls.closing = True
        self._idle.end_all()
        with trio.move_on_after(self._config.graceful_timeout):
            while self._connections:
                await self._one_less()

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
            self._polls,
            self._upgrade,
        )
        self._connections[made] = None
        return made

    async def _serve(self, connection: _Connection) -> None:
        try:
            await connection.run()
        except* Exception as errors:
            self._tell_failure(errors)
        finally:
            connection.sock.close()
            self._idle.drop(connection.resting)
            self._forget(connection)

    def _tell_failure(self, errors: BaseExceptionGroup[Exception]) -> None:
        if is_passing(errors):
            self._complaint.say("connections break off: %s", str(leaves(errors)[0]) or "too little memory")
        else:
            _log.error("a connection failed", exc_info=errors)

    def _forget(self, connection: _Connection | PolledConnection) -> None:
        del self._connections[connection]
        if self._one_left is not None:
            self._one_left.set()
            self._one_left = None

    async def _one_less(self) -> None:
        """Wait for the end of a connection."""
        if self._one_left is None:
            self._one_left = trio.Event()
        await self._one_left.wait()


class _Connection(TCPServer):
    """Hypercorn's, with some of its waits made to end, and without a task and a turn of the loop for what
    needs none.

    A request that ends after that was announced leaves the reader waiting for a next one.
    """

    def __init__(self, *args: Any) -> None:
        *args_of_hypercorn, sock, idle, polls, upgrade = args
        super().__init__(*args_of_hypercorn)
        self.sock: trio.socket.SocketType = sock
        self._secure = isinstance(self.stream, trio.SSLStream)
        self._idle: Turns[Resting] = idle
        self._polls: Polls | None = polls
        self._upgrade: Upgrade | None = upgrade
        self._reading = trio.CancelScope()
        self._patience = BODY_SILENCE
        """Seconds for which the body of this request is waited for yet."""
        self.came = b""
        """What was read before this began."""
        self.next_is_apps = False
        """Whether that is the app's, whatever it is for."""
        self.stopped = False
        """Whether this end reads nothing more than what had come when it was taken over."""
        self._read = False
        """Whether nothing more is read: then nothing is waited for either once it is answered."""
        self.resting: Resting = self
        """As what it is among the idle ones."""
        self._idle.put(self, FRESH)

    def stop_reading(self) -> None:
        """Nothing more is asked for: a connection with nothing under way ends."""
        self._reading.cancel()

    async def run(self) -> None:
        try:
            sock = self.sock
            client = parse_socket_addr(sock.family, sock.getpeername())
            server = parse_socket_addr(sock.family, sock.getsockname())
            if self._secure and not await self._shake_hands():
                return
            async with TaskGroup() as tasks:
                self._task_group = tasks
                self._ends = Ends(server, client)
                self._protocol = HttpProtocol(
                    None if self._polls is None else self._polls.plain,
                    self._ends,
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
                self._protocol.next_is_apps = self.next_is_apps
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
                except (OSError, trio.ClosedResourceError, trio.BrokenResourceError):
                    break
                if not data and self.stopped and not self._protocol.has_request:
                    # The peer knows nothing of that end: it hears none of its request, as of one that is
                    # on its way while an idle connection is closed, and may send it again.
                    break
                if await self._answer_poll(data):
                    continue
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

    async def _answer_poll(self, data: bytes) -> bool:
        """Whether what came was a poll that could be answered as such."""
        polls = self._polls
        if polls is None or self._protocol.next_is_apps or not self._protocol.is_at_rest:
            return False
        asked = polls.plain.match_plainest(data, self._ends)
        if asked is None or asked.may_wait:
            return False
        self._idle.drop(self.resting)
        answer = None
        with trio.move_on_after(PROMPT):
            answer = await polls.answer(asked)
        if answer is None:
            # It may be that a disk or a ledger hangs; nothing was changed by it.
            self._protocol.next_is_apps = True
            return False
        await self._write_now(answer)
        if asked.closes or polls.closing:
            await self.protocol_send(Closed())
        else:
            self._idle.put(self.resting)
        return True

    async def _receive(self) -> bytes:
        """What comes. A body that comes too slowly ends the reading."""
        if self.came:
            came, self.came = self.came, b""
            return came
        if not self._protocol.receives_body:
            self._patience = BODY_SILENCE
            return await self._receive_some(MAX_RECV)
        began = trio.current_time()
        self._reading.deadline = began + max(0.0, self._patience)
        data = await self._receive_some(BODY_PIECE)
        self._reading.deadline = math.inf
        waited = trio.current_time() - began
        self._patience = min(BODY_SILENCE, self._patience - waited + len(data) / BODY_RATE)
        return data

    async def _receive_some(self, most: int) -> bytes:
        if self._secure:
            return bytes(await self.stream.receive_some(most))
        return await receive_some(self.sock, most)

    async def protocol_send(self, event: Event) -> None:
        if isinstance(event, RawData):
            await self._write(event.data)
        elif isinstance(event, Updated):
            self._idle.drop(self.resting)
            # One whose client closed while the answer ended would be kept for its whole time.
            if event.idle and not self._read:
                self._idle.put(self.resting)
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
                data = bytes(send_now(self.sock, data))
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
                if self._secure:
                    for start in range(0, len(data), _PIECE):
                        with trio.fail_after(STUCK):
                            await self.stream.send_all(data[start : start + _PIECE])
                else:
                    await self._send_plain(data)
        except trio.TooSlowError:
            self.sock.close()
            await self._protocol.handle(Closed())
        except (OSError, trio.BrokenResourceError, trio.ClosedResourceError):
            await self._protocol.handle(Closed())
        finally:
            self.send_lock.release()

    async def _send_plain(self, data: bytes) -> None:
        """As much at a time as the kernel takes. Raises OSError where the peer has gone."""
        # Others have a turn before each piece, and while it waits, whoever is sent much and takes it.
        await trio.lowlevel.checkpoint()
        rest = send_now(self.sock, data)
        if not rest:
            return
        with trio.fail_after(STUCK) as stuck:
            while rest:
                stuck.deadline = trio.current_time() + STUCK
                await trio.lowlevel.wait_writable(self.sock)
                rest = send_now(self.sock, rest)

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


_LEFT_ALREADY: Final = frozenset(
    {
        errno.EPERM,
        errno.ECONNABORTED,
        errno.ECONNRESET,
        errno.EPROTO,
        errno.ENETDOWN,
        errno.ENOPROTOOPT,
        errno.EHOSTDOWN,
        errno.ENONET,
        errno.EHOSTUNREACH,
        errno.EOPNOTSUPP,
        errno.ENETUNREACH,
        errno.ETIMEDOUT,
    }
)
"""Errors of a connection that was to be accepted, as accept(2) passes them on."""


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


def _address_of_all(listener: socket.socket) -> tuple[str, int] | None:
    """The address that all of its connections come to; None where it listens at several."""
    host, port, *_ = listener.getsockname()
    return None if ipaddress.ip_address(host.partition("%")[0]).is_unspecified else (host, port)


def _url(host: str, port: int, scheme: str = "http") -> str:
    return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"
