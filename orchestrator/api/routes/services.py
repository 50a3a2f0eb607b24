"""`/v1/services`: the services with their quotas and who is in them; pausing one and going on."""

from __future__ import annotations

from typing import Any, Final

from quart import Blueprint, Response

from actors.domain.node import NodeState, NodeView
from actors.wire.http.app import Refusal, json_response, query
from orchestrator.api import serializers
from orchestrator.api.context import Api
from orchestrator.api.http import query_params
from orchestrator.api.http.json_body import bad_field, json_object, only

NO_REASON: Final = "ordered by an operator"


def blueprint(api: Api) -> Blueprint:
    page = Blueprint("v1-services", __name__, url_prefix="/v1")

    @page.get("/services")
    async def services() -> Response:
        query()
        return json_response({"items": await _told(api, *sorted(api.services)), "next": None})

    @page.get("/services/<name>")
    async def service(name: str) -> Response:
        query()
        return json_response((await _told(api, _known(api, name)))[0])

    @page.post("/services/<name>/pause")
    async def pause(name: str) -> Response:
        query()
        _known(api, name)
        await api.pauses.pause(name, _reason(await json_object()))
        return json_response((await _told(api, name))[0])

    @page.post("/services/<name>/resume")
    async def resume(name: str) -> Response:
        query()
        _known(api, name)
        only(await json_object())
        await api.pauses.resume(name)
        return json_response((await _told(api, name))[0])

    return page


def _known(api: Api, name: str) -> str:
    if name not in api.services:
        known = ", ".join(sorted(api.services)) or "none"
        raise Refusal(404, "unknown_service", f"there is no service {name[:100]!r}; known: {known}")
    return name


async def _told(api: Api, *names: str) -> list[dict[str, Any]]:
    counts, views = await api.ledger.queries.job_counts(), await api.pool()
    told = []
    for name in names:
        body = serializers.service(api.services[name], counts)
        body["paused"] = api.pauses.reasons.get(name)
        body["paused_since"] = serializers.time(api.pauses.since.get(name))
        body["nodes"] = _nodes([view for view in views if name in view.services])
        told.append(body)
    return told


def _nodes(views: list[NodeView]) -> dict[str, Any]:
    """`slots` of those that are ready; null when one of them runs whatever it is sent."""
    ready = [view for view in views if view.state is NodeState.READY]
    slots = [view.slots for view in ready if view.slots is not None]
    return {
        "known": len(views),
        "ready": len(ready),
        "slots": sum(slots) if len(slots) == len(ready) else None,
        "held": sum(view.held for view in views),
    }


def _reason(body: dict[str, Any]) -> str:
    only(body, "reason")
    reason = body.get("reason", NO_REASON)
    if not isinstance(reason, str) or not 0 < len(reason) <= 500 or not query_params.is_line(reason):
        bad_field("reason", "a line of text of at most 500 characters")
    return reason
