"""Routes that are asked all the time, answered without an app.

A poll is a few bytes in and out, and what a web framework does around it costs ten times what it does itself.
So a handler of such a route knows nothing of a framework: it makes an answer of a part of the path, the query
and a body. The server that has the connection answers by it what is wholly plain, see `PlainRoutes.match`;
everything else reaches the same handler through the app. Who is admitted, and what an error means, is one
function for both ways.
"""

from __future__ import annotations

import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import lru_cache, wraps
from typing import Any, Final, cast

import h11
from quart import Blueprint, Response, request

from actors.process.sock_diag import Address
from actors.wire.pieces import Pieces


@dataclass(frozen=True, slots=True)
class Head:
    """Of a request, what decides whether it is admitted. `header` gives the first header of a name, which is
    in lower case; cookies, and the addresses that proxies tell, are one. `names` are those of all headers, in
    lower case too. `host` is the address and port that the connection came to, `peer` where it came from.
    `rule` is the route's, None where there is none; `query` as it stands in the URL. `found_out` is for what
    is found out of the connection, and lasts as long as that where it is a plain route that is asked for."""

    method: str
    path: str
    header: Callable[[str], str | None]
    names: Iterable[str]
    host: Address | None
    peer: Address | None = None
    rule: str | None = None
    query: str = ""
    found_out: dict[str, Any] = field(default_factory=dict, compare=False)

    @property
    def local(self) -> str:
        """The address that the connection came to; "" where it is not known."""
        return "" if self.host is None else self.host[0]


@dataclass(frozen=True, slots=True)
class Ends:
    """Of a connection, as in `Head`."""

    host: Address | None
    peer: Address | None = None
    found_out: dict[str, Any] = field(default_factory=dict, compare=False)


@dataclass(slots=True)
class Earlier:
    """What became already of a request that is asked for twice, once here and once by the app. `refused`: it
    is refused again by whoever has to say so. `counted`: it took its turn where requests are limited."""

    refused: bool = False
    counted: bool = False


earlier: Final[ContextVar[Earlier | None]] = ContextVar("earlier", default=None)
"""Of this very request; None where nobody asks twice."""

NoteRequest = Callable[[str, str | None, int, float, int | None], None]
"""Is told of each answer, as it begins: the method, the route's rule, None where there is none, the status,
how many seconds it took, and the bytes of its body, None where they are not known."""

Admit = Callable[[Head], Awaitable[None]]
"""Stands before every route: raises what the request is refused with."""


@dataclass(frozen=True, slots=True)
class Asked:
    """`part` is what stands in the path for the route's variable; the query in order, with what is there
    twice. `headers` gives all headers of a name; `length` is the body's as a header claims it."""

    part: str
    query: tuple[tuple[str, str], ...] = ()
    headers: Callable[[str], Sequence[str]] = lambda name: ()
    length: int | None = None
    body: AsyncIterator[bytes] = field(default_factory=Pieces)


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    content_type: str
    body: bytes
    headers: Mapping[str, str] = field(default_factory=dict)

    def to_response(self) -> Response:
        response = Response(self.body, self.status, content_type=self.content_type)
        response.headers.update(self.headers)
        return response


@dataclass(frozen=True, slots=True)
class Stored:
    """An answer out of what is stored. `send` gives the app's, in ranges and pieces; `read_small` the whole
    of what is small, None for anything else."""

    send: Callable[[], Awaitable[Response]]
    read_small: Callable[[], Awaitable[Answer | None]]


Handler = Callable[[Asked], Awaitable[Answer | Stored]]


@dataclass(slots=True)
class PlainRequest:
    """One that a route takes, as far as it has come."""

    head: Head
    handler: Handler
    asked: Asked
    missing: int = 0
    """Bytes of its body that have not come."""
    closes: bool = False
    """Whether its connection ends with the answer."""
    admitted: bool = False
    _body: list[bytes] = field(default_factory=list)

    @property
    def may_wait(self) -> bool:
        """Whether it may take long because it is meant to: what brings a body is stored, and a query may ask
        for an end."""
        return self.head.method == "POST" or bool(self.asked.query)

    def put_body(self, pieces: Sequence[bytes]) -> None:
        """This much of its body has come."""
        if pieces:
            self._body += pieces
            self.missing -= sum(map(len, pieces))
            asked = self.asked
            self.asked = Asked(asked.part, asked.query, asked.headers, asked.length, Pieces(self._body))


@dataclass(frozen=True, slots=True)
class _Told:
    """A request's headers by their names in lower case, and what they decide."""

    headers: Mapping[str, str]
    several: Callable[[str], Sequence[str]]
    is_plain: bool
    """Whether they name a host as most do, and want no more than a whole answer."""
    length: int | None
    closes: bool


def _tell(headers: Mapping[str, str], several: Callable[[str], Sequence[str]]) -> _Told:
    length = headers.get("content-length")
    return _Told(
        headers,
        several,
        _MORE.isdisjoint(headers) and _HOST.fullmatch(headers.get("host", "")) is not None,
        None if length is None else int(length),
        headers.get("connection", "").lower() == "close",
    )


@dataclass(frozen=True, slots=True)
class _Wanted:
    """What a route takes, by the request's head alone: the same for all that send these bytes."""

    method: str
    path: str
    headers: Mapping[str, str]
    query: str
    rule: str
    handler: Handler
    asked: Asked
    closes: bool

    def request(self, ends: Ends) -> PlainRequest:
        head = Head(
            self.method,
            self.path,
            self.headers.get,
            self.headers,
            ends.host,
            ends.peer,
            self.rule,
            self.query,
            ends.found_out,
        )
        return PlainRequest(head, self.handler, self.asked, self.asked.length or 0, self.closes)


class PlainRoutes:
    """See the module."""

    def __init__(
        self,
        admit: Admit,
        on_error: Callable[[Head, Exception], Answer],
        note: NoteRequest = lambda method, rule, status, seconds, length: None,
    ) -> None:
        self._admit = admit
        self._on_error = on_error
        self._note = note
        self._whole: dict[bytes, _Route] = {}
        self._numbered: dict[bytes, _Route] = {}
        self._posts: dict[bytes, _Route] = {}
        # Most who ask do so again and again.
        self._read_kept = lru_cache(maxsize=_MOST_KEPT)(self._read)

    def get(
        self, page: Blueprint, rule: str, *, takes_query: bool = False, words: Collection[str] = ()
    ) -> Callable[[Handler], Callable[..., Awaitable[Response]]]:
        """Make a handler the route of `rule` in `page`, and a plain one. The rule may end in a variable, of
        which numbers are plain, or these `words` alone; a query is plain only where the route takes one."""

        def decorate(handler: Handler) -> Callable[..., Awaitable[Response]]:
            path, variable, _ = f"{page.url_prefix or ''}{rule}".partition("<")
            whole = f"{page.url_prefix or ''}{rule}"
            for word in words:
                self._whole[f"{path}{word}".encode()] = _Route(handler, takes_query, whole, word)
            if not words:
                routes = self._numbered if variable else self._whole
                routes[path.encode()] = _Route(handler, takes_query, whole)
            view = _view(handler)
            page.get(rule)(view)
            return view

        return decorate

    def post(self, page: Blueprint, rule: str) -> Callable[[Handler], Callable[..., Awaitable[Response]]]:
        """As `get`, for what brings a body: up to `BODY` bytes of a told length are plain."""

        def decorate(handler: Handler) -> Callable[..., Awaitable[Response]]:
            path = f"{page.url_prefix or ''}{rule}"
            self._posts[path.encode()] = _Route(handler, takes_query=False, rule=path)
            view = _view(handler)
            page.post(rule)(view)
            return view

        return decorate

    def match(self, asked: h11.Request, ends: Ends) -> PlainRequest | None:
        """The request as one of a plain route: of HTTP/1.1, for a path and a query in which nothing is
        escaped, to a host that is written as most are, with no body but a small one that is posted, and
        without a header that wants more than a whole answer. None for any other."""
        if asked.http_version != b"1.1":
            return None
        headers: dict[str, str] = {}
        for raw, value in asked.headers:
            name = raw.decode("latin-1")
            if name in headers and name in _JOINED:
                return None
            headers.setdefault(name, value.decode("latin-1"))

        def several(name: str) -> Sequence[str]:
            wanted = name.lower().encode()
            return [value.decode("latin-1") for one, value in asked.headers if one == wanted]

        found = self._find(asked.method, asked.target, _tell(headers, several))
        return None if found is None else found.request(ends)

    def match_plainest(self, read: bytes, ends: Ends) -> PlainRequest | None:
        """What `match` makes of that which was read, if that is one request, as most programs write it,
        without anything that a parser of HTTP has to decide on; some of its body may be missing yet. None
        for any other."""
        lines, gap, body = read.partition(b"\r\n\r\n")
        found = (self._read_kept if len(lines) <= _KEPT else self._read)(lines) if gap else None
        if found is None:
            return None
        asked = found.request(ends)
        if body:
            asked.put_body([body])
        return None if asked.missing < 0 else asked

    def _read(self, lines: bytes) -> _Wanted | None:
        first, _, told = lines.partition(b"\r\n")
        found = _FIRST_LINE.fullmatch(first)
        if found is None:
            return None
        headers = _read_plainest(told) if len(told) <= _KEPT else _read_plainest.__wrapped__(told)
        return None if headers is None else self._find(found[1], found[2], headers)

    def _find(self, method: bytes, target: bytes, told: _Told) -> _Wanted | None:
        if not told.is_plain or method not in (b"GET", b"POST"):
            return None
        posted = method == b"POST"
        path, mark, query = target.partition(b"?")
        route = (self._posts if posted else self._whole).get(path)
        part = "" if route is None else route.part
        if route is None:
            if posted:
                return None
            above, slash, number = path.rpartition(b"/")
            route = self._numbered.get(above + slash)
            if route is None or not _NUMBER.fullmatch(number):
                return None
            part = number.decode()
        if mark and not (route.takes_query and _QUERY.fullmatch(query)):
            return None
        length = told.length
        if posted is (length is None) or (length is not None and length > BODY):
            return None
        text = query.decode() if mark else ""
        pairs = tuple([_to_pair(one) for one in text.split("&")]) if mark else ()
        return _Wanted(
            "POST" if posted else "GET",
            path.decode(),
            told.headers,
            text,
            route.rule,
            route.handler,
            Asked(part, pairs, told.several, length),
            told.closes,
        )

    async def admit(self, asked: PlainRequest) -> PlainRequest | None:
        """The request, admitted in this task and those that it begins; None for one that is refused: the app
        says why."""
        try:
            await self._admit(asked.head)
        except Exception:
            if (found := earlier.get()) is not None:
                found.refused = True
            return None
        asked.admitted = True
        return asked

    async def answer(self, asked: PlainRequest) -> Answer | None:
        """None for what is stored and not small: it is the app's."""
        head, began = asked.head, time.perf_counter()
        try:
            if not asked.admitted:
                await self._admit(head)
                asked.admitted = True
            found = await asked.handler(asked.asked)
            answer = await found.read_small() if isinstance(found, Stored) else found
        except Exception as error:
            answer = self._on_error(head, error)
        if answer is not None:
            seconds = time.perf_counter() - began
            self._note(head.method, head.rule, answer.status, seconds, len(answer.body))
        return answer


@lru_cache(maxsize=256)  # most programs send the same ones with all that they ask for
def _read_plainest(told: bytes) -> _Told | None:
    """The headers of a request; None unless they are as most programs write them."""
    if not _PLAINEST.fullmatch(told):
        return None
    lines = told.decode("ascii").split("\r\n")
    headers: dict[str, str] = {}
    for line in lines:
        name, _, value = line.partition(": ")
        headers[name.lower()] = value.strip(" ")
    is_plain = (
        len(headers) == len(lines)
        and headers.get("connection", "keep-alive").lower() in _CONNECTIONS
        and _LENGTH.fullmatch(headers.get("content-length", "0"))
    )
    if not is_plain:
        return None

    def several(name: str) -> Sequence[str]:
        value = headers.get(name.lower())
        return () if value is None else (value,)

    return _tell(headers, several)


@dataclass(frozen=True, slots=True)
class _Route:
    handler: Handler
    takes_query: bool
    rule: str
    part: str = ""


def _view(handler: Handler) -> Callable[..., Awaitable[Response]]:
    """The handler as the app's."""

    @wraps(handler)
    async def view(**parts: str) -> Response:
        query = tuple(request.args.items(multi=True))
        headers, body = request.headers.getlist, cast(Any, request.body)
        asked = Asked("".join(parts.values()), query, headers, request.content_length, aiter(body))
        found = await handler(asked)
        return await found.send() if isinstance(found, Stored) else found.to_response()

    return view


def head_of_request() -> Head:
    """Of the app's current request."""
    host, peer = (_address(request.scope.get(end)) for end in ("server", "client"))
    rule = None if request.url_rule is None else request.url_rule.rule
    query = request.query_string.decode("latin-1")
    names = [name.lower() for name, _ in request.headers]
    return Head(request.method, request.path, _header_of_request, names, host, peer, rule, query)


def _header_of_request(name: str) -> str | None:
    assert name.islower(), "the other way finds no header that is asked for by another name"
    joint = _JOINED.get(name)
    if joint is None:
        return request.headers.get(name)
    return joint.join(request.headers.getlist(name)) or None


def _address(end: Any) -> Address | None:
    return (str(end[0]), int(end[1])) if end and end[1] is not None else None


def _to_pair(text: str) -> tuple[str, str]:
    name, _, value = text.partition("=")
    return name, value


BODY: Final = 128 * 1024
"""Bytes of a body that is held in memory, until all of it has come."""

_JOINED: Final = {"cookie": "; ", "x-forwarded-for": ", "}
"""Headers that may be there several times and count as one, and how they are joined: HTTP/2 lets a browser
send each cookie by itself, and a proxy may add a line to those that it was sent."""

_NUMBER: Final = re.compile(rb"[0-9]{1,20}")
_QUERY: Final = re.compile(rb"[a-z]{1,20}=[A-Za-z0-9.-]{0,30}(&[a-z]{1,20}=[A-Za-z0-9.-]{0,30}){0,9}")
_HOST: Final = re.compile(r"[A-Za-z0-9-]+(\.[A-Za-z0-9-]+)*(:[0-9]{1,5})?|\[[0-9a-f:]+\](:[0-9]{1,5})?")
_FIRST_LINE: Final = re.compile(rb"(GET|POST) (/[!-~]*) HTTP/1\.1")
_PLAINEST: Final = re.compile(rb"(?:[A-Za-z0-9-]+: [ -~]*\r\n){0,63}[A-Za-z0-9-]+: [ -~]*")
_KEPT: Final = 1024
"""Bytes of a request's head that is remembered, at most."""
_MOST_KEPT: Final = 256
"""Heads that are remembered."""
_LENGTH: Final = re.compile(r"[0-9]{1,9}")
_CONNECTIONS: Final = frozenset({"close", "keep-alive"})
_MORE: Final = frozenset(
    [
        "transfer-encoding",
        "expect",
        "origin",
        "upgrade",
        "range",
        "if-range",
        "if-match",
        "if-none-match",
        "if-modified-since",
        "if-unmodified-since",
    ]
)
"""Headers of requests that are not plain."""
