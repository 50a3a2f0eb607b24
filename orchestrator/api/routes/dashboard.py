"""The dashboard: a page and its files, all our own or vendored. What it shows it asks of `/v1` by itself.

Its addresses are relative, so it works below whatever path a proxy puts it. Those of its files have a version
that is made of them all, so a browser asks for each once until any of them is another, and never has files of
two versions. The page names one script and one style sheet: those of the tree, put together as they are read.
"""

from __future__ import annotations

import gzip
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache, cached_property
from importlib.resources import files
from typing import Final

from quart import Blueprint, Response

from actors.wire.http.app import Refusal
from actors.wire.http.plain_routes import Answer, Asked, PlainRoutes
from orchestrator.api.http.file_response import matches
from orchestrator.api.http.one_script import join_modules, join_styles
from orchestrator.api.openapi.describe import HTML, describe

PAGE: Final = "index.html"
SCRIPT: Final = "main"
STYLES: Final = "dashboard.css"
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
    "Vary": "Accept-Encoding",
    # Asked for anew each time, and mostly answered with: as you have it.
    "Cache-Control": "no-cache",
}
_KEPT: Final = {"Cache-Control": "max-age=31536000, immutable"}
_FRAMED: Final = {
    "Content-Security-Policy": "sandbox allow-scripts; default-src 'none'; script-src 'self'; "
    "style-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'self'",
}

_SAME: Final = {304: "As If-None-Match has it"}


_SMALL: Final = 1 << 18
"""Bytes of a file that is answered without the app."""


@dataclass(frozen=True)
class _File:
    content: bytes
    kind: str

    @cached_property
    def tag(self) -> str:
        return _tag_of(self.content)

    @cached_property
    def packed(self) -> bytes:
        return gzip.compress(self.content, mtime=0)


def blueprint(plain: PlainRoutes) -> Blueprint:
    """Its files are in memory, so most of them are plain routes."""
    page = Blueprint("dashboard", __name__)
    found = dict(_read_files())
    index = found.pop(PAGE)
    version = _tag_of(*(found[name].content for name in sorted(found)))[:16]
    linked = index.content.replace(b'"dashboard/', f'"dashboard/{version}/'.encode())
    index = _File(linked, index.kind)
    kept = {f"{version}/{name}": file for name, file in found.items()}
    small = {name for name, file in (found | kept).items() if len(file.content) <= _SMALL}

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


@cache
def _read_files() -> Mapping[str, _File]:
    """Those of this program, which are put together once in a process, however many apps it has."""
    directory = files("orchestrator.api") / "static" / "dashboard"
    read = {entry.name: entry.read_bytes() for entry in directory.iterdir() if _kind_of(entry.name)}
    texts = {name: content.decode() for name, content in read.items()}
    modules = {name.removesuffix(".js"): text for name, text in texts.items() if name.endswith(".js")}
    read[f"{SCRIPT}.js"] = join_modules(SCRIPT, modules).encode()
    read[STYLES] = join_styles(STYLES, texts).encode()
    return {name: _File(content, _kind_of(name)) for name, content in read.items()}


def _kind_of(name: str) -> str:
    """ "" for what is not served."""
    return _TYPES.get(name.rpartition(".")[2], "")


def _tag_of(*contents: bytes) -> str:
    return hashlib.sha256(b"".join(contents)).hexdigest()[:32]


def _respond(file: _File, asked: Asked, more: Mapping[str, str] = {}) -> Answer:
    packed = _takes_gzip(asked)
    tag = f'"{file.tag}{"-gzip" if packed else ""}"'
    headers = {**_HEADERS, **more, "ETag": tag}
    if matches(next(iter(asked.headers("If-None-Match")), None), tag):
        return Answer(304, file.kind, b"", headers)
    if packed:
        return Answer(200, file.kind, file.packed, headers | {"Content-Encoding": "gzip"})
    return Answer(200, file.kind, file.content, headers)


def _takes_gzip(asked: Asked) -> bool:
    """Whether it is asked for as browsers do, who name it without a weight."""
    named = ",".join(asked.headers("Accept-Encoding")).lower().split(",")
    return "gzip" in (one.strip() for one in named)
