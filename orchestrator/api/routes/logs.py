"""`/v1/jobs/{id}/logs`: what a job prints, as bytes, as text, and as it comes.

Offsets count bytes of the file, whatever the form. As bytes it is the file and nothing else; as text what is
no UTF-8 becomes U+FFFD, and a character is never cut: one that is not complete yet comes with the next piece.
A log that is followed goes on until the job has ended: over a node that is away for a while, and from its
beginning where the job is begun anew on another node.
"""

from __future__ import annotations

import codecs
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator
from contextlib import aclosing, asynccontextmanager, suppress
from typing import Annotated, Final, Literal, TypeAlias

import trio
from quart import Blueprint, Response, request

from actors.domain.job import Job
from actors.domain.status import ENDED, OVER, Status
from actors.kernel.actor import NoAnswer
from actors.ports.ledger import LedgerError
from actors.wire.files.last_lines import LOG_OFFSET, LOG_SIZE, Tail, log_headers
from actors.wire.http.app import Refusal, json_response, query, read_job_id
from orchestrator.api import job_views
from orchestrator.api.context import ApiContext
from orchestrator.api.http import file_response, query_params, sse
from orchestrator.api.openapi.describe import (
    BYTES,
    OF_A_JOB,
    Whole,
    describe,
    events_of,
    in_header,
    in_query,
    json_of,
)
from orchestrator.contract.bodies import Also, LogEndBody, LogTextBody
from orchestrator.events.waiters import JobWaiter, WaitersClosed
from orchestrator.nodes.remote_stream import NodeUnreachable, NotOnNode
from orchestrator.storage.result_sink import LOGS

MOST: Final = 4 << 20
ONCE: Final = 256 << 10
"""Bytes that are told as text at once."""

_LONGEST: Final = 4
"""Bytes of the longest character."""

_FIRST_PAUSE: Final = 0.1
_LONGEST_PAUSE: Final = 5.0


def blueprint(api: ApiContext) -> Blueprint:
    page = Blueprint("v1-logs", __name__, url_prefix="/v1")

    @page.get("/jobs/<number>/logs")
    @describe(
        "What the job printed",
        in_query("stream", "Which", Annotated[Literal["stdout", "stderr"], Also(default="stdout")]),
        in_query("offset", "Bytes to leave out", Whole),
        in_query(
            "tail",
            "Instead of offset: begin with the last so many lines. The headers "
            f"{LOG_OFFSET} and {LOG_SIZE} tell the byte that they begin at, and how many bytes there were",
            Whole,
        ),
        in_query(
            "follow", "1: of a job that has not ended, until it has", Literal["0", "1", "", "true", "false"]
        ),
        in_query(
            "format",
            "events also by `Accept: text/event-stream`",
            Annotated[Literal["raw", "json", "events"], Also(default="raw")],
        ),
        in_query(
            "limit",
            f"Bytes at once: of json ({ONCE} unless given), of raw that is not followed (else all)",
            Annotated[int, Also(minimum=1, maximum=MOST)],
        ),
        in_header("Last-Event-ID", "With events: the byte offset to go on at", Whole),
        answers={
            200: (
                "raw: the bytes of the log from the offset on. json: text, without half characters. events: "
                "events named `log` with the text, then one named `end`",
                {**BYTES, **json_of(LogTextBody), **events_of(LogTextBody, LogEndBody)},
            )
        },
        errors=OF_A_JOB,
    )
    async def logs(number: str) -> Response:
        given = query("stream", "offset", "tail", "follow", "format", "limit")
        which = query_params.one_of(given, "stream", *LOGS)
        follow = query_params.flag(given, "follow")
        offset = query_params.whole(given, "offset", 0, query_params.MOST, 0)
        lines = query_params.whole(given, "tail", 0, query_params.MOST, 0)
        if "tail" in given and "offset" in given:
            raise query_params.bad("tail", given["tail"], "a tail or an offset, not both,")
        resumed = query_params.last_event_id(-1)
        form = query_params.one_of(given, "format", _preferred_format(), "raw", "json", "events")
        limit = query_params.whole(given, "limit", 1, MOST, ONCE)
        if "limit" in given and follow and form == "raw":
            raise query_params.bad("limit", given["limit"], "a log that is not followed")
        row = await job_views.find(api, read_job_id(number))
        if row.status is Status.CLEANED:
            raise Refusal(404, "nothing_left", f"the logs of job {row.id} were deleted with its data")
        tail = attempt = None
        if form == "events" and resumed >= 0:
            offset = resumed
        elif "tail" in given:
            # An offset into this attempt's log: it says nothing of the next one's.
            tail, attempt = await _find_last_lines(api, row, which, lines), _key(row)
            offset = tail.offset
        if form == "json":
            answer = json_response(await _read_text(api, row, which, offset, limit))
        elif form == "events":
            follower = _Follower(api, row.id, which, offset, attempt)
            answer = sse.stream_response(_open_events(api, follower, row.id, which, offset))
        elif follow and row.status not in OVER:
            answer = _follow(api, _Follower(api, row.id, which, offset, attempt))
        else:
            answer = await _send_now(api, row, which, offset, limit if "limit" in given else None)
        if tail is not None:
            answer.headers.update(log_headers(tail))
        answer.headers.update(file_response.UNTRUSTED)
        return answer

    return page


def _preferred_format() -> str:
    accepted = request.headers.get("Accept", "")
    return "events" if accepted.strip().lower().startswith(sse.TYPE) else "raw"


def _follow(api: ApiContext, follower: _Follower) -> Response:
    @asynccontextmanager
    async def body() -> AsyncIterator[AsyncIterable[bytes]]:
        async with sse.pump(follower.run, api.waiters.until_closed) as came, aclosing(_data(came)) as data:
            yield data

    return sse.endless_response(body(), file_response.BYTES)


async def _data(pieces: AsyncIterable[Piece]) -> AsyncGenerator[bytes, None]:
    async for _, data in pieces:
        yield data


async def _find_last_lines(api: ApiContext, row: Job, which: str, lines: int) -> Tail:
    if row.status not in ENDED:
        found = await job_views.find_node(api, row)
        if found is not None:
            try:
                return await api.nodes.find_last_lines(*found, which, lines)
            except NotOnNode:
                row = await job_views.find(api, row.id)
    return await file_response.find_last_lines(api.storage, row.storage_key, LOGS[which], lines)


async def _send_now(api: ApiContext, row: Job, which: str, offset: int, most: int | None) -> Response:
    """What there is from the offset on, or `most` bytes of it."""
    if row.status not in ENDED:
        found = await job_views.find_node(api, row)
        if found is not None:
            try:
                return await file_response.send_stream(
                    api.nodes.open_log(*found, which, offset), file_response.BYTES, most=most
                )
            except NotOnNode:
                row = await job_views.find(api, row.id)
    if row.status in ENDED:
        kept = await file_response.send_log(api.storage, row.storage_key, LOGS[which], offset, most)
        if kept is not None:
            return kept
    return Response(b"", content_type=file_response.BYTES)


Piece: TypeAlias = tuple[int, bytes]
"""Bytes of a log, and where in it they begin."""


def _key(row: Job) -> str | None:
    return row.attempt.key if row.attempt is not None else None


class _Follower:
    """Sends the log from the offset on, to the end of the job. The offset is one into the log of `attempt`,
    or of the first attempt that there is."""

    def __init__(self, api: ApiContext, number: int, which: str, offset: int, attempt: str | None) -> None:
        self._api = api
        self._number = number
        self._which = which
        self._offset = offset
        self._attempt = attempt

    async def run(self, send: trio.MemorySendChannel[Piece]) -> None:
        """Returns when the job is over and all is sent, or when the server stops."""
        pause = _FIRST_PAUSE
        with self._api.waiters.watch(self._number) as watch, suppress(WaitersClosed):
            while True:
                try:
                    row = await job_views.find(self._api, self._number)
                except LedgerError:
                    await trio.sleep(_LONGEST_PAUSE)
                    continue
                key = _key(row)
                if key is not None and key != self._attempt:
                    self._offset = self._offset if self._attempt is None else 0
                    self._attempt = key
                before = self._offset
                if row.status in OVER:
                    await self._send_stored(row, send)
                    return
                await self._send_live(row, watch, send)
                pause = _FIRST_PAUSE if self._offset != before else min(2 * pause, _LONGEST_PAUSE)
                with trio.move_on_after(pause if key is not None else _LONGEST_PAUSE):
                    await watch.newer(row.change_seq)

    async def _send_stored(self, row: Job, send: trio.MemorySendChannel[Piece]) -> None:
        name = LOGS[self._which]
        async with aclosing(
            file_response.read_pieces(self._api.storage, row.storage_key, name, self._offset)
        ) as stored:
            async for piece in stored:
                await self._send(piece, send)

    async def _send_live(self, row: Job, watch: JobWaiter, send: trio.MemorySendChannel[Piece]) -> None:
        """What its node sends, as long as the job is on it: a node that has vanished ends no stream."""
        async with trio.open_nursery() as nursery:

            async def until_it_leaves() -> None:
                now = row
                with suppress(WaitersClosed):
                    while now.status not in OVER and _key(now) == _key(row):
                        now = await watch.newer(now.change_seq)
                nursery.cancel_scope.cancel()

            nursery.start_soon(until_it_leaves)
            # A node that is away is asked again; what it has sent counts.
            with suppress(NodeUnreachable, NotOnNode, NoAnswer, LedgerError):
                found = await job_views.find_node(self._api, row)
                if found is not None:
                    async with self._api.nodes.open_log(
                        *found, self._which, self._offset, follow=True
                    ) as opened:
                        async for piece in opened.body:
                            await self._send(piece, send)
            nursery.cancel_scope.cancel()

    async def _send(self, piece: bytes, send: trio.MemorySendChannel[Piece]) -> None:
        await send.send((self._offset, piece))
        self._offset += len(piece)


# ---------------------------------------------------------------------- as text


def whole_characters(data: bytes, limit: int, *, closed: bool) -> tuple[str, int]:
    """The text of the first `limit` bytes or few more, and of how many bytes it is. What is no UTF-8 becomes
    U+FFFD; a character that `data` has only half is left out, unless nothing follows it (`closed`)."""
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    used = min(limit, len(data))
    text = decoder.decode(data[:used])
    while (pending := len(decoder.getstate()[0])) and used < len(data):
        text += decoder.decode(data[used : used + 1])
        used += 1
    if pending and closed:
        return text + decoder.decode(b"", final=True), used
    return text, used - pending


async def _read_text(api: ApiContext, row: Job, which: str, offset: int, limit: int) -> LogTextBody:
    data = bytearray()
    async with aclosing(_read_available(api, row, which, offset)) as pieces:
        async for piece in pieces:
            data += piece
            if len(data) >= limit + _LONGEST:
                break
    at_end = len(data) < limit + _LONGEST
    text, used = whole_characters(bytes(data), limit, closed=at_end and row.status in OVER)
    over = row.status in OVER and at_end and used == len(data)
    return LogTextBody(stream=which, text=text, offset=offset, next_offset=offset + used, closed=over)


async def _read_available(api: ApiContext, row: Job, which: str, offset: int) -> AsyncGenerator[bytes, None]:
    if row.status not in ENDED:
        found = await job_views.find_node(api, row)
        if found is None:
            return
        try:
            async with api.nodes.open_log(*found, which, offset) as opened:
                async for piece in opened.body:
                    yield piece
            return
        except NotOnNode:
            pass
    async with aclosing(
        file_response.read_pieces(api.storage, row.storage_key, LOGS[which], offset)
    ) as stored:
        async for piece in stored:
            yield piece


@asynccontextmanager
async def _open_events(
    api: ApiContext, follower: _Follower, number: int, which: str, offset: int
) -> AsyncIterator[AsyncIterable[bytes]]:
    async with (
        sse.pump(follower.run, api.waiters.until_closed) as pieces,
        aclosing(_encode_events(api, number, pieces, which, offset)) as encoded,
    ):
        yield encoded


async def _encode_events(
    api: ApiContext, number: int, pieces: trio.MemoryReceiveChannel[Piece], which: str, offset: int
) -> AsyncGenerator[bytes, None]:
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    received = begun = offset
    yield sse.RETRY + sse.place(offset)

    def event(text: str, upto: int) -> bytes:
        body = LogTextBody(stream=which, text=text, offset=begun, next_offset=upto)
        return sse.event("log", upto, body)

    while True:
        piece = None
        with trio.move_on_after(sse.EVERY):
            try:
                piece = await pieces.receive()
            except trio.EndOfChannel:
                break
        if piece is None:
            yield sse.STILL_HERE
            continue
        at, data = piece
        if at != received:  # another attempt, whose log begins anew
            if text := decoder.decode(b"", final=True):
                yield event(text, received)
            decoder.reset()
            received = begun = at
        received += len(data)
        text, upto = decoder.decode(data), received - len(decoder.getstate()[0])
        if text:
            yield event(text, upto)
            begun = upto
    if api.waiters.closed:
        return
    row = await job_views.find(api, number)
    if text := decoder.decode(b"", final=True):
        yield event(text, received)
    yield sse.event("end", received, LogEndBody(status=row.status.value, next_offset=received))
