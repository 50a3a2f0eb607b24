"""What people order and count: names and tags, reruns, deletion, pauses, use, readiness."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Final

import httpx
import pytest
from support.data.ledgers import by_owner, walk
from support.processes.api_server import Server, api_server, status_body

from actors.domain.changes import ChangeResult
from actors.domain.node import Lately, NodeRef, NodeState, NodeView
from actors.domain.service import Backlog, Waiting, WaitReason
from actors.domain.status import Status
from orchestrator.scheduling.queue_manager import QueueManager
from orchestrator.storage.disk import StorageFull

S = Status


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Server]:
    async with api_server(tmp_path, services=("example", "other")) as running:
        yield running


async def get(server: Server, path: str, status: int = 200) -> Any:
    answer = await server.client.get(path)
    assert answer.status_code == status, answer.text
    return answer.json()


async def ids(server: Server, query: str) -> list[int]:
    return [item["id"] for item in (await get(server, f"/v1/jobs?{query}"))["items"]]


def problem(answer: httpx.Response, status: int, code: str) -> None:
    assert (answer.status_code, answer.json().get("code")) == (status, code), answer.text


# ---------------------------------------------------------------------- names and tags


async def test_a_job_is_found_by_its_name_and_tags(server: Server) -> None:
    await server.post('name="f"; filename="a"|x')
    await server.post(
        'name="f"; filename="a"|x', 'name="name"|dock 1', 'name="tags"|b, ä-2 ,', 'name="tags"|b,c=1'
    )
    await server.post('name="f"; filename="a"|x', 'name="name"|', 'name="tags"|c=1', user="2")
    body = await get(server, "/v1/jobs/2")
    assert (body["name"], body["tags"]) == ("dock 1", ["b", "c=1", "ä-2"])
    assert (await get(server, "/v1/jobs/3"))["name"] is None
    assert await ids(server, "name=dock 1") == [2]
    assert await ids(server, "tag=c=1") == [3, 2]
    assert await ids(server, "tag=c=1&user=2") == [3]
    assert await ids(server, "tag=nope") == []
    page = await get(server, "/v1/jobs?tag=c=1&limit=1")
    assert await ids(server, f"tag=c=1&cursor={page['next']}") == [2]


@pytest.mark.parametrize(
    "part",
    [
        'name="name"|' + "x" * 201,
        'name="name"|a\nb',
        'name="tags"|a b',
        'name="tags"|' + "x" * 65,
        'name="tags"|' + ",".join(f"t{n}" for n in range(33)),
    ],
)
async def test_a_bad_name_or_tag_is_refused_and_nothing_is_left(server: Server, part: str) -> None:
    answer = await server.post('name="f"; filename="a"|x', part)
    assert answer.status_code == 400 and re.match("name|tags", status_body(answer)["message"])
    assert await server.nothing_left()


# ---------------------------------------------------------------------- why a job waits


async def test_a_job_that_a_node_did_not_take_says_so(server: Server) -> None:
    job = await server.upload(a=b"")
    server.whys[job.id] = Waiting(WaitReason.NO_NODE, "waits for a node of service example; it goes next", 0)
    body = await get(server, f"/v1/jobs/{job.id}")
    assert (body["waiting_for"], body["position"]) == ("no_node", 0)
    job = await walk(server.ledger, job, S.PROCESSING)
    move = by_owner(job.id, S.PROCESSING, S.QUEUED, "waits: connection refused")
    (answer,) = await server.ledger.record([move])
    assert answer.outcome is ChangeResult.DONE
    view = NodeView(NodeRef("n", "http://n"), NodeState.SUSPECT, "x", ("example",), 1, 0, 0, 0.0)
    server.views[:] = [view]
    body = await get(server, f"/v1/jobs/{job.id}")
    assert body["waiting_for"] == "backoff" and "connection refused" in body["message"]


# ---------------------------------------------------------------------- rerun and delete


async def test_a_job_is_run_again_from_its_files(server: Server) -> None:
    await server.post(
        'name="f"; filename="run.sh"|true', 'name="f"; filename="d/in"|data', 'name="tags"|t', 'name="name"|n'
    )
    answer = await server.client.post("/v1/jobs/1/rerun")
    body = answer.json()
    assert answer.status_code == 201
    assert str(answer.url.join(answer.headers["location"])) == f"{server.url}/v1/jobs/2"
    assert (body["id"], body["status"], body["rerun_of"]) == (2, "Queued", 1)
    assert (body["name"], body["tags"], body["user_id"], body["input_bytes"]) == ("n", ["t"], 1, 8)
    first, second = [await server.ledger.get(n) for n in (1, 2)]
    assert first is not None and second is not None
    one, two = [await server.storage.input_files(job.storage_key) for job in (first, second)]
    assert [path for path, _, _ in two] == ["d/in", "run.sh"]
    # The same bytes on disk, once.
    assert [p.stat().st_ino for _, p, _ in one] == [p.stat().st_ino for _, p, _ in two]
    assert await server.storage.noted_id(second.storage_key) == 2
    await walk(server.ledger, first, S.KILLED)
    assert (await server.client.delete("/v1/jobs/1")).status_code == 200
    assert [p.read_bytes() for _, p, _ in two] == [b"data", b"true"]


async def test_a_rerun_that_is_asked_for_twice_under_one_key_is_one(server: Server) -> None:
    await server.upload(a=b"x")
    headers = {"Idempotency-Key": "again"}
    answers = [await server.client.post("/v1/jobs/1/rerun", headers=headers) for _ in range(2)]
    assert [answer.json()["id"] for answer in answers] == [2, 2]
    assert len(server.directories()) == 2
    await server.upload(b=b"x")
    problem(await server.client.post("/v1/jobs/3/rerun", headers=headers), 422, "idempotency_conflict")
    assert len(server.directories()) == 3


async def test_what_cannot_be_run_again_says_why(server: Server) -> None:
    job = await walk(server.ledger, await server.upload(a=b"x"), S.KILLED)
    await server.client.delete(f"/v1/jobs/{job.id}")
    problem(await server.client.post(f"/v1/jobs/{job.id}/rerun"), 404, "nothing_left")
    problem(await server.client.post("/v1/jobs/99/rerun"), 404, "unknown_job")
    await server.upload(a=b"x")
    del server.services["example"]
    problem(await server.client.post("/v1/jobs/2/rerun"), 409, "unknown_service")
    assert len(server.directories()) == 1


async def test_an_ended_jobs_data_goes_at_once(server: Server) -> None:
    job = await server.upload(a=b"x")
    problem(await server.client.delete(f"/v1/jobs/{job.id}"), 409, "not_ended")
    await walk(server.ledger, job, S.KILLED)
    for _ in range(2):
        answer = await server.client.delete(f"/v1/jobs/{job.id}")
        assert (answer.status_code, answer.json()["status"]) == (200, "Cleaned")
    assert not server.directories()
    problem(await server.client.get(f"/v1/jobs/{job.id}/results"), 404, "nothing_left")
    problem(await server.client.get(f"/v1/jobs/{job.id}/files"), 404, "nothing_left")


# ---------------------------------------------------------------------- services


async def test_a_pause_outlasts_a_restart_and_keeps_jobs_from_going(tmp_path: Path) -> None:
    async with api_server(tmp_path) as server:
        answer = await server.client.post("/v1/services/example/pause", json={"reason": "until noon"})
        assert (answer.status_code, answer.json()["paused"]) == (200, "until noon")
        assert answer.json()["paused_since"].endswith("Z")
        queue = QueueManager(server.services)
        queue.set_pauses(server.pauses.reasons)
        job = await server.upload(a=b"")
        queue.apply(job)
        assert queue.next("example") is None
    async with api_server(tmp_path) as server:
        queue = QueueManager(server.services)
        queue.set_pauses(server.pauses.reasons)
        queue.apply(job)
        assert queue.next("example") is None
        answer = await server.client.post("/v1/services/example/resume")
        assert (answer.status_code, answer.json()["paused"]) == (200, None)
        queue.set_pauses(server.pauses.reasons)
        assert queue.next("example") == job.id


async def test_services_tell_their_quotas_jobs_and_nodes(server: Server) -> None:
    views = [("a", NodeState.READY, 4), ("b", NodeState.READY, 2), ("c", NodeState.LOST, 8)]
    server.views[:] = [
        NodeView(NodeRef(name, f"http://{name}"), state, "", ("example",), slots, 1, 0, 0.0)
        for name, state, slots in views
    ]
    await server.upload(a=b"")
    first, second = (await get(server, "/v1/services"))["items"]
    assert (first["name"], first["jobs"], first["max_runs"]) == ("example", {"Queued": 1}, 10)
    assert first["nodes"] == {"known": 3, "ready": 2, "slots": 6, "held": 3}
    assert second["nodes"] == {"known": 0, "ready": 0, "slots": 0, "held": 0}
    assert await get(server, "/v1/services/example") == first


async def test_orders_to_services_are_checked(server: Server) -> None:
    post = server.client.post
    problem(await post("/v1/services/nope/pause"), 404, "unknown_service")
    problem(await post("/v1/services/example/pause", json={"reason": ""}), 422, "bad_field")
    problem(await post("/v1/services/example/pause", json={"why": "x"}), 422, "unknown_field")
    problem(await post("/v1/services/example/pause", content=b"{"), 400, "malformed")
    assert (await get(server, "/v1/services/example"))["paused"] is None


# ---------------------------------------------------------------------- numbers


async def test_readiness_names_what_does_not_work(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    body = await get(server, "/ready")
    assert body == {"status": "ready", "checks": {"ledger": "ok", "storage": "ok", "scheduler": "ok"}}
    server.waiters.close()
    body = await get(server, "/ready", 503)
    assert body["status"] == "not ready" and "server" in body["checks"]


_READY: Final = NodeView(NodeRef("r", "http://r"), NodeState.READY, "", ("example", "other"), 1, 0, 0, 0.0)


async def test_a_server_that_is_not_ready_tells_so_as_the_first_trouble(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    full = "the data directory's disk has 0 bytes free"

    async def require(size: int) -> None:
        raise StorageFull(full)

    monkeypatch.setattr(server.storage, "require", require)
    server.views.append(_READY)
    server.backlog.append(Backlog("gone", "", 1))
    assert (await get(server, "/ready", 503))["checks"]["storage"] == full
    items = (await get(server, "/v1/troubles"))["items"]
    assert [(one["kind"], one["text"]) for one in items] == [
        ("not_ready", f"the server is not ready: storage: {full}"),
        ("no_node", "1 job of gone waits: the settings have no such service any more"),
    ]


async def test_it_is_told_in_words_what_is_wrong(server: Server) -> None:
    told = (await get(server, "/v1/troubles"))["items"]
    assert [(one["kind"], one["service"]) for one in told] == [("no_node", "example"), ("no_node", "other")]
    assert "`orchestrator node --join URL --join-services example`" in told[0]["text"]
    server.views.append(_READY)
    assert (await get(server, "/v1/troubles")) == {"items": [], "next": None}
    server.backlog.append(Backlog("example", "gpu=h100", 10))
    lately = {"example": Lately(9, 10)}
    server.views.append(
        NodeView(NodeRef("n", "http://n"), NodeState.READY, "", ("example",), 1, 0, 0, 0.0, lately=lately)
    )
    server.registry.names.claim("n", "gpu-3", "http://n")
    await server.pauses.pause("other", "an upgrade")
    items = (await get(server, "/v1/troubles"))["items"]
    assert [(one["kind"], one["text"]) for one in items] == [
        ("no_node", "10 jobs of example wait for gpu=h100: no ready node has it"),
        ("failing", "example fails on node n: 9 of its last 10"),
        ("paused", "service other is paused: an upgrade"),
    ]
    assert [(one["service"], one["node"], one["node_name"], one["jobs"]) for one in items[:2]] == [
        ("example", None, None, 10),
        ("example", "n", "gpu-3", 9),
    ]
    await get(server, "/v1/troubles?service=example", 400)


async def test_it_is_told_who_fills_the_queue_and_what_each_minute_brought(server: Server) -> None:
    first = await server.upload(**{"run.sh": b"true"})
    second = await server.upload(**{"run.sh": b"true"})
    who = {"service": "example", "user_id": 1, "queued": 2, "under_way": 0}
    assert (await get(server, "/v1/queue"))["items"] == [who]
    server.clock.time += 6.0
    await walk(server.ledger, first, S.PROCESSING, S.SUBMITTED, S.RUNNING)
    assert (await get(server, "/v1/queue?service=example&limit=1"))["items"] == [
        who | {"queued": 1, "under_way": 1}
    ]
    await server.post('name="f"; filename="a"|x', user="2")
    page = await get(server, "/v1/queue?limit=1")
    rest = await get(server, f"/v1/queue?limit=1&cursor={page['next']}")
    assert [one["user_id"] for one in (*page["items"], *rest["items"])] == [1, 2] and rest["next"] is None
    on_node = (await get(server, "/v1/jobs?node=node-a"))["items"]
    assert [item["id"] for item in on_node] == [first.id]
    found = (await get(server, f"/v1/jobs?search={second.id}"))["items"]
    assert found[0]["id"] == second.id
    body = await get(server, "/v1/activity")
    assert sum(item["submitted"] for item in body["items"]) == 3
    (begun,) = (item for item in body["items"] if item["begun"])
    assert (begun["begun"], begun["mean_wait_seconds"], begun["longest_wait_seconds"]) == (1, 6.0, 6.0)
    server.clock.time += 7200.0
    assert (await get(server, "/v1/activity"))["items"] == []
    for bad in ("queue?limit=0", "queue?user=1", "queue?cursor=x", "activity?since=soon", "jobs?search=%00"):
        assert (await server.client.get(f"/v1/{bad}")).status_code == 400
