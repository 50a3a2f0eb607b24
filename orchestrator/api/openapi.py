"""The OpenAPI document, written by hand: a test holds it against the routes that there are."""

from __future__ import annotations

from typing import Any, Final

from orchestrator.api import openapi_nodes, openapi_scaling
from orchestrator.api.openapi_parts import (
    BYTES,
    STATUS_BODY,
    ZIP,
    answer,
    json,
    listed,
    operation,
    problems,
    query,
    refused,
)
from orchestrator.api.openapi_schemas import schemas

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
        "paths": {**_contract(), **_v1(), **openapi_nodes.paths(), **openapi_scaling.paths(), **_pages()},
        "components": {"schemas": schemas()},
    }


def _contract() -> dict[str, Any]:
    message = json({"type": "object", "properties": {"message": {"type": "string"}}, "required": ["message"]})
    health = json({"$ref": "#/components/schemas/Health"})
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
    created = answer("The job is durable and queued", STATUS_BODY)
    created["headers"] = {"Location": {"schema": {"type": "string"}}}
    killed = answer("Killed: job terminated. Locked: being killed, ask again", STATUS_BODY)
    either = answer("Completed: the results. Any other state: a StatusBody", {**ZIP, **STATUS_BODY})
    return {
        "/": {
            "get": operation(
                "ping", "Whether the server answers", "contract", {"200": answer("pong", message)}
            )
        },
        "/health": {
            "get": operation(
                "health",
                "Whether the database answers",
                "contract",
                {"200": answer("It does", health), "503": answer("It does not", health)},
            )
        },
        "/upload": {
            "post": operation(
                "upload",
                "Hand in a job",
                "contract",
                {
                    "201": created,
                    **refused(
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
            "get": operation(
                "download",
                "The results of a completed job",
                "contract",
                {"200": either, **refused(_400=bad_id, _404="Unknown job", _503="Not available now")},
                _ID,
            )
        },
        "/download_partial/{id}": {
            "get": operation(
                "downloadPartial",
                "The job's directory as it is now",
                "contract",
                {
                    "200": answer("A zip", ZIP),
                    **refused(
                        _400=bad_id, _404="Unknown job, or nothing left of it", _503="The node is unreachable"
                    ),
                },
                _ID,
            )
        },
        "/terminate/{id}": {
            "post": operation(
                "terminate",
                "Kill a job",
                "contract",
                {
                    "200": killed,
                    **refused(
                        _400=bad_id, _404="Unknown job", _409="It ended otherwise", _503="Not available now"
                    ),
                },
                _ID,
            )
        },
    }


def _v1() -> dict[str, Any]:
    job = {"$ref": "#/components/schemas/Job"}
    common = problems(_400="A bad or unknown parameter", _404="Unknown job", _503="Not available now")
    whole = {"type": "integer", "minimum": 0}
    flag = {"type": "string", "enum": ["0", "1"]}
    return {
        "/v1/jobs": {
            "get": operation(
                "listJobs",
                "Jobs, newest first",
                "v1",
                {"200": answer("A page of jobs", json(listed(job))), **problems(_400="A bad parameter")},
                query("user", "Only this user's", {"type": "integer"}),
                query("service", "Only this service's", {"type": "string"}),
                query("status", "Only in this state", {"$ref": "#/components/schemas/Status"}),
                query("before", "The `next` of the page before", whole),
                query(
                    "limit", "Jobs a page", {"type": "integer", "minimum": 1, "maximum": 500, "default": 50}
                ),
            )
        },
        "/v1/jobs/{id}": {
            "get": operation(
                "job",
                "One job; with `wait` as soon as it changes",
                "v1",
                {"200": answer("The job", json(job)), **common},
                _ID,
                query("wait", "Seconds to wait at most", {"type": "number", "minimum": 0, "maximum": 300}),
                query("after", "Answer once its version is above this", whole),
                query("until", "Answer once it has ended", {"type": "string", "enum": ["ended"]}),
            )
        },
        "/v1/jobs/{id}/results": {
            "get": operation(
                "results",
                "The results of an ended job, whatever its end",
                "v1",
                {
                    "200": answer("A zip; with ETag and ranges if the job had run", ZIP),
                    "206": answer("The range", ZIP),
                    "304": answer("Unchanged"),
                    **common,
                    **problems(_409="Not ended yet", _416="Nothing in this range"),
                },
                _ID,
            )
        },
        "/v1/jobs/{id}/logs": {
            "get": operation(
                "logs",
                "What the job printed, byte by byte",
                "v1",
                {"200": answer("Raw bytes from the offset on", BYTES), **common},
                _ID,
                query(
                    "stream", "Which", {"type": "string", "enum": ["stdout", "stderr"], "default": "stdout"}
                ),
                query("offset", "Bytes to leave out", whole),
                query("follow", "1: of a running job, until it ends", flag),
            )
        },
        "/v1/jobs/{id}/history": {
            "get": operation(
                "history",
                "Every transition",
                "v1",
                {
                    "200": answer("In order", json(listed({"$ref": "#/components/schemas/Transition"}))),
                    **common,
                },
                _ID,
            )
        },
        "/v1/services": {
            "get": operation(
                "services",
                "Services, their quotas, and how many jobs are in which state",
                "v1",
                {"200": answer("All", json(listed({"type": "object"})))},
            )
        },
    }


def _pages() -> dict[str, Any]:
    html = answer("HTML", {"text/html": {"schema": {"type": "string"}}})
    file = {"name": "name", "in": "path", "required": True, "schema": {"type": "string"}}
    return {
        "/swagger": {"get": operation("swagger", "This API to look at and try", "pages", {"200": html})},
        "/swagger/{name}": {
            "get": operation(
                "swaggerFile",
                "Its files",
                "pages",
                {"200": answer("A file"), **refused(_404="No such file")},
                file,
            )
        },
        "/api-docs/openapi.json": {
            "get": operation(
                "openapi",
                "This document",
                "pages",
                {"200": answer("OpenAPI 3.1", json({"type": "object"}))},
            )
        },
    }
