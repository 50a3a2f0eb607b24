"""The dashboard: a page and its files, all our own or vendored. What it shows it asks of `/v1` by itself.

Its addresses are relative, so it works below whatever path a proxy puts it. Those of its files have a version
that is made of them all, so a browser asks for each once until any of them is another, and never has files of
two versions.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from typing import Final

from quart import Blueprint, Response

from actors.wire.http.app import Refusal
from actors.wire.http.plain_routes import Answer, Asked, PlainRoutes
from orchestrator.api.http.file_response import SMALL, matches
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
_KEPT: Final = {"Cache-Control": "max-age=31536000, immutable"}
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


def blueprint(plain: PlainRoutes) -> Blueprint:
    """A first visit asks for some twenty small files at once, so they are plain routes."""
    page = Blueprint("dashboard", __name__)
    found = _read_files()
    index = found.pop(PAGE)
    version = _tag_of(*(found[name].content for name in sorted(found)))[:16]
    linked = index.content.replace(b'"dashboard/', f'"dashboard/{version}/'.encode())
    index = _File(linked, index.kind, f'"{_tag_of(linked)}"')
    kept = {f"{version}/{name}": file for name, file in found.items()}
    small = {name for name, file in (found | kept).items() if len(file.content) <= SMALL}

    @plain.get(page, "/dashboard")
    @describe("Jobs, services and nodes to look at", answers={200: ("HTML", HTML), **_SAME}, tag="pages")
    async def dashboard(asked: Asked) -> Answer:
        return _respond(index, asked)

    @page.get("/dashboard/")
    @describe(
        "The same page", answers={308: "To the address without the last slash"}, location=308, tag="pages"
    )
    async def dashboard_slash() -> Response:
        # The page's addresses count from its own.
        return Response(b"", 308, {"Location": "../dashboard"})

    @plain.get(page, "/dashboard/<path:name>", words=small)
    @describe("Its files", answers={200: "A file", **_SAME}, errors={404: "No such file"}, tag="pages")
    async def dashboard_file(asked: Asked) -> Answer:
        file = kept.get(asked.part) or found.get(asked.part)
        if file is None:
            raise Refusal(404, "not_found", "there is no such file")
        more = _FRAMED if file is found[MOLECULE] else {}
        return _respond(file, asked, more | _KEPT if asked.part in kept else more)

    return page


def _read_files() -> dict[str, _File]:
    directory = files("orchestrator.api") / "static" / "dashboard"
    read: dict[str, _File] = {}
    for entry in directory.iterdir():
        kind = _TYPES.get(entry.name.rpartition(".")[2])
        if kind is not None:
            content = entry.read_bytes()
            read[entry.name] = _File(content, kind, f'"{_tag_of(content)}"')
    return read


def _tag_of(*contents: bytes) -> str:
    return hashlib.sha256(b"".join(contents)).hexdigest()[:32]


def _respond(file: _File, asked: Asked, more: Mapping[str, str] = {}) -> Answer:
    headers = {**_HEADERS, **more, "ETag": file.tag}
    if matches(next(iter(asked.headers("If-None-Match")), None), file.tag):
        return Answer(304, file.kind, b"", headers)
    return Answer(200, file.kind, file.content, headers)
