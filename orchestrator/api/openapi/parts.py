"""The pieces that the OpenAPI document is put together from."""

from __future__ import annotations

from typing import Any, Final

from orchestrator.api.http.query_params import MOST

STATUS_BODY: Final = {"application/json": {"schema": {"$ref": "#/components/schemas/StatusBody"}}}
PROBLEM: Final = {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}}
ZIP: Final = {"application/zip": {"schema": {"type": "string", "format": "binary"}}}
BYTES: Final = {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}

LINE: Final = {"type": "string", "pattern": "^[^\\u0000-\\u001f\\u007f-\\u009f\\u2028\\u2029]*$"}
WHOLE: Final = {"type": "integer", "minimum": 0, "maximum": MOST}
USER: Final = {"type": "integer", "minimum": -(1 << 63), "maximum": (1 << 63) - 1}
REASON: Final = {
    "type": "object",
    "properties": {"reason": {**LINE, "minLength": 1, "maxLength": 500}},
    "additionalProperties": False,
}
CURSOR: Final = {"type": "string", "pattern": "^[A-Za-z0-9_-]+$"}
KEY: Final = {"type": "string", "pattern": "^[!-~]{1,255}$"}
SINCE: Final = {
    "anyOf": [
        {"type": "string", "format": "date-time"},
        {"type": "number", "minimum": 0, "maximum": 99_999_999_999},
    ]
}
JOB_ID: Final = {
    "name": "id",
    "in": "path",
    "required": True,
    "schema": {"type": "integer", "minimum": 1, "maximum": 4294967295},
}


def json(schema: dict[str, Any]) -> dict[str, Any]:
    return {"application/json": {"schema": schema}}


def answer(description: str, content: dict[str, Any] | None = None) -> dict[str, Any]:
    return {"description": description, **({"content": content} if content else {})}


def refused(**codes: str) -> dict[str, Any]:
    return {code[1:]: answer(text, STATUS_BODY) for code, text in codes.items()}


def problems(**codes: str) -> dict[str, Any]:
    return {code[1:]: answer(text, PROBLEM) for code, text in codes.items()}


def operation(
    name: str, summary: str, tag: str, responses: dict[str, Any], *parameters: dict[str, Any], **more: Any
) -> dict[str, Any]:
    operation: dict[str, Any] = {
        "operationId": name,
        "summary": summary,
        "tags": [tag],
        "responses": responses,
    }
    if parameters:
        operation["parameters"] = list(parameters)
    return operation | more


def query(name: str, description: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {"name": name, "in": "query", "description": description, "schema": schema}


def listed(item: dict[str, Any]) -> dict[str, Any]:
    properties = {"items": {"type": "array", "items": item}, "next": {"type": ["string", "null"]}}
    return {"type": "object", "properties": properties, "required": ["items", "next"]}
