"""Every route × role × owner: the table in `access.roles` is what the server does."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
from support.data.ledgers import new_job
from support.processes.api_server import Server, api_server

from orchestrator.access.roles import ROUTES, Access, Role
from orchestrator.access.tokens import TokenRecord, hash_of, make_secret

OWNER, OTHER = 1, 2


@dataclass(frozen=True, slots=True)
class Asker:
    """`sees`: whether the job that is asked for is theirs."""

    name: str
    role: Role | None
    services: tuple[str, ...] = ()
    user: int | None = None
    sees: bool = True


ASKERS = (
    Asker("nobody", None),
    Asker("portal", Role.PORTAL),
    Asker("portal of the service", Role.PORTAL, ("example",)),
    Asker("portal of another service", Role.PORTAL, ("other",), sees=False),
    Asker("the user", Role.USER, user=OWNER),
    Asker("another user", Role.USER, user=OTHER, sees=False),
    Asker("operator", Role.OPERATOR),
    Asker("reader", Role.READER),
    Asker("node", Role.NODE),
)
PARTS = {
    "number": "1",
    "node_id:node_id": "n" * 32,
    "path:node_id": "n" * 32,
    "name": "example",
    "path:name": "index.html",
    "file:path": "run.sh",
    "token_id": "0" * 12,
    "batch_id": "0" * 16,
}


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Server]:
    async with api_server(
        tmp_path, local=False, services=("example", "other"), kill_patience=0.05
    ) as running:
        yield running


def make_token(server: Server, asker: Asker, **more: float) -> str:
    secret = make_secret()
    assert asker.role is not None
    record = TokenRecord(
        asker.name, hash_of(secret), asker.role, asker.name, 0.0, asker.services, asker.user, **more
    )
    server.api.tokens.add(record)
    return secret


async def submit(server: Server) -> None:
    """Job 1, of the service `example` for OWNER."""
    done = await server.client.post(
        "/upload",
        data={"user_id": str(OWNER), "service": "example", "name": "secret name", "tags": "hidden"},
        files={"file": ("run.sh", b"true")},
        headers={"Authorization": f"Bearer {make_token(server, Asker('submitter', Role.OPERATOR))}"},
    )
    assert done.status_code == 201, done.text


def address(route: str) -> tuple[str, str]:
    method, _, rule = route.partition(" ")
    return method, re.sub("<([^>]+)>", lambda found: PARTS[found[1]], rule)


async def ask(server: Server, route: str, secret: str | None, **headers: str) -> tuple[int, str]:
    """The status, and the code of a refusal."""
    method, path = address(route)
    if secret is not None:
        headers["Authorization"] = f"Bearer {secret}"
    request = server.client.build_request(method, path, headers=headers)
    answer = await server.client.send(request, stream=True)
    try:
        if answer.headers.get("content-type") == "application/problem+json":
            await answer.aread()
            return answer.status_code, str(answer.json()["code"])
        return answer.status_code, ""
    finally:
        await answer.aclose()


async def test_every_route_stands_in_the_table_and_no_other(server: Server) -> None:
    routes = {
        f"{method} {rule.rule}"
        for rule in server.app.url_map.iter_rules()
        for method in (rule.methods or set()) - {"HEAD", "OPTIONS"}
    }
    assert routes == set(ROUTES)


@pytest.mark.parametrize("route", sorted(ROUTES))
async def test_a_route_is_for_its_roles_alone(server: Server, route: str) -> None:
    access = ROUTES[route]
    await submit(server)
    for asker in ASKERS:
        secret = None if asker.role is None else make_token(server, asker)
        status, code = await ask(server, route, secret)
        assert expected(access, asker) == {401: "no", 403: "wrong role"}.get(status, "in"), (asker, code)
        if asker.role is not None and not asker.sees and "<number>" in route:
            assert status in (404, 403), asker
            assert (status == 404) is (asker.role in access.roles), asker


def expected(access: Access, asker: Asker) -> str:
    if asker.role is None:
        return "in" if access.everybody else "no"
    return "in" if asker.role in access.roles else "wrong role"


async def test_a_wrong_token_is_as_none(server: Server) -> None:
    expired = make_token(server, Asker("expired", Role.OPERATOR), expires_at=server.clock.now() - 1)
    for route, access in ROUTES.items():
        for secret in (make_secret(), "x", "jobo_" + "0" * 46, "x" * 4000, expired):
            status, _ = await ask(server, route, secret)
            assert (status == 401) is not access.everybody, (route, secret)


async def test_where_the_contract_is_open_it_is_all_that_is(tmp_path: Path) -> None:
    async with api_server(tmp_path, local=False, contract_open=True) as server:
        for route, access in ROUTES.items():
            status, _ = await ask(server, route, None)
            if access.contract:
                assert status not in (401, 403), route
            elif not access.everybody:
                assert status == 401, route


async def test_what_is_no_route_is_told_to_nobody(server: Server) -> None:
    secret = make_token(server, Asker("node", Role.NODE))
    for method, path in (("GET", "/v1/x"), ("GET", "/x"), ("PUT", "/upload"), ("OPTIONS", "/v1/jobs")):
        assert (await server.client.request(method, path)).status_code == 401
        headers = {"Authorization": f"Bearer {secret}"}
        assert (await server.client.request(method, path, headers=headers)).status_code in (200, 404, 405)


async def test_others_schemes_are_no_tokens(server: Server) -> None:
    for scheme in ("Basic dXNlcjpwYXNz", "Negotiate x", "Bearer", 'Digest username="x"'):
        answer = await server.client.get("/v1/jobs", headers={"Authorization": scheme})
        assert answer.json()["code"] == "no_token"
        assert (await server.client.get("/health", headers={"Authorization": scheme})).status_code == 200


async def test_lists_have_what_is_theirs(server: Server) -> None:
    await submit(server)
    await server.ledger.insert(new_job(user=OTHER, service="other"))
    seen = {}
    for asker in ASKERS[1:-1]:
        headers = {"Authorization": f"Bearer {make_token(server, asker)}"}
        items = (await server.client.get("/v1/jobs", headers=headers)).json()["items"]
        seen[asker.name] = sorted(item["id"] for item in items)
        for key, value in (("user", "1"), ("user", "2"), ("service", "example"), ("service", "other")):
            narrowed = await server.client.get("/v1/jobs", headers=headers, params={key: value})
            found = [item["id"] for item in narrowed.json()["items"]]
            assert set(found) <= set(seen[asker.name])
            assert all(
                str(item[key.replace("user", "user_id")]) == value for item in narrowed.json()["items"]
            )
    assert seen == {
        "portal": [1, 2],
        "portal of the service": [1],
        "portal of another service": [2],
        "the user": [1],
        "another user": [2],
        "operator": [1, 2],
        "reader": [1, 2],
    }


async def test_services_are_those_of_who_asks(server: Server) -> None:
    headers = {"Authorization": f"Bearer {make_token(server, ASKERS[2])}"}
    items = (await server.client.get("/v1/services", headers=headers)).json()["items"]
    assert [item["name"] for item in items] == ["example"]
    assert (await server.client.get("/v1/services/example", headers=headers)).status_code == 200
    answer = await server.client.get("/v1/services/other", headers=headers)
    assert answer.status_code == 404 and answer.json()["detail"].endswith("known: example")


async def test_a_reader_sees_numbers_and_states_alone(server: Server) -> None:
    await submit(server)
    operator = {"Authorization": f"Bearer {make_token(server, Asker('operator', Role.OPERATOR))}"}
    reader = {"Authorization": f"Bearer {make_token(server, Asker('reader', Role.READER))}"}
    for path in ("/v1/jobs", "/v1/jobs/1"):
        text = (await server.client.get(path, headers=reader)).text
        assert "secret name" not in text and "hidden" not in text
        assert "secret name" in (await server.client.get(path, headers=operator)).text
        assert "secret name" not in (await server.client.get(path, headers=reader)).text


@pytest.mark.parametrize(
    ("asker", "user", "service", "status"),
    [
        (ASKERS[2], "9", "example", 201),
        (ASKERS[3], "9", "example", 403),
        (ASKERS[4], "1", "example", 201),
        (ASKERS[4], "2", "example", 403),
        (ASKERS[5], "1", "example", 403),
        (ASKERS[6], "77", "other", 201),
    ],
)
async def test_jobs_are_sent_for_whom_they_may_be(
    server: Server, asker: Asker, user: str, service: str, status: int
) -> None:
    answer: httpx.Response = await server.client.post(
        "/upload",
        data={"user_id": user, "service": service},
        files={"file": ("run.sh", b"true")},
        headers={"Authorization": f"Bearer {make_token(server, asker)}"},
    )
    assert answer.status_code == status, answer.text
    assert await server.ledger.max_id() == (1 if status == 201 else 0)
    assert len(await server.storage.directories()) == (1 if status == 201 else 0)
