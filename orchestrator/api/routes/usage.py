"""What was used, how it stands in numbers, and whether the server does its work: `/v1/usage`, `/metrics`,
`/ready`."""

from __future__ import annotations

from typing import Annotated

from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from quart import Blueprint, Response

from actors.wire.http.app import json_response, query
from actors.wire.protocol.contract import rfc3339
from orchestrator.api.context import ApiContext
from orchestrator.api.http import query_params
from orchestrator.api.openapi.describe import (
    BAD_PARAMETER,
    TEXT,
    Line,
    Since,
    User,
    describe,
    in_query,
    page_of,
)
from orchestrator.api.routes.metrics import render_exposition
from orchestrator.api.routes.ready import run_checks
from orchestrator.api.serializers import render_usage
from orchestrator.contract.bodies import Also, ReadyBody, Time, UsageBody

_Begin = Annotated[Time, Also(description="From when on: the beginning of the hour that was asked for")]


def blueprint(api: ApiContext) -> Blueprint:
    page = Blueprint("usage", __name__)

    @page.get("/v1/usage")
    @describe(
        "What the jobs that have ended used, by service and user",
        in_query("since", "A time, RFC 3339 or seconds since 1970; counted by whole hours", Since),
        in_query("user", "Only this user's", User),
        in_query("service", "Only this service's", Line),
        answers={200: ("Sums", page_of(UsageBody, since=_Begin))},
        errors=BAD_PARAMETER,
    )
    async def usage() -> Response:
        given = query("since", "user", "service")
        user, service = query_params.signed(given, "user"), query_params.line(given, "service")
        since = query_params.since(given, 0.0)
        used, begin = await api.ledger.queries.usage(since, user, service)
        return json_response({"items": render_usage(used), "next": None, "since": rfc3339(begin)})

    @page.get("/metrics")
    @describe("Numbers for Prometheus", answers={200: ("Its text format", TEXT)}, tag="operation")
    async def metrics() -> Response:
        return Response(await render_exposition(api), content_type=CONTENT_TYPE_PLAIN_0_0_4)

    @page.get("/ready")
    @describe(
        "Whether the server takes jobs in and runs them",
        answers={200: ("It does", ReadyBody), 503: ("It does not, and why", ReadyBody)},
        tag="operation",
    )
    async def ready() -> Response:
        checks = {"server": "it stops"} if api.waiters.closed else await run_checks(api)
        is_ready = all(answer == "ok" for answer in checks.values())
        body = ReadyBody(status="ready" if is_ready else "not ready", checks=checks)
        return json_response(body, 200 if is_ready else 503)

    return page
