"""The contract's other routes over real HTTP, in every state that a job can have."""

from __future__ import annotations

import io
import os
import zipfile
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path

import httpx
import pytest
import trio
from support.data.ledgers import by_owner, new_attempt, walk
from support.processes.api_server import Server, api_server, status_body
from support.processes.processes import promised

from actors.domain.changes import RecordEnd
from actors.domain.job import End, Job
from actors.domain.node import NodeRef, NodeState, NodeView
from actors.domain.service import Waiting, WaitReason
from actors.domain.status import Status
from actors.ports.ledger import LedgerError
from actors.wire.files.listing import list_tree
from actors.wire.files.zip_writer import zip_stream

S = Status


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Server]:
    async with api_server(tmp_path, kill_patience=0.2) as running:
        yield running


async def store_result(server: Server, job: Job, **files: bytes) -> bytes:
    """A checked result of the job, as the Getter would fetch it; the zip's bytes."""
    source = server.storage.root.parent / f"made-{job.id}"
    source.mkdir()
    for name, data in files.items():
        (source / name).write_bytes(data)
    entries = list_tree(source).entries
    data = b"".join([piece async for piece in zip_stream(source, entries)])
    sink = server.storage.receive_result(job.storage_key, "a" * 32)
    await sink.write_zip(data)
    await sink.write_log("stdout", b"hello\xff\x00 world\n")
    await sink.write_log("stderr", b"warning\n")
    await sink.commit({"entries": []}, entries)
    return data


async def on_node(server: Server, job: Job, status: Status = S.RUNNING) -> Job:
    """The job as it is on a node that is in touch."""
    job = await walk(server.ledger, job, S.PROCESSING, S.SUBMITTED, status)
    assert job.attempt is not None
    node = NodeRef(job.attempt.node_id, "http://node-a:9000")
    view = NodeView(node, NodeState.READY, "", ("example",), slots=2, held=1, others=0, load=1.0)
    server.views[:] = [view]
    return job


def unzipped(data: bytes) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        assert archive.testzip() is None
        return {info.filename: archive.read(info) for info in archive.infolist()}


async def test_ping_and_health(server: Server) -> None:
    assert (await server.client.get("/")).json() == {"message": "pong"}
    browser = {"Accept": "text/html,application/xhtml+xml;q=0.9,*/*;q=0.8"}
    answer = await server.client.get("/", headers=browser)
    assert (answer.status_code, answer.headers["location"]) == (303, "dashboard")
    assert (await server.client.get("/swagger/")).headers["location"] == "../swagger"
    answer = await server.client.get("/health")
    assert (answer.status_code, answer.json()) == (200, {"status": "ok", "database": "ok"})


async def test_health_tells_of_a_database_that_fails(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    async def check() -> None:
        raise LedgerError("disk I/O error")

    monkeypatch.setattr(server.ledger, "is_well", lambda: False)
    monkeypatch.setattr(server.ledger, "check", check)
    answer = await server.client.get("/health")
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
    assert answer.json() == {"status": "error", "database": "disk I/O error"}


ROUTES = [("GET", "/download/"), ("GET", "/download_partial/"), ("POST", "/terminate/")]


@pytest.mark.parametrize(("method", "route"), ROUTES)
async def test_what_is_no_id_is_refused(server: Server, method: str, route: str) -> None:
    for number in ("0", "-1", "x", "007", "1_0", "٧", "4294967296", "1" * 30, "1.0", "%2B1"):
        answer = await server.client.request(method, route + number)
        assert answer.status_code == 400, number
        assert status_body(answer)["status"] == "Unknown"


@pytest.mark.parametrize(("method", "route"), ROUTES)
async def test_an_unknown_job_is_not_found(server: Server, method: str, route: str) -> None:
    answer = await server.client.request(method, f"{route}4294967295")
    assert answer.status_code == 404
    assert status_body(answer)["id"] == 0


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/nope", 404),
        ("GET", "/download/", 404),
        ("PUT", "/upload", 405),
        ("GET", "/terminate/1", 405),
    ],
)
async def test_a_wrong_route_or_method_is_told_in_json(
    server: Server, method: str, path: str, status: int
) -> None:
    answer = await server.client.request(method, path)
    assert answer.status_code == status
    assert status_body(answer)["status"] == "Unknown"
    assert ("allow" in answer.headers) == (status == 405)


@pytest.mark.parametrize(
    ("path", "status", "said"),
    [
        ("/v1/jobs", 405, "a job is handed in by POST /upload"),
        ("/v1/jobs/12/cancel", 404, "a job is killed by POST /terminate/12"),
        ("/v1/jobs/12/terminate", 404, "a job is killed by POST /terminate/12"),
    ],
)
async def test_who_looks_under_v1_for_a_route_of_the_contract_is_told_which(
    server: Server, path: str, status: int, said: str
) -> None:
    answer = await server.client.post(path)
    assert answer.status_code == status and answer.json()["detail"].endswith(said)
    assert "; a job" not in (await server.client.post("/v1/jobs/x/cancel")).json()["detail"]


@pytest.mark.parametrize(
    "ways",
    [
        (),
        (S.PROCESSING,),
        (S.PROCESSING, S.SUBMITTED),
        (S.PROCESSING, S.SUBMITTED, S.FAILED),
        (S.FAILED, S.CLEANED),
    ],
    ids="-".join,
)
async def test_download_of_what_is_not_completed_is_its_status(
    server: Server, ways: tuple[Status, ...]
) -> None:
    job = await walk(server.ledger, await server.upload(**{"run.sh": b"true"}), *ways)
    answer = await server.client.get(f"/download/{job.id}")
    assert answer.status_code == 200
    assert status_body(answer) == {"id": job.id, "status": job.status.value, "message": job.message}


async def test_a_queued_job_says_what_it_waits_for(server: Server) -> None:
    job = await server.upload(**{"run.sh": b"true"})
    server.whys[job.id] = Waiting(WaitReason.SLOT, "all slots are taken", 3)
    answer = await server.client.get(f"/download/{job.id}")
    assert status_body(answer)["message"] == "all slots are taken"


async def test_a_completed_job_is_its_stored_zip(server: Server) -> None:
    job = await server.upload(**{"run.sh": b"true"})
    data = await store_result(server, job, out=b"result")
    await walk(server.ledger, job, S.PROCESSING, S.SUBMITTED, S.COMPLETED)
    answer = await server.client.get(f"/download/{job.id}")
    assert answer.status_code == 200
    assert answer.content == data
    assert answer.headers["content-type"] == "application/zip"
    assert answer.headers["content-length"] == str(len(data))
    assert answer.headers["content-disposition"] == f'attachment; filename="job-{job.id}.zip"'
    head = await server.client.head(f"/download/{job.id}")
    assert (head.status_code, head.content) == (200, b"")
    assert head.headers["content-length"] == str(len(data))
    assert not server.storage._reading


async def test_partial_results_of_a_queued_job_are_its_inputs(server: Server) -> None:
    job = await server.upload(**{"run.sh": b"true", "sub/in.pdb": b"ATOM"})
    answer = await server.client.get(f"/download_partial/{job.id}")
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "application/zip"
    found = unzipped(answer.content)
    assert found["run.sh"] == b"true" and found["sub/in.pdb"] == b"ATOM"
    assert not {"etag", "content-range"} & set(answer.headers)
    assert not server.storage._reading


async def test_inputs_with_impossible_times_are_zipped(server: Server) -> None:
    job = await server.upload(old=b"1", new=b"2")
    for name, path, _ in await server.storage.input_files(job.storage_key):
        os.utime(path, (0, 0) if name == "old" else (5_680_281_600, 5_680_281_600))
    answer = await server.client.get(f"/download_partial/{job.id}")
    assert unzipped(answer.content) == {"old": b"1", "new": b"2"}
    with zipfile.ZipFile(io.BytesIO(answer.content)) as archive:
        years = {info.filename: info.date_time[0] for info in archive.infolist()}
    assert years == {"old": 1980, "new": 2107}


async def test_odd_things_among_the_inputs_cost_no_file_and_nothing_is_followed(server: Server) -> None:
    job = await server.upload(**{"ok.txt": b"ok"})
    top = server.storage.job(job.storage_key) / "input"
    os.mkfifo(top / "pipe")
    for name, target in (("leak", "/etc/passwd"), ("dangling", "nowhere"), ("loop", "loop")):
        os.symlink(target, top / name)
    await trio.Path(os.fsdecode(os.fsencode(top) + b"/r\xe9sultat")).write_bytes(b"odd")
    with trio.fail_after(60):
        answer = await server.client.get(f"/download_partial/{job.id}")
    found = unzipped(answer.content)
    assert found["ok.txt"] == b"ok"
    assert b"odd" in found.values()
    assert not any(b"root:" in data for data in found.values())
    assert not {"pipe", "leak"} & set(found)


async def test_partial_results_of_a_running_job_come_from_its_node(server: Server) -> None:
    job = await on_node(server, await server.upload(**{"run.sh": b"true"}))
    assert job.attempt is not None
    server.nodes.results[job.attempt.key] = b"a zip from the node"
    answer = await server.client.get(f"/download_partial/{job.id}")
    assert (answer.status_code, answer.content) == (200, b"a zip from the node")
    assert answer.headers["content-type"] == "application/zip"


async def test_partial_results_when_the_node_is_silent_are_unavailable(server: Server) -> None:
    job = await on_node(server, await server.upload(**{"run.sh": b"true"}))
    assert job.attempt is not None
    server.nodes.silent.add(job.attempt.key)
    answer = await server.client.get(f"/download_partial/{job.id}")
    assert answer.status_code == 503
    body = status_body(answer)
    assert (body["id"], body["status"]) == (job.id, "Running")
    assert "no route to host" in body["message"]


async def test_partial_results_when_the_node_was_never_seen_are_unavailable(server: Server) -> None:
    job = await on_node(server, await server.upload(**{"run.sh": b"true"}))
    server.views.clear()
    assert (await server.client.get(f"/download_partial/{job.id}")).status_code == 503


@pytest.mark.parametrize("end", [S.COMPLETED, S.FAILED, S.INVALID, S.KILLED])
async def test_partial_results_of_an_ended_job_are_the_stored_zip(server: Server, end: Status) -> None:
    job = await server.upload(**{"run.sh": b"true"})
    data = await store_result(server, job, out=b"result")
    await walk(server.ledger, job, S.PROCESSING, S.SUBMITTED, end)
    assert (await server.client.get(f"/download_partial/{job.id}")).content == data


async def test_partial_results_of_a_job_that_never_ran_are_its_inputs(server: Server) -> None:
    job = await walk(server.ledger, await server.upload(**{"run.sh": b"true"}), S.KILLED)
    answer = await server.client.get(f"/download_partial/{job.id}")
    assert unzipped(answer.content) == {"run.sh": b"true"}


async def test_nothing_is_left_of_a_cleaned_job(server: Server) -> None:
    job = await walk(server.ledger, await server.upload(**{"run.sh": b"true"}), S.KILLED, S.CLEANED)
    assert await server.storage.discard(job.storage_key)
    answer = await server.client.get(f"/download_partial/{job.id}")
    assert answer.status_code == 404
    assert status_body(answer)["status"] == "Cleaned"


async def killed_when_asked(server: Server, job: Job, *, end: Status = S.KILLED) -> None:
    """Do what the owner of the job would do once the order is there."""
    with server.waiters.watch(job.id) as watch:
        row = job
        while not row.terminate_requested:
            row = await watch.newer(row.change_seq)
    await server.ledger.record([by_owner(row.id, row.status, end, f"to {end}")])


async def test_terminate_answers_once_the_job_is_killed_and_each_time_after(server: Server) -> None:
    job = await server.upload(**{"run.sh": b"true"})
    async with trio.open_nursery() as nursery:
        nursery.start_soon(killed_when_asked, server, job)
        for _ in range(3):
            answer = await server.client.post(f"/terminate/{job.id}")
            assert answer.status_code == 200
            assert status_body(answer) == {"id": job.id, "status": "Killed", "message": "job terminated"}
    shown, listed = [(await server.client.get(f"/v1/jobs{end}")).json() for end in (f"/{job.id}", "")]
    assert shown["cancelled"] == {"at": shown["cancelled"]["at"], "by": "operator"}
    assert listed["items"][0]["cancelled"] is None
    other = await server.upload(**{"run.sh": b"true"})
    assert (await server.client.get(f"/v1/jobs/{other.id}")).json()["cancelled"] is None


async def test_terminate_that_takes_longer_is_locked(server: Server) -> None:
    job = await on_node(server, await server.upload(**{"run.sh": b"true"}))
    answer = await server.client.post(f"/terminate/{job.id}")
    assert (answer.status_code, status_body(answer)["status"]) == (200, "Locked")
    row = await server.ledger.get(job.id)
    assert row is not None and row.terminate_requested


@pytest.mark.parametrize("end", [S.COMPLETED, S.FAILED, S.INVALID])
async def test_terminate_of_a_job_that_ended_otherwise_conflicts(server: Server, end: Status) -> None:
    job = await server.upload(**{"run.sh": b"true"})
    job = await walk(server.ledger, job, S.PROCESSING, S.SUBMITTED, end)
    answer = await server.client.post(f"/terminate/{job.id}")
    assert answer.status_code == 409
    body = status_body(answer)
    assert (body["id"], body["status"]) == (job.id, end.value)
    row = await server.ledger.get(job.id)
    assert row is not None and not row.terminate_requested


async def test_terminate_of_a_job_whose_results_are_still_fetched_conflicts_with_its_end(
    server: Server,
) -> None:
    job = await on_node(server, await server.upload(**{"run.sh": b"true"}))
    assert job.attempt is not None
    await server.ledger.record(
        [RecordEnd(job.id, job.attempt.key, End(S.FAILED, "exit code 3", exit_code=3))]
    )
    for _ in range(2):
        with trio.fail_after(promised(4)):  # it waits for nothing: nothing of it can be killed
            answer = await server.client.post(f"/terminate/{job.id}")
        body = status_body(answer)
        assert (answer.status_code, body["status"]) == (409, "Failed")
        assert "exit code 3" in body["message"] and "being fetched" in body["message"]
    row = await server.ledger.get(job.id)
    assert row is not None and not row.terminate_requested and row.status is S.RUNNING


async def test_terminate_of_a_job_whose_script_ends_meanwhile_conflicts_with_its_end(server: Server) -> None:
    job = await on_node(server, await server.upload(**{"run.sh": b"true"}))

    async def end_when_asked() -> None:
        assert job.attempt is not None
        with server.waiters.watch(job.id) as watch:
            row = job
            while not row.terminate_requested:
                row = await watch.newer(row.change_seq)
        await server.ledger.record([RecordEnd(job.id, job.attempt.key, End(S.COMPLETED, "", exit_code=0))])

    async with trio.open_nursery() as nursery:
        nursery.start_soon(end_when_asked)
        answer = await server.client.post(f"/terminate/{job.id}")
    assert (answer.status_code, status_body(answer)["status"]) == (409, "Completed")


async def test_terminate_of_what_was_killed_and_is_still_fetched_is_locked(server: Server) -> None:
    job = await on_node(server, await server.upload(**{"run.sh": b"true"}))
    assert job.attempt is not None
    await server.ledger.request_terminate(job.id)
    await server.ledger.record([RecordEnd(job.id, job.attempt.key, End(S.KILLED, "", signal=15))])
    answer = await server.client.post(f"/terminate/{job.id}")
    assert (answer.status_code, status_body(answer)["status"]) == (200, "Locked")


async def test_terminate_of_a_job_that_ends_by_itself_meanwhile_conflicts(server: Server) -> None:
    job = await on_node(server, await server.upload(**{"run.sh": b"true"}))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(partial(killed_when_asked, server, job, end=S.COMPLETED))
        answer = await server.client.post(f"/terminate/{job.id}")
    assert (answer.status_code, status_body(answer)["status"]) == (409, "Completed")


async def test_a_defect_is_told_without_its_traceback(
    server: Server, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def get(job_id: int) -> None:
        raise ZeroDivisionError("secret")

    monkeypatch.setattr(server.ledger, "get", get)
    answer = await server.client.get("/download/1")
    assert answer.status_code == 500
    assert "secret" not in status_body(answer)["message"]
    assert "ZeroDivisionError" in caplog.text


async def test_a_new_attempt_key_is_not_a_path(server: Server) -> None:
    job = await server.upload(**{"run.sh": b"true"})
    from actors.ports.storage import StorageError

    with pytest.raises(StorageError):
        server.storage.receive_result(job.storage_key, "../" + new_attempt(job).key)


async def test_results_that_are_missing_are_never_replaced_by_something_else(server: Server) -> None:
    job = await server.upload(**{"run.sh": b"true"})
    job = await walk(server.ledger, job, S.PROCESSING, S.SUBMITTED, S.COMPLETED)
    for path in ("download", "download_partial"):
        answer = await server.client.get(f"/{path}/{job.id}")
        assert (answer.status_code, status_body(answer)["status"]) == (503, "Completed")


@pytest.mark.parametrize(
    "path",
    ["//download/1", "/download/%FF", "/download/%00", "/download/1/", "/download//1", "/" + "x" * 5000],
)
async def test_an_odd_path_is_refused_in_json(server: Server, path: str) -> None:
    answer = await server.client.get(httpx.URL(server.url).copy_with(raw_path=path.encode()))
    assert answer.status_code in (400, 404)
    status_body(answer)


async def test_the_head_of_partial_results_leaves_nothing_open(server: Server) -> None:
    job = await server.upload(**{"run.sh": b"true"})
    answer = await server.client.head(f"/download_partial/{job.id}")
    assert (answer.status_code, answer.content) == (200, b"")
    assert not server.storage._reading
