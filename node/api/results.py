"""What a payload has left, over HTTP: zips, single files, logs, and the frames of a collect."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import AsyncIterator, Awaitable, Callable, Generator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from io import FileIO
from pathlib import Path
from typing import Any, Final, cast

import trio
from quart import Response, request

from actors.domain.payload import Payload
from actors.domain.status import ENDED
from actors.store.durable import is_passing
from actors.wire.errors import BadRequest, SourceChanged, WireError
from actors.wire.files.last_lines import LastLines, Tail, log_headers
from actors.wire.files.listing import Entry, Listing, OpenTree, TooManyEntries, open_regular
from actors.wire.files.names import printable, spell, unspell
from actors.wire.files.threaded_iterator import PIECE, ThreadedIterator
from actors.wire.files.zip_writer import zip_pieces
from actors.wire.http.app import Refusal
from actors.wire.http.backpressure import BoundedRequest
from node.api.app import NodeContext
from node.api.packing import (
    LOGS,
    SHORTER,
    CollectForm,
    collect_one,
    encode_error,
    open_log,
    read_log,
    root_of,
)
from node.executors.executor import STDERR, STDOUT, WORK
from node.host.inotify import DirectoryWatch
from node.runs.manifest import find_logs, is_frozen, list_work, manifest_to_json, read_manifest

FOLLOW_EVERY: Final = 0.25
"""Seconds between looks at a growing log where the kernel does not tell of its growth."""


async def zip_response(context: NodeContext, payload: Payload) -> Response:
    """Everything in the job's directory as it is now, with the logs. Of an ended payload it is what its
    manifest says, or the body breaks off."""
    directory = context.workspace.directory(payload.key)
    ended = payload.status in ENDED
    with context.workspace.reading(payload.key):
        listing = await trio.to_thread.run_sync(
            _listing, directory, payload, context.most_files, limiter=context.workspace.transfers
        )

    async def body() -> AsyncIterator[bytes]:
        with context.workspace.reading(payload.key):
            async for piece in _iterate_in_thread(context, _zip(directory, listing, strict=ended)):
                yield piece

    response = Response(body(), content_type="application/zip")
    response.headers["Content-Disposition"] = f'attachment; filename="{payload.id}.zip"'
    return response


async def file_list(context: NodeContext, payload: Payload) -> dict[str, Any]:
    """What is in the job's directory now, as a manifest tells it, and the logs."""
    directory = context.workspace.directory(payload.key)
    with context.workspace.reading(payload.key):
        listing = await trio.to_thread.run_sync(
            _listing_with_logs, directory, payload, context.most_files, limiter=context.workspace.transfers
        )
    return manifest_to_json(listing)


async def file_response(context: NodeContext, payload: Payload, path: str) -> Response:
    """One file of the job's directory, by its spelled path; a log by its name if the job has no such file."""
    raw = _below(path)
    directory = context.workspace.directory(payload.key)
    with context.workspace.reading(payload.key):
        size, pieces = await trio.to_thread.run_sync(
            _begin_file, directory, raw, limiter=context.workspace.transfers
        )
    # Open from here on, so that what is said of it is true of these bytes, whatever becomes of the name.
    cast(BoundedRequest, request).held.callback(pieces.close)
    body = b"" if request.method == "HEAD" else _iterate_in_thread(context, pieces)
    response = Response(body, content_type="application/octet-stream")
    response.headers["Content-Length"] = str(size)
    return response


async def log_response(context: NodeContext, payload: Payload, given: Mapping[str, str]) -> Response:
    """The bytes of a log from an offset, or from where its last lines (`tail`) begin; with `follow`, until
    the payload has ended."""
    stream, offset, follow = given.get("stream", "stdout"), given.get("offset", "0"), given.get("follow", "0")
    tail = given.get("tail")
    if stream not in LOGS:
        raise Refusal(400, "bad_parameter", f"stream={printable(stream)}: stdout or stderr was expected")
    if not re.fullmatch(r"[0-9]{1,18}", offset, re.ASCII):
        raise Refusal(400, "bad_parameter", f"offset={printable(offset)}: a number of bytes was expected")
    if follow not in ("0", "1"):
        raise Refusal(400, "bad_parameter", f"follow={printable(follow)}: 0 or 1 was expected")
    if tail is not None and (not re.fullmatch(r"[0-9]{1,18}", tail, re.ASCII) or "offset" in given):
        detail = f"tail={printable(tail)}: a number of lines was expected, and no offset beside it"
        raise Refusal(400, "bad_parameter", detail)
    path = context.workspace.directory(payload.key) / LOGS[stream]
    begin, headers = int(offset), {}
    if tail is not None:
        with context.workspace.reading(payload.key):
            found = await trio.to_thread.run_sync(
                _find_last_lines, path, int(tail), limiter=context.workspace.transfers
            )
        begin, headers = found.offset, log_headers(found)
    body = b"" if request.method == "HEAD" else _log(context, payload.key, path, begin, follow == "1")
    return Response(body, headers=headers, content_type="application/octet-stream")


def collect_response(context: NodeContext, keys: Sequence[str], form: CollectForm) -> Response:
    """Frames for each key, in order."""

    async def body() -> AsyncIterator[bytes]:
        with ExitStack() as stack:
            for key in keys:
                stack.enter_context(context.workspace.reading(key))
            # Asked once all of them are being read: what is here now stays until then.
            there, _ = context.table.find_known(keys)
            directories = [context.workspace.directory(key) for key in keys]
            async for piece in _iterate_in_thread(context, _collect(keys, directories, there, form)):
                yield piece

    return Response(body(), content_type="application/octet-stream")


def _iterate_in_thread(context: NodeContext, generator: Generator[bytes, None, None]) -> ThreadedIterator:
    return ThreadedIterator(generator, limiter=context.workspace.transfers)


def _collect(
    keys: Sequence[str], directories: Sequence[Path], there: Mapping[str, Payload], form: CollectForm
) -> Generator[bytes, None, None]:
    """Everything of all of them. Blocks: it is pulled in a thread, many small ones in one go."""
    for key, directory in zip(keys, directories, strict=True):
        payload = there.get(key)
        if payload is None:
            yield encode_error(key, "gone")
        elif payload.status not in ENDED:
            yield encode_error(key, "not_ended")
        elif payload.lost:
            # Who asks has not heard of it yet: what there is of it is not what it left.
            yield encode_error(key, "lost")
        else:
            try:
                yield from collect_one(payload, directory, form)
            except OSError as why:
                yield encode_error(key, f"cannot be read: {why}", permanent=not is_passing(why))
            except WireError as why:
                # Nothing of it lives that could change it back.
                yield encode_error(key, f"cannot be read: {why}", permanent=True)


def _listing(directory: Path, payload: Payload, most: int) -> Listing:
    if payload.status not in ENDED:
        try:
            return list_work(directory, most)
        except TooManyEntries as where:
            why = f"the job has more than {most} files now, most of them in {printable(str(where))}"
            raise Refusal(409, "too_many_files", why) from None
    return read_manifest(directory, frozen=is_frozen(payload))[1]


def _listing_with_logs(directory: Path, payload: Payload, most: int) -> Listing:
    listing = _listing(directory, payload, most)
    own = {entry.path for entry in listing.entries}
    logs = [_log_entry(directory, name) for name in (STDOUT, STDERR) if name not in own]
    return replace(listing, entries=(*listing.entries, *(entry for entry in logs if entry is not None)))


def _log_entry(directory: Path, name: str) -> Entry | None:
    try:
        found = os.lstat(directory / name)
    except OSError:
        return None
    return Entry(name, name.encode(), found.st_size, 0o644, found.st_mtime, "file")


def _zip(directory: Path, listing: Listing, *, strict: bool) -> Generator[bytes, None, None]:
    logs = [
        (name, directory / name)
        for name, found in find_logs(directory).items()
        if stat.S_ISREG(found.st_mode)
    ]
    return zip_pieces(root_of(directory, listing), listing.entries, logs, strict=strict)


async def _log(context: NodeContext, key: str, path: Path, offset: int, follow: bool) -> AsyncIterator[bytes]:
    with context.workspace.reading(key):
        if not follow:
            async for piece in _iterate_in_thread(context, read_log(path, path.name, offset)):
                yield piece
            return
        while True:
            changed = context.table.subscriptions.next_change(key)
            with context.inotify.open_watch(path.parent) as armed:
                # Asked before reading: what was printed until the end is read after it is known.
                payload = context.table.get(key)
                ended = payload is None or payload.status in ENDED
                async for piece in _iterate_in_thread(context, read_log(path, path.name, offset)):
                    offset += len(piece)
                    yield piece
                if ended or context.shutdown.is_set():
                    return
                await _first_of(armed, changed, context.shutdown)


async def _first_of(armed: DirectoryWatch | None, changed: trio.Event, shutdown: trio.Event) -> None:
    """Wait until there may be more of a log, or until there will be no more."""
    async with trio.open_nursery() as nursery:

        async def wait_for(wait: Callable[[], Awaitable[None]]) -> None:
            await wait()
            nursery.cancel_scope.cancel()

        for wait in (changed.wait, shutdown.wait, armed.fired.wait if armed else _in_a_moment):
            nursery.start_soon(wait_for, wait)


async def _in_a_moment() -> None:
    await trio.sleep(FOLLOW_EVERY)


def _find_last_lines(path: Path, lines: int) -> Tail:
    if (opened := open_log(path, path.name)) is None:
        return Tail(0, 0)
    handle, found = opened
    try:
        last = LastLines(found.st_size, lines)
        while (missing := last.missing) is not None:
            last.take(os.pread(handle, *missing))
        return last.tail
    finally:
        os.close(handle)


def _read(file: FileIO, size: int) -> Generator[bytes, None, None]:
    """So many bytes of a file, which is closed at the end. Raises `SourceChanged` if there are less."""
    with file:
        while size:
            piece = file.read(min(PIECE, size))
            if not piece:
                raise SourceChanged(SHORTER)
            size -= len(piece)
            yield piece


def _below(path: str) -> bytes:
    try:
        raw = unspell(path)
    except BadRequest as why:
        raise Refusal(404, "not_found", why.detail) from None
    if any(part in (b"", b".", b"..") for part in raw.split(b"/")) or b"\0" in raw:
        raise Refusal(404, "not_found", f"{printable(path)} is no path of a file")
    return raw


def _begin_file(directory: Path, raw: bytes) -> tuple[int, Generator[bytes, None, None]]:
    """The size and the bytes of an open file. It is closed with the generator."""
    file = _open_file(directory, raw)
    size = os.fstat(file.fileno()).st_size
    pieces = _begun(file, size)
    next(pieces)
    return size, pieces


def _begun(file: FileIO, size: int) -> Generator[bytes, None, None]:
    with file:
        yield b""
        yield from _read(file, size)


def _open_file(directory: Path, raw: bytes) -> FileIO:
    try:
        tree = OpenTree(directory / WORK)
        try:
            return open(tree.open(raw, spell(raw))[0], "rb", buffering=0)
        finally:
            tree.close()
    except (OSError, SourceChanged) as why:
        if is_passing(why):
            raise
        name = os.fsdecode(raw)
        if name in (STDOUT, STDERR) and not os.path.lexists(directory / WORK / name):
            try:
                return open(open_regular(directory / name, name), "rb", buffering=0)
            except SourceChanged:
                pass
        raise Refusal(404, "not_found", f"there is no file {printable(name)} that can be read") from None
