"""Swagger UI from our own files: it asks no other host for anything."""

from __future__ import annotations

import json
from collections.abc import Iterable
from importlib.resources import files
from typing import Any, Final

from quart import Blueprint, Response, current_app

from actors.wire.http.app import Refusal
from orchestrator.api.openapi.describe import HTML, describe
from orchestrator.api.openapi.document import document

_SERVED: Final = {
    "swagger-ui.css": "text/css; charset=utf-8",
    "swagger-ui-bundle.js": "text/javascript; charset=utf-8",
    "swagger-init.js": "text/javascript; charset=utf-8",
}
_HEADERS: Final = {
    "Content-Security-Policy": "default-src 'self'; img-src 'self' data:; style-src 'self' 'unsafe-inline'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; object-src 'none'",
    "X-Content-Type-Options": "nosniff",
}


def blueprint(version: str, services: Iterable[str]) -> Blueprint:
    page = Blueprint("pages", __name__)
    static = files("orchestrator.api") / "static"

    @page.get("/swagger")
    @describe(
        "This API to look at and try",
        answers={200: ("HTML", HTML), 303: "To a browser whose user is not logged in: the dashboard"},
        location=303,
        tag="pages",
    )
    async def swagger() -> Response:
        text = (static / "swagger.html").read_bytes()
        return Response(text, headers=_HEADERS, content_type="text/html; charset=utf-8")

    @page.get("/swagger/")
    @describe("The same, as 2.x has it", answers={308: "To `/swagger`"}, location=308, tag="pages")
    async def swagger_slash() -> Response:
        # The files are named beside the page. Relative: a proxy may have the server below a path.
        return Response(b"", 308, {"Location": "../swagger"})

    @page.get("/swagger/<name>")
    @describe("Its files", answers={200: "A file"}, errors={404: "No such file"}, tag="pages")
    async def swagger_file(name: str) -> Response:
        if name not in _SERVED:
            raise Refusal(404, "not_found", "there is no such file")
        return Response((static / name).read_bytes(), headers=_HEADERS, content_type=_SERVED[name])

    @page.get("/api-docs/openapi.json")
    @describe("This document", answers={200: ("OpenAPI 3.1", dict[str, Any])}, tag="pages")
    async def openapi() -> Response:
        # Not sorted: the order of media types tells which one to take.
        text = json.dumps(document(current_app, version, services))
        return Response(text, content_type="application/json")

    return page
