"""The OpenAPI document, written by hand: a test holds it against the routes that there are."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from orchestrator.api.openapi import jobs, nodes, scaling
from orchestrator.api.openapi import services as openapi_services
from orchestrator.api.openapi.parts import JOB_ID, KEY, STATUS_BODY, ZIP, answer, json, operation, refused
from orchestrator.api.openapi.schemas import schemas


def document(version: str, services: Iterable[str]) -> dict[str, Any]:
    """The whole document, of a server with these services."""
    paths = _contract()
    for part in (jobs, openapi_services, nodes, scaling):
        paths |= part.paths()
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Job orchestrator",
            "version": version or "0",
            "description": "Queues jobs, keeps quotas, runs them on compute nodes, serves the results. "
            "The routes outside /v1 are the published contract of job-orchestrator 2.x.",
            "license": {"name": "MIT", "identifier": "MIT"},
        },
        # Relative to where the document is, so that it holds behind a proxy that takes a prefix away.
        "servers": [{"url": "..", "description": "Where this document is from"}],
        "paths": {**paths, **_pages()},
        "components": {"schemas": _schemas(services)},
    }


def _schemas(services: Iterable[str]) -> dict[str, Any]:
    """The components; an upload's service is one of those that there are."""
    found = schemas()
    if known := sorted(services):
        upload = found["Upload"]
        upload["properties"]["service"] = {"type": "string", "enum": known}
        upload["examples"] = [{**one, "service": known[0]} for one in upload["examples"]]
    return found


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
        "schema": KEY,
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
                JOB_ID,
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
                JOB_ID,
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
                JOB_ID,
            )
        },
    }


def _pages() -> dict[str, Any]:
    html = answer("HTML", {"text/html": {"schema": {"type": "string"}}})
    file = {"name": "name", "in": "path", "required": True, "schema": {"type": "string"}}
    same = {"304": answer("As If-None-Match has it")}
    elsewhere = answer("To the address without the last slash")
    elsewhere["headers"] = {"Location": {"schema": {"type": "string"}}}
    return {
        "/dashboard": {
            "get": operation(
                "dashboard", "Jobs, services and nodes to look at", "pages", {"200": html, **same}
            )
        },
        "/dashboard/": {"get": operation("dashboardSlash", "The same page", "pages", {"308": elsewhere})},
        "/dashboard/{name}": {
            "get": operation(
                "dashboardFile",
                "Its files",
                "pages",
                {"200": answer("A file"), **same, **refused(_404="No such file")},
                file,
            )
        },
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
