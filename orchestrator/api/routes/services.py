"""`/v1/services`: the services with their quotas and who is in them; pausing one and going on."""

from __future__ import annotations

from typing import Any, Final

from quart import Blueprint, Response

from actors.wire.http.app import Refusal, json_response, query
from orchestrator.access.audit import entry_of
from orchestrator.access.roles import asking
from orchestrator.api.context import ApiContext
from orchestrator.api.http.json_body import parse_reason, read_json_object, refuse_unknown
from orchestrator.api.openapi.describe import BAD_PARAMETER, ORDER, describe, page_of
from orchestrator.api.serializers import render_service
from orchestrator.contract.bodies import Service

_ONE: Final = {200: ("The service", Service)}
_UNKNOWN: Final = BAD_PARAMETER | {404: "Unknown service"}
_BAD_BODY: Final = {413: "The body is too large", 422: "A bad field"}


def blueprint(api: ApiContext) -> Blueprint:
    page = Blueprint("v1-services", __name__, url_prefix="/v1")

    @page.get("/services")
    @describe(
        "Services, their quotas, how many jobs are in which state, and their nodes",
        answers={200: ("All", page_of(Service))},
        errors=BAD_PARAMETER,
    )
    async def services() -> Response:
        query()
        return json_response({"items": await _render(api, *_theirs(api)), "next": None})

    @page.get("/services/<name>")
    @describe("One service", answers=_ONE, errors=_UNKNOWN)
    async def service(name: str) -> Response:
        query()
        return json_response((await _render(api, _require_known(api, name)))[0])

    @page.post("/services/<name>/pause")
    @describe(
        "Let no more of its jobs go; those that run go on. Outlasts a restart",
        answers=_ONE,
        errors=_UNKNOWN | _BAD_BODY,
        body=ORDER,
    )
    async def pause(name: str) -> Response:
        query()
        _require_known(api, name)
        reason = parse_reason(await read_json_object())
        await api.pauses.pause(name, reason, entry_of("pause", about=name, detail=reason))
        return json_response((await _render(api, name))[0])

    @page.post("/services/<name>/resume")
    @describe("Let its jobs go again", answers=_ONE, errors=_UNKNOWN | _BAD_BODY)
    async def resume(name: str) -> Response:
        query()
        _require_known(api, name)
        refuse_unknown(await read_json_object())
        await api.pauses.resume(name, entry_of("resume", about=name))
        return json_response((await _render(api, name))[0])

    return page


def _theirs(api: ApiContext) -> list[str]:
    """Those of who asks, by name."""
    return sorted(filter(asking.get().serves, api.services))


def _require_known(api: ApiContext, name: str) -> str:
    if name not in (theirs := _theirs(api)):
        known = ", ".join(theirs) or "none"
        raise Refusal(404, "unknown_service", f"there is no service {name[:100]!r}; known: {known}")
    return name


async def _render(api: ApiContext, *names: str) -> list[dict[str, Any]]:
    counts, views = await api.ledger.queries.job_counts(), await api.pool()
    reasons, since = api.pauses.reasons, api.pauses.since
    return [
        render_service(
            api.services[name],
            counts,
            views,
            reasons.get(name),
            since.get(name),
            accuracy=api.forecaster.history.accuracy(name),
        )
        for name in names
    ]
