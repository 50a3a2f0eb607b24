"""Requests whose body is a JSON object."""

from __future__ import annotations

import json
from typing import Any, Final, NoReturn

from quart import request

from actors.wire.errors import BadRequest, TooLarge
from actors.wire.http.app import Refusal
from orchestrator.access.node_proofs import is_proved_body
from orchestrator.api.http.query_params import is_line

BODY_LIMIT: Final = 1 << 16
NO_REASON: Final = "ordered by an operator"


async def read_json_object(limit: int = BODY_LIMIT) -> dict[str, Any]:
    """The JSON object of the request, of `limit` bytes at most; an empty body is an empty object."""
    raw = bytearray()
    async for piece in request.body:
        raw += piece
        if len(raw) > limit:
            raise TooLarge(f"the body has more than {limit} bytes", limit)
    if not is_proved_body(bytes(raw)):
        raise Refusal(401, "wrong_proof", "it proves another body")
    if not raw:
        return {}
    try:
        found = json.loads(raw)
    except (ValueError, RecursionError):
        raise BadRequest("the body is no JSON") from None
    if not isinstance(found, dict):
        raise BadRequest("the body: a JSON object was expected")
    return found


def refuse_field(field: str, expected: str) -> NoReturn:
    raise Refusal(422, "bad_field", f"{field}: {expected} was expected")


def refuse_unknown(body: dict[str, Any], *known: str) -> None:
    for field in body:
        if field not in known:
            raise Refusal(422, "unknown_field", f"{field[:100]}: unknown; known: {', '.join(known)}")


def parse_reason(body: dict[str, Any]) -> str:
    """What people are told of an order: the one thing that its body may say."""
    refuse_unknown(body, "reason")
    reason = body.get("reason", NO_REASON)
    if not isinstance(reason, str) or not 0 < len(reason) <= 500 or not is_line(reason):
        refuse_field("reason", "a line of text of at most 500 characters")
    return reason
