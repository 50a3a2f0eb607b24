"""Requests whose body is a JSON object."""

from __future__ import annotations

import json
from typing import Any, Final, NoReturn

from quart import request

from actors.wire.errors import BadRequest, TooLarge
from actors.wire.http.app import Refusal

BODY_LIMIT: Final = 1 << 16


async def json_object() -> dict[str, Any]:
    """The JSON object of the request; an empty body is an empty object."""
    raw = bytearray()
    async for piece in request.body:
        raw += piece
        if len(raw) > BODY_LIMIT:
            raise TooLarge(f"the body has more than {BODY_LIMIT} bytes", BODY_LIMIT)
    if not raw:
        return {}
    try:
        found = json.loads(raw)
    except (ValueError, RecursionError):
        raise BadRequest("the body is no JSON") from None
    if not isinstance(found, dict):
        raise BadRequest("the body: a JSON object was expected")
    return found


def bad_field(field: str, expected: str) -> NoReturn:
    raise Refusal(422, "bad_field", f"{field}: {expected} was expected")


def only(body: dict[str, Any], *known: str) -> None:
    for field in body:
        if field not in known:
            raise Refusal(422, "unknown_field", f"{field[:100]}: unknown; known: {', '.join(known)}")
