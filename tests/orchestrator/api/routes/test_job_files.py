"""Single files, lists of files and what was left out, over real HTTP; a resumed download over a restart."""

from __future__ import annotations

import os
import shutil
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import httpx
import pytest
import trio
from support.data.ledgers import walk
from support.processes.api_server import Server, api_server

from actors.domain.job import Job
from actors.domain.node import NodeRef, NodeState, NodeView
from actors.domain.status import Status
from actors.wire.files.listing import list_tree
from actors.wire.files.zip_writer import zip_stream
from orchestrator.api.http.file_response import UNTRUSTED
from orchestrator.api.routes.job_files import MOST_PICTURE, MOST_TEXT

S = Status
LEFT_OUT = [["sock", "a socket"]]


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Server]:
    async with api_server(tmp_path) as running:
        yield running


async def ended(server: Server, source: Path, left_out: Sequence[Any] = ()) -> Job:
    """A job whose stored result is what `source` holds."""
    job = await server.upload(**{"run.sh": b"true"})
    entries = list_tree(source).entries
    sink = server.storage.receive_result(job.storage_key, "a" * 32)
    async for piece in zip_stream(source, entries):
        await sink.write_zip(piece)
    listed = [{"path": e.path, "mtime": e.mtime, "mode": e.mode, "kind": e.kind} for e in entries]
    await sink.commit({"entries": listed, "left_out": list(left_out)}, entries)
    return await walk(server.ledger, job, S.PROCESSING, S.SUBMITTED, S.COMPLETED)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    top = tmp_path / "made"
    (top / "d").mkdir(parents=True)
    (top / "out.txt").write_bytes(b"result\n" * 1000)
    (top / "d" / "ä b.png").write_bytes(b"\x89PNG")
    (top / "link").symlink_to("d/ä b.png")
    (top / "out.txt").chmod(0o640)
    os.utime(top / "out.txt", (1_700_000_001.5, 1_700_000_001.5))
    with open(os.fsencode(top) + b"/r\xe9sultat", "wb") as odd:
        odd.write(b"odd")
    return top


async def test_the_files_of_an_ended_job_are_listed_and_read_by_their_spelled_names(
    server: Server, source: Path
) -> None:
    job = await ended(server, source, LEFT_OUT)
    root = f"/v1/jobs/{job.id}/files"
    body = (await server.client.get(root)).json()
    items = {item["path"]: item for item in body["items"]}
    assert sorted(items) == ["d", "d/ä b.png", "link", "out.txt", "r\ufffdE9sultat"]
    assert {path: item["kind"] for path, item in items.items()}["link"] == "link"
    assert items["link"]["target"] == "d/ä b.png" and items["d"]["kind"] == "directory"
    told = items["out.txt"]
    assert (told["size"], told["mode"], told["mtime"]) == (7000, "0640", "2023-11-14T22:13:21.500Z")
    for path, data in (
        ("out.txt", b"result\n" * 1000),
        ("d/ä b.png", b"\x89PNG"),
        ("link", b"\x89PNG"),
        ("r\ufffdE9sultat", b"odd"),
    ):
        answer = await server.client.get(f"{root}/{items[path]['url']}")
        assert (answer.status_code, answer.content) == (200, data), path
        assert answer.headers["content-length"] == str(len(data))
    full = (await server.client.get(f"/v1/jobs/{job.id}")).json()
    assert full["files_left_out"] == [{"path": "sock", "reason": "a socket"}]


async def test_what_a_job_was_given_is_told_as_it_came(server: Server, source: Path) -> None:
    (source / "run.sh").write_bytes(b"made anew")
    job = await ended(server, source)
    root = f"/v1/jobs/{job.id}/files"
    assert (await server.client.get(f"{root}/run.sh")).content == b"made anew"
    body = (await server.client.get(f"{root}?inputs=1")).json()
    assert [(one["path"], one["size"], one["origin"]) for one in body["items"]] == [("run.sh", 4, "input")]
    assert (await server.client.get(f"{root}/run.sh?inputs=1")).content == b"true"
    assert (await server.client.get(f"{root}/out.txt?inputs=1")).status_code == 404
    assert (await server.client.get(f"{root}?inputs=x")).status_code == 400
    job = await walk(server.ledger, job, S.CLEANED)
    for path in ("", "/run.sh"):
        answer = await server.client.get(f"{root}{path}?inputs=1")
        assert (answer.status_code, answer.json()["code"]) == (404, "nothing_left")


async def test_a_file_has_a_tag_and_a_head(server: Server, source: Path) -> None:
    job = await ended(server, source)
    url = f"/v1/jobs/{job.id}/files/out.txt"
    whole = await server.client.get(url)
    head = await server.client.head(url)
    assert head.content == b"" and head.headers["content-length"] == "7000"
    assert head.headers["etag"] == whole.headers["etag"]
    again = await server.client.get(url, headers={"If-None-Match": whole.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    assert not server.storage._reading


async def test_a_file_with_a_line_end_in_its_name_is_found_by_what_the_list_tells(
    server: Server, source: Path
) -> None:
    (source / "new\nline").write_bytes(b"odd")
    job = await ended(server, source)
    root = f"/v1/jobs/{job.id}/files"
    (item,) = (one for one in (await server.client.get(root)).json()["items"] if "line" in one["path"])
    answer = await server.client.get(f"{root}/{item['url']}")
    assert (answer.status_code, answer.content) == (200, b"odd")


async def test_a_file_of_the_results_is_gone_on_with_where_it_broke_off(server: Server, source: Path) -> None:
    job = await ended(server, source)
    url = f"/v1/jobs/{job.id}/files/out.txt"
    whole = await server.client.get(url)
    tag = whole.headers["etag"]
    for asked, begin, end in (
        ("0-0", 0, 1),
        ("6990-", 6990, 7000),
        ("-3", 6997, 7000),
        ("100-199", 100, 200),
    ):
        part = await server.client.get(url, headers={"Range": f"bytes={asked}", "If-Range": tag})
        assert (part.status_code, part.content) == (206, whole.content[begin:end])
        assert part.headers["content-range"] == f"bytes {begin}-{end - 1}/7000"
        assert part.headers["content-length"] == str(end - begin)
    other = await server.client.get(url, headers={"Range": "bytes=1-", "If-Range": '"other"'})
    assert (other.status_code, other.content) == (200, whole.content)
    beyond = await server.client.get(url, headers={"Range": "bytes=7000-"})
    assert (beyond.status_code, beyond.headers["content-range"]) == (416, "bytes */7000")
    assert not server.storage._reading


@pytest.mark.parametrize("path", ["nope", "d", "d/", "../job.json", "%2e%2e/job.json", "out.txt/x"])
async def test_what_is_no_file_is_not_found(server: Server, source: Path, path: str) -> None:
    job = await ended(server, source)
    answer = await server.client.get(f"/v1/jobs/{job.id}/files/{path}")
    assert answer.status_code == 404, answer.text


async def test_the_list_comes_in_pages(server: Server, source: Path) -> None:
    job = await ended(server, source)
    paths: list[str] = []
    cursor = ""
    while True:
        body = (await server.client.get(f"/v1/jobs/{job.id}/files?limit=2{cursor}")).json()
        paths += [item["path"] for item in body["items"]]
        if body["next"] is None:
            break
        cursor = f"&cursor={body['next']}"
    assert paths == sorted(set(paths)) and len(paths) == 5


async def test_the_files_of_a_queued_job_are_its_inputs(server: Server) -> None:
    job = await server.upload(**{"run.sh": b"true", "in.dat": b"0123456789"})
    root = f"/v1/jobs/{job.id}/files"
    items = (await server.client.get(root)).json()["items"]
    assert [(item["path"], item["size"]) for item in items] == [("in.dat", 10), ("run.sh", 4)]
    part = await server.client.get(f"{root}/in.dat", headers={"Range": "bytes=2-3"})
    assert (part.status_code, part.content) == (206, b"23")
    assert (await server.client.get(f"{root}/../job.json")).status_code == 404


async def test_the_files_of_a_running_job_come_from_its_node(server: Server) -> None:
    job = await walk(server.ledger, await server.upload(a=b""), S.PROCESSING, S.SUBMITTED, S.RUNNING)
    assert job.attempt is not None
    node = NodeRef(job.attempt.node_id, "http://node-a:9000")
    server.views[:] = [NodeView(node, NodeState.READY, "", ("example",), 2, 1, 0, 1.0)]
    server.nodes.files[job.attempt.key, "d/now.txt"] = b"so far"
    root = f"/v1/jobs/{job.id}/files"
    (item,) = (await server.client.get(root)).json()["items"]
    assert item["path"] == "d/now.txt"
    answer = await server.client.get(f"{root}/d/now.txt")
    assert answer.content == b"so far" and "etag" not in answer.headers
    assert (await server.client.get(f"{root}/nope")).status_code == 404
    server.nodes.silent.add(job.attempt.key)
    assert (await server.client.get(root)).status_code == 503


async def test_a_download_that_is_resumed_after_a_restart_is_the_same_bytes(
    tmp_path: Path, source: Path
) -> None:
    async with api_server(tmp_path) as server:
        job = await ended(server, source)
        url = f"/v1/jobs/{job.id}/results"
        whole = await server.client.get(url)
        part = await server.client.get(url, headers={"Range": "bytes=0-99"})
    tag = whole.headers["etag"]
    async with api_server(tmp_path) as server:
        rest = await server.client.get(url, headers={"Range": "bytes=100-", "If-Range": tag})
        assert rest.status_code == 206 and part.content + rest.content == whole.content
        again = await server.client.get(url)
        assert again.content == whole.content and again.headers["etag"] == tag
        for stale in ('"old"', 'W/"old"', f"W/{tag}"):
            answer = await server.client.get(url, headers={"Range": "bytes=100-", "If-Range": stale})
            assert (answer.status_code, answer.content) == (200, whole.content)
        beyond = await server.client.get(url, headers={"Range": "bytes=9999999-"})
        assert beyond.headers["content-range"] == f"bytes */{len(whole.content)}"


async def test_what_is_still_changing_has_no_tag_and_no_ranges(server: Server) -> None:
    job = await server.upload(a=b"x" * 500)
    with trio.fail_after(60):
        answer = await server.client.get(f"/download_partial/{job.id}", headers={"Range": "bytes=5-"})
    assert answer.status_code == 200 and answer.headers["accept-ranges"] == "none"
    assert "etag" not in answer.headers


async def test_data_that_is_deleted_at_the_very_moment_is_gone_and_no_trouble_of_the_server(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = await walk(server.ledger, await server.upload(a=b"x"), S.PROCESSING, S.FAILED)
    exists = server.storage.exists

    async def exists_still(storage_key: str) -> bool:
        found = await exists(storage_key)
        shutil.rmtree(server.storage.job(storage_key) / "input")
        return found

    monkeypatch.setattr(server.storage, "exists", exists_still)
    answer = await server.client.get(f"/v1/jobs/{job.id}/results")
    assert (answer.status_code, answer.json()["code"]) == (404, "nothing_left")


async def test_what_a_job_has_made_is_nothing_of_ours_to_a_browser(server: Server, source: Path) -> None:
    (source / "page.html").write_bytes(b"<script>alert(document.cookie)</script>")
    (source / "page.svg").write_bytes(b"<svg xmlns='http://www.w3.org/2000/svg' onload='alert(1)'/>")
    done = await ended(server, source)
    waiting = await server.upload(**{"run.sh": b"true", "page.html": b"<script>"})
    on_node = await server.upload(**{"run.sh": b"true"})
    on_node = await walk(server.ledger, on_node, S.PROCESSING, S.SUBMITTED, S.RUNNING)
    assert on_node.attempt is not None
    node = NodeRef(on_node.attempt.node_id, "http://node-a:9000")
    server.views[:] = [NodeView(node, NodeState.READY, "", ("example",), 2, 1, 0, 1.0)]
    key = on_node.attempt.key
    server.nodes.files[key, "page.html"] = server.nodes.results[key] = b"<script>"
    server.nodes.logs[key, "stdout"] = b"<script>"
    asked = {
        "/download/{id}": [done],
        "/download_partial/{id}": [done, on_node, waiting],
        "/v1/jobs/{id}/results": [done],
        "/v1/jobs/{id}/files/{path}": [done, on_node, waiting],
        "/v1/jobs/{id}/logs": [done, on_node, waiting],
        "/v1/jobs/{id}/logs?format=json": [done, on_node, waiting],
        "/v1/jobs/{id}/logs?format=events": [done],
    }
    document = (await server.client.get("/api-docs/openapi.json")).json()
    serving = {
        path
        for path, item in document["paths"].items()
        if "{id}" in path and "octet-stream" in str(item.get("get", {}).get("responses", {}).get("200"))
    }
    assert {path.partition("?")[0] for path in asked} == serving
    for path, jobs in asked.items():
        for job in jobs:
            url = path.format(id=job.id, path="page.html")
            for method, headers in (("GET", {}), ("HEAD", {}), ("GET", {"Range": "bytes=0-0"})):
                harmless(await server.client.request(method, url, headers=headers), 200, 206)
    # What is kept by a browser is what it had with the first answer.
    for url in (f"/download/{done.id}", f"/v1/jobs/{done.id}/files/page.svg"):
        tag = (await server.client.get(url)).headers["ETag"]
        harmless(await server.client.get(url, headers={"If-None-Match": tag}), 304)


def harmless(answer: httpx.Response, *statuses: int) -> None:
    assert answer.status_code in statuses, (answer.request.method, answer.url, answer.text)
    told = {name: answer.headers.get(name) for name in UNTRUSTED}
    assert told == UNTRUSTED, (answer.request.method, answer.url)
    kind = answer.headers.get("Content-Type", "").partition(";")[0]
    assert kind not in ("text/html", "image/svg+xml", "text/javascript"), answer.url


async def test_a_file_is_shown_as_text_unless_it_is_known_to_be_a_picture(
    server: Server, source: Path
) -> None:
    (source / "page.html").write_bytes(b"<script>alert(1)</script>")
    (source / "plot.svg").write_bytes(b"<svg xmlns='http://www.w3.org/2000/svg' onload='alert(1)'/>")
    (source / "long.txt").write_bytes(b"x" * (MOST_TEXT + 1))
    job = await ended(server, source)
    root = f"/v1/jobs/{job.id}/files"
    for path, kind, policy in (
        ("page.html", "text/plain; charset=utf-8", "sandbox"),
        ("d/%C3%A4%20b.png", "image/png", "sandbox"),
        ("out.txt", "text/plain; charset=utf-8", "sandbox"),
        (
            "plot.svg",
            "image/svg+xml",
            "sandbox; default-src 'none'; style-src 'unsafe-inline'; img-src data:",
        ),
    ):
        answer = await server.client.get(f"{root}/{path}?view=1")
        assert (answer.status_code, answer.headers["content-type"]) == (200, kind)
        assert answer.headers["content-security-policy"] == policy
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["content-disposition"].startswith(f'inline; filename="job-{job.id}-')
    assert len((await server.client.get(f"{root}/long.txt?view=1")).content) == MOST_TEXT
    whole = await server.client.get(f"{root}/long.txt")
    assert len(whole.content) == MOST_TEXT + 1
    assert whole.headers["content-disposition"] == f'attachment; filename="job-{job.id}-long.txt"'
    odd = (await server.client.get(f"{root}/d/%C3%A4%20b.png")).headers["content-disposition"]
    plain, encoded = f"job-{job.id}-__b.png", f"job-{job.id}-%C3%A4%20b.png"
    assert odd == f"attachment; filename=\"{plain}\"; filename*=UTF-8''{encoded}"
    assert (await server.client.get(f"{root}/out.txt?view=perhaps")).status_code == 400


async def test_a_picture_that_is_too_large_is_not_shown_in_part(server: Server, source: Path) -> None:
    with (source / "huge.png").open("wb") as huge:
        huge.truncate(MOST_PICTURE + 1)
    job = await ended(server, source)
    answer = await server.client.get(f"/v1/jobs/{job.id}/files/huge.png?view=1")
    assert (answer.status_code, answer.json()["code"]) == (413, "too_large_to_show")


async def test_what_came_what_was_changed_and_what_is_new_are_told_apart(
    server: Server, source: Path
) -> None:
    (source / "run.sh").write_bytes(b"true")
    job = await ended(server, source)
    items = (await server.client.get(f"/v1/jobs/{job.id}/files")).json()["items"]
    origins = {item["path"]: item["origin"] for item in items}
    assert (origins["run.sh"], origins["out.txt"], origins["d"]) == ("input", "new", None)
    (source / "run.sh").write_bytes(b"TRUE")  # as long as before
    job = await ended(server, source)
    items = (await server.client.get(f"/v1/jobs/{job.id}/files")).json()["items"]
    assert {item["path"]: item["origin"] for item in items}["run.sh"] == "changed"
