"""The dashboard: a page and its files, all our own or vendored. What it shows it asks of `/v1` by itself.

Its addresses are relative, so it works below whatever path a proxy puts it.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from importlib.resources import files
from typing import Final

from quart import Blueprint, Response, request

from actors.wire.http.app import Refusal
from orchestrator.api.http.file_response import matches
from orchestrator.api.openapi.describe import HTML, describe

PAGE: Final = "index.html"
MOLECULE: Final = "molecule.html"
"""The frame that makes models of molecules, of text that a job's script has written."""

_TYPES: Final = {
    "html": "text/html; charset=utf-8",
    "css": "text/css; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "svg": "image/svg+xml",
}
_HEADERS: Final = {
    "Content-Security-Policy": "default-src 'self'; img-src 'self' data:; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'; object-src 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    # Asked for anew each time, and mostly answered with: as you have it.
    "Cache-Control": "no-cache",
}
_FRAMED: Final = {
    "Content-Security-Policy": "sandbox allow-scripts; default-src 'none'; script-src 'self'; "
    "style-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'self'",
}

_SAME: Final = {304: "As If-None-Match has it"}


@dataclass(frozen=True, slots=True)
class _File:
    content: bytes
    kind: str
    tag: str


def blueprint() -> Blueprint:
    page = Blueprint("dashboard", __name__)
    found = _read_files()

    @page.get("/dashboard")
    @describe("Jobs, services and nodes to look at", answers={200: ("HTML", HTML), **_SAME}, tag="pages")
    async def dashboard() -> Response:
        return _respond(found[PAGE])

    @page.get("/dashboard/")
    @describe(
        "The same page", answers={308: "To the address without the last slash"}, location=308, tag="pages"
    )
    async def dashboard_slash() -> Response:
        # The page's addresses count from its own.
        return Response(b"", 308, {"Location": "../dashboard"})

    @page.get("/dashboard/<name>")
    @describe("Its files", answers={200: "A file", **_SAME}, errors={404: "No such file"}, tag="pages")
    async def dashboard_file(name: str) -> Response:
        if name not in found or name == PAGE:
            raise Refusal(404, "not_found", "there is no such file")
        answer = _respond(found[name])
        if name == MOLECULE:
            answer.headers.update(_FRAMED)
        return answer

    return page


def _read_files() -> dict[str, _File]:
    directory = files("orchestrator.api") / "static" / "dashboard"
    read: dict[str, _File] = {}
    for entry in directory.iterdir():
        kind = _TYPES.get(entry.name.rpartition(".")[2])
        if kind is not None:
            content = entry.read_bytes()
            read[entry.name] = _File(content, kind, f'"{hashlib.sha256(content).hexdigest()[:32]}"')
    return read


def _respond(file: _File) -> Response:
    headers = {**_HEADERS, "ETag": file.tag}
    if matches(request.headers.get("If-None-Match"), file.tag):
        return Response(b"", 304, headers, content_type=file.kind)
    return Response(file.content, headers=headers, content_type=file.kind)
