"""Logging in with a token, what the cookie is good for, and how it ends."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import httpx
import pytest
from support.processes.api_server import Server, api_server

from orchestrator.access.failed_tries import FailedTries
from orchestrator.access.gate import SignOn
from orchestrator.access.limits import REMEMBERED
from orchestrator.access.roles import ROUTES, Role
from orchestrator.access.sessions import LIFE, MOST, Sessions
from orchestrator.access.tokens import TokenRecord, Tokens, hash_of, make_secret

FROM_A_PROXY = {"Via": "1.1 proxy"}
"""By which nobody is local."""


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Server]:
    async with api_server(tmp_path) as found:
        yield found


@asynccontextmanager
async def browser(server: Server, **headers: str) -> AsyncIterator[httpx.AsyncClient]:
    """One that keeps cookies, and comes through a proxy."""
    async with httpx.AsyncClient(
        base_url=server.url, headers=FROM_A_PROXY | headers, trust_env=False, verify=False, timeout=60
    ) as client:
        yield client


async def token(server: Server, role: Role, **given: Any) -> Mapping[str, Any]:
    """A new one, as an operator of this machine is told it."""
    answer = await server.client.post("/v1/tokens", json={"role": role} | given)
    assert answer.status_code == 201, answer.text
    made: Mapping[str, Any] = answer.json()
    return made


async def test_a_token_for_a_service_that_is_not_there_is_refused_by_its_name(server: Server) -> None:
    answer = await server.client.post(
        "/v1/tokens", json={"role": "portal", "services": ["example", "nosuch"]}
    )
    assert (answer.status_code, answer.json()["code"]) == (422, "bad_field")
    assert answer.json()["detail"] == "services: there is no service 'nosuch'; known: example"


async def log_in(client: httpx.AsyncClient, made: Mapping[str, Any]) -> Mapping[str, Any]:
    answer = await client.post("/v1/session", json={"token": made["secret"]})
    assert answer.status_code == 201, answer.text
    assert answer.headers["Cache-Control"] == "no-store"
    told: Mapping[str, Any] = answer.json()
    return told


async def who(client: httpx.AsyncClient, **headers: str) -> Any:
    answer = await client.get("/v1/session", headers=headers)
    return answer.json() if answer.status_code == 200 else answer.status_code


async def test_a_session_is_as_its_token_until_it_is_ended(server: Server) -> None:
    made = await token(server, Role.USER, user=3, services=["example"], name="Ada")
    async with browser(server) as one, browser(server) as other:
        assert await who(one) == 401
        assert server.api.refusals.counts == {}
        told = await log_in(one, made)
        assert (told["role"], told["name"], told["user"], told["services"]) == ("user", "Ada", 3, ["example"])
        assert told["expires_at"] and await who(one) == told
        assert await who(other) == 401
        assert (await one.get("/v1/jobs")).status_code == 200
        assert (await one.get("/v1/nodes")).status_code == 403
        assert (await one.delete("/v1/session")).json()["code"] == "no_session_token"
        kept = dict(one.cookies)
        answer = await one.delete("/v1/session", headers={"X-Session-Token": told["session_token"]})
        assert answer.status_code == 204 and not one.cookies
        # It is over, and not just forgotten here.
        assert await who(one, Cookie="; ".join(f"{name}={value}" for name, value in kept.items())) == 401
        assert await server.ledger.sessions() == []
        assert (await one.delete("/v1/session")).status_code == 204


@pytest.mark.parametrize("role", [role for role in Role if role is not Role.NODE])
async def test_who_asks_is_told_what_they_may(server: Server, role: Role) -> None:
    made = await token(server, role, **({"user": 3} if role is Role.USER else {}))
    async with browser(server) as client:
        told = await log_in(client, made)
        assert told["session_token"]
        by_token = await who(client, Authorization=f"Bearer {made['secret']}")
        assert by_token == dict(told, session_token=None, expires_at=None)
        assert len(told["may"]) == sum(role in access.roles for access in ROUTES.values())
        assert ("POST /v1/nodes/{id}/drain" in told["may"]) is (role is Role.OPERATOR)
        assert ("POST /terminate/{id}" in told["may"]) is (role is not Role.READER)


async def test_whom_a_proxy_has_signed_on_needs_no_session(tmp_path: Path) -> None:
    sign_on = SignOn("X-Remote-User", (ip_network("127.0.0.1"),), frozenset({"ada"}))
    async with api_server(tmp_path, sign_on=sign_on) as server, browser(server) as client:
        client.headers["X-Remote-User"] = "42"
        told = await who(client)
        assert (told["role"], told["user"], told["session_token"]) == ("user", 42, None)
        # Nor is it another's, whoever has used this browser before.
        server.api.tokens.add(TokenRecord("a", hash_of("one"), Role.OPERATOR, "", 0.0))
        await log_in(client, {"secret": "one"})
        assert await who(client) == told


async def test_who_is_local_asks_as_an_operator(server: Server) -> None:
    told = await who(server.client)
    assert (told["role"], told["name"], told["expires_at"], told["session_token"]) == (
        *("operator", "local"),
        *(None, None),
    )


async def test_it_tells_from_where_on_events_tell_all_that_changes(server: Server) -> None:
    before = (await who(server.client))["version"]
    job = await server.upload(**{"run.sh": b"true"})
    told = await who(server.client)
    listed = (await server.client.get("/v1/jobs")).json()
    assert before < told["version"] == listed["version"] == listed["items"][0]["version"]
    assert listed["items"][0]["id"] == job.id


async def test_a_token_of_a_node_opens_nothing(server: Server) -> None:
    made = await token(server, Role.NODE)
    async with browser(server) as client:
        answer = await client.post("/v1/session", json={"token": made["secret"]})
        assert (answer.status_code, answer.json()["code"]) == (403, "wrong_role")
        assert not client.cookies


@pytest.mark.parametrize(
    "order", ["DELETE /v1/jobs/1", "POST /v1/jobs/1/rerun", "POST /terminate/1", "POST /upload"]
)
async def test_an_order_by_cookie_shows_the_session_token(server: Server, order: str) -> None:
    made, others = await token(server, Role.PORTAL), await token(server, Role.PORTAL)
    method, path = order.split(" ")
    async with browser(server) as client, browser(server) as another:
        mine, theirs = await log_in(client, made), await log_in(another, others)
        for shown in ({}, {"X-Session-Token": ""}, {"X-Session-Token": theirs["session_token"]}):
            answer = await client.request(method, path, headers=shown)
            assert answer.status_code == 403, shown
        right = {"X-Session-Token": mine["session_token"]}
        assert (await client.request(method, path, headers=right)).status_code in (400, 404)
        # What a page of another site has a browser send is refused, whatever it shows.
        foreign = {"Origin": "https://evil.example", "Sec-Fetch-Site": "cross-site"}
        for shown in (foreign, foreign | right):
            answer = await client.request(method, path, headers=shown)
            assert answer.status_code == 403
        # A program that shows its token shows all that it needs.
        bearer = {"Authorization": f"Bearer {made['secret']}"}
        assert (await client.request(method, path, headers=bearer)).status_code in (400, 404)
    async with browser(server) as nobody:
        assert (await nobody.request(method, path, headers=right)).status_code == 401


async def test_another_site_logs_nobody_in(server: Server) -> None:
    made = await token(server, Role.USER, user=666)
    async with browser(server) as client:
        answer = await client.post(
            "/v1/session", json={"token": made["secret"]}, headers={"Origin": "https://evil.example"}
        )
        assert (answer.status_code, answer.json()["code"]) == (403, "foreign_origin")


@pytest.mark.parametrize("how", ["age", "token expires", "token revoked"])
async def test_a_session_ends(server: Server, how: str) -> None:
    made = await token(server, Role.READER, **({"expires_in": 60} if how == "token expires" else {}))
    async with browser(server) as client:
        told = await log_in(client, made)
        if how == "token revoked":
            assert (await server.client.delete(f"/v1/tokens/{made['id']}")).status_code == 204
        else:
            server.clock.time += 60 if how == "token expires" else LIFE
        assert await who(client) == 401
        # Logging out of it still has the cookie forgotten.
        answer = await client.delete("/v1/session", headers={"X-Session-Token": told["session_token"]})
        assert answer.status_code == 204 and not client.cookies
        # The next one sweeps it up.
        await log_in(client, await token(server, Role.READER))
        assert len(await server.ledger.sessions()) == 1


async def test_a_session_outlasts_a_restart(tmp_path: Path) -> None:
    async with api_server(tmp_path) as server:
        made = await token(server, Role.PORTAL)
        async with browser(server) as client:
            told = await log_in(client, made)
            kept = dict(client.cookies)
    async with api_server(tmp_path) as server, browser(server) as client:
        client.cookies.update(kept)
        assert await who(client) == told


async def test_logging_in_again_ends_the_session_before(server: Server) -> None:
    async with browser(server) as client:
        first = await log_in(client, await token(server, Role.PORTAL))
        second = await log_in(client, await token(server, Role.READER))
        assert (await who(client))["role"] == "reader"
        assert first["session_token"] != second["session_token"]
        assert len(await server.ledger.sessions()) == 1


async def test_a_token_has_so_many_sessions_at_once(server: Server) -> None:
    made = await token(server, Role.READER)
    async with browser(server) as first:
        await log_in(first, made)
        for _ in range(MOST):
            server.clock.time += 1
            async with browser(server) as client:
                await log_in(client, made)
        assert await who(first) == 401
    assert len(await server.ledger.sessions()) == MOST


async def test_the_ledger_holds_no_secret(server: Server, tmp_path: Path) -> None:
    made = await token(server, Role.READER)
    async with browser(server) as client:
        told = await log_in(client, made)
        (cookie,) = client.cookies.values()
    for secret in (made["secret"], cookie, told["session_token"]):
        assert not any(secret.encode() in content for content in read_all(tmp_path))


def read_all(path: Path) -> list[bytes]:
    return [file.read_bytes() for file in path.glob("db.sqlite*") if file.is_file()]


# ---------------------------------------------------------------------- the cookie


async def cookie_for(server: Server, **headers: str) -> list[str]:
    made = await token(server, Role.READER)
    async with browser(server, **headers) as client:
        answer = await client.post("/v1/session", json={"token": made["secret"]})
        assert answer.status_code == 201, answer.text
        return answer.headers["Set-Cookie"].split("; ")


async def test_the_cookie_is_for_this_server_alone(tmp_path: Path) -> None:
    public = ("https://jobs.example/portal/", "http://inside.example")
    async with api_server(tmp_path, public_urls=public) as server:
        pair, *rest = await cookie_for(server)
        assert pair.startswith(f"orchestrator_{server.ledger.owner[:8]}=")
        assert {"HttpOnly", "Secure", "SameSite=Lax", "Path=/portal", f"Max-Age={int(LIFE)}"} <= set(rest)
        assert not any(part.startswith("Domain") for part in rest)
        rest = await cookie_for(server, Origin="http://inside.example")
        assert "Path=/" in rest and "Secure" not in rest
        # Through a tunnel: neither below that path nor over TLS.
        rest = await cookie_for(server, Origin="http://localhost:9999")
        assert "Path=/" in rest and "Secure" not in rest
        assert "Secure" in await cookie_for(server, Origin="https://localhost:9999")


async def test_of_several_cookies_the_one_that_holds_counts(server: Server) -> None:
    async with browser(server) as client:
        told = await log_in(client, await token(server, Role.READER))
        ((name, value),) = client.cookies.items()
        client.cookies.clear()
        for sent in (
            f"a=b; {name}=old; {name}={value}; c",
            f"{name}={value}",
            f'x="{name}=y"; {name}={value}',
        ):
            assert await who(client, Cookie=sent) == told, sent
        # HTTP/2 sends them one by one.
        answer = await client.get(
            "/v1/session", headers=[("Cookie", "a=b"), ("Cookie", f"{name}={value}"), ("Cookie", "c=d")]
        )
        assert answer.json() == told
        for sent in (f"x{name}={value}", f"{name}", f"{name}=", f"{name}=\udcff", "=;;=", f"{name}={value}x"):
            raw = sent.encode("utf-8", "surrogateescape")
            answer = await client.get("/v1/session", headers=[(b"Cookie", raw)])
            assert answer.status_code == 401, sent


# ---------------------------------------------------------------------- failed tries


async def test_who_tries_too_often_is_told_to_wait(server: Server) -> None:
    made = await token(server, Role.READER)
    async with browser(server) as client:
        for _ in range(10):
            answer = await client.post("/v1/session", json={"token": "wrong"})
            assert (answer.status_code, answer.json()["code"]) == (401, "bad_token")
        for wrong in ("wrong", make_secret()):
            answer = await client.post("/v1/session", json={"token": wrong})
            assert (answer.status_code, answer.json()["code"]) == (429, "too_many_tries")
            assert 1 <= int(answer.headers["Retry-After"]) <= 6
        # Others who fail keep nobody out.
        await log_in(client, made)


async def test_a_trusted_proxy_says_who_tries(tmp_path: Path) -> None:
    sign_on = SignOn(proxies=(ip_network("127.0.0.1"),))
    async with api_server(tmp_path, sign_on=sign_on) as server, browser(server) as client:
        for number in range(25):
            forwarded = {"X-Forwarded-For": f"10.0.0.9, 192.0.2.{number // 10}"}
            answer = await client.post("/v1/session", json={"token": "wrong"}, headers=forwarded)
            assert answer.status_code == 401
        answer = await client.post(
            "/v1/session", json={"token": "wrong"}, headers={"X-Forwarded-For": "192.0.2.0"}
        )
        assert answer.status_code == 429
        # Who is told of by the proxy is the last, also where it adds a line of its own.
        spoofed = [("X-Forwarded-For", "10.0.0.1"), ("X-Forwarded-For", "192.0.2.0")]
        answer = await client.post("/v1/session", json={"token": "wrong"}, headers=spoofed)
        assert answer.status_code == 429


@pytest.mark.parametrize("body", [{}, {"token": 1}, {"token": ""}, {"token": "x", "role": "operator"}, []])
async def test_what_is_no_order_to_log_in_is_refused(server: Server, body: Any) -> None:
    async with browser(server) as client:
        assert (await client.post("/v1/session", json=body)).status_code in (400, 422)


def test_failures_are_forgotten_one_by_one() -> None:
    now = 100.0
    tries = FailedTries(lambda: now, burst=3, every=6.0)
    for _ in range(3):
        assert tries.wait("10.0.0.1") == 0
        tries.note("10.0.0.1")
    assert tries.wait("10.0.0.1") == tries.wait("::ffff:10.0.0.1") == 6
    assert tries.wait("10.0.0.2") == 0
    now += 6
    assert tries.wait("10.0.0.1") == 0
    tries.note("10.0.0.1")
    assert tries.wait("10.0.0.1") == 6
    for _ in range(3):
        tries.note("2001:db8::1")
    assert tries.wait("2001:db8::ffff") == 6 and tries.wait("2001:db8:0:1::1") == 0
    for number in range(REMEMBERED):
        tries.note(f"unix {number}")
    assert tries.wait("10.0.0.1") == 0


def test_a_token_of_the_same_id_is_another_token() -> None:
    tokens = Tokens((), lambda: 0.0)
    sessions = Sessions((), tokens, lambda: 0.0, "0123456789")

    first = TokenRecord("a", hash_of("one"), Role.READER, "", 0.0)
    tokens.add(first)
    session = sessions.make(first)
    sessions.add(session)
    sent = f"{sessions.cookie}={session.secret}"
    assert sessions.find(sent) is not None
    tokens.remove("a")
    tokens.add(TokenRecord("a", hash_of("two"), Role.OPERATOR, "", 0.0))
    assert sessions.find(sent) is None
    assert sessions.take_ended() == [session.record.hash]
