"""Streams that outlast their connections: a job's log, and what happens to jobs."""

from __future__ import annotations

import json
import re
import time
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, Final

from orchestrator.client.errors import BadAnswer, NotFound, TimedOut, Unreachable
from orchestrator.client.requests import Again, Exchange, parse
from orchestrator.client.sse_parser import Message, Parser
from orchestrator.client.transport import Answer, Call
from orchestrator.contract.bodies import OVER, Job

ROUND: Final = 30.0
"""Seconds that one request waits for a change."""
SLACK: Final = 30.0
"""Seconds that its answer may be late."""
HEARTBEAT: Final = 60.0
"""Seconds without a byte after which a stream of events is taken for dead: a comment comes each 15."""
QUIET_LOG: Final = 300.0
"""Seconds without a byte after which a followed log is asked for anew: scripts may say nothing for long."""
LASTED: Final = 10.0
"""Seconds after which a stream counts as one that worked, though nothing came."""


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened. `id` is what the stream is resumed after ("" where it cannot be), `kind` the
    event's name, `data` its body."""

    id: str
    kind: str
    data: Mapping[str, Any]


async def wait(exchange: Exchange, number: int, timeout: float | None) -> Job:
    """The job once it has ended. Raises TimedOut after `timeout` seconds, ClientError."""
    begun = time.monotonic()
    job = parse(Job, await exchange.json(Call("GET", f"/v1/jobs/{number}")))
    while not job.over:
        left = ROUND if timeout is None else min(ROUND, begun + timeout - time.monotonic())
        if left <= 0 and timeout is not None:
            raise TimedOut(job, timeout)
        job = await _wait_for_change(exchange, number, left, until="ended")
    return job


async def _wait_for_change(exchange: Exchange, number: int, seconds: float, **query: str) -> Job:
    """The job after a change, and after `seconds` in any case."""
    call = Call(
        "GET", f"/v1/jobs/{number}", {"wait": f"{max(seconds, 0.001):.3f}", **query}, silence=seconds + SLACK
    )
    patience = exchange.patient()
    while True:
        try:
            return parse(Job, await exchange.json_once(call))
        except Again as again:
            await patience.failed(again)


async def log(
    exchange: Exchange, number: int, stream: str, offset: int, *, tail: int | None, follow: bool
) -> AsyncGenerator[bytes, None]:
    """The bytes of a log from `offset` on, or from where its last `tail` lines begin; with `follow` as they
    come, until the job has ended. When the job is begun anew on another node, its log begins anew too."""
    job = parse(Job, await exchange.json(Call("GET", f"/v1/jobs/{number}")))
    attempt = job.attempt
    patience = exchange.patient()
    while True:
        begin = {"offset": str(offset)} if tail is None else {"tail": str(tail)}
        query = {"stream": stream, **begin, **({"follow": "1"} if follow else {})}
        call = Call("GET", f"/v1/jobs/{number}/logs", query, silence=QUIET_LOG if follow else 60.0)
        came, begun = 0, time.monotonic()
        again: Again | None = None
        try:
            async with exchange.once(call) as answer, aclosing(answer.pieces()) as pieces:
                if tail is not None:
                    offset, tail = _log_offset(answer), None
                async for piece in pieces:
                    came += len(piece)
                    yield piece
        except Again as error:
            again = error
        offset += came
        if again is None or came or time.monotonic() - begun > LASTED:
            patience.came()
        if again is not None:
            await patience.failed(again)
        elif not follow or job.over:
            return  # what was read after the end is all of it
        if follow:
            pause = ROUND if again is None and not came else 0.0
            job = await _wait_for_change(exchange, number, pause, after=str(job.version))
            if job.attempt is not None and job.attempt != attempt:
                offset = offset if attempt is None else 0
                attempt = job.attempt


def _log_offset(answer: Answer) -> int:
    """The byte that the last lines of a log begin at."""
    told = answer.headers.get("log-offset", "")
    if not re.fullmatch(r"[0-9]{1,18}", told, re.ASCII):
        raise BadAnswer(
            "the answer does not tell where the last lines begin; is the URL that of an orchestrator?"
        )
    return int(told)


async def events(
    exchange: Exchange, number: int | None, query: Mapping[str, str]
) -> AsyncGenerator[Event, None]:
    """What happens to a job until it has ended, or for ever to all jobs that fit `query`. Goes on after the
    last event when the connection breaks or the orchestrator is started anew."""
    path = "/v1/events" if number is None else f"/v1/jobs/{number}/events"
    patience = exchange.patient()
    last = ""
    while True:
        parser = Parser()
        headers = {"Accept": "text/event-stream", **({"Last-Event-ID": last} if last else {})}
        call = Call("GET", path, query, headers, silence=HEARTBEAT)
        came, begun = False, time.monotonic()
        why = Again(Unreachable(f"the stream of events of {exchange.wire.url} ended; try again"))
        try:
            async with exchange.once(call) as answer, aclosing(answer.pieces()) as pieces:
                if answer.status == 204:
                    return  # it had ended with the last event
                async for piece in pieces:
                    for message in parser.feed(piece):
                        came = True
                        last = message.id or last
                        event = _event(message)
                        yield event
                        if number is not None and status(event) in OVER:
                            return
                    last = parser.last_id or last
        except Again as error:
            why = error
        except NotFound as error:
            if number is None or error.code == "unknown_job":
                raise
            break  # an orchestrator that has no such route
        if came or time.monotonic() - begun > LASTED:
            patience.came()
        await patience.failed(why, at_least=parser.retry)
    async with aclosing(_changes(exchange, number)) as changes:
        async for event in changes:
            yield event


async def _changes(exchange: Exchange, number: int) -> AsyncGenerator[Event, None]:
    job = await _wait_for_change(exchange, number, 0.0)
    version = -1
    while True:
        if job.version > version:
            version = job.version
            yield Event("", "job", job.raw)
        if job.over:
            return
        job = await _wait_for_change(exchange, number, ROUND, after=str(version))


def status(event: Event) -> str | None:
    """The job's status that an event tells; None if it tells none."""
    inner: Any = event.data.get("job")
    found = inner.get("status") if isinstance(inner, dict) else event.data.get("status")
    return found if isinstance(found, str) else None


def _event(message: Message) -> Event:
    try:
        data = json.loads(message.data)
    except (ValueError, RecursionError):
        data = None
    if not isinstance(data, dict):
        raise BadAnswer("an event is no JSON object; is the URL that of an orchestrator?")
    return Event(message.id, message.kind, data)
