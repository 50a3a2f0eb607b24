"""Serving an app until told to stop.

Hypercorn's connections and lifespan under a loop of our own, because three things have to be otherwise than
in its own: a connection that fails must not take the others along; a client that has stopped reading must not
hold the end of the process for ever; and an address that cannot be listened on must be one clear line.
"""

from __future__ import annotations

import errno
import logging
import signal
import socket
from collections.abc import Callable
from typing import Any, Final, cast

import trio
from hypercorn.config import Config
from hypercorn.events import Closed, Event, Updated
from hypercorn.trio.lifespan import Lifespan
from hypercorn.trio.tcp_server import TCPServer
from hypercorn.trio.worker_context import WorkerContext
from hypercorn.typing import AppWrapper, ConnectionState, LifespanState
from hypercorn.utils import wrap_app

from actors.wire.errors import CannotListen, PortInUse

_BACKLOG: Final = 1024
_HEADERS: Final = 64 * 1024
_FOR_EVER: Final = 2**31

_log = logging.getLogger(__name__)


async def serve(
    app: Any,
    *,
    host: str,
    port: int,
    shutdown: trio.Event,
    task_status: trio.TaskStatus[list[str]] = trio.TASK_STATUS_IGNORED,
    graceful_timeout: float = 3.0,
    keep_alive_timeout: float = 75.0,
    on_bound: Callable[[str], None] | None = None,
) -> None:
    """Serve an ASGI app at host and port (0: any free one) until `shutdown` is set.

    The app's startup has run and connections are accepted when `on_bound` is called with the URL and
    `task_status.started` with a list of it. After `shutdown` no connection is accepted, idle ones are closed,
    requests under way get `graceful_timeout` seconds and are cut then; the app's own shutdown comes last. An
    app should end its endless streams itself when it is told to stop. Cancelling cuts at once.

    Raises PortInUse or CannotListen before anything is started.
    """
    sock = _bound(host, port)
    try:
        url = _url(host, sock.getsockname()[1])
        await _Serving(app, sock, graceful_timeout, keep_alive_timeout).run(
            shutdown, url, task_status, on_bound
        )
    finally:
        sock.close()


async def until_signal() -> None:
    """Wait for SIGINT or SIGTERM, or for SIGHUP (the terminal was closed) unless it is ignored, as nohup has
    it. Only in the main thread."""
    asked = [signal.SIGINT, signal.SIGTERM]
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        asked.append(signal.SIGHUP)
    with trio.open_signal_receiver(*asked) as signals:
        await anext(signals)


class _Serving:
    def __init__(self, app: Any, sock: socket.socket, graceful_timeout: float, keep_alive: float) -> None:
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
        self._sock = sock
        self._state: LifespanState = {}
        self._context = WorkerContext(None)
        self._streams: set[trio.SocketStream] = set()
        self._none_left = trio.Event()

    async def run(
        self,
        shutdown: trio.Event,
        url: str,
        task_status: trio.TaskStatus[list[str]],
        on_bound: Callable[[str], None] | None,
    ) -> None:
        lifespan = Lifespan(self._app, self._config, self._state)
        async with trio.open_nursery() as around:
            await around.start(lifespan.handle_lifespan)
            await lifespan.wait_for_startup()
            listener = trio.SocketListener(trio.socket.from_stdlib_socket(self._sock))
            async with trio.open_nursery() as connections:
                try:
                    await self._accept(
                        connections, listener, shutdown, lambda: _tell(url, task_status, on_bound)
                    )
                    await self._let_finish()
                finally:
                    connections.cancel_scope.cancel()
                    # Hypercorn shields its writes: only closing the socket ends one that is stuck.
                    for stream in self._streams:
                        stream.socket.close()
            await lifespan.wait_for_shutdown()
            around.cancel_scope.cancel()

    async def _accept(
        self,
        connections: trio.Nursery,
        listener: trio.SocketListener,
        shutdown: trio.Event,
        tell: Callable[[], None],
    ) -> None:
        async with trio.open_nursery() as accepting:
            accepting.start_soon(self._listen, listener, connections)
            tell()
            await shutdown.wait()
            accepting.cancel_scope.cancel()

    async def _listen(self, listener: trio.SocketListener, connections: trio.Nursery) -> None:
        await trio.serve_listeners(self._connection, [listener], handler_nursery=connections)

    async def _let_finish(self) -> None:
        await self._context.terminated.set()
        with trio.move_on_after(self._config.graceful_timeout):
            while self._streams:
                self._none_left = trio.Event()
                await self._none_left.wait()

    async def _connection(self, stream: trio.SocketStream) -> None:
        self._streams.add(stream)
        try:
            state = ConnectionState(self._state.copy())
            # For the app, in the request's scope: ends the connection whatever it is waiting for.
            state["cut"] = stream.socket.close
            await _Connection(self._app, self._config, self._context, state, cast(Any, stream)).run()
        except* Exception as errors:
            _log.error("a connection failed", exc_info=errors)
        finally:
            stream.socket.close()
            self._streams.discard(stream)
            if not self._streams:
                self._none_left.set()


class _Connection(TCPServer):
    """Hypercorn's, with two of its waits made to end.

    When a request ends, Quart-Trio cancels the task in which Hypercorn is about to start the timer of an idle
    connection: then it would stay open for ever, and hold the end of serving too. And a request that ends
    after that was announced leaves the reader waiting for a next one.
    """

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._reading = trio.CancelScope()

    async def _read_data(self) -> None:
        with self._reading:
            await super()._read_data()

    async def protocol_send(self, event: Event) -> None:
        with trio.CancelScope(
            shield=isinstance(event, Updated)
        ):  # starts or stops the timer, waits for nothing
            try:
                await super().protocol_send(event)
            finally:
                if isinstance(event, Closed):
                    self._reading.cancel()


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


def _url(host: str, port: int) -> str:
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
