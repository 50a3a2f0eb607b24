"""`/v1/session`: logging in to the dashboard with a token, who is logged in, logging out."""

from __future__ import annotations

import time
from functools import cache

from quart import Blueprint, Response, request

from actors.wire.http.app import Refusal, json_response, query
from actors.wire.http.plain_routes import head_of_request
from actors.wire.protocol.contract import rfc3339
from orchestrator.access.audit import AuditEntry
from orchestrator.access.failed_tries import FailedTries
from orchestrator.access.gate import CHALLENGE, read_bearer
from orchestrator.access.roles import ROUTES, Principal, Role, asked_from, asking
from orchestrator.access.sessions import WATCHERS, Session
from orchestrator.access.tokens import TokenRecord, is_token
from orchestrator.api.context import ApiContext
from orchestrator.api.http.json_body import read_json_object, refuse_field, refuse_unknown
from orchestrator.api.openapi.describe import UNAVAILABLE, describe
from orchestrator.api.openapi.document import path_of
from orchestrator.contract import bodies


def blueprint(api: ApiContext) -> Blueprint:
    page = Blueprint("v1-session", __name__, url_prefix="/v1")
    tries = FailedTries(time.monotonic)

    @page.get("/session")
    @describe("Who asks, and what they may do", answers={200: ("It", bodies.SessionBody)}, errors=UNAVAILABLE)
    async def session() -> Response:
        query()
        head, asks = head_of_request(), asking.get()
        found = api.sessions.find(head.header("cookie"))
        # Something else may say who asks.
        is_its = found is not None and found.token.id == asks.token
        by_token = read_bearer(head.header("authorization")) is not None
        version = await api.changes.newest()
        return json_response(_render(api, asks, found if is_its and not by_token else None, version))

    @page.post("/session")
    @describe(
        "Log in: the cookie that comes with the answer is as the token, until it expires",
        answers={201: ("Who is logged in", bodies.SessionBody)},
        errors=UNAVAILABLE
        | {
            400: "No JSON",
            401: "No such token",
            403: "The token's role has nothing to look at",
            413: "Too large",
            422: "A field is unknown or wrong",
            429: "Too many failed tries from this address",
        },
        body=bodies.LogInBody,
        body_required=True,
    )
    async def log_in() -> Response:
        query()
        token = await _read_token(api, tries)
        head = head_of_request()
        version = await api.changes.newest()
        before = api.sessions.find(head.header("cookie"))
        if before is not None:
            api.sessions.remove(before)
        ended = [*api.sessions.take_ended(token), *(() if before is None else (before.record.hash,))]
        made = api.sessions.make(token)
        entry = AuditEntry(made.principal.name, token.id, token.role.value, asked_from.get(), "log in")
        await api.ledger.put_session(made.record, ended, entry)
        api.sessions.add(made)
        answer = json_response(_render(api, made.principal, made, version), 201)
        _set_cookie(answer, api, made)
        return answer

    @page.delete("/session")
    @describe("Log out: the session ends", answers={204: "Nobody is logged in"}, errors=UNAVAILABLE)
    async def log_out() -> Response:
        query()
        found = api.sessions.find(head_of_request().header("cookie"))
        answer = Response(b"", status=204)
        if found is not None:
            api.sessions.remove(found)
            await api.ledger.remove_sessions([found.record.hash])
        _set_cookie(answer, api, None)
        return answer

    return page


async def _read_token(api: ApiContext, tries: FailedTries) -> TokenRecord:
    """Raises Refusal for one that nobody can log in with."""
    body = await read_json_object()
    refuse_unknown(body, "token")
    secret = body.get("token")
    if not isinstance(secret, str) or not secret:
        refuse_field("token", "a token")
    address = asked_from.get()
    wait = tries.wait(address)
    # What has the form of a token cannot be guessed: whoever has one is not kept out by others who fail
    # behind the same proxy.
    token = api.tokens.find(secret) if not wait or is_token(secret) else None
    if token is None:
        api.refusals.note(address, "failed_login", "POST /v1/session")
        if wait:
            detail = f"too many tries with a wrong token came from this address; try again in {wait} s"
            raise Refusal(429, "too_many_tries", detail, headers={"Retry-After": str(wait)})
        tries.note(address)
        raise Refusal(
            401, "bad_token", "this token is not known, or has expired or been revoked", headers=CHALLENGE
        )
    if token.role not in WATCHERS:
        raise Refusal(403, "wrong_role", f"a token of the role {token.role} has nothing to look at here")
    return token


def _set_cookie(answer: Response, api: ApiContext, session: Session | None) -> None:
    """None: the browser shall forget it."""
    scope = api.sessions.scope(request.headers.get("Origin"), request.scheme)
    answer.set_cookie(
        api.sessions.cookie,
        "" if session is None else session.secret,
        max_age=0 if session is None else max(1, int(session.expires_at - api.clock.now())),
        path=scope.path,
        secure=scope.secure,
        httponly=True,
        samesite="Lax",
    )


def _render(api: ApiContext, asks: Principal, session: Session | None, version: int) -> bodies.SessionBody:
    expires_at = session.expires_at if session is not None else _expiry(api, asks)
    return {
        "role": asks.role.value,
        "name": asks.name,
        "services": sorted(asks.services),
        "user": asks.user,
        "expires_at": None if expires_at is None else rfc3339(expires_at),
        "session_token": None if session is None else session.order_token,
        "may": list(_may(asks.role)),
        "version": version,
    }


def _expiry(api: ApiContext, asks: Principal) -> float | None:
    return next((one.expires_at for one in api.tokens if one.id == asks.token), None)


@cache
def _may(role: Role) -> tuple[str, ...]:
    """What the role may ask for, as methods and paths of the OpenAPI document."""
    allowed = (route.split(" ") for route, access in ROUTES.items() if role in access.roles)
    return tuple(f"{method} {path_of(rule)}" for method, rule in allowed)
