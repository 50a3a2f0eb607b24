"""When jobs begin and end, as the routes tell it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import datetime
from pathlib import Path

import pytest
from support.processes.api_server import Server, api_server

from actors.domain.node import NodeRef, NodeState, NodeView


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Server]:
    async with api_server(tmp_path) as running:
        yield running


def node(held: int = 0) -> NodeView:
    return NodeView(NodeRef("n1", "http://n1"), NodeState.READY, "", ("example",), 1, held, 0, 0.0)


async def test_a_job_that_waits_tells_when_it_is_likely_to_begin_and_end(server: Server) -> None:
    server.views.append(node())
    server.api.forecaster.history.ran("example", [(1, 100.0)] * 300)
    first, second = await server.upload(a=b""), await server.upload(a=b"")
    told = (await server.client.get(f"/v1/jobs/{second.id}")).json()
    begins, ends = (
        [datetime.fromisoformat(told[name][side]).timestamp() for side in ("earliest", "latest")]
        for name in ("starts_at", "ends_at")
    )
    now = server.clock.now()
    assert abs(begins[0] - now - 100) <= 1 and abs(ends[0] - now - 200) <= 1
    assert begins[0] <= begins[1] <= ends[1] and begins[0] <= ends[0] <= ends[1]
    assert told["no_estimate"] is None

    (_, silent), (_, asked) = [
        [one["starts_at"] for one in (await server.client.get(url)).json()["items"]]
        for url in ("/v1/jobs", "/v1/jobs?estimates=1")
    ]
    assert silent is None, "what nobody asked for is not looked up"
    assert asked is not None and asked["earliest"] <= told["starts_at"]["earliest"], first.id


async def test_it_says_why_it_does_not_know(server: Server) -> None:
    job = await server.upload(a=b"")

    async def why() -> str:
        told = (await server.client.get(f"/v1/jobs/{job.id}")).json()
        assert told["starts_at"] is None and told["ends_at"] is None
        return str(told["no_estimate"])

    assert "no job of service example ran to an end lately" in await why()
    server.api.forecaster.history.ran("example", [(1, 100.0)] * 5)
    assert await why() == "no ready node of service example is there"


async def test_a_service_tells_how_good_its_estimates_were(server: Server) -> None:
    (told,) = (await server.client.get("/v1/services")).json()["items"]
    assert told["estimates"] == {
        "judged": 0,
        "inside": 0,
        "median_width_seconds": None,
        "median_wait_seconds": None,
    }
    exposition = (await server.client.get("/metrics")).text
    assert "# TYPE orchestrator_estimates_inside_total counter" in exposition
