"""Orders about the settings and the log of a server that runs, and a line for each request."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.processes.api_server import api_server

from orchestrator.config.settings import Settings


@pytest.fixture
def own() -> Iterator[logging.Logger]:
    log, root = logging.getLogger("orchestrator"), logging.getLogger()
    before = log.level, root.level
    yield log
    log.setLevel(before[0])
    root.setLevel(before[1])


async def test_a_server_whose_settings_come_from_nowhere_says_so(tmp_path: Path) -> None:
    async with api_server(tmp_path) as server:
        answer = await server.client.post("/v1/reload")
        assert answer.json()["code"] == "nothing_to_read" and answer.status_code == 409
        answer = await server.client.post("/v1/reload", json={"force": True})
        assert answer.status_code == 422


async def test_the_level_of_the_log_is_ordered(tmp_path: Path, own: logging.Logger) -> None:
    async with api_server(tmp_path) as server:
        answer = await server.client.post("/v1/log-level", json={"level": "debug"})
        assert answer.json() == {"level": "debug"} and own.level == logging.DEBUG
        for body in ({}, {"level": "loud"}, {"level": "info", "more": 1}):
            assert (await server.client.post("/v1/log-level", json=body)).status_code == 422
        assert own.level == logging.DEBUG
        assert (await server.client.get("/v1/log-level")).json() == {"level": "debug"}
        own.setLevel(logging.NOTSET)
        assert (await server.client.get("/v1/log-level")).json() == {"level": "info"}, "as it is set"
        (line,) = (await server.client.get("/v1/audit")).json()["items"]
        assert (line["action"], line["detail"], line["who"]) == ("log-level", "debug", "local")


async def test_a_line_for_each_request_says_who_asked(
    tmp_path: Path, own: logging.Logger, caplog: pytest.LogCaptureFixture
) -> None:
    own.setLevel(logging.INFO)
    async with api_server(tmp_path) as server:
        await server.client.get("/v1/jobs/1")
        lines = [one for one in caplog.records if one.name == "orchestrator.requests"]
        assert not lines, "nobody wanted it"
        server.api.running.settings = Settings(access_log="1")
        await server.client.get("/v1/jobs/1")
        await server.client.get("/v1/services", headers={"Authorization": "Bearer wrong"})
        await server.client.get("/v1/services")
        lines = [one for one in caplog.records if one.name == "orchestrator.requests"]
        told = [(one.__dict__["path"], one.__dict__["status"], one.__dict__.get("who")) for one in lines]
        assert told == [
            ("/v1/jobs/1", 404, "local"),
            ("/v1/services", 401, None),
            ("/v1/services", 200, "local"),
        ]
        assert "GET /v1/jobs/1: 404 in" in lines[0].getMessage()
        # Over the same connection, as proxies do for many.
        caplog.clear()
        await server.client.get("/v1/jobs/1")
        asks = {"Origin": "https://portal.example.org", "Access-Control-Request-Method": "GET"}
        await server.client.options("/v1/services", headers=asks)
        (_, line) = [one for one in caplog.records if one.name == "orchestrator.requests"]
        assert "OPTIONS /v1/services: 403 in" in line.getMessage()
        assert "by nobody known from nowhere known" in line.getMessage()
        assert lines[0].__dict__["address"] == "127.0.0.1"
