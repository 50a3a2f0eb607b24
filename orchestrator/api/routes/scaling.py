"""`GET /v1/scaling`: how each scaled service stands, and the newest decisions with their reasons."""

from __future__ import annotations

from typing import Final

from quart import Blueprint, Response

from actors.wire.http.app import json_response, query
from orchestrator.api.context import ApiContext
from orchestrator.api.openapi.describe import UNAVAILABLE, describe, in_query, page_of
from orchestrator.api.serializers import render_decision, render_scaling
from orchestrator.contract.bodies import DecisionBody, ScalingBody

DECISIONS: Final = 100
"""How many of the newest decisions are told."""


def blueprint(api: ApiContext) -> Blueprint:
    page = Blueprint("v1-scaling", __name__, url_prefix="/v1")

    @page.get("/scaling")
    @describe(
        "How each scaled service stands, and the newest decisions with their reasons",
        in_query("service", "Only this one", str),
        answers={200: ("All scaled services", page_of(ScalingBody, decisions=list[DecisionBody]))},
        errors={400: "An unknown parameter", **UNAVAILABLE},
    )
    async def scaling() -> Response:
        given = query("service")
        service = given.get("service")
        standing = [one for one in await api.scaling() if service in (None, one.service)]
        decisions = await api.ledger.decisions(service, DECISIONS)
        return json_response(
            {
                "items": [render_scaling(one, api.registry.names.of) for one in standing],
                "decisions": [render_decision(decision) for decision in decisions],
                "next": None,
            }
        )

    return page
