"""The OpenAPI document, written by hand: a test holds it against the routes that there are."""

from __future__ import annotations

from typing import Any, Final

from orchestrator.api.openapi_schemas import schemas

_STATUS_BODY: Final = {"application/json": {"schema": {"$ref": "#/components/schemas/StatusBody"}}}
_PROBLEM: Final = {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}}
_ZIP: Final = {"application/zip": {"schema": {"type": "string", "format": "binary"}}}
_BYTES: Final = {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}
_ID: Final = {
    "name": "id",
    "in": "path",
    "required": True,
    "schema": {"type": "integer", "minimum": 1, "maximum": 4294967295},
}


def document(version: str) -> dict[str, Any]:
    """The whole document."""
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Job orchestrator",
            "version": version or "0",
            "description": "Queues jobs, keeps quotas, runs them on compute nodes, serves the results. "
            "The routes outside /v1 are the published contract of job-orchestrator 2.x.",
            "license": {"name": "MIT", "identifier": "MIT"},
        },
        "paths": {**_contract(), **_v1(), **_pages()},
        "components": {"schemas": schemas()},
    }


def _json(schema: dict[str, Any]) -> dict[str, Any]:
    return {"application/json": {"schema": schema}}


def _answer(description: str, content: dict[str, Any] | None = None) -> dict[str, Any]:
    return {"description": description, **({"content": content} if content else {})}


def _refused(**codes: str) -> dict[str, Any]:
    return {code[1:]: _answer(text, _STATUS_BODY) for code, text in codes.items()}


def _problems(**codes: str) -> dict[str, Any]:
    return {code[1:]: _answer(text, _PROBLEM) for code, text in codes.items()}


def _operation(
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


def _query(name: str, description: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {"name": name, "in": "query", "description": description, "schema": schema}


def _contract() -> dict[str, Any]:
    message = _json(
        {"type": "object", "properties": {"message": {"type": "string"}}, "required": ["message"]}
    )
    health = _json({"$ref": "#/components/schemas/Health"})
    bad_id = "No id: a whole number from 1 to 4294967295"
    upload = {
        "requestBody": {
            "required": True,
            "content": {"multipart/form-data": {"schema": {"$ref": "#/components/schemas/Upload"}}},
        }
    }
    key = {
        "name": "Idempotency-Key",
        "in": "header",
        "description": "The same key with the same content gives the same job",
        "schema": {"type": "string", "maxLength": 255},
    }
    created = _answer("The job is durable and queued", _STATUS_BODY)
    created["headers"] = {"Location": {"schema": {"type": "string"}}}
    killed = _answer("Killed: job terminated. Locked: being killed, ask again", _STATUS_BODY)
    either = _answer("Completed: the results. Any other state: a StatusBody", {**_ZIP, **_STATUS_BODY})
    return {
        "/": {
            "get": _operation(
                "ping", "Whether the server answers", "contract", {"200": _answer("pong", message)}
            )
        },
        "/health": {
            "get": _operation(
                "health",
                "Whether the database answers",
                "contract",
                {"200": _answer("It does", health), "503": _answer("It does not", health)},
            )
        },
        "/upload": {
            "post": _operation(
                "upload",
                "Hand in a job",
                "contract",
                {
                    "201": created,
                    **_refused(
                        _400="A bad field, service, file name or multipart body; or one twice",
                        _409="An upload with this Idempotency-Key is under way",
                        _413="Larger than allowed",
                        _422="The Idempotency-Key belongs to other content",
                        _503="The ledger cannot be written now",
                        _507="No room",
                    ),
                },
                key,
                **upload,
            )
        },
        "/download/{id}": {
            "get": _operation(
                "download",
                "The results of a completed job",
                "contract",
                {"200": either, **_refused(_400=bad_id, _404="Unknown job", _503="Not available now")},
                _ID,
            )
        },
        "/download_partial/{id}": {
            "get": _operation(
                "downloadPartial",
                "The job's directory as it is now",
                "contract",
                {
                    "200": _answer("A zip", _ZIP),
                    **_refused(
                        _400=bad_id, _404="Unknown job, or nothing left of it", _503="The node is unreachable"
                    ),
                },
                _ID,
            )
        },
        "/terminate/{id}": {
            "post": _operation(
                "terminate",
                "Kill a job",
                "contract",
                {
                    "200": killed,
                    **_refused(
                        _400=bad_id, _404="Unknown job", _409="It ended otherwise", _503="Not available now"
                    ),
                },
                _ID,
            )
        },
    }


def _v1() -> dict[str, Any]:
    job = {"$ref": "#/components/schemas/Job"}
    common = _problems(_400="A bad or unknown parameter", _404="Unknown job", _503="Not available now")
    whole = {"type": "integer", "minimum": 0}
    flag = {"type": "string", "enum": ["0", "1"]}
    return {
        "/v1/jobs": {
            "get": _operation(
                "listJobs",
                "Jobs, newest first",
                "v1",
                {"200": _answer("A page of jobs", _json(_listed(job))), **_problems(_400="A bad parameter")},
                _query("user", "Only this user's", {"type": "integer"}),
                _query("service", "Only this service's", {"type": "string"}),
                _query("status", "Only in this state", {"$ref": "#/components/schemas/Status"}),
                _query("before", "The `next` of the page before", whole),
                _query(
                    "limit", "Jobs a page", {"type": "integer", "minimum": 1, "maximum": 500, "default": 50}
                ),
            )
        },
        "/v1/jobs/{id}": {
            "get": _operation(
                "job",
                "One job; with `wait` as soon as it changes",
                "v1",
                {"200": _answer("The job", _json(job)), **common},
                _ID,
                _query("wait", "Seconds to wait at most", {"type": "number", "minimum": 0, "maximum": 300}),
                _query("after", "Answer once its version is above this", whole),
                _query("until", "Answer once it has ended", {"type": "string", "enum": ["ended"]}),
            )
        },
        "/v1/jobs/{id}/results": {
            "get": _operation(
                "results",
                "The results of an ended job, whatever its end",
                "v1",
                {
                    "200": _answer("A zip; with ETag and ranges if the job had run", _ZIP),
                    "206": _answer("The range", _ZIP),
                    "304": _answer("Unchanged"),
                    **common,
                    **_problems(_409="Not ended yet", _416="Nothing in this range"),
                },
                _ID,
            )
        },
        "/v1/jobs/{id}/logs": {
            "get": _operation(
                "logs",
                "What the job printed, byte by byte",
                "v1",
                {"200": _answer("Raw bytes from the offset on", _BYTES), **common},
                _ID,
                _query(
                    "stream", "Which", {"type": "string", "enum": ["stdout", "stderr"], "default": "stdout"}
                ),
                _query("offset", "Bytes to leave out", whole),
                _query("follow", "1: of a running job, until it ends", flag),
            )
        },
        "/v1/jobs/{id}/history": {
            "get": _operation(
                "history",
                "Every transition",
                "v1",
                {
                    "200": _answer("In order", _json(_listed({"$ref": "#/components/schemas/Transition"}))),
                    **common,
                },
                _ID,
            )
        },
        "/v1/nodes": {
            "get": _operation(
                "nodes",
                "The nodes as the scheduler sees them",
                "v1",
                {
                    "200": _answer("All", _json(_listed({"type": "object"}))),
                    **_problems(_503="Not available now"),
                },
            )
        },
        "/v1/services": {
            "get": _operation(
                "services",
                "Services, their quotas, and how many jobs are in which state",
                "v1",
                {"200": _answer("All", _json(_listed({"type": "object"})))},
            )
        },
    }


def _pages() -> dict[str, Any]:
    html = _answer("HTML", {"text/html": {"schema": {"type": "string"}}})
    file = {"name": "name", "in": "path", "required": True, "schema": {"type": "string"}}
    return {
        "/swagger": {"get": _operation("swagger", "This API to look at and try", "pages", {"200": html})},
        "/swagger/{name}": {
            "get": _operation(
                "swaggerFile",
                "Its files",
                "pages",
                {"200": _answer("A file"), **_refused(_404="No such file")},
                file,
            )
        },
        "/api-docs/openapi.json": {
            "get": _operation(
                "openapi",
                "This document",
                "pages",
                {"200": _answer("OpenAPI 3.1", _json({"type": "object"}))},
            )
        },
    }


def _listed(item: dict[str, Any]) -> dict[str, Any]:
    properties = {"items": {"type": "array", "items": item}, "next": {"type": ["integer", "null"]}}
    return {"type": "object", "properties": properties, "required": ["items", "next"]}
