"""Pages of other origins that may call this API from a browser (`ALLOWED_ORIGINS`), as the Fetch standard has
it. They show a token; a cookie of ours is not sent with what they ask."""

from __future__ import annotations

from collections.abc import Collection
from typing import Final

from quart import Quart, Response, request

from actors.process.log_lines import request_id
from actors.wire.http.app import Refusal
from orchestrator.access.roles import asked_from, in_log

_METHODS: Final = "GET, HEAD, POST, DELETE"
_HEADERS: Final = (
    "Authorization, Content-Type, Idempotency-Key, If-None-Match, Last-Event-ID, Range, X-Requested-With"
)
_SHOWN: Final = (
    "Accept-Ranges, Content-Disposition, Content-Range, ETag, Location, Log-Offset, Log-Size, Retry-After"
)
_KEPT: Final = "600"
"""Seconds for which a browser remembers."""


def allow_origins(app: Quart, origins: Collection[str]) -> None:
    """To be called before the routes are guarded: a browser asks first without a token whether it may."""

    def allowed() -> str | None:
        origin = request.headers.get("Origin")
        return origin if origin is not None and origin.lower() in origins else None

    async def answer_preflight() -> Response | None:
        origin = request.headers.get("Origin")
        if request.method != "OPTIONS" or origin is None:
            return None
        if "Access-Control-Request-Method" not in request.headers:
            return None
        # Nobody is admitted here, and what was asked before over this connection may have been another's.
        in_log.set((request.path, ""))
        asked_from.set("")
        request_id.set("")
        if allowed() is None:
            detail = f"the origin {origin[:200]!r} is not in ALLOWED_ORIGINS, so its pages may not ask here"
            raise Refusal(403, "foreign_origin", detail)
        return Response(
            b"",
            204,
            {
                "Access-Control-Allow-Methods": _METHODS,
                "Access-Control-Allow-Headers": _HEADERS,
                "Access-Control-Max-Age": _KEPT,
            },
        )

    async def add_headers(response: Response) -> Response:
        if not origins:
            return response
        response.headers.add("Vary", "Origin")
        if (origin := allowed()) is not None:
            response.headers["Access-Control-Allow-Origin"] = origin
            response.headers["Access-Control-Expose-Headers"] = _SHOWN
        return response

    app.before_request(answer_preflight)
    app.after_request(add_headers)
