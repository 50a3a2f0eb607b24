"""Web pages of other origins before the server's routes (the rules themselves: tests/actors/wire/http)."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from support.processes.api_server import Server, api_server

FORM = {"files": {"file": ("run.sh", b"true")}, "data": {"user_id": "1", "service": "example"}}
EVIL = "http://evil.example"
ORDERS = [
    ("POST", "/upload"),
    ("POST", "/terminate/{}"),
    ("POST", "/v1/jobs/{}/rerun"),
    ("DELETE", "/v1/jobs/{}"),
    ("POST", "/v1/nodes"),
    ("DELETE", "/v1/nodes/{}"),
    ("POST", "/v1/nodes/{}/drain"),
    ("POST", "/v1/nodes/{}/undrain"),
    ("POST", "/v1/services/{}/pause"),
    ("POST", "/v1/services/{}/resume"),
    ("POST", "/v1/tokens"),
    ("DELETE", "/v1/tokens/{}"),
    ("POST", "/v1/jobs/{}/links"),
    ("DELETE", "/v1/nodes/{}/secret"),
    ("POST", "/v1/session"),
    ("DELETE", "/v1/session"),
    ("POST", "/v1/reload"),
    ("POST", "/v1/log-level"),
    ("POST", "/v1/batches"),
]
READS = [
    "/v1/jobs",
    "/v1/services",
    "/v1/nodes",
    "/v1/events",
    "/v1/usage",
    "/metrics",
    "/dashboard",
    "/v1/x",
]


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Server]:
    async with api_server(tmp_path) as running:
        yield running


@pytest.mark.parametrize("headers", [{"Origin": EVIL}, {"Origin": "null"}, {"Sec-Fetch-Site": "cross-site"}])
@pytest.mark.parametrize(("method", "path"), [*ORDERS, ("PUT", "/no/such/route")])
async def test_a_page_of_another_origin_gives_no_orders(
    server: Server, method: str, path: str, headers: dict[str, str]
) -> None:
    answer = await server.client.request(method, path.format(1), headers=headers, **FORM)
    assert answer.status_code == 403
    body = answer.json()
    said = body.get("detail") or body["message"]
    assert "may not give orders here" in said and "ALLOWED_ORIGINS" in said
    assert await server.ledger.max_id() == 0
    assert await server.storage.directories() == []


async def test_every_order_is_in_that_list(server: Server) -> None:
    paths = (await server.client.get("/api-docs/openapi.json")).json()["paths"]
    orders = {(m.upper(), re.sub(r"{\w+}", "{}", path)) for path, item in paths.items() for m in item}
    assert {(m, path) for m, path in orders if m not in {"GET", "HEAD"}} == set(ORDERS)


@pytest.mark.parametrize("origin", [None, "http://localhost:3000", "http://127.0.0.1:1", "http://[::1]:8"])
async def test_programs_and_pages_of_this_machine_do(server: Server, origin: str | None) -> None:
    headers = {} if origin is None else {"Origin": origin}
    answer = await server.client.post("/upload", headers=headers, **FORM)
    assert answer.status_code == 201, answer.text


@pytest.mark.parametrize("path", READS)
async def test_a_host_that_is_not_ours_is_told_nothing(server: Server, path: str) -> None:
    answer = await server.client.get(path, headers={"Host": "evil.example:5000"})
    assert answer.status_code == 421
    assert "PUBLIC_URL" in answer.text


@pytest.mark.parametrize("path", ["/", "/health", "/ready", "/download/1", "/api-docs/openapi.json"])
async def test_the_contract_and_probes_answer_under_any_name(server: Server, path: str) -> None:
    answer = await server.client.get(path, headers={"Host": "portal.example.org"})
    assert answer.status_code in (200, 404, 503)
