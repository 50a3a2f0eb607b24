"""`/v1/jobs/{id}/files`: what is in a job's directory, wherever it is now, and each file of it.

Of an ended job it is what its stored zip holds; of one that is on a node, what is there now; of one that has
not begun, or that ended without having run, what was uploaded. Names are spelled as in the zips.

`?view=1` is for a page that shows a file: inline, cut where it is long, and as text whatever is no picture
and no PDF. A browser never takes it for a page.
"""

from __future__ import annotations

import zlib
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Sequence
from contextlib import ExitStack, aclosing, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Annotated, Final, Literal

from quart import Blueprint, Response, request

from actors.domain.job import Attempt, Job
from actors.domain.node import NodeRef
from actors.domain.status import ENDED, Status
from actors.wire.files.listing import list_tree
from actors.wire.files.names import spell
from actors.wire.files.zip_reader import OpenMember
from actors.wire.http.app import PASSES, Refusal, json_response, query, read_job_id
from orchestrator.access.links import PARAMETER
from orchestrator.api import job_views
from orchestrator.api.context import ApiContext
from orchestrator.api.http import file_response, query_params, sse
from orchestrator.api.openapi.describe import ANY_FILE, CURSOR, LINK, OF_A_JOB, describe, in_query, page_of
from orchestrator.api.serializers import render_file
from orchestrator.contract import bodies
from orchestrator.contract.bodies import Also, File
from orchestrator.nodes.remote_stream import NotOnNode
from orchestrator.storage.result_archive import (
    FileEntry,
    is_stored,
    list_bundle,
    list_stored,
    open_stored,
)

PAGE: Final = 1000
MOST_PAGE: Final = 10_000
PIECE: Final = 1 << 18

MOST_TEXT: Final = 2 << 20
MOST_PICTURE: Final = 32 << 20
"""Bytes of a file that are sent to be shown; of a text the first."""

COMPARED: Final = 64 << 20
"""Bytes of inputs that one list reads to tell those that were changed and are as long as before."""

_INPUTS: Final = in_query(
    "inputs",
    "1: of what the job was given, as it came, whatever the job has made of it",
    Literal["0", "1", "", "true", "false"],
)


def blueprint(api: ApiContext) -> Blueprint:
    page = Blueprint("v1-files", __name__, url_prefix="/v1")

    @page.get("/jobs/<number>/files")
    @describe(
        "What is in the job's directory, wherever it is now",
        CURSOR,
        in_query("limit", "Files a page", Annotated[int, Also(minimum=1, maximum=MOST_PAGE, default=PAGE)]),
        _INPUTS,
        answers={200: ("By path", page_of(File))},
        errors=OF_A_JOB | {409: "It is on a node that cannot list it"},
    )
    async def files(number: str) -> Response:
        given = query("cursor", "limit", "inputs")
        inputs = query_params.flag(given, "inputs")
        limit = query_params.whole(given, "limit", 1, MOST_PAGE, PAGE)
        begin = query_params.at_cursor(given, "f") or 0
        row = await job_views.find(api, read_job_id(number))
        found = await (_list_given(api, row) if inputs else _list_files(api, row))
        shown = found[begin : begin + limit]
        origins = await _origins(api, row, shown, inputs=inputs)
        items = [render_file(entry, origin) for entry, origin in zip(shown, origins, strict=True)]
        after = query_params.cursor("f", begin + limit) if begin + limit < len(found) else None
        return json_response({"items": items, "next": after})

    @page.get("/jobs/<number>/files/<file:path>")
    @describe(
        "One file of it",
        LINK,
        in_query(
            "view",
            "1: to be shown in a page: inline, pictures and PDF as what they are, all else as text, of which "
            f"the first {MOST_TEXT} bytes come; without ranges",
            Literal["0", "1", "", "true", "false"],
        ),
        _INPUTS,
        answers={
            200: ("Its bytes; with an ETag if the job has ended", ANY_FILE),
            206: ("The range, unless the job is on a node", ANY_FILE),
            304: "Unchanged",
        },
        errors=OF_A_JOB | {413: "Too large to be shown", 416: "Nothing in this range"},
    )
    async def file(number: str, path: str) -> Response:
        given = query(PARAMETER, "view", "inputs")
        view, inputs = query_params.flag(given, "view"), query_params.flag(given, "inputs")
        row = await job_views.find(api, read_job_id(number))
        if not {"", ".", ".."}.isdisjoint(path.split("/")):
            raise _unknown_file(row, path)  # on its way to a node it would become another path
        if inputs:
            return await _send_given(api, row, path, view=view)
        if row.status not in ENDED and (found := await job_views.find_node(api, row)) is not None:
            try:
                return await _send_live(api, row, found, path, view=view)
            except NotOnNode:
                row = await job_views.find(api, row.id)
                if row.status not in ENDED:
                    raise _unknown_file(row, path) from None
        return await _send_stored(api, row, path, view=view)

    return page


async def _list_files(api: ApiContext, row: Job) -> Sequence[FileEntry]:
    if row.status not in ENDED and (found := await job_views.find_node(api, row)) is not None:
        try:
            return await api.nodes.list_files(*found)
        except NotOnNode as error:
            row = await job_views.find(api, row.id)
            if row.status not in ENDED:
                raise Refusal(
                    409,
                    "not_listed",
                    f"the files of job {row.id} cannot be listed now: {error}",
                    headers=PASSES,
                ) from None
    _require_data(row)
    with api.storage.reading(row.storage_key):
        what = f"the files of job {row.id}"
        if row.status in ENDED:
            result = await api.storage.result(row.storage_key)
            stored = await api.storage.thread(lambda: list_stored(result), what=what)
            if stored is not None:
                return stored
    return await _list_given(api, row)


async def _list_given(api: ApiContext, row: Job) -> Sequence[FileEntry]:
    """What the job was given, as it came."""
    _require_data(row)
    with api.storage.reading(row.storage_key):
        bundle = await api.storage.small_files(row.storage_key, "input")
        if bundle is not None:
            return list_bundle(bundle)
        directory = api.storage.job(row.storage_key)
        return await api.storage.thread(
            lambda: _list_inputs(directory / "input"), what=f"the files of job {row.id}"
        )


def _list_inputs(top: Path) -> Sequence[FileEntry]:
    entries = list_tree(top).entries
    return sorted(
        (FileEntry(e.path, e.size, e.mode, e.mtime, e.kind, e.target) for e in entries),
        key=lambda one: one.path,
    )


async def _origins(
    api: ApiContext, row: Job, entries: Sequence[FileEntry], *, inputs: bool
) -> list[bodies.FileOrigin | None]:
    """Whether each is an input as it came, one that was changed, or new; None for what is no file."""
    if inputs or (row.status not in ENDED and row.attempt is None):
        return ["input" if entry.kind == "file" else None for entry in entries]
    with api.storage.reading(row.storage_key):
        known = {
            spell(path.encode()): (source, size)
            for path, source, size in await api.storage.input_files(row.storage_key)
        }

        def compare() -> list[bodies.FileOrigin | None]:
            left = COMPARED
            found: list[bodies.FileOrigin | None] = []
            for entry in entries:
                source, size = known.get(entry.path, (b"", -1))
                if entry.kind != "file":
                    found.append(None)
                elif size < 0:
                    found.append("new")
                elif size != entry.size:
                    found.append("changed")
                elif entry.crc is None or size > left:
                    found.append("input")  # as far as can be told
                else:
                    left -= size
                    found.append("input" if _crc(source) == entry.crc else "changed")
            return found

        return await api.storage.thread(compare, what=f"the files of job {row.id}")


def _crc(source: Path | bytes) -> int:
    if isinstance(source, bytes):
        return zlib.crc32(source)
    crc = 0
    with source.open("rb") as file:
        while piece := file.read(PIECE):
            crc = zlib.crc32(piece, crc)
    return crc


async def _send_live(
    api: ApiContext, row: Job, found: tuple[NodeRef, Attempt], path: str, *, view: bool
) -> Response:
    source = api.nodes.open_file(*found, path)
    answer = await file_response.send_stream(
        source, _media_type(path, view=view), most=_most(path) if view else None
    )
    answer.headers["Content-Disposition"] = _disposition(row, path, view=view)
    answer.headers["Content-Security-Policy"] = _policy(path, view=view)
    return answer


async def require_file(api: ApiContext, row: Job, path: str) -> None:
    """Raise Refusal where an ended job has left no such file."""
    _require_data(row)
    with ExitStack() as held:
        held.enter_context(api.storage.reading(row.storage_key))
        if await _open_member(api, row, path, held) is None:
            await _require_given(api, row, path)


async def _send_stored(api: ApiContext, row: Job, path: str, *, view: bool) -> Response:
    _require_data(row)
    with ExitStack() as held:
        held.enter_context(api.storage.reading(row.storage_key))
        if (member := await _open_member(api, row, path, held)) is not None:
            return _send_member(api, row, path, member, held, view=view)
    return await _send_given(api, row, path, view=view)


async def _open_member(api: ApiContext, row: Job, path: str, held: ExitStack) -> OpenMember | None:
    """A file of the results, open as long as what `held` holds; None where there are no results. Raises
    Refusal for one that they lack."""
    result = await api.storage.result(row.storage_key) if row.status in ENDED else None
    if result is None or not await api.storage.thread(lambda: is_stored(result), what="results"):
        return None
    member = await api.storage.thread(lambda: open_stored(result, path), what=f"results of job {row.id}")
    if member is None:
        raise _unknown_file(row, path)
    held.callback(member.close)
    return member


async def _send_given(api: ApiContext, row: Job, path: str, *, view: bool) -> Response:
    """One of the files that the job was given, as it came."""
    _require_data(row)
    await _require_given(api, row, path)
    kept = await file_response.send_stored(
        api.storage,
        row.storage_key,
        path,
        _media_type(path, view=view),
        "",
        part="input",
        most=_most(path) if view else None,
    )
    if kept is None:
        raise _unknown_file(row, path)
    kept.headers["Content-Disposition"] = _disposition(row, path, view=view)
    kept.headers["Content-Security-Policy"] = _policy(path, view=view)
    return kept


async def _require_given(api: ApiContext, row: Job, path: str) -> None:
    if path not in {name for name, _, _ in await api.storage.input_files(row.storage_key)}:
        raise _unknown_file(row, path)


def _send_member(
    api: ApiContext, row: Job, path: str, member: OpenMember, held: ExitStack, *, view: bool
) -> Response:
    kind = _media_type(path, view=view)
    tag = f'"{row.storage_key[:16]}-{member.zip_mtime_ns:x}-{member.crc:08x}-{member.size:x}"'
    headers = {
        "ETag": tag,
        "Accept-Ranges": "none" if view else "bytes",
        "Cache-Control": "private, no-cache",
        **file_response.UNTRUSTED,
        "Content-Disposition": _disposition(row, path, view=view),
        "Content-Security-Policy": _policy(path, view=view),
    }
    if file_response.matches(request.headers.get("If-None-Match"), tag):
        return Response(b"", 304, headers, content_type=kind)
    asked = None if view else file_response.requested_range(member.size, tag)
    begin, end = asked or (0, file_response.shown(member.size, _most(path) if view else None))
    if asked is not None:
        headers["Content-Range"] = f"bytes {begin}-{end - 1}/{member.size}"
    status = 200 if asked is None else 206
    if request.method == "HEAD":
        response = Response(b"", status, headers, content_type=kind)
    else:
        body = sse.ContextBody(_pieces(api, member, begin, end, file_response.until_sent(held)))
        response = Response(body, status, headers, content_type=kind)
    response.headers["Content-Length"] = str(end - begin)
    return response


@asynccontextmanager
async def _pieces(
    api: ApiContext, member: OpenMember, begin: int, end: int, held: ExitStack
) -> AsyncIterator[AsyncIterable[bytes]]:
    async def pieces() -> AsyncGenerator[bytes, None]:
        # What is packed has no places to jump to: it is unpacked up to there.
        await api.storage.thread(lambda: member.file.seek(begin), what="a stored file")
        left = end - begin
        while left and (
            piece := await api.storage.thread(partial(_read, member, left), what="a stored file")
        ):
            left -= len(piece)
            yield piece

    with held:
        async with aclosing(pieces()) as sent:
            yield sent


def _read(member: OpenMember, most: int) -> bytes:
    return member.file.read(min(PIECE, most))


def _require_data(row: Job) -> None:
    if row.status is Status.CLEANED:
        raise Refusal(404, "nothing_left", f"nothing is left of job {row.id}")


def _unknown_file(row: Job, path: str) -> Refusal:
    return Refusal(404, "unknown_file", f"job {row.id} has no file {path[:200]!r}; /files lists those it has")


def _extension(path: str) -> str:
    return path.rpartition("/")[2].rpartition(".")[2].lower()


def _media_type(path: str, *, view: bool) -> str:
    """By its name; never something that a browser would run. What is shown is text unless it is known to be
    something else: nothing is taken for a page."""
    if view and _extension(path) == "svg":
        return _SVG
    kind = _KINDS.get(_extension(path), _TEXT if view else file_response.BYTES)
    return _TEXT if view and not _is_picture(kind) and kind != "application/json" else kind


def _is_picture(kind: str) -> bool:
    return kind.startswith("image/") or kind == _PDF


def _most(path: str) -> int:
    """Bytes that are sent of it to be shown; below zero: all of it or nothing."""
    return -MOST_PICTURE if _is_picture(_media_type(path, view=True)) else MOST_TEXT


def _policy(path: str, *, view: bool) -> str:
    kind = _media_type(path, view=view)
    if kind == _SVG:
        # In a sandbox no script of it runs; it has its own styles and pictures, and loads nothing.
        return "sandbox; default-src 'none'; style-src 'unsafe-inline'; img-src data:"
    if view and kind == _PDF:
        # Browsers show no PDF in a sandbox. It can load nothing, and no script of it runs as ours.
        return "default-src 'none'; style-src 'unsafe-inline'; object-src 'self'; frame-ancestors 'self'"
    return file_response.UNTRUSTED["Content-Security-Policy"]


def _disposition(row: Job, path: str, *, view: bool) -> str:
    """As what it is saved: two jobs' `stdout.log` are told apart."""
    return file_response.disposition(
        f"job-{row.id}-{path.rpartition('/')[2]}", "inline" if view else "attachment"
    )


_TEXT: Final = "text/plain; charset=utf-8"
_PDF: Final = "application/pdf"
_SVG: Final = "image/svg+xml"
_KINDS: Final = {
    "txt": _TEXT,
    "log": _TEXT,
    "csv": "text/csv",
    "json": "application/json",
    "zip": "application/zip",
    "pdf": _PDF,
    "png": "image/png",
    "jpg": "image/jpeg",
    "jpeg": "image/jpeg",
    "gif": "image/gif",
    "webp": "image/webp",
}
