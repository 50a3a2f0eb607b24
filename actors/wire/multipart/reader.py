"""A multipart/form-data body, read as it arrives.

Memory stays bounded whatever is sent: one chunk of the body, and up to 1 MiB collected for one write. A limit
counts the bytes that were received, not what a header claims.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from typing import Final, Protocol

import trio
from multipart import MultipartError, MultipartSegment, PushMultipartParser, parse_options_header

from actors.wire.errors import BadRequest, CutOff, TooLarge, WireError
from actors.wire.files.names import printable
from actors.wire.multipart import content_disposition
from actors.wire.pieces import Pieces

WRITE: Final = 1 << 20
"""Bytes that are collected before they are written: each write may cost a thread."""

MAX_PARTS: Final = 10_000
TEXT_LIMIT: Final = 64 * 1024

_SLICE: Final = 256 * 1024
_HEADER_LIMIT: Final = 16 * 1024
_HEADER_COUNT: Final = 16
_BOUNDARY_LIMIT: Final = 200
_KEPT_HEAD: Final = 1024
_PLAIN_TYPE: Final = re.compile(r"multipart/form-data; ?boundary=([A-Za-z0-9_-]{1,70})")
_IDENTITY: Final = ("7bit", "8bit", "binary")
_CONTROL: Final = re.compile(r"[\x00-\x08\x0a-\x1f]")
# What the parser says is for programmers. What it says of a part is told with the part's number.
_UNREADABLE: Final = "its head cannot be read: lines `name: value` in UTF-8, ended by CR LF, were expected"
_OF_HEADS: Final = {
    "Maximum segment header length exceeded": f"its head has a line of more than {_HEADER_LIMIT} bytes",
    "Maximum segment header count exceeded": f"its head has more than {_HEADER_COUNT} lines",
    "Missing Content-Disposition segment header": "it has no Content-Disposition",
    "Invalid Content-Disposition segment header: Wrong type": "its Content-Disposition is not form-data",
    "Multiple segment Content-Length headers": "it has Content-Length twice",
    "Invalid segment Content-Length header value": "its Content-Length is no number",
}
_OF_BODIES: Final = {
    "Segment Content-Length exceeded": "it is longer than its Content-Length",
    "Segment size does not match Content-Length header": "it is shorter than its Content-Length",
}


@dataclass(frozen=True, slots=True)
class Part:
    """The head of a part. `filename` is what the client called the file, decoded but not made safe; None
    only for a text field. `content_type` is lower-case and without parameters."""

    name: str
    filename: str | None
    content_type: str | None


def refuse_file_without_name(part: Part) -> None:
    """Raise BadRequest if a part that nobody wants as a text field is none: a file must not vanish."""
    if part.filename is None and part.content_type not in (None, "text/plain"):
        raise BadRequest(
            f"part {printable(part.name)} is {printable(part.content_type or '')} without a file name: "
            "if it is a file, name it by `filename`; if it is a text field, send it without Content-Type"
        )


class Sink(Protocol):
    """Takes the bytes of one part, in pieces of up to about 1 MiB. `close` is called exactly once, also when
    the part was cut off: then `read_parts` raises afterwards, and what came is not to be kept."""

    async def write(self, data: bytes) -> None: ...

    async def close(self) -> None: ...


class TextSink:
    """Collects a text field. Raises BadRequest when it is longer than `limit` bytes."""

    def __init__(self, name: str, limit: int = TEXT_LIMIT) -> None:
        self.name = name
        self._limit = limit
        self._data = bytearray()

    async def write(self, data: bytes) -> None:
        if len(self._data) + len(data) > self._limit:
            raise BadRequest(f"field {printable(self.name)}: it is longer than {self._limit} bytes")
        self._data += data

    async def close(self) -> None:
        """Nothing is held open."""

    @property
    def text(self) -> str:
        """What came, as text. Raises BadRequest if it is not UTF-8; a `_charset_` field changes nothing."""
        try:
            return self._data.decode()
        except UnicodeDecodeError:
            raise BadRequest(f"field {printable(self.name)}: it is not UTF-8") from None


async def read_parts(
    content_type: str,
    body: AsyncIterator[bytes],
    *,
    limit: int | None,
    on_part: Callable[[Part], Awaitable[Sink | None]],
) -> None:
    """Read the whole body. For each part `on_part` gives the sink that takes its bytes, or None to skip them.

    A part with an empty file name and no bytes is a form field that was left unfilled: `on_part` never sees
    it. What follows the last boundary is counted and ignored.

    Of a body that is here already, `Pieces`, all parts are cut out at once if it is written as most are.

    Raises TooLarge as soon as more than `limit` bytes arrived, before the chunk that passes it is looked at;
    CutOff when the body ends early; BadRequest when it is malformed, with what is wrong. What `body`,
    `on_part` and the sinks raise passes through.
    """
    boundary = _boundary(content_type)
    if isinstance(body, Pieces):
        whole = b"".join(pieces := body.take())
        parts = cut_whole(whole, boundary) if limit is None or len(whole) <= limit else None
        if parts is not None:
            await _hand_out(parts, on_part)
            return
        body = Pieces(pieces)
    reader = _Reader(boundary, on_part)
    received = 0
    try:
        async for chunk in body:
            received += len(chunk)
            if limit is not None and received > limit:
                raise TooLarge(f"the body is larger than {limit} bytes", limit)
            for start in range(0, len(chunk), _SLICE):
                await reader.feed(chunk if len(chunk) <= _SLICE else chunk[start : start + _SLICE])
        reader.finish()
    except BaseException:
        await reader.drop()  # noqa: ASYNC102  # it shields itself, with a timeout
        raise


def cut_whole(whole: bytes, boundary: bytes) -> Sequence[tuple[Part, bytes]] | None:
    """The parts of a whole body, with their bytes. None if a parser has to say what it is, or what is wrong
    with it, and for a large one."""
    opening = b"--" + boundary
    if len(whole) > _SLICE or not whole.startswith(opening):
        return None
    *pieces, end = whole.removeprefix(opening).split(b"\r\n" + opening)
    if not end.startswith(b"--"):
        return None
    parts = []
    for piece in pieces:
        head, gap, data = piece.partition(b"\r\n\r\n")
        part = _read_head(head) if gap and len(head) <= _KEPT_HEAD else None
        if part is None:
            return None
        parts.append((part, data))
    return parts


@lru_cache(maxsize=256)  # most forms have the same fields, and files of the same names
def _read_head(head: bytes) -> Part | None:
    """That of a part, with the line end that ends its boundary; None for one that has to be read with what
    follows it, or is refused."""
    try:
        match list(PushMultipartParser(b"B").parse(b"--B%s\r\n\r\n\r\n--B--" % head)):
            case [MultipartSegment() as segment, None] if "Content-Length" not in dict(segment.headerlist):
                return _part(segment)
    except (MultipartError, BadRequest):
        pass
    return None


async def _hand_out(
    parts: Iterable[tuple[Part, bytes]], on_part: Callable[[Part], Awaitable[Sink | None]]
) -> None:
    for part, data in parts:
        if part.filename == "" and not data:
            continue
        sink = await on_part(part)
        if sink is None:
            continue
        try:
            if data:
                await sink.write(data)
        except BaseException:
            await _let_go(sink)  # noqa: ASYNC102  # it shields itself, with a timeout
            raise
        await sink.close()


async def _let_go(sink: Sink) -> None:
    """After a failure: let the open sink close what it holds. The failure itself is what is reported."""
    with trio.move_on_after(5, shield=True), suppress(OSError, WireError):
        await sink.close()


def _boundary(content_type: str) -> bytes:
    if (plain := _PLAIN_TYPE.fullmatch(content_type)) is not None:
        return plain[1].encode("ascii")
    kind, options = parse_options_header(content_type)
    if kind != "multipart/form-data":
        raise BadRequest(f"Content-Type {printable(content_type)}: multipart/form-data was expected")
    boundary = options.get("boundary", "")
    if (
        not boundary
        or len(boundary) > _BOUNDARY_LIMIT
        or not boundary.isascii()
        or not boundary.isprintable()
    ):
        raise BadRequest(f"Content-Type {printable(content_type)}: it has no usable boundary")
    return boundary.encode("ascii")


class _Reader:
    def __init__(self, boundary: bytes, on_part: Callable[[Part], Awaitable[Sink | None]]) -> None:
        self._parser = PushMultipartParser(
            boundary,
            max_header_size=_HEADER_LIMIT,
            max_header_count=_HEADER_COUNT,
            max_segment_count=MAX_PARTS + 1,  # one more, to be refused in our words
        )
        self._opening = b"--" + boundary
        self._head = b""
        self._on_part = on_part
        self._count = 0
        self._unfilled: Part | None = None
        self._sink: Sink | None = None
        self._pending: list[bytes] = []
        self._size = 0

    async def feed(self, chunk: bytes) -> None:
        if len(self._head) < len(self._opening) + 2:
            self._head += chunk[: len(self._opening) + 2]
        try:
            for event in self._parser.parse(chunk):
                if event is None:
                    await self._end()
                elif isinstance(event, MultipartSegment):
                    await self._begin(event)
                else:
                    await self._data(event)
        except MultipartError as error:
            raise BadRequest(f"malformed multipart: {self._describe_error(error)}") from None

    def _describe_error(self, error: MultipartError) -> str:
        said = str(error.args[0]) if error.args else ""
        if "first boundary" in said:
            return "the body has to begin with the boundary that its Content-Type names"
        if "after boundary" in said:
            return f"the boundary after part {self._count} is followed by neither CR LF nor `--`"
        if said in _OF_BODIES:
            return f"part {self._count}: {_OF_BODIES[said]}"
        return f"part {self._count + 1}: {_OF_HEADS.get(said, _UNREADABLE)}"

    def finish(self) -> None:
        try:
            self._parser.close()
        except MultipartError:
            if self._count or self._might_begin():
                raise CutOff("the multipart body ended before its last boundary") from None
            raise BadRequest("malformed multipart: the boundary does not occur in the body") from None

    async def drop(self) -> None:
        """After a failure."""
        sink, self._sink = self._sink, None
        if sink is not None:
            await _let_go(sink)

    def _might_begin(self) -> bool:
        """Whether what came is the beginning of a body, as far as it goes. Nothing at all is not."""
        head = self._head.removeprefix(b"\r\n")[: len(self._opening)]
        return bool(head) and self._opening.startswith(head)

    async def _begin(self, segment: MultipartSegment) -> None:
        self._count += 1
        if self._count > MAX_PARTS:
            raise BadRequest(f"the form has more than {MAX_PARTS} parts; send many files as one archive")
        part = _part(segment)
        if part.filename == "":
            self._unfilled = part
        else:
            self._sink = await self._on_part(part)

    async def _data(self, data: bytes) -> None:
        if self._unfilled is not None:
            part, self._unfilled = self._unfilled, None
            self._sink = await self._on_part(part)
        if self._sink is None:
            return
        self._pending.append(data)
        self._size += len(data)
        # Text costs no thread, and its limit is to be noticed by the byte that passes it.
        if self._size >= WRITE or isinstance(self._sink, TextSink):
            await self._flush(self._sink)

    async def _end(self) -> None:
        self._unfilled = None
        if self._sink is None:
            return
        if self._size:
            await self._flush(self._sink)
        sink, self._sink = self._sink, None
        await sink.close()

    async def _flush(self, sink: Sink) -> None:
        data = self._pending[0] if len(self._pending) == 1 else b"".join(self._pending)
        self._pending.clear()
        self._size = 0
        await sink.write(data)


def _part(segment: MultipartSegment) -> Part:
    headers: dict[str, str] = {}
    for name, value in segment.headerlist:
        if name in headers:
            raise BadRequest(f"malformed multipart: a part has {name} twice")
        if _CONTROL.search(value):
            raise BadRequest(f"malformed multipart: control characters in {name} {printable(value)}")
        headers[name] = value
    encoding = headers.get("Content-Transfer-Encoding", "binary").strip().lower()
    if encoding not in _IDENTITY:
        raise BadRequest(
            f"malformed multipart: Content-Transfer-Encoding {printable(encoding)} is not understood"
        )
    name, filename = content_disposition.parse(headers["Content-Disposition"])
    if filename is None and (segment.content_type or "").startswith("multipart/"):
        raise BadRequest(
            f"part {printable(name)} is {segment.content_type}, several files in one field: send each as a "
            "part of its own, all of the same name, as `curl -F file=@a -F file=@b` does"
        )
    return Part(name, filename, segment.content_type)
