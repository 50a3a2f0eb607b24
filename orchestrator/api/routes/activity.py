"""What goes on: who fills the queues (`/v1/queue`), and what each minute brought (`/v1/activity`)."""

from __future__ import annotations

from typing import Final

from quart import Blueprint, Response

from actors.wire.http.app import json_response, query
from actors.wire.protocol.contract import rfc3339
from orchestrator.api.context import Api
from orchestrator.api.http import query_params
from orchestrator.api.serializers import render_holder, render_minute

HOUR: Final = 3600.0
LISTED: Final = 50
MOST_LISTED: Final = 500


def blueprint(api: Api) -> Blueprint:
    page = Blueprint("v1-activity", __name__, url_prefix="/v1")

    @page.get("/queue")
    async def queue() -> Response:
        given = query("service", "limit")
        service = query_params.known_text(given, "service")
        limit = query_params.whole(given, "limit", 1, MOST_LISTED, LISTED)
        shares = await api.ledger.queries.queue_counts(service, limit)
        items = [render_holder(share) for share in shares]
        return json_response({"items": items, "next": None})

    @page.get("/activity")
    async def activity() -> Response:
        given = query("since", "service")
        service = query_params.known_text(given, "service")
        now = api.clock.now()
        since = query_params.since(given, now - HOUR)
        minutes = await api.ledger.queries.activity(since, now, service)
        items = [render_minute(minute) for minute in minutes]
        return json_response({"items": items, "next": None, "since": rfc3339(since)})

    return page
