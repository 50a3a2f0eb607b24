"""Tokens: made, listed and revoked by operators."""

from __future__ import annotations

import secrets
from typing import Any, Final

from quart import Blueprint, Response

from actors.wire.http.app import Refusal, json_response, query
from actors.wire.http.peers import parse_network
from orchestrator.access.audit import entry_of
from orchestrator.access.roles import Role
from orchestrator.access.token_files import DECLARED, OPERATOR_ID
from orchestrator.access.tokens import MACHINE, TokenRecord, hash_of, make_secret
from orchestrator.api.context import ApiContext
from orchestrator.api.http.json_body import read_json_object, refuse_field, refuse_unknown
from orchestrator.api.http.query_params import is_line
from orchestrator.api.openapi.describe import BAD_PARAMETER, UNAVAILABLE, describe, page_of
from orchestrator.api.serializers import render_token
from orchestrator.contract import bodies

LONGEST_NAME: Final = 100
MOST_SLOTS: Final = 1_000_000
MOST_SOURCES: Final = 100
_OF_NODES: Final = ("once", "max_slots", "sources")
LONGEST_LIFE: Final = 10 * 366 * 86_400.0
"""Seconds for which a token may be made."""


def blueprint(api: ApiContext) -> Blueprint:
    page = Blueprint("v1-tokens", __name__, url_prefix="/v1")

    @page.get("/tokens")
    @describe("The tokens that hold", answers={200: ("All", page_of(bodies.TokenBody))}, errors=BAD_PARAMETER)
    async def tokens() -> Response:
        query()
        made = [one for one in api.tokens if not one.id.startswith(MACHINE)]
        return json_response({"items": [render_token(one) for one in made], "next": None})

    @page.post("/tokens")
    @describe(
        "Make a token. Its secret is told here, and never again",
        answers={201: ("The token with its secret", bodies.NewTokenBody)},
        errors=UNAVAILABLE | {400: "No JSON", 413: "Too large", 422: "A field is unknown or wrong"},
        body=bodies.TokenOrderBody,
        body_required=True,
    )
    async def create_token() -> Response:
        query()
        secret = make_secret()
        record = _parse(api, await read_json_object(), secret)
        what = f"{record.role} {record.name}".strip()
        await api.ledger.put_token(record, entry_of("create token", about=record.id, detail=what))
        api.tokens.add(record)
        return json_response(render_token(record) | {"secret": secret}, 201)

    @page.delete("/tokens/<token_id>")
    @describe(
        "Revoke a token: it is refused from now on",
        answers={204: "It is revoked"},
        errors=UNAVAILABLE | {404: "Unknown token", 409: "It is declared in a file"},
    )
    async def revoke_token(token_id: str) -> Response:
        query()
        if token_id == OPERATOR_ID or token_id.startswith(DECLARED):
            raise Refusal(
                409,
                "token_in_file",
                f"token {token_id[:100]} is in a file: take it out there, and start the server anew",
            )
        if not await api.ledger.revoke_token(token_id, entry_of("revoke token", about=token_id)):
            raise Refusal(404, "unknown_token", f"there is no token {token_id[:100]!r}")
        api.tokens.remove(token_id)
        return Response(b"", status=204)

    return page


def _parse(api: ApiContext, body: dict[str, Any], secret: str) -> TokenRecord:
    """Raises Refusal (422)."""
    refuse_unknown(body, "role", "name", "services", "user", "expires_in", *_OF_NODES)
    role, name, services = body.get("role"), body.get("name", ""), body.get("services", [])
    user, life = body.get("user"), body.get("expires_in")
    if role not in list(Role):
        refuse_field("role", f"one of {', '.join(Role)}")
    if not isinstance(name, str) or len(name) > LONGEST_NAME or not is_line(name):
        refuse_field("name", f"a line of at most {LONGEST_NAME} characters")
    if not isinstance(services, list) or not all(isinstance(one, str) for one in services):
        refuse_field("services", "a list of names of services")
    for one in services:
        if one not in api.services:
            known = ", ".join(sorted(api.services)) or "none"
            raise Refusal(422, "bad_field", f"services: there is no service {one[:100]!r}; known: {known}")
    if user is not None and (type(user) is not int or not -(1 << 63) <= user < 1 << 63):
        refuse_field("user", "a whole number of at most 64 bits")
    if (user is None) is (role == Role.USER):
        refuse_field("user", "the user's number, and only for the role user,")
    if life is not None and (type(life) not in (int, float) or not 0 < life <= LONGEST_LIFE):
        refuse_field("expires_in", "seconds above 0, at most ten years,")
    once, max_slots, sources = _parse_of_nodes(body)
    now = api.clock.now()
    return TokenRecord(
        id=secrets.token_hex(6),
        hash=hash_of(secret),
        role=Role(role),
        name=name,
        created_at=now,
        services=tuple(sorted(set(services))),
        user=user,
        expires_at=None if life is None else now + life,
        once=once,
        max_slots=max_slots,
        sources=sources,
    )


def _parse_of_nodes(body: dict[str, Any]) -> tuple[bool, int | None, tuple[str, ...]]:
    """What bounds the nodes that join by it. Raises Refusal (422)."""
    if body.get("role") != Role.NODE:
        for field in _OF_NODES:
            if body.get(field) not in (None, False, []):
                refuse_field(field, "nothing, as it is for the role node alone,")
    once, most, sources = body.get("once"), body.get("max_slots"), body.get("sources")
    if once is not None and type(once) is not bool:
        refuse_field("once", "true or false")
    if most is not None and (type(most) is not int or not 1 <= most <= MOST_SLOTS):
        refuse_field("max_slots", f"a whole number from 1 to {MOST_SLOTS}")
    if sources is not None and (not isinstance(sources, list) or len(sources) > MOST_SOURCES):
        refuse_field("sources", f"a list of at most {MOST_SOURCES} networks")
    networks = [parse_network(one) if isinstance(one, str) else None for one in sources or ()]
    if None in networks:
        refuse_field("sources", "a list of networks, as 10.0.0.0/8,")
    return bool(once), most, tuple(str(network) for network in networks)
