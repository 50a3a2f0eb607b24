"""The routes under `/v1` over real HTTP."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import trio
from openapi_schema_validator import OAS31Validator
from openapi_spec_validator import validate
from support.data.ledgers import walk
from support.processes.api_server import Server, api_server

from actors.domain.changes import RecordEnd
from actors.domain.job import End, Job
from actors.domain.node import NodeRef, NodeState, NodeView
from actors.domain.scaling import ScalingLimits, ServiceScaling
from actors.domain.service import Waiting, WaitReason
from actors.domain.status import Status
from actors.wire.files.listing import list_tree
from actors.wire.files.zip_writer import zip_stream
from actors.wire.http.patience import SILENCE
from actors.wire.protocol.contract import rfc3339
from orchestrator.client import Job as ClientJob

S = Status
LOG = b"caf\xe9 \xff\x00 " + "€".encode() * 100 + b"\xe2\x82"


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Server]:
    async with api_server(tmp_path) as running:
        yield running


async def ended(server: Server, *ways: Status, attempt: str = "a" * 32, data: bytes = b"result") -> Job:
    """A job with a stored result, taken through `ways`."""
    job = await server.upload(**{"run.sh": b"true"})
    await store(server, job, attempt, data)
    return await walk(server.ledger, job, *(ways or (S.PROCESSING, S.SUBMITTED, S.COMPLETED)))


async def store(server: Server, job: Job, attempt: str, data: bytes) -> None:
    source = server.storage.root.parent / f"made-{job.id}-{attempt}"
    source.mkdir()
    (source / "out").write_bytes(data)
    entries = list_tree(source).entries
    sink = server.storage.receive_result(job.storage_key, attempt)
    async for piece in zip_stream(source, entries):
        await sink.write_zip(piece)
    await sink.write_log("stdout", LOG)
    await sink.commit({"entries": []}, entries)


def problem(answer: httpx.Response, status: int) -> dict[str, Any]:
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    body: dict[str, Any] = answer.json()
    assert body["status"] == status
    assert (status == 503 or body["code"] == "not_ended") == ("retry-after" in answer.headers)
    assert re.fullmatch("[a-z_]+", body["code"]) and body["detail"] and body["title"]
    return body


async def test_a_job_tells_all_of_itself(server: Server) -> None:
    job = await ended(server)
    body = (await server.client.get(f"/v1/jobs/{job.id}")).json()
    assert (body["id"], body["status"], body["user_id"], body["service"]) == (
        job.id,
        "Completed",
        1,
        "example",
    )
    assert (body["node"], body["attempt"], body["version"]) == ("node-a", 1, job.change_seq)
    assert body["created_at"].endswith("Z") and body["ended_at"].endswith("Z")


async def test_a_running_job_tells_since_when(server: Server) -> None:
    job = await server.upload(**{"run.sh": b"true"})
    server.clock.time = 1_700_000_100.0
    await walk(server.ledger, job, S.PROCESSING, S.SUBMITTED, S.RUNNING)
    body = (await server.client.get(f"/v1/jobs/{job.id}")).json()
    assert (body["status"], body["started_at"]) == ("Running", rfc3339(1_700_000_100.0))


async def test_a_job_on_a_node_that_is_not_heard_says_so(server: Server) -> None:
    job = await server.upload(**{"run.sh": b"true"})
    job = await walk(server.ledger, job, S.PROCESSING, S.SUBMITTED, S.RUNNING)
    assert job.attempt is not None and isinstance(server.api.silent, dict)

    async def messages() -> set[str]:
        (listed,) = (await server.client.get("/v1/jobs")).json()["items"]
        alone = (await server.client.get(f"/v1/jobs/{job.id}")).json()
        by_contract = (await server.client.get(f"/download/{job.id}")).json()
        return {listed["message"], alone["message"], by_contract["message"]}

    assert await messages() == {job.message}
    for heard_at, told in (
        (trio.current_time() - 20.2, r"; its node has not been heard for \d\d s"),
        (None, "; its node has not been heard since the server started"),
        (trio.current_time() + 600, ""),
    ):
        server.api.silent[job.attempt.node_id] = heard_at
        assert all(re.fullmatch(re.escape(job.message) + told, one) for one in await messages()), told
    server.api.silent.clear()
    assert await messages() == {job.message}


async def test_a_queued_job_says_why_it_waits_and_where_it_stands(server: Server) -> None:
    job = await server.upload(**{"run.sh": b"true"})
    server.whys[job.id] = Waiting(WaitReason.USER_QUOTA, "5 of your jobs run already", 2)
    body = (await server.client.get(f"/v1/jobs/{job.id}")).json()
    assert body["message"] == "5 of your jobs run already"
    assert (body["waiting_for"], body["position"]) == ("user_quota", 2)


async def test_a_job_whose_node_is_being_started_says_so(server: Server) -> None:
    job = await server.upload(**{"run.sh": b"true"})
    server.whys[job.id] = Waiting(WaitReason.NO_NODE, "waits for a node of service example; it goes next", 0)
    assert (await server.client.get(f"/v1/jobs/{job.id}")).json()["waiting_for"] == "no_node"
    limits = ScalingLimits("example")
    server.scaled.append(ServiceScaling("example", "local", limits, nodes=0, booting=1, ending=0, runnable=1))
    body = (await server.client.get(f"/v1/jobs/{job.id}")).json()
    assert (body["waiting_for"], body["position"]) == ("node_booting", 0)
    assert body["message"] == "waits for a node of service example that is being started; it goes next"
    (item,) = (await server.client.get("/v1/jobs")).json()["items"]
    assert item["waiting_for"] == "node_booting"


async def test_waiting_answers_with_the_change(server: Server) -> None:
    job = await server.upload(**{"run.sh": b"true"})
    answers: list[httpx.Response] = []

    async def wait(query: str) -> None:
        answers.append(await server.client.get(f"/v1/jobs/{job.id}?{query}"))

    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(wait, f"wait=60&after={job.change_seq}")
            nursery.start_soon(wait, "wait=60&until=ended")
            row = job
            for status in (S.PROCESSING, S.SUBMITTED, S.RUNNING, S.FAILED):
                row = await walk(server.ledger, row, status)
    statuses = {answer.json()["status"] for answer in answers}
    assert "Failed" in statuses and "Queued" not in statuses


async def test_waiting_for_what_is_there_already_answers_at_once(server: Server) -> None:
    job = await ended(server)
    with trio.fail_after(60):
        for query in (
            "wait=60&until=ended",
            "wait=60&after=0",
            f"wait=60&until=ended&after={job.change_seq - 1}",
        ):
            answer = await server.client.get(f"/v1/jobs/{job.id}?{query}")
            assert answer.json()["status"] == "Completed"


async def test_waiting_in_vain_answers_with_what_there_is(server: Server) -> None:
    job = await server.upload(**{"run.sh": b"true"})
    answer = await server.client.get(f"/v1/jobs/{job.id}?wait=0.05")
    assert answer.json()["status"] == "Queued"


async def test_who_wants_to_wait_for_long_is_answered_before_a_proxy_gives_up(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert SILENCE <= 50  # proxies give up after 60 by their defaults, and an answer needs some time too
    monkeypatch.setattr("orchestrator.api.routes.jobs.SILENCE", 0.05)
    job = await server.upload(**{"run.sh": b"true"})
    with trio.fail_after(60):
        answer = await server.client.get(f"/v1/jobs/{job.id}?wait=3600&until=ended")
    assert (answer.status_code, answer.json()["status"]) == (200, "Queued")


@asynccontextmanager
async def _one_who_waits(
    server: Server, job: Job, monkeypatch: pytest.MonkeyPatch, *, told: str
) -> AsyncIterator[None]:
    """Somebody waits for the job's end, and is let go at the end of this, `told` how it is then."""
    waits, watch = trio.Event(), server.waiters.watch

    def watched(job_id: int) -> object:
        waits.set()
        return watch(job_id)

    monkeypatch.setattr(server.waiters, "watch", watched)
    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:

            async def wait() -> None:
                answer = await server.client.get(f"/v1/jobs/{job.id}?wait=60&until=ended")
                assert (answer.status_code, answer.json()["status"]) == (200, told)

            nursery.start_soon(wait)
            await waits.wait()
            yield
            server.waiters.close()


async def test_who_waits_is_let_go_when_the_server_stops(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = await server.upload(**{"run.sh": b"true"})
    async with _one_who_waits(server, job, monkeypatch, told="Queued"):
        pass


async def test_waiting_for_the_end_in_vain_answers_with_how_the_job_is_by_then(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = await server.upload(**{"run.sh": b"true"})
    async with _one_who_waits(server, job, monkeypatch, told="Running"):
        await walk(server.ledger, job, S.PROCESSING, S.SUBMITTED, S.RUNNING)


async def test_a_job_that_waits_is_told_anew_with_each_reason(server: Server) -> None:
    job = await server.upload(**{"run.sh": b"true"})
    for position in (2, 1, 1, 0):
        server.whys[job.id] = Waiting(WaitReason.SLOT, f"waits for a slot, {position} before it", position)
        body = (await server.client.get(f"/v1/jobs/{job.id}")).json()
        assert (body["position"], body["message"]) == (position, f"waits for a slot, {position} before it")
    await walk(server.ledger, job, S.PROCESSING)
    body = (await server.client.get(f"/v1/jobs/{job.id}")).json()
    assert (body["status"], body["position"], body["waiting_for"]) == ("Processing", None, None)


@pytest.mark.parametrize(
    "query",
    [
        "wait=x",
        "wait=-1",
        "wait=1e5",
        "wait=86401",
        "after=x",
        "after=-1",
        "until=later",
        "nope=1",
        "wait=1&wait=2",
    ],
)
async def test_a_bad_parameter_is_a_problem(server: Server, query: str) -> None:
    job = await server.upload(**{"run.sh": b"true"})
    answer = await server.client.get(f"/v1/jobs/{job.id}?{query}")
    problem(answer, 400)
    assert not query.startswith("wait=8") or "of which 50 are waited at most" in answer.json()["detail"]


@pytest.mark.parametrize("path", ["", "/results", "/logs", "/history"])
@pytest.mark.parametrize(("number", "status"), [("x", 400), ("٧", 400), ("99", 404)])
async def test_no_id_and_unknown_jobs_are_problems(
    server: Server, path: str, number: str, status: int
) -> None:
    problem(await server.client.get(f"/v1/jobs/{number}{path}"), status)


@pytest.mark.parametrize(
    ("method", "path", "status"), [("GET", "/v1/nope", 404), ("POST", "/v1/jobs/1", 405)]
)
async def test_a_wrong_route_is_a_problem(server: Server, method: str, path: str, status: int) -> None:
    problem(await server.client.request(method, path), status)


# ---------------------------------------------------------------------- results


@pytest.mark.parametrize("end", [S.COMPLETED, S.FAILED, S.INVALID, S.KILLED])
async def test_results_are_there_for_every_end(server: Server, end: Status) -> None:
    job = await ended(server, S.PROCESSING, S.SUBMITTED, end)
    answer = await server.client.get(f"/v1/jobs/{job.id}/results")
    assert answer.status_code == 200
    assert re.fullmatch('"[^"]+"', answer.headers["etag"])


async def test_results_of_a_job_that_has_not_ended_conflict(server: Server) -> None:
    job = await server.upload(**{"run.sh": b"true"})
    assert problem(await server.client.get(f"/v1/jobs/{job.id}/results"), 409)["code"] == "not_ended"


async def test_a_resumed_download_is_the_same_bytes(server: Server) -> None:
    job = await ended(server, data=bytes(range(256)) * 50)
    url = f"/v1/jobs/{job.id}/results"
    whole = await server.client.get(url)
    tag, size = whole.headers["etag"], len(whole.content)
    first = await server.client.get(url, headers={"Range": "bytes=0-99"})
    rest = await server.client.get(url, headers={"Range": "bytes=100-", "If-Range": tag})
    assert (first.status_code, rest.status_code) == (206, 206)
    assert first.content + rest.content == whole.content
    assert first.headers["content-range"] == f"bytes 0-99/{size}"
    assert rest.headers["content-range"] == f"bytes 100-{size - 1}/{size}"
    assert first.headers["content-length"] == "100"


@pytest.mark.parametrize("condition", ['"old"', 'W/"old"', "Wed, 21 Oct 2015 07:28:00 GMT", "weak"])
async def test_a_resumed_download_of_something_else_is_the_whole(server: Server, condition: str) -> None:
    job = await ended(server)
    url = f"/v1/jobs/{job.id}/results"
    whole = await server.client.get(url)
    condition = f"W/{whole.headers['etag']}" if condition == "weak" else condition
    answer = await server.client.get(url, headers={"Range": "bytes=100-", "If-Range": condition})
    assert (answer.status_code, answer.content) == (200, whole.content)


async def test_the_last_bytes_and_odd_ranges(server: Server) -> None:
    job = await ended(server)
    url = f"/v1/jobs/{job.id}/results"
    whole = (await server.client.get(url)).content

    async def asked(header: str) -> tuple[int, bytes, str | None]:
        answer = await server.client.get(url, headers={"Range": header})
        return answer.status_code, answer.content, answer.headers.get("content-range")

    size = len(whole)
    assert await asked("bytes=-10") == (206, whole[-10:], f"bytes {size - 10}-{size - 1}/{size}")
    assert await asked(f"bytes=-{size * 2}") == (206, whole, f"bytes 0-{size - 1}/{size}")
    assert await asked("bytes=0-") == (206, whole, f"bytes 0-{size - 1}/{size}")
    for ignored in ("bytes=5-2", "bytes=-", "lines=0-1", "bytes=0-1,4-5", "bytes=x-"):
        assert await asked(ignored) == (200, whole, None)
    for beyond in (f"bytes={size}-", f"bytes={size + 5}-{size + 9}", "bytes=-0"):
        answer = await server.client.get(url, headers={"Range": beyond})
        problem(answer, 416)
        assert answer.headers["content-range"] == f"bytes */{size}"


async def test_unchanged_results_are_not_sent_again(server: Server) -> None:
    job = await ended(server)
    url = f"/v1/jobs/{job.id}/results"
    tag = (await server.client.get(url)).headers["etag"]
    answer = await server.client.get(url, headers={"If-None-Match": f'"x", {tag}'})
    assert (answer.status_code, answer.content) == (304, b"")


async def test_the_tag_changes_with_the_bytes(server: Server) -> None:
    job = await ended(server, data=b"one")
    url = f"/v1/jobs/{job.id}/results"
    before = await server.client.get(url)
    again = await server.client.get(url)
    await store(server, job, "b" * 32, b"two")
    after = await server.client.get(url)
    assert before.content == again.content != after.content
    assert before.headers["etag"] == again.headers["etag"] != after.headers["etag"]


# ---------------------------------------------------------------------- logs


async def test_stored_logs_are_the_bytes_from_any_offset(server: Server) -> None:
    job = await ended(server)
    url = f"/v1/jobs/{job.id}/logs"
    assert (await server.client.get(url)).content == LOG
    assert (await server.client.get(f"{url}?stream=stderr")).content == b""
    for offset in (0, 1, 5, len(LOG) - 1, len(LOG), len(LOG) + 1000):
        assert (await server.client.get(f"{url}?offset={offset}")).content == LOG[offset:]


async def test_logs_of_a_running_job_come_from_its_node(server: Server) -> None:
    job = await walk(server.ledger, await server.upload(a=b""), S.PROCESSING, S.SUBMITTED, S.RUNNING)
    assert job.attempt is not None
    node = NodeRef(job.attempt.node_id, "http://node-a:9000")
    server.views[:] = [NodeView(node, NodeState.READY, "", ("example",), 2, 1, 0, 1.0)]
    server.nodes.logs[job.attempt.key, "stdout"] = LOG
    url = f"/v1/jobs/{job.id}/logs"
    assert (await server.client.get(f"{url}?offset=7")).content == LOG[7:]
    assert (await server.client.get(f"{url}?stream=stderr")).content == b""
    server.nodes.silent.add(job.attempt.key)
    problem(await server.client.get(url), 503)


async def test_a_queued_job_has_printed_nothing(server: Server) -> None:
    job = await server.upload(a=b"")
    answer = await server.client.get(f"/v1/jobs/{job.id}/logs")
    assert (answer.status_code, answer.content) == (200, b"")


@pytest.mark.parametrize(
    "query", ["stream=stdin", "offset=-1", "offset=x", "follow=yes", "tail=x", "format=xml", "limit=0"]
)
async def test_a_bad_log_parameter_is_a_problem(server: Server, query: str) -> None:
    job = await server.upload(a=b"")
    problem(await server.client.get(f"/v1/jobs/{job.id}/logs?{query}"), 400)


# ---------------------------------------------------------------------- lists


async def test_history_is_every_transition(server: Server) -> None:
    job = await ended(server)
    items = (await server.client.get(f"/v1/jobs/{job.id}/history")).json()["items"]
    assert [(item["from"], item["to"]) for item in items] == [
        (None, "Queued"),
        ("Queued", "Processing"),
        ("Processing", "Submitted"),
        ("Submitted", "Completed"),
    ]


async def test_jobs_are_listed_newest_first_in_pages(server: Server) -> None:
    for _ in range(5):
        await server.upload(a=b"")
    await server.post(user="-7")
    ids: list[int] = []
    before = ""
    while True:
        body = (await server.client.get(f"/v1/jobs?limit=2{before}")).json()
        ids += [item["id"] for item in body["items"]]
        if body["next"] is None:
            break
        before = f"&cursor={body['next']}"
    assert ids == [6, 5, 4, 3, 2, 1]
    assert [j["id"] for j in (await server.client.get("/v1/jobs?user=-7")).json()["items"]] == [6]
    body = (await server.client.get("/v1/jobs?status=Running")).json()
    assert (body["items"], body["next"]) == ([], None)
    for query in (
        "status=running",
        "user=x",
        "limit=0",
        "limit=501",
        "cursor=0",
        "cursor=ajA",
        "service=a&service=b",
    ):
        problem(await server.client.get(f"/v1/jobs?{query}"), 400)


async def test_nodes_and_services_are_listed(server: Server) -> None:
    node = NodeRef("n1", "http://node-a:9000")
    server.views[:] = [NodeView(node, NodeState.SUSPECT, "silent for 4 s", ("example",), 2, 1, 0, 1.0)]
    (item,) = (await server.client.get("/v1/nodes")).json()["items"]
    assert (item["id"], item["status"], item["message"]) == ("n1", "suspect", "silent for 4 s")
    await server.upload(a=b"")
    (item,) = (await server.client.get("/v1/services")).json()["items"]
    assert (item["name"], item["jobs"], item["max_runs"]) == ("example", {"Queued": 1}, 10)


# ---------------------------------------------------------------------- pages


async def test_the_document_has_every_route_and_no_other(server: Server) -> None:
    from orchestrator.api import create_app
    from orchestrator.api.context import ApiContext

    document = (await server.client.get("/api-docs/openapi.json")).json()
    assert document["info"]["version"] == "1.2.3"
    told = {(path, method.upper()) for path, operations in document["paths"].items() for method in operations}
    unused: Any = None
    app = create_app(ApiContext(*[unused] * 5, {}, *[unused] * 11))
    routes = {
        (
            re.sub("<(number|(path|node_id):node_id)>", "{id}", str(rule))
            .replace("<name>", "{name}")
            .replace("<path:name>", "{name}")
            .replace("<token_id>", "{id}")
            .replace("<batch_id>", "{id}")
            .replace("<file:path>", "{path}"),
            method,
        )
        for rule in app.url_map.iter_rules()
        for method in (rule.methods or set()) - {"HEAD", "OPTIONS"}
    }
    assert told == routes


async def test_the_document_is_valid(server: Server) -> None:
    validate((await server.client.get("/api-docs/openapi.json")).json())


async def test_each_body_of_the_document_has_examples_that_fit_it_and_have_all_of_it(server: Server) -> None:
    document = (await server.client.get("/api-docs/openapi.json")).json()
    for name, schema in document["components"]["schemas"].items():
        # Under the root of the whole document, so that references lead somewhere.
        whole = {"$ref": f"#/components/schemas/{name}", "components": document["components"]}
        told: set[str] = set()
        for example in schema["examples"]:
            OAS31Validator(whole, format_checker=OAS31Validator.FORMAT_CHECKER).validate(example)
            told |= set(example) if isinstance(example, dict) else set()
        assert told <= set(schema.get("properties", ())), name
        if name not in ("Upload", "Transition"):
            assert told == set(schema.get("properties", ())), name


async def test_code_that_is_generated_from_the_document_fits_any_server_and_reads_what_is_sent(
    tmp_path: Path,
) -> None:
    documents = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        async with api_server(tmp_path / name, services=(name, "example")) as running:
            text = (await running.client.get("/api-docs/openapi.json")).text
            documents.append(json.loads(text))
    for document in documents:
        for upload in (one := document["components"]["schemas"]["Upload"])["examples"]:
            upload["service"] = ""
    assert documents[0] == documents[1]
    fields = one["properties"]
    assert "enum" not in fields["service"]
    assert (fields["user_id"]["type"], fields["max_runtime"]["type"]) == ("integer", "number")
    for path, operations in documents[0]["paths"].items():
        for operation in operations.values():
            for status, answer in operation["responses"].items():
                types = list(answer.get("content", {}))
                # A generator takes the first type that it knows, and for bytes it may know but this one.
                if {"application/zip", "application/octet-stream", "*/*"} & set(types):
                    assert types[0] == "application/octet-stream", (path, status)


async def test_the_document_says_of_every_route_that_it_may_be_too_much(server: Server) -> None:
    paths = (await server.client.get("/api-docs/openapi.json")).json()["paths"]
    for path, operations in paths.items():
        for operation in operations.values():
            assert "`code` names" in operation["responses"]["429"]["description"] or path == "/v1/session"
    (refused,) = paths["/upload"]["post"]["responses"]["429"]["content"].values()
    assert refused["schema"] == {"$ref": "#/components/schemas/Refused"}


async def test_null_stands_in_the_document_only_where_generators_understand_it(server: Server) -> None:
    document = (await server.client.get("/api-docs/openapi.json")).json()

    def look(schema: Any, where: str) -> None:
        if isinstance(schema, dict):
            # No field is null and nothing else, and no object of fields says beside them that it may be null.
            assert schema.get("type") != "null" or where.split("/")[-2] == "anyOf", where
            assert "properties" not in schema or schema.get("type") in (None, "object"), where
            for name, inner in schema.items():
                look(inner, f"{where}/{name}")
        elif isinstance(schema, list):
            for place, inner in enumerate(schema):
                look(inner, f"{where}/{place}")

    look(document["paths"], "")
    for name, schema in document["components"]["schemas"].items():
        look({key: value for key, value in schema.items() if key != "examples"}, name)


async def test_a_job_tells_whether_it_is_over_and_how_it_ended_when_its_data_is_gone(server: Server) -> None:
    waits, done = [await server.upload(**{"run.sh": b"true"}) for _ in range(2)]
    done = await walk(server.ledger, done, S.PROCESSING, S.SUBMITTED, S.RUNNING)
    assert done.attempt is not None
    await server.ledger.record(
        [RecordEnd(done.id, done.attempt.key, End(S.FAILED, "exit code 3", exit_code=3))]
    )
    done = await walk(server.ledger, done, S.FAILED)

    async def told(job: Job) -> tuple[bool, str | None, str | None]:
        body = (await server.client.get(f"/v1/jobs/{job.id}")).json()
        return body["over"], body["outcome"], body["failure"]

    async def listed(status: str) -> list[int]:
        items = (await server.client.get(f"/v1/jobs?status={status}")).json()["items"]
        return [item["id"] for item in items]

    assert (await told(waits), await told(done)) == (
        (False, None, None),
        (True, done.status, "exit_code"),
    )
    assert (await listed("active"), await listed("ended")) == ([waits.id], [done.id])
    assert await listed("ended,Queued") == [done.id, waits.id]
    assert (await server.client.delete(f"/v1/jobs/{done.id}")).json()["status"] == "Cleaned"
    assert (await told(done), await listed("ended")) == ((True, done.status, "exit_code"), [done.id])
    schema = (await server.client.get("/api-docs/openapi.json")).json()["components"]["schemas"]["Status"]
    assert "Completed, Failed, Invalid and Killed are final" in schema["description"]


async def test_the_client_has_every_field_of_a_job(server: Server) -> None:
    job = await ended(server)
    body = (await server.client.get(f"/v1/jobs/{job.id}")).json()
    document = (await server.client.get("/api-docs/openapi.json")).json()
    fields = {field.name for field in dataclasses.fields(ClientJob)} - {"raw"}
    assert {"callback", "files_left_out", "requires", "max_runtime_seconds", "attempts_used"} <= fields
    assert set(body) == set(document["components"]["schemas"]["Job"]["properties"])
    assert {"user" if name == "user_id" else name for name in body} == fields


async def test_every_reference_of_the_document_leads_somewhere(server: Server) -> None:
    text = (await server.client.get("/api-docs/openapi.json")).text
    schemas = (await server.client.get("/api-docs/openapi.json")).json()["components"]["schemas"]
    assert set(re.findall(r"#/components/schemas/(\w+)", text)) == set(schemas)


async def test_swagger_asks_no_other_host_for_anything(server: Server) -> None:
    page = await server.client.get("/swagger")
    assert page.headers["content-type"].startswith("text/html")
    assert "default-src 'self'" in page.headers["content-security-policy"]
    sources = re.findall(r'(?:src|href)="([^"]+)"', page.text)
    for source in sources:
        if not source.startswith("data:"):
            # Relative: below whatever path a proxy puts it.
            assert source.startswith("swagger/") or source == "dashboard"
            assert (await server.client.get(f"/{source}")).status_code == 200
    assert (await server.client.get("/swagger/SHA256SUMS")).status_code == 404


async def test_the_dashboard_is_made_of_its_own_files(server: Server) -> None:
    page = await server.client.get("/dashboard")
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    policy = page.headers["content-security-policy"]
    assert "default-src 'self'" in policy and "unsafe" not in policy and "form-action 'none'" in policy
    assert page.headers["referrer-policy"] == "no-referrer"
    named = re.findall(r'(?:src|href)="([^"#]+)"', page.text)
    sources = [one for one in named if one not in ("swagger", "v1/session")]
    # What is put together of many, and an icon.
    assert [one.split("/")[-1] for one in sources] == ["icon.svg", "dashboard.css", "main.js"]
    for source in sources:
        assert source.startswith("dashboard/")
        answer = await server.client.get(f"/{source}")
        assert (answer.status_code, answer.headers["x-content-type-options"]) == (200, "nosniff")
        again = await server.client.get(f"/{source}", headers={"If-None-Match": answer.headers["etag"]})
        assert (again.status_code, again.content) == (304, b"")
        # Of one version all, and kept; by its name alone a file is asked for anew.
        assert answer.headers["cache-control"] == "max-age=31536000, immutable"
        version, name = source.split("/")[1:]
        assert version == sources[0].split("/")[1]
        bare = await server.client.get(f"/dashboard/{name}")
        assert (bare.content, bare.headers["cache-control"]) == (answer.content, "no-cache")
        other = await server.client.get(f"/dashboard/{'0' * len(version)}/{name}")
        assert (other.status_code, other.headers["cache-control"]) == (404, "no-store")
    assert page.headers["cache-control"] == "no-cache"
    assert (await server.client.get("/dashboard/")).headers["location"] == "../dashboard"
    for name in ("index.html", "none.js", "..%2fSHA256SUMS"):
        assert (await server.client.get(f"/dashboard/{name}")).status_code == 404


async def test_the_dashboard_is_packed_for_whoever_takes_that(server: Server) -> None:
    for name in ("", "/main.js", "/dashboard.css", "/3Dmol-min.js"):
        texts = {}
        for coding in ("gzip", "br, gzip", "identity", "gzip;q=0"):
            answer = await server.client.get(f"/dashboard{name}", headers={"Accept-Encoding": coding})
            packed = answer.headers.get("content-encoding") == "gzip"
            assert packed == (coding in ("gzip", "br, gzip"))
            assert answer.headers["vary"] == "Accept-Encoding"
            length = int(answer.headers["content-length"])
            assert length < len(answer.content) if packed else length == len(answer.content)
            texts[answer.headers["etag"]] = answer.content
        # Of one text two, neither of which is taken for the other.
        assert len(texts) == 2 and len(set(texts.values())) == 1


def test_the_vendored_files_are_the_published_ones() -> None:
    import hashlib

    import orchestrator.api

    static = Path(orchestrator.api.__file__).parent / "static"
    for line in (static / "SHA256SUMS").read_text().splitlines():
        wanted, name = line.split()
        assert hashlib.sha256((static / name).read_bytes()).hexdigest() == wanted
