"""What goes on: who fills the queues (`/v1/queue`), what each minute brought (`/v1/activity`), and what is
wrong (`/v1/troubles`)."""

from __future__ import annotations

from typing import Annotated, Final

from quart import Blueprint, Response

from actors.wire.http.app import json_response, query
from actors.wire.protocol.contract import rfc3339
from orchestrator.api.context import ApiContext
from orchestrator.api.http import query_params
from orchestrator.api.openapi.describe import (
    BAD_PARAMETER,
    CURSOR,
    UNAVAILABLE,
    Line,
    Since,
    describe,
    in_query,
    page_of,
)
from orchestrator.api.routes.ready import run_checks
from orchestrator.api.serializers import render_holder, render_minute, render_trouble
from orchestrator.contract.bodies import Also, Holder, MinuteBody, Time, Trouble
from orchestrator.scheduling.troubles import find_own_troubles, find_troubles

HOUR: Final = 3600.0
LISTED: Final = 50
MOST_LISTED: Final = 500


def blueprint(api: ApiContext) -> Blueprint:
    page = Blueprint("v1-activity", __name__, url_prefix="/v1")

    @page.get("/queue")
    @describe(
        "Who has jobs that wait or are under way, those with most waiting first",
        in_query("service", "Only this service's", Line),
        CURSOR,
        in_query("limit", "At most so many", Annotated[int, Also(minimum=1, maximum=MOST_LISTED)]),
        answers={200: ("Users by service", page_of(Holder))},
        errors=BAD_PARAMETER,
    )
    async def queue() -> Response:
        given = query("service", "cursor", "limit")
        service = query_params.line(given, "service")
        limit = query_params.whole(given, "limit", 1, MOST_LISTED, LISTED)
        # The order changes with each job, so a page goes on at a rank and not at a user.
        skip = query_params.at_cursor(given, "q") or 0
        shares = await api.ledger.queries.queue_counts(service, limit + 1, skip)
        items = [render_holder(share) for share in shares[:limit]]
        after = query_params.cursor("q", skip + limit) if len(shares) > limit else None
        return json_response({"items": items, "next": after})

    @page.get("/activity")
    @describe(
        "What each minute brought, by service; minutes without anything are left out. Kept for a day",
        in_query("since", "A time, RFC 3339 or seconds since 1970; an hour ago if left out", Since),
        in_query("service", "Only this service's", Line),
        answers={200: ("Minutes, the oldest first", page_of(MinuteBody, since=Time))},
        errors=BAD_PARAMETER,
    )
    async def activity() -> Response:
        given = query("since", "service")
        service = query_params.line(given, "service")
        now = api.clock.now()
        since = query_params.since(given, now - HOUR)
        minutes = await api.ledger.queries.activity(since, now, service)
        items = [render_minute(minute) for minute in minutes]
        return json_response({"items": items, "next": None, "since": rfc3339(since)})

    @page.get("/troubles")
    @describe(
        "What is wrong now, in words, the worst first: what keeps the server from its work, keeps jobs from "
        "running, or has them fail",
        answers={200: ("All of it", page_of(Trouble))},
        errors={400: "An unknown parameter", **UNAVAILABLE},
    )
    async def troubles() -> Response:
        query()
        own = find_own_troubles(await run_checks(api))
        found = own + find_troubles(
            await api.backlog(), await api.pool(), api.services, api.pauses.reasons, await api.scaling()
        )
        items = [render_trouble(one, api.registry.names.of) for one in found]
        return json_response({"items": items, "next": None})

    return page
