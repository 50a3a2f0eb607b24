"""`GET /v1/audit`: who did what, for operators."""

from __future__ import annotations

from typing import Annotated, Final, get_args

from quart import Blueprint, Response

from actors.domain.ids import MAX_ID
from actors.wire.http.app import json_response, query
from orchestrator.access.audit import AuditFilter
from orchestrator.api.context import ApiContext
from orchestrator.api.http import query_params
from orchestrator.api.openapi.describe import BAD_PARAMETER, CURSOR, Line, Since, describe, in_query, page_of
from orchestrator.api.serializers import render_audit_line
from orchestrator.contract.bodies import Action, Also, AuditBody

PAGE: Final = 50
MOST_PAGE: Final = 500


def blueprint(api: ApiContext) -> Blueprint:
    page = Blueprint("v1-audit", __name__, url_prefix="/v1")

    @page.get("/audit")
    @describe(
        "Who did what, the newest first",
        in_query("who", "Only of the token or person of this name", Line),
        in_query("job", "Only on this job", Annotated[int, Also(minimum=1, maximum=MAX_ID)]),
        in_query("node", "Only on this node, by its id or its name", Line),
        in_query("action", "Only what was done by this name, as the lines have it", Action),
        in_query("since", "A time, RFC 3339 or seconds since 1970", Since),
        CURSOR,
        in_query("limit", "Lines a page", Annotated[int, Also(minimum=1, maximum=MOST_PAGE, default=PAGE)]),
        answers={200: ("Lines", page_of(AuditBody))},
        errors=BAD_PARAMETER,
    )
    async def audit() -> Response:
        given = query("who", "job", "node", "action", "since", "cursor", "limit")
        node = query_params.line(given, "node")
        wanted = AuditFilter(
            query_params.line(given, "who"),
            query_params.whole(given, "job", 1, MAX_ID, 0) or None,
            node and (api.registry.names.find(node) or node),
            query_params.since(given, 0.0) or None,
            query_params.any_of(given, "action", get_args(Action)),
        )
        limit = query_params.whole(given, "limit", 1, MOST_PAGE, PAGE)
        before = query_params.at_cursor(given, "a")
        found = await api.ledger.queries.audit(wanted, before, limit + 1)
        after = query_params.cursor("a", found[limit - 1].id) if len(found) > limit else None
        items = [render_audit_line(one, api.registry.names.of) for one in found[:limit]]
        return json_response({"items": items, "next": after})

    return page
