"""Whatever became of a file that the server wrote: the next start goes on, and says what it lacks."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from support.data.damage import a_directory, empty, half, huge, missing
from support.data.ledgers import walk
from support.processes.api_server import Server, api_server

from actors.domain.job import Job
from actors.domain.status import Status
from actors.wire.files.listing import list_tree
from actors.wire.files.zip_writer import zip_stream
from orchestrator.startup import go_on_from

WAYS: dict[str, Callable[[Path], object]] = {
    "missing": missing,
    "empty": empty,
    "half": half,
    "zeros": lambda path: path.write_bytes(bytes(max(1, path.stat().st_size))),
    "no-utf-8": lambda path: path.write_bytes(b"\xff\xfe{\x80"),
    "not-json": lambda path: path.write_bytes(b"[1, 2"),
    "another-type": lambda path: path.write_bytes(b"[[]]"),
    "out-of-range": lambda path: path.write_bytes(b"99999999999999999999999999999"),
    "negative": lambda path: path.write_bytes(b"-1"),
    "huge": huge,
    "a-directory": a_directory,
}
TEXTS = ["last_id", "jobs/*/*/job.json", "jobs/*/*/job_id", "jobs/*/*/result/manifest.json"]
BYTES = ["jobs/*/*/result/result.zip", "jobs/*/*/result/stdout.log", "jobs/*/*/input/run.sh"]
CASES = [(file, way) for file in TEXTS for way in WAYS] + [
    (file, way) for file in BYTES for way in ("missing", "half", "a-directory")
]


async def end(server: Server, job: Job, source: Path) -> None:
    entries = list_tree(source).entries
    sink = server.storage.receive_result(job.storage_key, "a" * 32)
    async for piece in zip_stream(source, entries):
        await sink.write_zip(piece)
    await sink.write_log("stdout", b"printed\n")
    await sink.commit({"entries": []}, entries)
    await walk(server.ledger, job, Status.PROCESSING, Status.SUBMITTED, Status.COMPLETED)


@pytest.fixture
def results(tmp_path: Path) -> Path:
    path = tmp_path / "results"
    path.mkdir()
    (path / "out").write_bytes(b"result")
    return path


@pytest.mark.parametrize(("file", "way"), CASES)
async def test_it_starts_and_answers_for_every_job(
    results: Path, tmp_path: Path, file: str, way: str
) -> None:
    path = tmp_path
    async with api_server(path) as server:
        await go_on_from(server.ledger, server.storage)
        await end(server, await server.upload(**{"run.sh": b"true"}), results)
        await server.upload(**{"run.sh": b"true"})
    damaged = sorted((path / "data").glob(file))
    assert damaged
    for one in damaged:
        WAYS[way](one)
    async with api_server(path) as server:
        await go_on_from(server.ledger, server.storage)
        for number in (1, 2):
            for route in ("/v1/jobs/{}", "/download/{}", "/v1/jobs/{}/results", "/v1/jobs/{}/files"):
                answer = await server.client.get(route.format(number))
                assert answer.status_code != 500, (route, answer.text)
            assert (await server.client.get(f"/v1/jobs/{number}")).status_code == 200
            for route in ("/v1/jobs/{}/logs", "/v1/jobs/{}/logs?format=json", "/v1/jobs/{}/files/out"):
                answer = await server.client.get(route.format(number))
                assert answer.status_code != 500, (route, answer.text)
        assert (await server.upload(**{"run.sh": b"true"})).id > 2
        deleted = await server.client.delete("/v1/jobs/1")
        assert deleted.status_code == 200, deleted.text
        assert not list((path / "data" / "trash").iterdir())
    keys = {one.parent.name for one in (path / "data").glob("jobs/*/*/input")}
    assert len(keys) == 2, "what was deleted is gone, and nothing else"
