"""The routes under `/v1`: what the contract does not tell."""

from __future__ import annotations

import re
from collections.abc import Mapping
from contextlib import suppress
from typing import Final

import trio
from quart import Blueprint, Response

from actors.lifecycle import ENDED, OVER, Status
from actors.model import Job
from orchestrator.api import files, jobs, shapes
from orchestrator.api.problems import Refusal, job_id, json_response, query
from orchestrator.api.services import Api
from orchestrator.feed import FeedClosed
from orchestrator.opened import NotThere
from orchestrator.storage import LOGS

MOST_WAIT: Final = 300.0
"""Seconds that one request may wait for a change."""

PAGE: Final = 50
MOST_PAGE: Final = 500
LOG: Final = "application/octet-stream"


def blueprint(api: Api) -> Blueprint:  # a route is a closure over what it uses
    page = Blueprint("v1", __name__, url_prefix="/v1")

    @page.get("/jobs")
    async def list_jobs() -> Response:
        given = query("user", "service", "status", "before", "limit")
        limit = _whole(given, "limit", 1, MOST_PAGE, PAGE)
        before = _whole(given, "before", 1, 1 << 32, 0)
        rows = await api.archive.list_jobs(
            user=_signed(given, "user"),
            service=given.get("service"),
            status=_status(given),
            before_id=before or None,
            limit=limit,
        )
        whys = await jobs.waiting(api, rows)
        items = [shapes.job(row, why) for row, why in zip(rows, whys, strict=True)]
        return json_response({"items": items, "next": rows[-1].id if len(rows) == limit else None})

    @page.get("/jobs/<number>")
    async def job(number: str) -> Response:
        given = query("wait", "after", "until")
        row = await _awaited(api, job_id(number), given)
        (why,) = await jobs.waiting(api, [row])
        return json_response(shapes.job(row, why), headers={"Cache-Control": "no-store"})

    @page.get("/jobs/<number>/results")
    async def results(number: str) -> Response:
        query()
        row = await jobs.find(api, job_id(number))
        if row.status not in OVER:
            raise Refusal(
                409,
                "not_ended",
                f"job {row.id} is {row.status}; /download_partial/{row.id} sends what is there",
            )
        return await jobs.results(api, row)

    @page.get("/jobs/<number>/logs")
    async def logs(number: str) -> Response:
        given = query("stream", "offset", "follow")
        which = given.get("stream", "stdout")
        if which not in LOGS:
            raise Refusal(400, "bad_parameter", f"stream {which[:100]!r}: stdout or stderr was expected")
        follow = _flag(given, "follow")
        offset = _whole(given, "offset", 0, 1 << 62, 0)
        row = await jobs.find(api, job_id(number))
        return await _log(api, row, which, offset, follow=follow)

    @page.get("/jobs/<number>/history")
    async def history(number: str) -> Response:
        query()
        row = await jobs.find(api, job_id(number))
        items = [shapes.history(entry) for entry in await api.ledger.history(row.id)]
        return json_response({"items": items, "next": None})

    @page.get("/services")
    async def services() -> Response:
        query()
        counts = await api.archive.counts()
        items = [shapes.service(limits, counts) for _, limits in sorted(api.services.items())]
        return json_response({"items": items, "next": None})

    return page


async def _awaited(api: Api, number: int, given: Mapping[str, str]) -> Job:
    """The job's row; with `wait` as soon as it is newer than `after` (or than now), or over if `until` says
    so."""
    wait = _seconds(given, "wait", MOST_WAIT)
    after = _whole(given, "after", 0, 1 << 62, -1)
    until = given.get("until")
    if until not in (None, "ended"):
        raise Refusal(400, "bad_parameter", f"until {until[:100]!r}: ended was expected")
    if wait == 0:
        return await jobs.find(api, number)
    with api.feed.watch(number) as watch:
        row = await jobs.find(api, number)
        wanted = after if after >= 0 else (-1 if until else row.change_seq)
        with trio.move_on_after(wait), suppress(FeedClosed):
            while row.change_seq <= wanted or (until and row.status not in OVER):
                if row.status is Status.CLEANED:
                    break
                row = await watch.newer(row.change_seq)
        return row


async def _log(api: Api, row: Job, which: str, offset: int, *, follow: bool) -> Response:
    if row.status not in ENDED:
        found = await jobs.place(api, row)
        if found is not None:
            try:
                return await files.stream(api.nodes.open_log(*found, which, offset, follow=follow), LOG)
            except NotThere:
                row = await jobs.find(api, row.id)
    if row.status in ENDED:
        kept = await files.log(api.storage, row.storage_key, LOGS[which], offset)
        if kept is not None:
            return kept
    elif row.status is Status.CLEANED:
        raise Refusal(404, "nothing_left", f"the logs of job {row.id} were deleted with its data")
    return Response(b"", content_type=LOG)


def _bad(name: str, value: str, expected: str) -> Refusal:
    return Refusal(400, "bad_parameter", f"{name} {value[:100]!r}: {expected} was expected")


def _whole(given: Mapping[str, str], name: str, least: int, most: int, default: int) -> int:
    text = given.get(name)
    if text is None:
        return default
    if not re.fullmatch(r"0|[1-9][0-9]{0,18}", text, re.ASCII) or not least <= int(text) <= most:
        raise _bad(name, text, f"a whole number from {least} to {most}")
    return int(text)


def _signed(given: Mapping[str, str], name: str) -> int | None:
    text = given.get(name)
    if text is None:
        return None
    if not re.fullmatch(r"0|-?[1-9][0-9]{0,18}", text, re.ASCII) or not -(1 << 63) <= int(text) < 1 << 63:
        raise _bad(name, text, "a whole number of at most 64 bits")
    return int(text)


def _seconds(given: Mapping[str, str], name: str, most: float) -> float:
    text = given.get(name)
    if text is None:
        return 0.0
    if not re.fullmatch(r"[0-9]{1,6}(\.[0-9]{1,6})?", text, re.ASCII) or float(text) > most:
        raise _bad(name, text, f"a number of seconds up to {most:g}")
    return float(text)


def _flag(given: Mapping[str, str], name: str) -> bool:
    text = given.get(name, "0")
    if text not in ("0", "1"):
        raise _bad(name, text, "0 or 1")
    return text == "1"


def _status(given: Mapping[str, str]) -> Status | None:
    text = given.get("status")
    if text is None:
        return None
    try:
        return Status(text)
    except ValueError:
        raise _bad("status", text, f"one of {', '.join(Status)}") from None
