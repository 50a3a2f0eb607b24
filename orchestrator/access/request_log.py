"""A line of the log for each request, on request."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Final

from actors.wire.http.plain_routes import NoteRequest
from orchestrator.access.roles import asked_from, in_log

log: Final = logging.getLogger("orchestrator.requests")


def note_and_log(note: NoteRequest, wanted: Callable[[], bool]) -> NoteRequest:
    """`note`, and a line while that is `wanted`: in the task in which the request was answered."""

    def noted(method: str, rule: str | None, status: int, seconds: float, length: int | None) -> None:
        note(method, rule, status, seconds, length)
        if not wanted():
            return
        path, who = in_log.get() or (rule or "", "")
        address = asked_from.get()
        known = {"bytes": length, "who": who or None, "address": address or None}
        log.info(
            "%s %s: %d in %.1f ms, by %s from %s",
            method,
            path,
            status,
            seconds * 1000,
            who or "nobody known",
            address or "nowhere known",
            extra={
                "method": method,
                "path": path,
                "status": status,
                "seconds": round(seconds, 6),
                **{name: value for name, value in known.items() if value is not None},
            },
        )

    return noted
