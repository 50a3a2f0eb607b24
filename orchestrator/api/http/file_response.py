"""Sending what is on disk: whole, or a range of it under a tag that changes whenever a byte does."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack, ExitStack, asynccontextmanager
from pathlib import Path
from types import TracebackType
from typing import Final, cast
from urllib.parse import quote

import trio
from quart import Response, request
from quart.wrappers.response import DataBody, ResponseBody

from actors.wire.http.app import Refusal
from actors.wire.http.backpressure import BoundedRequest
from actors.wire.http.plain_routes import Answer
from orchestrator.api.http.sse import ContextBody
from orchestrator.nodes.remote_stream import RemoteStream
from orchestrator.storage.disk import StorageGone
from orchestrator.storage.storage import DiskStorage

PIECE: Final = 1 << 20
SMALL: Final = 1 << 16
"""Bytes of a stored file that is read at once."""

ZIP: Final = "application/zip"
BYTES: Final = "application/octet-stream"


def until_sent(held: ExitStack) -> ExitStack:
    """All that `held` holds, to be let go of when the response is over, sent or not, or earlier."""
    kept = held.pop_all()
    cast(BoundedRequest, request).held.callback(kept.close)
    return kept


class FileBody(ResponseBody):
    """Bytes `begin` to `end` of an open file. The file stays readable, and its job's directory in place,
    until `held` is closed."""

    def __init__(self, fd: int, begin: int, end: int, held: ExitStack) -> None:
        self._fd = fd
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
            piece = await trio.to_thread.run_sync(os.pread, self._fd, size, self._at)
            if not piece:
                raise StorageGone("a stored file is shorter than it was")
            self._at += len(piece)
            yield piece


@asynccontextmanager
async def _leave_after(
    held: AsyncExitStack, pieces: AsyncIterator[bytes]
) -> AsyncIterator[AsyncIterable[bytes]]:
    """Bytes from a source that `held` has entered already, and that is left after them."""
    async with held:
        yield pieces


async def send_stream(
    source: AbstractAsyncContextManager[RemoteStream], content_type: str, filename: str | None = None
) -> Response:
    """An answer of unknown length. What entering `source` raises is raised here, before any byte is sent."""
    held = AsyncExitStack()
    opened = await held.enter_async_context(source)
    cast(BoundedRequest, request).held.push_async_exit(held)
    body: ResponseBody = ContextBody(_leave_after(held, opened.body))
    if request.method == "HEAD":
        await held.aclose()
        body = DataBody(b"")
    response = Response(body, content_type=content_type)
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
    top: str = "result",
) -> Response | None:
    """One file of the stored results, or of the inputs (`top` is "input"), with ETag and ranges. None if it
    is not there."""
    with ExitStack() as held:
        fd = await _open(storage, storage_key, f"{top}/{name}", held)
        if fd is None:
            return None
        status = os.fstat(fd)
        size = status.st_size
        tag, headers = _stored_headers(storage_key, status, filename)
        if matches(request.headers.get("If-None-Match"), tag):
            return Response(b"", 304, headers)
        asked = requested_range(size, tag)
        begin, end = asked or (0, size)
        if asked is not None:
            headers["Content-Range"] = f"bytes {begin}-{end - 1}/{size}"
        response = _send_part(fd, begin, end, content_type, held)
        response.status_code = 200 if asked is None else 206
        response.headers.update(headers)
        return response


async def read_small_stored(storage: DiskStorage, storage_key: str, filename: str) -> Answer | None:
    """The stored zip as `send_stored` sends all of it, in one thread call; None if it is not there, or not
    small."""
    with storage.reading(storage_key) as directory:
        path = directory / "result" / "result.zip"

        def read() -> tuple[os.stat_result, bytes] | None:
            fd = _open_file(path)
            if fd is None:
                return None
            try:
                status = os.fstat(fd)
                content = os.pread(fd, SMALL + 1, 0)
                return (status, content) if len(content) == status.st_size <= SMALL else None
            finally:
                os.close(fd)

        try:
            found = await storage.thread(read, what=f"results in {path.parent}")
        except StorageGone:
            return None
    if found is None:
        return None
    status, content = found
    _, headers = _stored_headers(storage_key, status, filename)
    return Answer(200, ZIP, content, headers)


def _stored_headers(storage_key: str, status: os.stat_result, filename: str) -> tuple[str, dict[str, str]]:
    """The ETag of a stored file, and the headers that it is sent with."""
    # A result is never written to, only replaced by a newly written file: these say which one it is.
    tag = f'"{storage_key[:16]}-{status.st_mtime_ns:x}-{status.st_size:x}"'
    return tag, {
        "ETag": tag,
        "Accept-Ranges": "bytes",
        "Cache-Control": "private, no-cache",
        "Content-Disposition": attachment(filename),
    }


def _send_part(fd: int, begin: int, end: int, content_type: str, held: ExitStack) -> Response:
    """Bytes of an open file. What `held` holds is kept until they are sent."""
    body: ResponseBody = DataBody(b"")
    if request.method != "HEAD":
        body = FileBody(fd, begin, end, until_sent(held))
    response = Response(body, content_type=content_type)
    response.headers["Content-Length"] = str(end - begin)
    return response


async def _open(storage: DiskStorage, storage_key: str, name: str, held: ExitStack) -> int | None:
    """A descriptor of a file of a job's directory, which stays open, and the directory in place, as long as
    `held` holds them; None if it is not there, or something else is."""
    path = held.enter_context(storage.reading(storage_key)) / name
    try:
        fd = await storage.thread(lambda: _open_file(path), what=f"results in {path.parent}")
    except StorageGone:
        return None
    if fd is not None:
        held.callback(os.close, fd)
    return fd


def _open_file(path: Path) -> int | None:
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    if stat.S_ISREG(os.fstat(fd).st_mode):
        return fd
    os.close(fd)
    return None


def attachment(filename: str) -> str:
    """What makes a browser save it under this name."""
    if re.fullmatch(r"[\w.+-]+", filename, re.ASCII):
        return f'attachment; filename="{filename}"'
    return f"attachment; filename*=UTF-8''{quote(filename, safe='')}"


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
        fd = await _open(storage, storage_key, f"result/{name}", held)
        if fd is None:
            return
        while piece := await trio.to_thread.run_sync(os.pread, fd, PIECE, offset):
            offset += len(piece)
            yield piece


async def send_log(storage: DiskStorage, storage_key: str, name: str, offset: int) -> Response | None:
    """A stored log from `offset` bytes on; nothing when that is its end or beyond. None if it is not
    there."""
    with ExitStack() as held:
        fd = await _open(storage, storage_key, f"result/{name}", held)
        if fd is None:
            return None
        size = os.fstat(fd).st_size
        return _send_part(fd, min(offset, size), size, BYTES, held)
