"""`GET /v1/scaling`: how each scaled service stands, and the newest decisions with their reasons."""

from __future__ import annotations

from typing import Any, Final

from quart import Blueprint, Response

from actors.domain.scaling import DecisionRecord, ServiceScaling
from actors.wire.http.app import json_response, query
from actors.wire.protocol.contract import rfc3339
from orchestrator.api.context import Api

DECISIONS: Final = 100
"""How many of the newest decisions are told."""


def blueprint(api: Api) -> Blueprint:
    page = Blueprint("v1-scaling", __name__, url_prefix="/v1")

    @page.get("/scaling")
    async def scaling() -> Response:
        given = query("service")
        service = given.get("service")
        standing = [one for one in await api.scaling() if service in (None, one.service)]
        decisions = await api.ledger.decisions(service, DECISIONS)
        return json_response(
            {
                "items": [_standing(one) for one in standing],
                "decisions": [_decision(one) for one in decisions],
                "next": None,
            }
        )

    return page


def _standing(one: ServiceScaling) -> dict[str, Any]:
    limits = one.limits
    return {
        "service": one.service,
        "provider": one.provider,
        "nodes": one.nodes,
        "booting": one.booting,
        "ending": one.ending,
        "runnable": one.runnable,
        "trouble": one.trouble,
        "min_nodes": limits.min_nodes,
        "max_nodes": limits.max_nodes,
        "slots_per_node": limits.slots_per_node,
        "machines": [
            {
                "token": machine.token[:8],  # the whole of it is what its node joins with
                "id": machine.machine_id,
                "node": machine.node_id,
                "status": machine.state,
                "requested_at": rfc3339(machine.requested_at),
                "reason": machine.reason,
            }
            for machine in one.machines
        ],
    }


def _decision(one: DecisionRecord) -> dict[str, Any]:
    return {
        "at": rfc3339(one.at),
        "service": one.service,
        "action": one.action,
        "subject": one.subject,
        "reason": one.reason,
    }
