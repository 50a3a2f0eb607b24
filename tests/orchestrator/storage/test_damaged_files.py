"""Whatever became of a file that the server wrote: the next start goes on, and says what it lacks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
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
OF_BYTES = ("missing", "half", "a-directory")
OF_A_JOB = {
    "job.json": tuple(WAYS),
    "job_id": tuple(WAYS),
    "result/manifest.json": tuple(WAYS),
    "result/result.zip": OF_BYTES,
    "result/stdout.log": OF_BYTES,
    "input/run.sh": OF_BYTES,
}


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


async def begin(server: Server, results: Path, jobs: int) -> list[Job]:
    """So many that have ended, and a waiting one for each: with odd ids, and with even ones."""
    await go_on_from(server.ledger, server.storage)
    found = []
    for _ in range(jobs):
        found.append(await server.upload(**{"run.sh": b"true"}))
        await end(server, found[-1], results)
        found.append(await server.upload(**{"run.sh": b"true"}))
    return found


async def look(server: Server, numbers: Sequence[int]) -> None:
    await go_on_from(server.ledger, server.storage)
    for number in numbers:
        for route in ("/v1/jobs/{}", "/download/{}", "/v1/jobs/{}/results", "/v1/jobs/{}/files"):
            answer = await server.client.get(route.format(number))
            assert answer.status_code != 500, (number, route, answer.text)
        assert (await server.client.get(f"/v1/jobs/{number}")).status_code == 200
        for route in ("/v1/jobs/{}/logs", "/v1/jobs/{}/logs?format=json", "/v1/jobs/{}/files/out"):
            answer = await server.client.get(route.format(number))
            assert answer.status_code != 500, (number, route, answer.text)
    assert (await server.upload(**{"run.sh": b"true"})).id > numbers[-1]
    for number in numbers[::2]:
        deleted = await server.client.delete(f"/v1/jobs/{number}")
        assert deleted.status_code == 200, (number, deleted.text)
    data = server.storage.root
    assert not list((data / "trash").iterdir())
    keys = {one.parent.name for one in data.glob("jobs/*/*/input")}
    assert len(keys) == len(numbers) // 2 + 1, "what was deleted is gone, and nothing else"


@pytest.mark.parametrize("file", OF_A_JOB)
async def test_it_starts_and_answers_for_every_job(results: Path, tmp_path: Path, file: str) -> None:
    """Two jobs for each thing that may have become of the file."""
    ways = OF_A_JOB[file]
    async with api_server(tmp_path) as server:
        jobs = await begin(server, results, len(ways))
    damaged = 0
    for index, job in enumerate(jobs):
        path = server.storage.job(job.storage_key) / file
        if path.exists():
            WAYS[ways[index // 2]](path)
            damaged += 1
    assert damaged == (len(ways) if file.startswith("result/") else len(jobs))
    async with api_server(tmp_path) as server:
        await look(server, range(1, len(jobs) + 1))


@pytest.mark.parametrize("way", WAYS)
async def test_it_starts_and_answers_whatever_became_of_the_last_id(
    results: Path, tmp_path: Path, way: str
) -> None:
    async with api_server(tmp_path) as server:
        await begin(server, results, 1)
    WAYS[way](server.storage.root / "last_id")
    async with api_server(tmp_path) as server:
        await look(server, (1, 2))
