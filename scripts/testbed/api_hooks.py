"""What schemathesis cannot know of the orchestrator: which jobs there are, and what would never end."""

from __future__ import annotations

import re
from contextlib import suppress
from typing import Any, Final
from urllib.parse import urlsplit

import schemathesis
from schemathesis.generation import GenerationMode

ENDED: Final = (1, 2, 3, 4)
"""Completed, failed, killed, deleted; `fuzz_api.prepare` makes them so."""
JOBS: Final = 16
"""Of these most exist."""
DELETED: Final = 2
LONGEST_WAIT: Final = 0.05


@schemathesis.hook
def before_call(context: schemathesis.HookContext, case: Any, kwargs: dict[str, Any]) -> None:
    """Lead the request to a job that is there, and let none wait for what does not come."""
    path, place = case.operation.path, case.path_parameters or {}
    number = str(place.get("id"))
    if re.fullmatch(r"[1-9][0-9]{0,9}", number, re.ASCII) and int(number) < 1 << 32:
        # Of a job that has ended, following is over at once.
        known = ENDED if path.endswith(("/events", "/logs")) else tuple(range(1, JOBS + 1))
        place["id"] = DELETED if case.method == "DELETE" else known[int(number) % len(known)]
    query = case.query if isinstance(case.query, dict) else {}
    if query.get("wait") is not None:
        query["wait"] = _shorter(query["wait"])
    if path == "/upload" and isinstance(case.body, dict) and _is_good(case):
        case.body["service"] = "example"
    if path == "/v1/nodes" and isinstance(case.body, dict):
        _stay_here(case.body)
    if path == "/v1/events" and _is_good(case):
        # From the first change on: there is something to tell at once, and so many events end it.
        case.query = {"after": 0}
        case.headers.pop("Last-Event-ID", None)


def _stay_here(body: dict[str, Any]) -> None:
    """The server asks a node that joins who it is: nobody else may be asked, and no name looked up."""
    with suppress(ValueError):
        url = urlsplit(body["url"] if isinstance(body.get("url"), str) else "")
        if url.hostname:
            body["url"] = url._replace(netloc="127.0.0.1:1").geturl()


def _shorter(wait: Any) -> Any:
    try:
        return LONGEST_WAIT if LONGEST_WAIT < float(wait) <= 86_400 else wait
    except (TypeError, ValueError):
        return wait


def _is_good(case: Any) -> bool:
    meta = case.meta
    return meta is not None and bool(meta.generation.mode == GenerationMode.POSITIVE)
