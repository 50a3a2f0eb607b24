"""`/v1/events` and `/v1/jobs/{id}/events`: every change as a server-sent event, resumable where it broke off.

An event's id is the number of its change in the ledger. Log lines are not in these streams.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Callable, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager, suppress
from typing import Final, cast

import trio
from quart import Blueprint, Response, request

from actors.domain.status import OVER
from actors.ports.ledger import LedgerError
from actors.wire.http.app import query, read_job_id
from actors.wire.http.backpressure import BoundedRequest
from orchestrator.access.roles import only_theirs
from orchestrator.api import job_views
from orchestrator.api.context import ApiContext
from orchestrator.api.http import query_params, sse
from orchestrator.api.openapi.describe import (
    OF_A_JOB,
    Line,
    User,
    Whole,
    describe,
    events_of,
    in_header,
    in_query,
)
from orchestrator.api.serializers import render_event
from orchestrator.contract.bodies import EventBody
from orchestrator.events.change_stream import ChangeFilter, EncodedChange, Listener
from orchestrator.events.waiters import WaitersClosed
from orchestrator.ledger.queries import JobChange

_PLACE: Final = (
    in_query("after", "As Last-Event-ID, for what cannot set a header", Whole),
    in_header(
        "Last-Event-ID", "The id of the last event that was received: the stream goes on after it", Whole
    ),
)
_EVENTS: Final = (
    "Events named `job`; their data is an Event, their id the number of the change. Every transition comes "
    "once and in order, over reconnections and restarts too. A comment each 15 s",
    events_of(EventBody),
)


def encode_change(change: JobChange, name_of: Callable[[str], str]) -> bytes:
    """A change as an event. `name_of` a node's id is how it is called."""
    return sse.event("job", change.seq, render_event(change, name_of))


def blueprint(api: ApiContext) -> Blueprint:
    page = Blueprint("v1-events", __name__, url_prefix="/v1")

    @page.get("/events")
    @describe(
        "What happens to all jobs, from now on",
        in_query("user", "Only this user's", User),
        in_query("service", "Only this service's", Line),
        *_PLACE,
        answers={200: _EVENTS},
        errors={400: "A bad or unknown parameter", 503: "Too many listen"},
    )
    async def events() -> Response:
        given = query("user", "service", "after")
        user, service, services = only_theirs(
            query_params.signed(given, "user"), query_params.line(given, "service")
        )
        wanted = ChangeFilter(user=user, service=service, services=services)
        after = _parse_place(given)
        newest = await api.changes.newest()
        place = newest if after is None else min(after, newest)
        return sse.stream_response(
            _stream(api, _open_listener(api), wanted, place, sse.RETRY + sse.place(place))
        )

    @page.get("/jobs/<number>/events")
    @describe(
        "What happens to a job, from how it is now until it is over",
        *_PLACE,
        answers={200: _EVENTS, 204: "The job is over, and all of it was received"},
        errors=OF_A_JOB,
    )
    async def job_events(number: str) -> Response:
        given = query("after")
        after = _parse_place(given)
        row = await job_views.find(api, read_job_id(number))
        place = min(after if after is not None else row.change_seq, await api.changes.newest())
        if after is not None and row.status in OVER and place >= row.change_seq:
            # What a browser takes as: do not come back.
            return Response(b"", 204)
        first = sse.RETRY
        if after is None:
            details = (await api.ledger.queries.details((row.id,)))[row.id]
            first += encode_change(JobChange(row.change_seq, row, details, None), api.registry.names.of)
        ended = after is None and row.status in OVER
        return sse.stream_response(
            _stream(api, _open_listener(api), ChangeFilter(job=row.id), place, first, ended=ended)
        )

    return page


def _open_listener(api: ApiContext) -> Listener:
    """One for this request, until its response is over. Raises FeedFull."""
    # Here and not within the body: then it is too late for a refusal.
    return cast(BoundedRequest, request).held.enter_context(api.changes.listen(sse.cut()))


@asynccontextmanager
async def _stream(
    api: ApiContext,
    listener: Listener,
    wanted: ChangeFilter,
    place: int,
    first: bytes,
    *,
    ended: bool = False,
) -> AsyncIterator[AsyncIterable[bytes]]:
    async def pieces() -> AsyncGenerator[bytes, None]:
        async with aclosing(_pieces(api, wanted, place, first, ended=ended)) as made:
            async for piece in made:
                listener.sending = trio.current_time()
                yield piece
                listener.sending = None

    async with aclosing(pieces()) as sent:
        yield sent


async def _pieces(
    api: ApiContext, wanted: ChangeFilter, place: int, first: bytes, *, ended: bool
) -> AsyncGenerator[bytes, None]:
    yield first
    sent, beat = place, trio.current_time() + sse.EVERY
    with suppress(WaitersClosed):  # the server stops: who follows comes back to the next one
        while not ended:
            lines: Sequence[EncodedChange] = ()
            with trio.move_on_at(beat):
                try:
                    lines, place = await api.changes.after(place, wanted)
                except LedgerError:
                    await trio.sleep(1.0)
            if lines:
                yield b"".join(line.text for line in lines)
                sent = lines[-1].seq
                ended = wanted.job is not None and lines[-1].over
            elif trio.current_time() >= beat:
                yield sse.STILL_HERE if sent == place else sse.STILL_HERE + sse.place(place)
                sent = place
            else:
                continue
            beat = trio.current_time() + sse.EVERY


def _parse_place(given: Mapping[str, str]) -> int | None:
    """The change after which the stream begins; a client that comes back says it in a header."""
    after = query_params.whole(given, "after", 0, query_params.MOST, -1)
    last = query_params.last_event_id(-1)
    found = after if last < 0 else last
    return None if found < 0 else found
