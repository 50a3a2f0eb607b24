"""Ranges of a stored zip: whatever is asked for, what comes is a part of the very version that it names."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.data.ledgers import walk
from support.processes.api_server import Server, api_server

from actors.domain.job import Job
from actors.domain.node import NodeRef, NodeState, NodeView
from actors.domain.status import Status
from actors.wire.files.listing import list_tree
from actors.wire.files.zip_writer import zip_stream
from orchestrator.api.http.file_response import parse_range

S = Status
SIZE = 50


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Server]:
    async with api_server(tmp_path) as running:
        yield running


async def store(server: Server, job: Job, data: bytes, attempt: str = "a" * 32) -> None:
    source = server.storage.root.parent / f"made-{job.id}-{attempt[0]}"
    source.mkdir()
    (source / "out").write_bytes(data)
    os.utime(source / "out", (1_700_000_000, 1_700_000_000))
    entries = list_tree(source).entries
    sink = server.storage.receive_result(job.storage_key, attempt)
    async for piece in zip_stream(source, entries):
        await sink.write_zip(piece)
    await sink.commit({"entries": []}, entries)


async def ended(server: Server, data: bytes = b"0123456789" * 20) -> Job:
    job = await server.upload(**{"run.sh": b"true", "in.txt": b"0123456789"})
    await store(server, job, data)
    return await walk(server.ledger, job, S.PROCESSING, S.SUBMITTED, S.COMPLETED)


ROUTES = ["/v1/jobs/{}/results", "/download/{}"]


@pytest.mark.parametrize("route", ROUTES)
async def test_each_form_of_a_range_gives_these_bytes_and_says_which(server: Server, route: str) -> None:
    url = route.format((await ended(server)).id)
    whole = await server.client.get(url)
    data, tag, n = whole.content, whole.headers["etag"], len(whole.content)
    assert tag.startswith('"') and whole.headers["accept-ranges"] == "bytes"
    for asked, begin, end in (
        ("bytes=0-0", 0, 1),
        ("bytes=0-", 0, n),
        ("bytes=3-7", 3, 8),
        (f"bytes={n - 1}-", n - 1, n),
        (f"bytes=5-{n + 1000}", 5, n),
        ("bytes=-1", n - 1, n),
        (f"bytes=-{n + 1000}", 0, n),
        ("bytes=-999999999999999999", 0, n),
        ("BYTES=3-7", 3, 8),
    ):
        answer = await server.client.get(url, headers={"Range": asked})
        assert (answer.status_code, answer.content) == (206, data[begin:end]), asked
        assert answer.headers["content-range"] == f"bytes {begin}-{end - 1}/{n}"
        assert (answer.headers["etag"], answer.headers["content-length"]) == (tag, str(end - begin))


@pytest.mark.parametrize("route", ROUTES)
async def test_what_is_no_range_is_answered_with_the_whole(server: Server, route: str) -> None:
    url = route.format((await ended(server)).id)
    data = (await server.client.get(url)).content
    for asked in (
        "bytes=0-3,8-9",
        "bytes=0-3, -1",
        "bytes=7-3",
        "bytes=-",
        "bytes=",
        "bytes=a-b",
        "bytes=+1-2",
        "bytes=0x1-",
        "bytes=1-2-3",
        "lines=0-3",
        "bytes 0-3",
        "bytes=1-" + "9" * 40,
        "",
    ):
        answer = await server.client.get(url, headers={"Range": asked})
        assert (answer.status_code, answer.content) == (200, data), asked
        assert "content-range" not in answer.headers


async def test_beyond_the_end_there_is_nothing_and_its_size_is_told(server: Server) -> None:
    url = f"/v1/jobs/{(await ended(server)).id}/results"
    whole = await server.client.get(url)
    n, tag = len(whole.content), whole.headers["etag"]
    for asked in (f"bytes={n}-", f"bytes={n + 5}-{n + 9}", "bytes=-0", "bytes=999999999999999999-"):
        answer = await server.client.get(url, headers={"Range": asked})
        assert (answer.status_code, answer.json()["code"]) == (416, "range_not_satisfiable"), asked
        assert answer.headers["content-range"] == f"bytes */{n}"
        stale = await server.client.get(url, headers={"Range": asked, "If-Range": '"old"'})
        assert (stale.status_code, stale.content) == (200, whole.content)
        same = await server.client.get(url, headers={"Range": asked, "If-Range": tag})
        assert same.status_code == 416
    contract = await server.client.get(
        url.replace("/v1/jobs", "/download").removesuffix("/results"), headers={"Range": f"bytes={n}-"}
    )
    assert contract.status_code == 416 and contract.headers["content-range"] == f"bytes */{n}"
    assert set(contract.json()) == {"id", "status", "message", "code"}
    assert not server.storage._reading


async def test_only_the_very_tag_lets_a_part_go_on(server: Server) -> None:
    url = f"/v1/jobs/{(await ended(server)).id}/results"
    whole = await server.client.get(url)
    tag, date = whole.headers["etag"], whole.headers.get("last-modified", "Wed, 25 Nov 2026 12:00:00 GMT")
    for condition in (
        f"W/{tag}",
        '"old"',
        'W/"old"',
        date,
        "*",
        tag.strip('"'),
        f"{tag}, {tag}",
        f'"x", {tag}',
        "",
    ):
        answer = await server.client.get(url, headers={"Range": "bytes=5-", "If-Range": condition})
        assert (answer.status_code, answer.content) == (200, whole.content), condition
    answer = await server.client.get(url, headers={"Range": "bytes=5-", "If-Range": tag})
    assert (answer.status_code, answer.content) == (206, whole.content[5:])


async def test_a_condition_comes_before_a_range_and_head_has_neither_body_nor_range(server: Server) -> None:
    url = f"/v1/jobs/{(await ended(server)).id}/results"
    whole = await server.client.get(url)
    tag, n = whole.headers["etag"], str(len(whole.content))
    for condition in (tag, f"W/{tag}", f'"other", {tag}', "*"):
        answer = await server.client.get(url, headers={"If-None-Match": condition, "Range": "bytes=0-1"})
        assert (answer.status_code, answer.content, answer.headers["etag"]) == (304, b"", tag), condition
    other = await server.client.get(url, headers={"If-None-Match": '"other"', "Range": "bytes=0-1"})
    assert (other.status_code, other.content) == (206, whole.content[:2])
    head = await server.client.head(url, headers={"Range": "bytes=0-1"})
    assert (head.status_code, head.content, head.headers["content-length"]) == (200, b"", n)
    assert (head.headers["etag"], head.headers["accept-ranges"]) == (tag, "bytes")
    assert not server.storage._reading


async def test_another_zip_of_the_same_size_has_another_tag(server: Server) -> None:
    """A job may be begun anew: what was downloaded of one attempt is never gone on with from another."""
    first = await ended(server, b"a" * 40)
    url = f"/v1/jobs/{first.id}/results"
    before = await server.client.get(url)
    await store(server, first, b"b" * 40, "b" * 32)
    after = await server.client.get(url, headers={"Range": "bytes=10-", "If-Range": before.headers["etag"]})
    assert after.status_code == 200 and len(after.content) == len(before.content)
    assert after.content != before.content and after.headers["etag"] != before.headers["etag"]


async def test_of_a_job_that_runs_there_is_neither_tag_nor_range(server: Server) -> None:
    job = await walk(server.ledger, await server.upload(a=b""), S.PROCESSING, S.SUBMITTED, S.RUNNING)
    assert job.attempt is not None
    node = NodeRef(job.attempt.node_id, "http://node-a:9000")
    server.views[:] = [NodeView(node, NodeState.READY, "", ("example",), 2, 1, 0, 1.0)]
    server.nodes.results[job.attempt.key] = b"a zip that still changes"
    server.nodes.files[job.attempt.key, "out"] = b"so far"
    for path in (f"/download_partial/{job.id}", f"/v1/jobs/{job.id}/files/out"):
        for headers in ({"Range": "bytes=2-"}, {"Range": "bytes=99999-"}, {"If-None-Match": "*"}):
            answer = await server.client.get(path, headers=headers)
            assert answer.status_code == 200 and answer.content in (b"a zip that still changes", b"so far")
            assert answer.headers["accept-ranges"] == "none" and "etag" not in answer.headers
    assert (await server.client.get(f"/v1/jobs/{job.id}/results")).status_code == 409


async def test_a_job_that_was_run_again_and_one_that_was_cleaned_share_no_tag(server: Server) -> None:
    first, second = await ended(server), await ended(server)
    tags = {
        (await server.client.get(f"/v1/jobs/{job.id}/results")).headers["etag"] for job in (first, second)
    }
    assert len(tags) == 2
    tag = (await server.client.get(f"/v1/jobs/{first.id}/results")).headers["etag"]
    assert (await server.client.delete(f"/v1/jobs/{first.id}")).status_code == 200
    gone = await server.client.get(
        f"/v1/jobs/{first.id}/results", headers={"Range": "bytes=1-", "If-Range": tag, "If-None-Match": tag}
    )
    assert (gone.status_code, gone.json()["code"]) == (404, "nothing_left")


async def test_tags_and_bytes_are_the_same_after_a_restart_on_every_route(tmp_path: Path) -> None:
    answers: list[dict[str, tuple[bytes, str]]] = []
    for _ in range(2):
        async with api_server(tmp_path) as server:
            if not answers:
                job = await ended(server)
            paths = [
                f"/v1/jobs/{job.id}/results",
                f"/download/{job.id}",
                f"/download_partial/{job.id}",
                f"/v1/jobs/{job.id}/files/out",
            ]
            told: dict[str, tuple[bytes, str]] = {}
            for path in paths:
                answer: httpx.Response = await server.client.get(path)
                told[path] = (answer.content, answer.headers["etag"])
            answers.append(told)
    assert answers[0] == answers[1]
    assert len({answers[0][path] for path in paths[:3]}) == 1


def number() -> st.SearchStrategy[str]:
    return st.one_of(st.just(""), st.integers(0, 2 * SIZE).map(str))


@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(number(), number())
def test_any_range_is_within_the_file_and_what_the_standard_says(first: str, last: str) -> None:
    found = parse_range(f"bytes={first}-{last}", SIZE)
    if (not first and not last) or (first and last and int(last) < int(first)):
        assert found is None
        return
    places = range(SIZE)
    named = [
        at
        for at in places
        if (at >= int(first) and (not last or at <= int(last)) if first else at >= SIZE - int(last))
    ]
    assert found is not None
    assert list(places[found[0] : found[1]]) == named


@given(st.text(max_size=40) | st.text(alphabet="bytes=0123456789-, ", max_size=30))
def test_no_header_is_more_than_there_is(header: str) -> None:
    found = parse_range(header, SIZE)
    assert found is None or (0 <= found[0] <= SIZE and found[1] <= SIZE)
