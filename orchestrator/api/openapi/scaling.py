"""The OpenAPI document's part on scaling."""

from __future__ import annotations

from typing import Any, Final

from orchestrator.api.openapi.parts import answer, json, operation, problems

_TEXT: Final = {"type": "string"}
_WHOLE: Final = {"type": "integer"}
_TIME: Final = {"type": "string", "format": "date-time"}
_MAYBE: Final = {"type": ["string", "null"]}


def paths() -> dict[str, Any]:
    machine = _object(token=_TEXT, id=_MAYBE, node=_MAYBE, status=_TEXT, requested_at=_TIME, reason=_TEXT)
    standing = _object(
        service=_TEXT,
        provider=_TEXT,
        nodes=_WHOLE,
        booting=_WHOLE,
        ending=_WHOLE,
        runnable=_WHOLE,
        trouble=_TEXT,
        min_nodes=_WHOLE,
        max_nodes=_WHOLE,
        slots_per_node=_WHOLE,
        machines={"type": "array", "items": machine},
    )
    decision = _object(at=_TIME, service=_TEXT, action=_TEXT, subject=_TEXT, reason=_TEXT)
    body = _object(
        items={"type": "array", "items": standing},
        decisions={"type": "array", "items": decision},
        next={"type": "null"},
    )
    service = {"name": "service", "in": "query", "description": "Only this one", "schema": _TEXT}
    return {
        "/v1/scaling": {
            "get": operation(
                "scaling",
                "How each scaled service stands, and the newest decisions with their reasons",
                "v1",
                {
                    "200": answer("All scaled services", json(body)),
                    **problems(_400="An unknown parameter", _503="Not available now"),
                },
                service,
            )
        }
    }


def _object(**properties: Any) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": list(properties)}
