"""The OpenAPI document's part on services, use and how the server does."""

from __future__ import annotations

from typing import Any, Final

from orchestrator.api.openapi.parts import (
    LINE,
    REASON,
    SINCE,
    USER,
    answer,
    json,
    listed,
    operation,
    problems,
    query,
)

_TEXT: Final = {"type": "string"}
_SERVICE: Final = {"$ref": "#/components/schemas/Service"}
_HOLDER: Final = {"$ref": "#/components/schemas/Holder"}
_NAME: Final = {"name": "name", "in": "path", "required": True, "schema": _TEXT}


def paths() -> dict[str, Any]:
    usage = listed({"$ref": "#/components/schemas/Usage"})
    usage["properties"]["since"] = {
        "type": "string",
        "format": "date-time",
        "description": "From when on: the beginning of the hour that was asked for",
    }
    ready = json({"$ref": "#/components/schemas/Ready"})
    unavailable = problems(_400="A bad or unknown parameter", _503="Not available now")
    of_one = {"200": answer("The service", json(_SERVICE)), **unavailable, **problems(_404="Unknown service")}
    order = {**of_one, **problems(_413="The body is too large", _422="A bad field")}
    activity = listed({"$ref": "#/components/schemas/Minute"})
    activity["properties"]["since"] = {"type": "string", "format": "date-time"}
    return {
        "/v1/queue": {
            "get": operation(
                "queue",
                "Who has jobs that wait or are under way, those with most waiting first",
                "v1",
                {"200": answer("Users by service", json(listed(_HOLDER))), **unavailable},
                query("service", "Only this service's", LINE),
                query("limit", "At most so many", {"type": "integer", "minimum": 1, "maximum": 500}),
            )
        },
        "/v1/activity": {
            "get": operation(
                "activity",
                "What each minute brought, by service; minutes without anything are left out. Kept for a day",
                "v1",
                {"200": answer("Minutes, the oldest first", json(activity)), **unavailable},
                query("since", "A time, RFC 3339 or seconds since 1970; an hour ago if left out", SINCE),
                query("service", "Only this service's", LINE),
            )
        },
        "/v1/services": {
            "get": operation(
                "services",
                "Services, their quotas, how many jobs are in which state, and their nodes",
                "v1",
                {"200": answer("All", json(listed(_SERVICE))), **unavailable},
            )
        },
        "/v1/services/{name}": {"get": operation("service", "One service", "v1", of_one, _NAME)},
        "/v1/services/{name}/pause": {
            "post": operation(
                "pause",
                "Let no more of its jobs go; those that run go on. Outlasts a restart",
                "v1",
                order,
                _NAME,
                requestBody={"content": json(REASON)},
            )
        },
        "/v1/services/{name}/resume": {
            "post": operation("resume", "Let its jobs go again", "v1", order, _NAME)
        },
        "/v1/usage": {
            "get": operation(
                "usage",
                "What the jobs that have ended used, by service and user",
                "v1",
                {"200": answer("Sums", json(usage)), **unavailable},
                query("since", "A time, RFC 3339 or seconds since 1970; counted by whole hours", SINCE),
                query("user", "Only this user's", USER),
                query("service", "Only this service's", LINE),
            )
        },
        "/metrics": {
            "get": operation(
                "metrics",
                "Numbers for Prometheus",
                "operation",
                {"200": answer("Its text format", {"text/plain": {"schema": _TEXT}})},
            )
        },
        "/ready": {
            "get": operation(
                "ready",
                "Whether the server takes jobs in and runs them",
                "operation",
                {"200": answer("It does", ready), "503": answer("It does not, and why", ready)},
            )
        },
    }
