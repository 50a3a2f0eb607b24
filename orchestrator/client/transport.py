"""Requests on the wire: the one place that knows of httpx.

What the client does is written once, as coroutines over a `Wire`. Under Trio and asyncio they wait as
coroutines do. The synchronous wire blocks in place of waiting, so that a coroutine over it never suspends and
`run_straight` runs it through.
"""

from __future__ import annotations

import ipaddress
import os
import re
import ssl
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine, Generator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from typing import Any, Final, Protocol, TypeVar

import anyio
import anyio.to_thread
import httpx

from actors.wire.errors import SourceChanged, causes
from actors.wire.http.tls import NoAuthorities, authorities_of
from actors.wire.multipart.writer import MultipartBody
from orchestrator.client.errors import BadInput, Unreachable, Untrusted

T = TypeVar("T")

_HOST: Final = re.compile(rb"(?:[\w-]{1,63}\.)*[\w-]{1,63}\.?|[0-9A-Fa-f.]*:[0-9A-Fa-f:.]*")
"""A name or an address; the library takes whatever no host can have."""

PIECE: Final = 256 * 1024
CONNECTING: Final = 10.0
"""Seconds that a connection may take."""
CLOSING: Final = 5.0
"""Seconds that letting go of one may take."""
SILENCE: Final = 30.0
"""Seconds without a byte after which a request is given up, unless it says otherwise."""

PathLike = str | os.PathLike[str]
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

    async def close(self) -> None: ...


class AsyncWire:
    """For Trio and asyncio."""

    def __init__(self, url: str, headers: Mapping[str, str], ca_file: PathLike | None = None) -> None:
        self.url = normalize_url(url)
        self._http = httpx.AsyncClient(
            headers=dict(headers), verify=make_ssl_context(self.url, ca_file), **_OPTIONS
        )

    @asynccontextmanager
    async def open(self, call: Call) -> AsyncGenerator[Answer, None]:
        with _translate_errors(self.url, call):
            request = self._http.build_request(**_request(self.url, call), content=self._content(call))
            response = await self._http.send(request, stream=True)

        source = response.aiter_raw()

        async def pieces() -> AsyncGenerator[bytes, None]:
            with _translate_errors(self.url, call):
                async for piece in source:
                    yield piece

        try:
            yield Answer(response.status_code, response.headers, pieces)
        finally:
            with anyio.move_on_after(CLOSING, shield=True):
                await _unwind(source)
                await response.aclose()

    async def sleep(self, seconds: float) -> None:
        await anyio.sleep(seconds)

    async def thread(self, function: Callable[[], T]) -> T:
        return await anyio.to_thread.run_sync(function)

    async def close(self) -> None:
        await self._http.aclose()

    def _content(self, call: Call) -> Any:
        return None if call.body is None else self._pull(_join(call.body, call.progress))

    async def _pull(self, pieces: Generator[bytes, None, None]) -> AsyncGenerator[bytes, None]:
        while piece := await anyio.to_thread.run_sync(next, pieces, b""):
            yield piece


async def _unwind(source: AsyncIterator[bytes]) -> None:
    """End a body that was not read to its end. The library's is a chain of generators: closing the outermost
    would leave the others to the garbage collector, while a read that is cancelled ends all of them."""
    with anyio.CancelScope() as scope:
        scope.cancel()
        while True:
            try:
                await anext(source)
            except (StopAsyncIteration, httpx.HTTPError, httpx.StreamError):
                return


class SyncWire:
    """For who is in no event loop. Nothing here suspends."""

    def __init__(self, url: str, headers: Mapping[str, str], ca_file: PathLike | None = None) -> None:
        self.url = normalize_url(url)
        self._http = httpx.Client(
            headers=dict(headers), verify=make_ssl_context(self.url, ca_file), **_OPTIONS
        )

    @asynccontextmanager
    async def open(self, call: Call) -> AsyncGenerator[Answer, None]:
        with _translate_errors(self.url, call):
            content = None if call.body is None else _join(call.body, call.progress)
            request = self._http.build_request(**_request(self.url, call), content=content)
            response = self._http.send(request, stream=True)

        async def pieces() -> AsyncGenerator[bytes, None]:
            with _translate_errors(self.url, call):
                for piece in response.iter_raw():
                    yield piece

        try:
            yield Answer(response.status_code, response.headers, pieces)
        finally:
            response.close()

    async def sleep(self, seconds: float) -> None:
        time.sleep(seconds)  # noqa: ASYNC251  # blocking is what this wire is for

    async def thread(self, function: Callable[[], T]) -> T:
        return function()

    async def close(self) -> None:
        self._http.close()


def run_straight(coroutine: Coroutine[Any, Any, T]) -> T:
    """The end of a coroutine over a SyncWire."""
    try:
        coroutine.send(None)
    except StopIteration as end:
        found: T = end.value
        return found
    coroutine.close()
    raise RuntimeError("a coroutine over the synchronous wire waited for something")


def normalize_url(url: str) -> str:
    """The URL in its normal form, without slashes at its end. Raises BadInput."""
    try:
        parsed = httpx.URL(url)
    except httpx.InvalidURL:
        parsed = httpx.URL("")
    usable = parsed.scheme in ("http", "https") and 0 < (parsed.port or 1) < 1 << 16
    if not usable or not _HOST.fullmatch(parsed.raw_host) or parsed.query or parsed.fragment:
        raise BadInput(f"{url!r} is no URL of an orchestrator; it looks like http://127.0.0.1:5000")
    return str(parsed.copy_with(query=None, fragment=None)).rstrip("/")


def make_ssl_context(url: str, ca_file: PathLike | None) -> ssl.SSLContext:
    """Whose certificates are believed: those of `ca_file` alone, else the usual authorities. Raises
    BadInput."""
    if ca_file is None and httpx.URL(url).scheme == "https":
        return httpx.create_ssl_context(trust_env=False)
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


def exposes(url: str) -> bool:
    """Whether others can read what is sent there: it is neither encrypted nor for this machine."""
    parsed = httpx.URL(url)
    host = parsed.host.rstrip(".")
    if parsed.scheme != "http" or host == "localhost" or host.endswith(".localhost"):
        return False
    try:
        return not ipaddress.ip_address(host).is_loopback
    except ValueError:
        return True


# The environment is not read: a proxy meant for the web has no business between a client and its
# orchestrator, nor has a netrc file. Redirects are not followed: the token is for this host alone.
_OPTIONS: Final[dict[str, Any]] = {"trust_env": False, "follow_redirects": False}


def _request(url: str, call: Call) -> dict[str, Any]:
    headers = {"Accept-Encoding": "identity", **call.headers, **(call.body.headers if call.body else {})}
    return {
        "method": call.method,
        "url": url + call.path,
        "params": dict(call.query) or None,
        "headers": headers,
        "json": call.json,
        "timeout": httpx.Timeout(call.silence, connect=CONNECTING, pool=None),
    }


def _join(body: MultipartBody, progress: Progress | None) -> Generator[bytes, None, None]:
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
def _translate_errors(url: str, call: Call) -> Generator[None, None, None]:
    """Errors of the wire in the words of a client."""
    try:
        yield
    except SourceChanged as error:
        raise BadInput(f"{error.detail}; submit again when nothing writes to it") from error
    except (httpx.ConnectError, httpx.ConnectTimeout) as error:
        _raise_untrusted(url, error)
        reason = str(error) or "no connection in time"
        raise Unreachable(
            f"nothing answers at {url} ({reason}); check that the orchestrator runs and the URL is right"
        ) from error
    except httpx.TimeoutException as error:
        raise Unreachable(
            f"{url} did not answer {call.method} {call.path} in {call.silence:g} s; try again later"
        ) from error
    except httpx.TransportError as error:
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
