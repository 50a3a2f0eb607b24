"""What was used, how it stands in numbers, and whether the server does its work: `/v1/usage`, `/metrics`,
`/ready`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Final, Literal

from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from quart import Blueprint, Response, request

from actors.wire.http.app import Refusal, json_response, query
from orchestrator.access.roles import only_theirs
from orchestrator.api.context import ApiContext
from orchestrator.api.http import query_params
from orchestrator.api.openapi.describe import (
    BAD_PARAMETER,
    CURSOR,
    TEXT,
    Line,
    User,
    describe,
    in_query,
    page_of,
)
from orchestrator.api.routes.metrics import render_exposition
from orchestrator.api.routes.ready import run_checks
from orchestrator.api.serializers import render_usage
from orchestrator.contract.bodies import Also, Month, ReadyBody, UsageBody
from orchestrator.contract.csv_text import to_csv
from orchestrator.ledger.tables.usage import Usage, UsageFilter, UsageKey

PAGE: Final = 1000
MOST_PAGE: Final = 10_000
MOST_ROWS: Final = 200_000
"""Rows of a table for a spreadsheet, which comes whole."""
CSV: Final = "text/csv"
_COLUMNS: Final = tuple(UsageBody.__annotations__)
_PLACE: Final = re.compile(r"([0-9]{4}-[0-9]{2}) (-?[0-9]{1,19}) (.*)", re.ASCII | re.DOTALL)


def blueprint(api: ApiContext) -> Blueprint:
    page = Blueprint("usage", __name__)

    @page.get("/v1/usage")
    @describe(
        "What the jobs used that have ended, by month (UTC), user and service",
        in_query("from", "The first month", Month),
        in_query("to", "The last month", Month),
        in_query("user", "Only this user's", User),
        in_query("service", "Only this service's", Line),
        in_query("format", "Whatever `Accept` says", Literal["json", "csv"]),
        CURSOR,
        in_query(
            "limit", "Rows a page of JSON", Annotated[int, Also(minimum=1, maximum=MOST_PAGE, default=PAGE)]
        ),
        answers={
            200: (
                "Sums; as CSV all of them at once",
                {**page_of(UsageBody), CSV: {"schema": {"type": "string"}}},
            )
        },
        errors=BAD_PARAMETER,
    )
    async def usage() -> Response:
        given = query("from", "to", "user", "service", "format", "cursor", "limit")
        wanted = _filter(given)
        accepted = request.accept_mimetypes.best_match(("application/json", CSV))
        form = query_params.one_of(given, "format", "csv" if accepted == CSV else "json", "json", "csv")
        limit = query_params.whole(given, "limit", 1, MOST_PAGE, PAGE)
        after = _at_cursor(given)
        most = MOST_ROWS if form == "csv" else limit
        found = await api.ledger.queries.usage(wanted, after, most + 1)
        rows = [render_usage(one) for one in found[:most]]
        if form == "csv":
            if len(found) > most:
                raise Refusal(400, "too_many_rows", f"more than {most} rows: narrow them by `from` and `to`")
            answer = Response(to_csv(_COLUMNS, rows), content_type=f"{CSV}; charset=utf-8")
            answer.headers["Content-Disposition"] = 'attachment; filename="usage.csv"'
        else:
            last = found[limit - 1] if len(found) > limit else None
            answer = json_response({"items": rows, "next": None if last is None else _cursor(last)})
        answer.headers["Vary"] = "Accept"
        return answer

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


def _filter(given: Mapping[str, str]) -> UsageFilter:
    first, last = query_params.month(given, "from"), query_params.month(given, "to")
    if first is not None and last is not None and first > last:
        raise query_params.bad("from", first, f"a month that is not after {last}")
    user, service = query_params.signed(given, "user"), query_params.line(given, "service")
    return UsageFilter(first, last, *only_theirs(user, service))


def _cursor(used: Usage) -> str:
    return query_params.text_cursor("u", f"{used.month} {used.user_id} {used.service}")


def _at_cursor(given: Mapping[str, str]) -> UsageKey | None:
    found = query_params.at_text_cursor(given, "u", _PLACE)
    if found is None:
        return None
    user = query_params.signed({"cursor": found[2]}, "cursor")
    assert user is not None
    return found[1], user, found[3]
