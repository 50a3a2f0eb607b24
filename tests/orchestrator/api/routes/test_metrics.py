"""What Prometheus is told, and that nobody can fill its memory with labels."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families
from support.data.ledgers import walk
from support.processes.api_server import Server, api_server, credentials

from actors.domain.changes import RecordEnd
from actors.domain.job import End
from actors.domain.node import NodeRef, NodeState, NodeView
from actors.domain.service import Waiting, WaitReason
from actors.domain.status import Status
from orchestrator.access.roles import Role

S = Status
Sample = tuple[str, frozenset[tuple[str, str]]]


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Server]:
    async with api_server(tmp_path, services=("example", "other")) as running:
        yield running


async def scrape(server: Server) -> dict[Sample, float]:
    answer = await server.client.get("/metrics")
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    found: dict[Sample, float] = {}
    names = []
    for family in text_string_to_metric_families(answer.text):
        names.append(family.name)
        assert family.documentation and family.type != "unknown", family.name
        for sample in family.samples:
            key = (sample.name, frozenset(sample.labels.items()))
            assert key not in found, sample
            found[key] = sample.value
    assert len(names) == len(set(names)), "a family is told at one place"
    return found


def told(found: dict[Sample, float], name: str, **labels: str) -> float | None:
    return found.get((name, frozenset(labels.items())))


async def run_job(server: Server, path: Sequence[Status], end: End, user: str = "4711") -> None:
    await server.post('name="f"; filename="a"|x', user=user)
    job = await server.ledger.get(await server.ledger.max_id())
    assert job is not None
    server.clock.time += 2.0
    job = await walk(server.ledger, job, S.PROCESSING)
    server.clock.time += 0.5
    job = await walk(server.ledger, job, S.SUBMITTED)
    assert job.attempt is not None
    server.clock.time += 40.0
    await server.ledger.record([RecordEnd(job.id, job.attempt.key, end)])
    server.clock.time += 4.0
    await walk(server.ledger, job, *path)


async def test_it_is_told_how_jobs_went_through(server: Server) -> None:
    await run_job(
        server, [S.COMPLETED], End(S.COMPLETED, "", 0, wall_seconds=39.0, cpu_seconds=1.5, size=100)
    )
    await run_job(server, [S.FAILED], End(S.FAILED, "", signal=9, wall_seconds=1.0))
    found = await scrape(server)
    assert told(found, "orchestrator_jobs", service="example", status="Completed") == 1
    assert told(found, "orchestrator_jobs_uploaded_total", service="example") == 2
    assert told(found, "orchestrator_jobs_uploaded_total", service="other") == 0
    ended = {"service": "example", "status": "Failed", "reason": "signal"}
    assert told(found, "orchestrator_jobs_ended_total", **ended) == 1
    assert told(found, "orchestrator_job_queue_wait_seconds_sum", service="example") == 4.0
    assert told(found, "orchestrator_job_dispatch_seconds_sum", service="example") == 1.0
    assert told(found, "orchestrator_job_run_seconds_sum", service="example") == 40.0
    assert told(found, "orchestrator_job_collect_seconds_sum", service="example") == 8.0
    assert told(found, "orchestrator_job_collect_seconds_bucket", service="example", le="5.0") == 2
    assert told(found, "orchestrator_job_cpu_seconds_total", service="example") == 1.5
    assert told(found, "orchestrator_transferred_bytes_total", direction="uploaded") == 2
    assert told(found, "orchestrator_transferred_bytes_total", direction="to_node") == 2
    assert told(found, "orchestrator_transferred_bytes_total", direction="from_node") == 100
    assert not any("4711" in value for _, labels in found for _, value in labels), "a user is no label"


async def test_it_is_told_what_the_first_of_a_queue_waits_for(server: Server) -> None:
    await server.post('name="f"; filename="a"|x')
    server.clock.time += 90.0
    await server.post('name="f"; filename="a"|x')
    server.whys[1] = Waiting(WaitReason.NO_NODE, "no node", 0)
    found = await scrape(server)
    assert told(found, "orchestrator_queue_oldest_seconds", service="example") == 90.0
    assert told(found, "orchestrator_queue_oldest_seconds", service="other") == 0.0
    assert told(found, "orchestrator_queue_waits", service="example", reason="no_node") == 1


async def test_nodes_are_told_by_their_names_whatever_is_in_them(server: Server) -> None:
    view = NodeView(
        NodeRef('n"\\\n', "http://n"), NodeState.READY, "", ("example",), 4, 1, 0, 12.5, jobs_ended=5
    )
    named = replace(view, node=NodeRef("0" * 32, "http://named"), slots=2)
    server.registry.names.claim("0" * 32, "gpu-3", "http://named")
    server.views[:] = [view, named]
    found = await scrape(server)
    assert told(found, "orchestrator_node_slots", node="gpu-3") == 2
    assert told(found, "orchestrator_node_slots", node='n"\\\n') == 4
    assert told(found, "orchestrator_node_jobs_ended_total", node='n"\\\n') == 5
    assert told(found, "orchestrator_nodes", status="ready") == 2


async def test_made_up_names_make_no_labels(server: Server) -> None:
    await server.client.get("/v1/jobs/1")
    before = await scrape(server)
    for n in range(40):
        await server.client.get(f"/made-up/{n}")
        await server.client.get(f"/v1/jobs/{n + 1000}")
        await server.client.get(f"/v1/services/made-up-{n}")
        await server.client.request(f"MADE{n}UP", "/v1/jobs")
        await server.post('name="f"; filename="a"|x', f'name="service"|made-up-{n}')
    new = (await scrape(server)).keys() - before.keys()
    of_routes = {labels for name, labels in new if name == "orchestrator_http_request_seconds_count"}
    assert len(of_routes) <= 6, of_routes
    text = str(new)
    assert "made-up" not in text and "MADE" not in text and "1001" not in text
    one = {"method": "GET", "route": "/v1/jobs/<number>", "status": "404"}
    assert told(await scrape(server), "orchestrator_http_request_seconds_count", **one) == 41


async def test_what_the_process_takes_is_told(server: Server) -> None:
    found = await scrape(server)
    for name in ("process_cpu_seconds_total", "process_resident_memory_bytes", "process_open_fds"):
        value = told(found, name)
        assert value is not None and value > 0, name
    assert (told(found, "orchestrator_ledger_bytes") or 0) > 0


async def test_who_may_scrape(server: Server) -> None:
    reader = credentials(server, Role.READER, "prometheus")
    portal = credentials(server, Role.PORTAL, "portal")
    assert (await server.client.get("/metrics", headers=reader)).status_code == 200
    assert (await server.client.get("/metrics", headers=portal)).status_code == 403
