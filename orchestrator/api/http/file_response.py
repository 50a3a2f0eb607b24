"""Sending what is on disk: whole, or a range of it under a tag that changes whenever a byte does."""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack, ExitStack, aclosing, asynccontextmanager
from types import TracebackType
from typing import Final, Literal, cast
from urllib.parse import quote

from quart import Response, request
from quart.wrappers.response import DataBody, ResponseBody

from actors.ports.storage import Part
from actors.wire.files.last_lines import LastLines, Tail
from actors.wire.http.app import Refusal
from actors.wire.http.backpressure import BoundedRequest
from actors.wire.http.plain_routes import Answer
from orchestrator.api.http.sse import ContextBody
from orchestrator.nodes.remote_stream import RemoteStream
from orchestrator.storage.disk import StorageGone
from orchestrator.storage.result_sink import RESULT
from orchestrator.storage.storage import DiskStorage
from orchestrator.storage.stored_file import StoredFile

PIECE: Final = 1 << 20
SMALL: Final = 1 << 16
"""Bytes of a stored file that is read at once."""

ZIP: Final = "application/zip"
BYTES: Final = "application/octet-stream"

UNTRUSTED: Final = {"X-Content-Type-Options": "nosniff", "Content-Security-Policy": "sandbox"}
"""On all that a job's script or its user has written: a browser takes it for what it is said to be, and for
nothing of ours."""


def until_sent(held: ExitStack) -> ExitStack:
    """All that `held` holds, to be let go of when the response is over, sent or not, or earlier."""
    kept = held.pop_all()
    cast(BoundedRequest, request).held.callback(kept.close)
    return kept


class FileBody(ResponseBody):
    """Bytes `begin` to `end` of an open file. The file stays readable, and its job's directory in place,
    until `held` is closed."""

    def __init__(self, file: StoredFile, begin: int, end: int, held: ExitStack) -> None:
        self._file = file
        self._at = begin
        self._end = end
        self._held = held

    async def __aenter__(self) -> AsyncIterable[bytes]:
        return self._pieces()

    async def __aexit__(
        self, exc_type: type[BaseException], exc_value: BaseException, tb: TracebackType
    ) -> None:
        self._held.close()

    async def _pieces(self) -> AsyncIterator[bytes]:
        while self._at < self._end:
            size = min(PIECE, self._end - self._at)
            piece = await self._file.read(size, self._at)
            if not piece:
                raise StorageGone("a stored file is shorter than it was")
            self._at += len(piece)
            yield piece


@asynccontextmanager
async def _leave_after(
    held: AsyncExitStack, pieces: AsyncIterator[bytes], most: int | None
) -> AsyncIterator[AsyncIterable[bytes]]:
    """Bytes from a source that `held` has entered already, and that is left after them."""

    async def first() -> AsyncGenerator[bytes, None]:
        left = abs(most or 0)
        async for piece in pieces:
            yield piece[:left]
            left -= len(piece)
            if left <= 0:
                return

    async with held:
        if most is None:
            yield pieces
        else:
            async with aclosing(first()) as begun:
                yield begun


async def send_stream(
    source: AbstractAsyncContextManager[RemoteStream],
    content_type: str,
    filename: str | None = None,
    *,
    most: int | None = None,
) -> Response:
    """An answer of unknown length, of `most` bytes if that is given. What entering `source` raises is raised
    here, before any byte is sent."""
    held = AsyncExitStack()
    opened = await held.enter_async_context(source)
    cast(BoundedRequest, request).held.push_async_exit(held)
    body: ResponseBody = ContextBody(_leave_after(held, opened.body, most))
    if request.method == "HEAD":
        await held.aclose()
        body = DataBody(b"")
    response = Response(body, content_type=content_type)
    response.headers.update(UNTRUSTED)
    response.headers["Accept-Ranges"] = "none"
    response.headers["Cache-Control"] = "no-store"
    if filename is not None:
        response.headers["Content-Disposition"] = attachment(filename)
    return response


async def send_stored(
    storage: DiskStorage,
    storage_key: str,
    name: str,
    content_type: str,
    filename: str,
    *,
    part: Part = "result",
    most: int | None = None,
) -> Response | None:
    """One file of the stored results, or of the input, with ETag and ranges; with `most` as `shown` has it,
    without ranges. None if it is not there."""
    with ExitStack() as held:
        file = await _open(storage, storage_key, part, name, held)
        if file is None:
            return None
        size = file.size
        tag, headers = _stored_headers(storage_key, file, filename)
        if matches(request.headers.get("If-None-Match"), tag):
            return Response(b"", 304, headers, content_type=content_type)
        asked = requested_range(size, tag) if most is None else None
        begin, end = asked or (0, shown(size, most))
        if asked is not None:
            headers["Content-Range"] = f"bytes {begin}-{end - 1}/{size}"
        response = _send_part(file, begin, end, content_type, held)
        response.status_code = 200 if asked is None else 206
        response.headers.update(headers)
        return response


async def read_small_stored(storage: DiskStorage, storage_key: str, filename: str) -> Answer | None:
    """The stored zip as `send_stored` sends all of it, at once; None if it is not there, or not small."""
    # What is open can be read to its end, whatever becomes of the directory that it is in.
    file = await storage.open_file(storage_key, "result", RESULT)
    if file is None:
        return None
    try:
        size = file.size
        content = await file.read(SMALL, 0) if size <= SMALL else b""
    finally:
        file.close()
    if len(content) < size:
        return None
    _, headers = _stored_headers(storage_key, file, filename)
    return Answer(200, ZIP, content, headers)


def _stored_headers(storage_key: str, file: StoredFile, filename: str) -> tuple[str, dict[str, str]]:
    """The ETag of a stored file, and the headers that it is sent with."""
    # A result is never written to, only replaced by a newly written file: these say which one it is.
    tag = f'"{storage_key[:16]}-{file.at:x}-{file.size:x}"'
    return tag, {
        "ETag": tag,
        "Accept-Ranges": "bytes",
        "Cache-Control": "private, no-cache",
        "Content-Disposition": attachment(filename),
        **UNTRUSTED,
    }


def _send_part(file: StoredFile, begin: int, end: int, content_type: str, held: ExitStack) -> Response:
    """Bytes of an open file. What `held` holds is kept until they are sent."""
    body: ResponseBody = DataBody(b"")
    if request.method != "HEAD":
        body = FileBody(file, begin, end, until_sent(held))
    response = Response(body, content_type=content_type)
    response.headers["Content-Length"] = str(end - begin)
    return response


async def _open(
    storage: DiskStorage, storage_key: str, part: Part, name: str, held: ExitStack
) -> StoredFile | None:
    """A file of a job, which stays open, and the job's directory in place, as long as `held` holds them; None
    if it is not there, or something else is."""
    held.enter_context(storage.reading(storage_key))
    file = await storage.open_file(storage_key, part, name)
    if file is not None:
        held.callback(file.close)
    return file


def shown(size: int, most: int | None) -> int:
    """How many bytes are sent of a file that is shown: `most` at most; of a negative `most` all or, by a
    Refusal, none, for half a picture says nothing."""
    if most is None:
        return size
    if size > -most > 0:
        raise Refusal(
            413, "too_large_to_show", f"it has {size} bytes, and {-most} are shown at most; download it"
        )
    return min(size, abs(most))


def attachment(filename: str) -> str:
    """What makes a browser save it under this name."""
    return disposition(filename, "attachment")


_STEERING: Final = re.compile(
    "[\\x00-\\x1f\\x7f-\\x9f\\u061c\\u200e\\u200f\\u2028-\\u202e\\u2066-\\u2069\\ud800-\\udfff]"
)


_PLAIN: Final = re.compile(r"[\w.+-]+", re.ASCII)


def disposition(filename: str, kind: Literal["attachment", "inline"]) -> str:
    """The header as RFC 6266 has it: of a name with other letters also what is left of it for who does not
    know these. What steers a terminal, or turns the direction of writing so that `exe` reads as something
    else, is left out of both."""
    filename = _STEERING.sub("_", filename)
    if _PLAIN.fullmatch(filename):
        return f'{kind}; filename="{filename}"'
    plain = re.sub(r"[^\w.+-]", "_", filename, flags=re.ASCII)
    return f"{kind}; filename=\"{plain}\"; filename*=UTF-8''{quote(filename, safe='')}"


def matches(header: str | None, tag: str) -> bool:
    if header is None:
        return False
    given = [item.strip().removeprefix("W/") for item in header.split(",")]
    return tag in given or "*" in given


_RANGE: Final = re.compile(r"bytes=\s*([0-9]{0,18})-([0-9]{0,18})\s*", re.ASCII | re.IGNORECASE)


def parse_range(header: str, size: int) -> tuple[int, int] | None:
    """Where the bytes begin and end that a Range header asks for; nothing is between when there are none.
    None for the whole, which several ranges and what makes no sense get."""
    match = _RANGE.fullmatch(header)
    if match is None or match[1] == match[2] == "":
        return None
    first, last = match[1], match[2]
    if first and last and int(last) < int(first):
        return None
    begin = int(first) if first else max(0, size - int(last))
    return min(begin, size), min(size, int(last) + 1) if first and last else size


def requested_range(size: int, tag: str) -> tuple[int, int] | None:
    """The bytes that are asked for; None for the whole. Raises Refusal (416) for a range with nothing in
    it."""
    header, condition = request.headers.get("Range"), request.headers.get("If-Range")
    # Only the very tag will do: a date, a weak tag or an old one means that the client has something else.
    if request.method != "GET" or header is None or (condition is not None and condition.strip() != tag):
        return None
    found = parse_range(header, size)
    if found is not None and found[0] >= found[1]:
        headers = {"Content-Range": f"bytes */{size}"}
        raise Refusal(416, "range_not_satisfiable", f"there are {size} bytes", headers=headers)
    return found


async def read_pieces(
    storage: DiskStorage, storage_key: str, name: str, offset: int
) -> AsyncGenerator[bytes, None]:
    """One file of the stored results from `offset` on; nothing if it is not there."""
    with ExitStack() as held:
        file = await _open(storage, storage_key, "result", name, held)
        if file is None:
            return
        while piece := await file.read(PIECE, offset):
            offset += len(piece)
            yield piece


async def send_log(
    storage: DiskStorage, storage_key: str, name: str, offset: int, most: int | None = None
) -> Response | None:
    """A stored log from `offset` bytes on, or `most` of them; nothing when that is its end or beyond. None if
    it is not there."""
    with ExitStack() as held:
        file = await _open(storage, storage_key, "result", name, held)
        if file is None:
            return None
        begin = min(offset, file.size)
        end = file.size if most is None else min(begin + most, file.size)
        return _send_part(file, begin, end, BYTES, held)


async def find_last_lines(storage: DiskStorage, storage_key: str, name: str, lines: int) -> Tail:
    """Where the last lines of a stored log begin; of one that is not there, at 0."""
    with ExitStack() as held:
        file = await _open(storage, storage_key, "result", name, held)
        if file is None:
            return Tail(0, 0)
        last = LastLines(file.size, lines)
        while (missing := last.missing) is not None:
            last.take(await file.read(*missing))
        return last.tail
