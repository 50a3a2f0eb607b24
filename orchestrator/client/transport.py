"""Requests on the wire: with `async_transport` and `urls` the one place that knows of httpcore.

What the client does is written once, as coroutines over a `Wire`. Under Trio and asyncio they wait as
coroutines do. The synchronous wire blocks in place of waiting, so that a coroutine over it never suspends and
`run_straight` runs it through.
"""

from __future__ import annotations

import json
import os
import ssl
import time
from base64 import b64encode
from collections.abc import AsyncGenerator, Callable, Coroutine, Generator, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from typing import Any, Final, Protocol, TypeVar
from urllib.parse import unquote, urlencode, urlsplit

import certifi
import httpcore

from actors.wire.errors import SourceChanged, causes
from actors.wire.http.tls import NoAuthorities, authorities_of
from actors.wire.multipart.writer import MultipartBody
from orchestrator.client.errors import BadInput, Unreachable, Untrusted
from orchestrator.client.urls import normalize_url

T = TypeVar("T")

PIECE: Final = 256 * 1024
CONNECTING: Final = 10.0
"""Seconds that a connection may take."""
CLOSING: Final = 5.0
"""Seconds that letting go of one may take."""
SILENCE: Final = 30.0
"""Seconds without a byte after which a request is given up, unless it says otherwise."""

PathLike = str | os.PathLike[str]
Work = Callable[[], Coroutine[Any, Any, None]]
Progress = Callable[[int, int | None], None]
"""Is told how many bytes went, and of how many (None: unknown)."""


@dataclass(frozen=True, slots=True)
class Call:
    """A request, one that may be made twice. `silence` as SILENCE."""

    method: str
    path: str
    query: Mapping[str, str] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    body: MultipartBody | None = None
    json: Any = None
    silence: float = SILENCE
    progress: Progress | None = None


class Answer:
    """An answer whose body is still to come. Header names are in lower case."""

    def __init__(
        self, status: int, headers: Mapping[str, str], pieces: Callable[[], AsyncGenerator[bytes, None]]
    ) -> None:
        self.status = status
        self.headers = headers
        self.pieces = pieces
        """The body as it comes, once. Raises Unreachable when it breaks off."""


class Wire(Protocol):
    """A way to an orchestrator at `url`."""

    url: str

    def open(self, call: Call) -> AbstractAsyncContextManager[Answer]:
        """Make the request once. Raises Unreachable, or BadInput when a file changed while it was sent."""
        ...

    async def sleep(self, seconds: float) -> None: ...

    async def thread(self, function: Callable[[], T]) -> T:
        """What a function gives that blocks for a disk."""
        ...

    async def each(self, work: Sequence[Work], at_once: int) -> None:
        """Do all of it, so much at once."""
        ...

    async def close(self) -> None: ...


class SyncWire:
    """For who is in no event loop. Nothing here suspends."""

    def __init__(self, url: str, headers: Mapping[str, str], ca_file: PathLike | None = None) -> None:
        self.url = normalize_url(url)
        self._headers = headers
        self._pool = httpcore.ConnectionPool(ssl_context=make_ssl_context(self.url, ca_file), **CONNECTIONS)

    @asynccontextmanager
    async def open(self, call: Call) -> AsyncGenerator[Answer, None]:
        with translate_errors(self.url, call):
            content = None if call.body is None else join(call.body, call.progress)
            response = self._pool.handle_request(make_request(self.url, call, self._headers, content))

        async def pieces() -> AsyncGenerator[bytes, None]:
            with translate_errors(self.url, call):
                for piece in response.iter_stream():
                    yield piece

        try:
            yield Answer(response.status, read_headers(response.headers), pieces)
        finally:
            response.close()

    async def sleep(self, seconds: float) -> None:
        time.sleep(seconds)  # noqa: ASYNC251  # blocking is what this wire is for

    async def thread(self, function: Callable[[], T]) -> T:
        return function()

    async def each(self, work: Sequence[Work], at_once: int) -> None:
        # Late: who hands in one job needs no threads.
        from concurrent.futures import ThreadPoolExecutor

        with ThreadPoolExecutor(at_once) as pool:
            for _ in pool.map(lambda begin: run_straight(begin()), work):
                pass

    async def close(self) -> None:
        self._pool.close()


def run_straight(coroutine: Coroutine[Any, Any, T]) -> T:
    """The end of a coroutine over a SyncWire."""
    try:
        coroutine.send(None)
    except StopIteration as end:
        found: T = end.value
        return found
    coroutine.close()
    raise RuntimeError("a coroutine over the synchronous wire waited for something")


def make_ssl_context(url: str, ca_file: PathLike | None) -> ssl.SSLContext:
    """Whose certificates are believed: those of `ca_file` alone, else the usual authorities. Raises
    BadInput."""
    if ca_file is None and url.startswith("https:"):
        return ssl.create_default_context(cafile=certifi.where())
    if ca_file is None:
        # Plain http needs no authorities, and reading them takes a while. Should it come to TLS after all,
        # nobody is believed.
        return ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    try:
        return authorities_of(ca_file)
    except NoAuthorities as error:
        raise BadInput(
            f"{str(ca_file)!r} cannot be read as certificates: {error}; it has to be a file in PEM format"
        ) from None


CONNECTIONS: Final[dict[str, Any]] = {
    "max_connections": 100,
    "max_keepalive_connections": 20,
    "keepalive_expiry": 5.0,
}
"""How many there are at once, how many are kept for the next request, and for how many seconds. Nothing of
the environment is read: a proxy meant for the web has no business between a client and its orchestrator.
Redirects are not followed: the token is for this host alone."""
BROKEN: Final = (httpcore.NetworkError, httpcore.ProtocolError, httpcore.TimeoutException)
"""Ends of a connection that nobody wanted."""


def make_request(url: str, call: Call, headers: Mapping[str, str], content: Any) -> httpcore.Request:
    """The request; `content` has the pieces of the call's body, None if it has none."""
    parts = urlsplit(url)
    sent = {
        "Host": parts.netloc.rpartition("@")[2],
        "Accept": "*/*",
        "Accept-Encoding": "identity",
        **headers,
        **call.headers,
        **(call.body.headers if call.body else {}),
    }
    if parts.username is not None:
        person = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
        sent["Authorization"] = f"Basic {b64encode(person.encode()).decode()}"
    if call.json is not None:
        content = json.dumps(call.json, ensure_ascii=False, allow_nan=False).encode()
        sent |= {"Content-Type": "application/json", "Content-Length": str(len(content))}
    elif content is None and call.method != "GET":
        sent["Content-Length"] = "0"
    query = f"?{urlencode(call.query)}" if call.query else ""
    silence = dict.fromkeys(("read", "write"), call.silence)
    return httpcore.Request(
        call.method,
        httpcore.URL(
            scheme=parts.scheme.encode(),
            host=(parts.hostname or "").encode(),
            port=parts.port,
            target=f"{parts.path}{call.path}{query}".encode("ascii"),
        ),
        headers=[(name.encode("ascii"), value.encode("ascii")) for name, value in sent.items()],
        content=content,
        extensions={"timeout": {**silence, "connect": CONNECTING}},
    )


def read_headers(headers: Iterable[tuple[bytes, bytes]]) -> Mapping[str, str]:
    """By their names in lower case; of several of one name the values with commas between."""
    found: dict[str, str] = {}
    for raw_name, raw_value in headers:
        name, value = raw_name.decode("latin-1").lower(), raw_value.decode("latin-1")
        found[name] = f"{found[name]}, {value}" if name in found else value
    return found


def join(body: MultipartBody, progress: Progress | None) -> Generator[bytes, None, None]:
    """The body in pieces that are worth a write each."""
    waiting = bytearray()
    gone = 0
    for piece in body.pieces():
        waiting += piece
        if len(waiting) >= PIECE:
            yield bytes(waiting)
            gone += len(waiting)
            waiting.clear()
            if progress is not None:
                progress(gone, body.content_length)
    if waiting:
        yield bytes(waiting)
    if progress is not None:
        progress(body.content_length, body.content_length)


@contextmanager
def translate_errors(url: str, call: Call) -> Generator[None, None, None]:
    """Errors of the wire in the words of a client."""
    try:
        yield
    except SourceChanged as error:
        raise BadInput(f"{error.detail}; submit again when nothing writes to it") from error
    except (httpcore.ConnectError, httpcore.ConnectTimeout) as error:
        _raise_untrusted(url, error)
        reason = str(error) or "no connection in time"
        raise Unreachable(
            f"nothing answers at {url} ({reason}); check that the orchestrator runs and the URL is right"
        ) from error
    except httpcore.TimeoutException as error:
        raise Unreachable(
            f"{url} did not answer {call.method} {call.path} in {call.silence:g} s; try again later"
        ) from error
    except (httpcore.NetworkError, httpcore.ProtocolError) as error:
        raise Unreachable(
            f"the connection to {url} broke off ({str(error) or type(error).__name__}); try again"
        ) from error


def _raise_untrusted(url: str, error: BaseException) -> None:
    """Raises Untrusted if this is why there is no connection."""
    for cause in causes(error):
        if isinstance(cause, ssl.SSLCertVerificationError):
            raise Untrusted(
                f"the certificate of {url} is not trusted ({cause.verify_message}); if it is of a private "
                "authority, name that one's certificate with ORCHESTRATOR_CA_FILE"
            ) from error
        if isinstance(cause, ssl.SSLError):
            raise Untrusted(
                f"{url} does not speak TLS as it should ({cause.reason or cause}); is it https there?"
            ) from error
