"""HTTP towards nodes: a bounded pool for what ends, another for what stays, and the two failures that matter
told apart.

`NotReached` is raised only when it is certain that no byte of the request went out. Whatever else fails is
`Broken`: the peer may have read the request and acted on it.

This is the only module that knows which HTTP library is used. Nothing of the environment is obeyed: no
proxy, no netrc. Redirects are not followed and cookies are not kept: a node is talked to, and nobody else.
"""

from __future__ import annotations

import errno
import json
import math
import ssl
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import cache
from http.cookiejar import CookieJar, DefaultCookiePolicy
from typing import Any, Final, Protocol, cast

import h11
import trio

from actors.kernel.courtesy import Courtesy, LargeBody
from actors.ports.nodes import NoMeans
from actors.process.imports import without
from actors.store.durable import SCARCE, is_passing
from actors.wire.errors import SourceChanged, causes, leaves
from actors.wire.http.parser import Parser
from actors.wire.link.dialled import dialled_node
from actors.wire.protocol.attempts import Garbled
from actors.wire.sockets import receive_some, send_now
from orchestrator.dialled_streams import DialledStream, DialledStreams
from orchestrator.errors import OrchestratorError

# Its command brings all that it paints on a terminal with.
with without("httpx._main"):
    import httpcore
    import httpx

    # The library makes streams of connections by it, and gives no way to make one of another.
    from httpcore._async import connection
    from httpcore._backends.trio import TrioStream

JSON_LIMIT: Final = 8 << 20
"""Bytes of an answer that is held in memory as a whole."""

PACE: Final = 16 << 10
"""Bytes of an answer that have to come in each minute that is spent on waiting for them. Whoever sends less,
and now and then a byte, would be waited for for years."""

_MINUTE: Final = 60.0
_CLOSING: Final = 2.0
_POOL: Final = 10.0
_CONNECTIONS: Final = 1000
"""For what is transferred at once. Idle ones count until they are dropped."""


class NotReached(OrchestratorError):
    """No byte of the request reached the peer."""


class NoPort(NotReached):
    """There is no connection, as every local port towards this peer is taken."""


class Scarce(NotReached, NoMeans):
    """There is no connection for want of descriptors, threads or memory here."""


class UntrustedPeer(NotReached):
    """There is no connection, as the peer's certificate is not trusted or is for another host."""


class Broken(OrchestratorError):
    """The exchange failed when the peer may already have had some of the request, or all of it."""


class NotHttp(Broken):
    """What the peer answered is no HTTP."""


class BodyUnreadable(OrchestratorError):
    """Our own side could not go on with the body of the request: a file vanished, shrank, or is damaged, or,
    where it `passes`, there was no descriptor, thread or memory for it."""

    def __init__(self, why: str, *, passes: bool = False) -> None:
        super().__init__(why)
        self.passes = passes


class Body(Protocol):
    """A request's body, streamed. Iterating may raise OSError or SourceChanged."""

    @property
    def content_type(self) -> str: ...
    @property
    def content_length(self) -> int: ...
    def __aiter__(self) -> AsyncIterator[bytes]: ...


@dataclass(frozen=True, slots=True)
class Deadlines:
    """Deadlines in seconds. None of them limits a transfer that moves, at the `PACE` at least.

    `connect`: until the connection stands. `head`: from the last byte of the request to the answer's head
    (None: for ever). `stall`: between two pieces, read or written (None: for ever, reading only; such an
    answer takes a connection from nobody else).
    """

    connect: float = 5.0
    head: float | None = 30.0
    stall: float | None = 30.0


class Reply:
    """An answer whose head has arrived. Iterating gives its body in pieces; Broken when it tears."""

    def __init__(
        self, response: httpx.Response, stall: float | None, courtesy: Courtesy | None = None
    ) -> None:
        self.status: Final = response.status_code
        self.headers: Final[Mapping[str, str]] = response.headers
        self._response = response
        self._pieces = response.aiter_raw()
        self._stall = math.inf if stall is None else stall
        self._started = False
        self._over = False
        self._waited = 0.0
        self._came = 0
        self._body = LargeBody(courtesy or Courtesy())

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        if self._over:
            raise StopAsyncIteration
        self._started = self._over = True  # it stays over unless a piece arrives
        began = trio.current_time()
        with trio.move_on_after(self._stall):
            try:
                piece = await anext(self._pieces)
            except (httpx.HTTPError, httpx.StreamError) as error:
                raise Broken(f"the answer broke off: {_describe_error(error)}") from error
            self._keep_pace(trio.current_time() - began, len(piece))
            self._over = False
            await self._body.rest(len(piece))
            return piece
        raise Broken(f"the answer stalled for {self._stall:g} s")

    def _keep_pace(self, waited: float, came: int) -> None:
        """Raises Broken. What the reader takes for itself between two pieces does not count."""
        self._waited += waited
        self._came += came
        if self._waited >= _MINUTE and self._stall != math.inf:
            if self._came < PACE:
                raise Broken(f"the answer came to a trickle: {self._came} bytes in {self._waited:.0f} s")
            self._waited, self._came = 0.0, 0

    async def read(self, limit: int = JSON_LIMIT) -> bytes:
        """The whole body. Raises Garbled when it is longer than `limit`."""
        pieces = bytearray()
        async for piece in self:
            pieces += piece
            if len(pieces) > limit:
                raise Garbled(f"the answer is longer than {limit} bytes")
        return bytes(pieces)

    async def json(self, limit: int = JSON_LIMIT) -> Any:
        """The body as JSON. Raises Garbled when it is none."""
        raw = await self.read(limit)
        try:
            return json.loads(raw)
        except (ValueError, RecursionError):
            raise Garbled(f"HTTP {self.status} with a body that is no JSON") from None

    async def close(self) -> None:
        """Let go of the connection: back to the pool when the body was read to its end, else closed."""
        with trio.move_on_after(_CLOSING, shield=True):
            if self._started and not self._over:
                # The library's body is a chain of generators. A cancelled read unwinds all of them, from the
                # socket up; closing the outermost would leave the others to the garbage collector.
                with trio.CancelScope() as scope:
                    scope.cancel()
                    while True:
                        try:
                            await anext(self._pieces)
                        except (StopAsyncIteration, httpx.HTTPError, httpx.StreamError):
                            break
            await self._response.aclose()


class Http:
    """The client. Close it with `aclose`."""

    def __init__(
        self,
        patience: Deadlines | None = None,
        *,
        trust: ssl.SSLContext | None = None,
        dialled: DialledStreams | None = None,
        courtesy: Courtesy | None = None,
    ) -> None:
        """`trust`: whose certificates are believed, instead of the usual ones. `dialled`: connections that
        nodes have opened. `courtesy`: for what large bodies leave time."""
        self._courtesy = courtesy or Courtesy()
        self.patience: Final = patience or Deadlines()
        self.trust: Final = trust or _usual_authorities()
        # Idle connections are dropped before servers usually drop them (5 s), so that seldom one closes in
        # the instant of sending.
        self._client = _client(
            httpx.Limits(max_connections=_CONNECTIONS, max_keepalive_connections=200, keepalive_expiry=4.0),
            self.trust,
            dialled,
        )
        # Each node has an event stream that stays. In a pool with a bound, enough nodes would leave no
        # connection for anything else, and all of them would seem to be out of reach.
        self._streams = _client(
            httpx.Limits(max_connections=None, max_keepalive_connections=0), self.trust, dialled
        )

    async def aclose(self) -> None:
        with trio.move_on_after(_CLOSING, shield=True):
            await self._streams.aclose()
            await self._client.aclose()

    @asynccontextmanager
    async def exchange(
        self,
        method: str,
        url: str,
        *,
        headers: Mapping[str, str] | None = None,
        body: Body | None = None,
        data: Any = None,
        patience: Deadlines | None = None,
    ) -> AsyncIterator[Reply]:
        """Send a request with a streamed `body` or with `data` as JSON, and give the answer once its head is
        here. Raises NotReached, Broken, BodyUnreadable."""
        limits = patience or self.patience
        timeout = httpx.Timeout(read=None, write=limits.stall, connect=limits.connect, pool=_POOL)
        try:
            client = self._streams if limits.stall is None else self._client
            request = client.build_request(method, url, headers=headers, json=data, timeout=timeout)
        except (httpx.InvalidURL, ValueError) as error:
            raise NotReached(f"{url} is no address: {_describe_error(error)}") from error
        reply = Reply(await self._send(client, request, body, limits), limits.stall, self._courtesy)
        try:
            if reply.headers.get("content-encoding", "identity") != "identity":
                raise Broken("the answer is compressed, which was not asked for")
            yield reply
        finally:
            await reply.close()  # noqa: ASYNC102  # it shields itself, with a timeout

    @asynccontextmanager
    async def post_to(
        self, address: str, url: str, *, headers: Mapping[str, str], content: bytes, patience: Deadlines
    ) -> AsyncIterator[Reply]:
        """POST to `url` by a connection of its own, to this IP address and without a look-up of the host,
        which the certificate has to be for all the same. Raises as `exchange` does."""
        try:
            named = httpx.URL(url)
            request = self._streams.build_request(
                "POST",
                named.copy_with(host=address),
                headers={**headers, "host": named.netloc.decode("ascii")},
                content=content,
                timeout=httpx.Timeout(read=None, write=patience.stall, connect=patience.connect, pool=_POOL),
                extensions={"sni_hostname": named.raw_host.decode("ascii")},
            )
        except (httpx.InvalidURL, ValueError) as error:
            raise NotReached(f"{url} is no address: {_describe_error(error)}") from error
        reply = Reply(
            await self._send(self._streams, request, None, patience), patience.stall, self._courtesy
        )
        try:
            yield reply
        finally:
            await reply.close()  # noqa: ASYNC102  # it shields itself, with a timeout

    async def _send(
        self, client: httpx.AsyncClient, request: httpx.Request, body: Body | None, patience: Deadlines
    ) -> httpx.Response:
        scope = trio.CancelScope()
        outgoing = None
        if body is not None:
            outgoing = _Outgoing(body, scope, patience, self._courtesy)
            request.headers["content-type"] = body.content_type
            request.headers["content-length"] = str(body.content_length)
            request.stream = outgoing
        if patience.head is not None:
            scope.deadline = trio.current_time() + _POOL + patience.connect + patience.head
        what = f"{request.method} {request.url}"
        try:
            with scope:
                return await client.send(request, stream=True)
        except (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout) as error:
            kind, why = _why_not_reached(error)
            raise kind(f"{what}: no connection: {why}") from error
        except httpx.UnsupportedProtocol as error:
            raise NotReached(f"{what}: {_describe_error(error)}") from error
        except httpx.RemoteProtocolError as error:
            # The library has one error for an answer that is no HTTP and for a connection that was closed.
            if "disconnected" in str(error):
                raise Broken(f"{what}: {_describe_error(error)}") from error
            raise NotHttp(f"{what}: {_describe_error(error)}") from error
        except (httpx.HTTPError, httpx.StreamError, MemoryError) as error:
            raise Broken(f"{what}: {_describe_error(error)}") from error
        except RuntimeError as error:
            if not is_passing(error):
                raise
            # It wanted a thread to look the name up. For a body its own error is raised.
            raise Scarce(f"{what}: no connection: {error}") from error
        finally:
            if outgoing is not None:
                with trio.move_on_after(_CLOSING, shield=True):
                    await outgoing.let_go()
        raise Broken(f"{what}: no answer within {patience.head or 0:g} s")


def _client(limits: httpx.Limits, trust: ssl.SSLContext, dialled: DialledStreams | None) -> httpx.AsyncClient:
    transport = httpx.AsyncHTTPTransport(verify=trust, trust_env=False, http2=False, limits=limits)
    # The library has no other way to say how connections are opened.
    transport._pool._network_backend = _Dialling(dialled)
    return httpx.AsyncClient(
        transport=transport,
        follow_redirects=False,
        cookies=CookieJar(policy=DefaultCookiePolicy(allowed_domains=[])),
        headers={"accept-encoding": "identity", "user-agent": "orchestrator"},
    )


class _Dialling(httpcore.TrioBackend):
    """Connections are opened from here, but for nodes that have opened them themselves."""

    def __init__(self, dialled: DialledStreams | None) -> None:
        self._dialled = dialled

    async def connect_tcp(
        self, host: str, port: int, timeout: float | None = None, *args: Any, **more: Any
    ) -> httpcore.AsyncNetworkStream:
        node_id = None if self._dialled is None else dialled_node(host)
        if self._dialled is None or node_id is None:
            opened = await super().connect_tcp(host, port, timeout, *args, **more)
            return _Stream(cast(TrioStream, opened)._stream)
        with trio.move_on_after(math.inf if timeout is None else timeout):
            return _DialledStream(await self._dialled.take(node_id))
        raise httpcore.ConnectTimeout("the node has opened no connection that is free")


class _Connection(httpcore.AsyncHTTP11Connection):
    """The library's, with large bodies past the buffer of its parser."""

    def __init__(self, *args: Any, **more: Any) -> None:
        super().__init__(*args, **more)
        self._h11_state: Parser = Parser(h11.CLIENT, max_incomplete_event_size=self.MAX_INCOMPLETE_EVENT_SIZE)

    @property
    def READ_NUM_BYTES(self) -> int:  # type: ignore[override]  # noqa: N802  # the library's name
        return self._h11_state.wanted


# The library knows no other way to have connections of another kind.
connection.AsyncHTTP11Connection = _Connection  # type: ignore[attr-defined]


class _Stream(TrioStream):
    """The library's, with fewer calls for each piece. How long one is waited for is `Reply`'s."""

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        try:
            if isinstance(self._stream, trio.SocketStream):
                return await receive_some(self._stream.socket, max_bytes)
            return bytes(await self._stream.receive_some(max_bytes))
        except (OSError, trio.BrokenResourceError, trio.ClosedResourceError) as error:
            raise httpcore.ReadError(error) from error

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:
        if not buffer or not isinstance(self._stream, trio.SocketStream):
            await super().write(buffer, timeout)
            return
        sock = self._stream.socket
        try:
            with trio.fail_after(math.inf if timeout is None else timeout):
                await trio.lowlevel.checkpoint()
                rest = send_now(sock, buffer)
                while rest:
                    await trio.lowlevel.wait_writable(sock)
                    rest = send_now(sock, rest)
        except trio.TooSlowError as error:
            raise httpcore.WriteTimeout(error) from error
        except (OSError, trio.ClosedResourceError) as error:
            raise httpcore.WriteError(error) from error


class _DialledStream(_Stream):
    def get_extra_info(self, info: str) -> Any:
        if info == "is_readable":
            assert isinstance(self._stream, DialledStream)
            return self._stream.readable()
        return None


class _Outgoing(httpx.AsyncByteStream):
    """A body on its way out. While it moves, the deadline for the answer's head moves along."""

    def __init__(self, body: Body, scope: trio.CancelScope, patience: Deadlines, courtesy: Courtesy) -> None:
        self._pieces = aiter(body)
        self._body = LargeBody(courtesy)
        self._scope = scope
        self._head = math.inf if patience.head is None else patience.head
        self._stall = math.inf if patience.stall is None else patience.stall

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        self._scope.deadline = math.inf  # how long our own disk takes is not the peer's fault
        allowed = self._head
        try:
            piece = await anext(self._pieces)
            await self._body.rest(len(piece))
            # A peer that closes in the middle may have answered: then nobody asks for the rest.
            allowed += self._stall
            return piece
        except (OSError, SourceChanged, RuntimeError, MemoryError) as error:
            passes = is_passing(error)
            if not passes and not isinstance(error, OSError | SourceChanged):
                raise
            raise BodyUnreadable(_describe_error(error), passes=passes) from error
        finally:
            self._scope.deadline = trio.current_time() + allowed

    async def let_go(self) -> None:
        """Close what the body has open. The library does not close a body that it has not read to its end."""
        aclose = getattr(self._pieces, "aclose", None)
        if aclose is not None:
            await aclose()


@cache
def _usual_authorities() -> ssl.SSLContext:
    """Read once: it takes a while, and a server has a client for nodes and one for callbacks."""
    return httpx.create_ssl_context(trust_env=False)


def _why_not_reached(error: Exception) -> tuple[type[NotReached], str]:
    """What the library says is that all attempts failed; what the system said is below."""
    for cause in causes(error):
        for found in leaves(cause) if isinstance(cause, BaseExceptionGroup) else [cause]:
            if isinstance(found, ssl.SSLCertVerificationError):
                return UntrustedPeer, _describe_error(error)
            if isinstance(found, OSError) and found.errno in SCARCE:
                return Scarce, found.strerror or str(found)
            if isinstance(found, OSError) and found.errno == errno.EADDRNOTAVAIL:
                return NoPort, f"no local port towards it is free ({found.strerror})"
    return NotReached, _describe_error(error)


def _describe_error(error: Exception) -> str:
    return str(error) or type(error).__name__
