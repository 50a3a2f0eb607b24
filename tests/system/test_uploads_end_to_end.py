"""Uploads against a whole server: the limit, bodies that are cut, names that lead out,
clients that hang up."""

from __future__ import annotations

import random
import signal
import sqlite3
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path

import httpx
import pytest
import trio
from support.peers.portals import Portal, portal
from support.processes.api_server import form
from support.processes.gates import gate
from support.processes.processes import PATIENCE, Place, Started

RUN = 'name="file"; filename="run.sh"|true'
FIELDS = ('name="user_id"|1', 'name="service"|example')
MIB = 1 << 20


def on_disk(here: Place) -> list[Path]:
    """What the server has of jobs, finished or half."""
    data = here.directory / "server" / "data"
    return [*(data / "incoming").iterdir(), *(data / "trash").iterdir(), *(data / "jobs").glob("*/*")]


async def chunked(*pieces: bytes) -> AsyncIterator[bytes]:
    for piece in pieces:
        for start in range(0, len(piece), 65536):
            yield piece[start : start + 65536]


async def send_chunked(user: Portal, *parts: str | bytes) -> httpx.Response:
    body, kind = form(*parts, *FIELDS)
    return await user.http.post("/upload", content=chunked(body), headers={"Content-Type": kind})


async def test_the_limit_counts_what_arrives_in_chunks(here: Place) -> None:
    server = here.server(nodes=[here.node().url], config=f"upload_limit = {MIB}")
    async with portal(server.url) as user:
        answer = await send_chunked(user, RUN, b'name="file"; filename="two.bin"|' + bytes(2 * MIB))
        assert answer.status_code == 413
        assert answer.json()["status"] == "Unknown" and str(MIB) in answer.json()["message"]
        assert on_disk(here) == [] and await user.statuses() == []
        answer = await send_chunked(user, RUN)
        assert answer.status_code == 201
        assert (await user.ended(answer.json()["id"]))["status"] == "Completed"


async def test_the_nodes_limit_counts_what_arrives_in_chunks(here: Place) -> None:
    node = here.node("node", "--upload-limit", str(MIB))
    async with portal(node.url) as user:
        body, kind = form(RUN, b'name="file"; filename="two.bin"|' + bytes(2 * MIB))
        answer = await user.http.post("/submit", content=chunked(body), headers={"Content-Type": kind})
        assert answer.status_code == 413
        body, _ = form(RUN)
        answer = await user.http.post("/submit", content=chunked(body), headers={"Content-Type": kind})
        assert answer.status_code == 200


async def test_a_body_cut_in_the_middle_leaves_nothing(here: Place) -> None:
    server = here.server(nodes=["http://127.0.0.1:9"])
    body, kind = form(RUN, b'name="file"; filename="big"|' + bytes(3 * MIB), *FIELDS)
    declared = head(kind, f"Content-Length: {len(body)}")
    in_chunks = head(kind, "Transfer-Encoding: chunked") + f"{len(body):x}\r\n".encode()
    for begun in (declared, in_chunks):
        async with await trio.open_tcp_stream("127.0.0.1", int(server.port)) as stream:
            await stream.send_all(begun + body[: 2 * MIB])
            # Nothing more comes, and the client waits for what is said to it.
            await stream.send_eof()
            with trio.fail_after(PATIENCE):
                said = b"".join([piece async for piece in stream])
            assert said.startswith(b"HTTP/1.1 400")
        stream = await trio.open_tcp_stream("127.0.0.1", int(server.port))
        await stream.send_all(begun + body[: 2 * MIB])
        await stream.aclose()
    async with portal(server.url) as user:
        assert await user.statuses() == []
    assert await server.end(signal.SIGTERM) == 0
    assert on_disk(here) == []
    assert "Traceback" not in server.errors()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
async def test_a_server_that_ends_amid_an_upload_leaves_nothing_half_written(
    here: Place, number: int
) -> None:
    server = here.server(nodes=["http://127.0.0.1:9"])
    body, kind = form(RUN, b'name="file"; filename="big"|' + bytes(3 * MIB), *FIELDS)
    async with await trio.open_tcp_stream("127.0.0.1", int(server.port)) as stream:
        await stream.send_all(head(kind, f"Content-Length: {len(body)}") + body[: 2 * MIB])
        status = await server.end(number)
    if number == signal.SIGKILL:
        # Who had no time to clean up is cleaned up after.
        server = here.server(nodes=["http://127.0.0.1:9"])
    else:
        assert status == 0
    assert on_disk(here) == []
    with closing(sqlite3.connect(here.directory / "server" / "db.sqlite")) as db:
        assert db.execute("SELECT count(*) FROM jobs").fetchone() == (0,)


async def test_names_that_lead_out_land_inside_as_their_last_part(shared: Started, tmp_path: Path) -> None:
    async with portal(shared.url) as user:
        with gate(tmp_path / "gate") as shut:
            script, names = f"cat x > seen; {shut.wait}", ("../../etc/x", "/etc/x")
            jobs = [await user.upload(script, files={name: b"data"}) for name in names]
            for job in jobs:
                await user.until(job, "Running")
            # Once a job has ended its directory goes.
            top = shared.log.parent
            placed = [path.relative_to(top) for path in top.rglob("x")]
            assert len(placed) >= len(jobs)
            assert all({"input", "work"} & set(path.parts) for path in placed), placed
        for job in jobs:
            assert (await user.ended(job))["status"] == "Completed"
            found = await user.contents(job)
            assert found.keys() == {"run.sh", "x", "seen", "stdout.log", "stderr.log"}
            assert found["seen"] == b"data"


async def test_what_is_wrong_is_named_and_leaves_nothing(here: Place) -> None:
    server = here.server(nodes=["http://127.0.0.1:9"])
    user_1, example = FIELDS
    wrong = {
        "user_id": (RUN, example),
        "abc": (RUN, 'name="user_id"|abc', example),
        "nobody": (RUN, user_1, 'name="service"|nobody'),
        "NUL": (RUN, b'name="file"; filename="a\0b"|x', *FIELDS),
    }
    async with portal(server.url) as user:
        for culprit, parts in wrong.items():
            body, kind = form(*parts)
            answer = await user.http.post("/upload", content=body, headers={"Content-Type": kind})
            assert answer.status_code == 400, culprit
            told = answer.json()
            assert (told["id"], told["status"]) == (0, "Unknown")
            assert culprit in told["message"] or culprit == "NUL"
        assert await user.statuses() == []
    assert on_disk(here) == []


@pytest.mark.parametrize("small", [0, 1 << 16])
async def test_clients_that_hang_up_leave_whole_jobs_or_none(here: Place, small: int) -> None:
    """After all of them there is no row without its files and no files without a row; who hung up before the
    end of the body has no job."""
    server = here.server(nodes=["http://127.0.0.1:9"], config=f"small_files = {small}")
    rng = random.Random(20)
    body, kind = form(RUN, b'name="file"; filename="some"|' + bytes(20_000), *FIELDS)
    whole = head(kind, f"Content-Length: {len(body)}") + body
    cuts = [rng.randrange(1, len(whole)) for _ in range(40)] + [len(whole)] * 20
    good: list[int] = []

    async def hang_up(cut: int) -> None:
        stream = await trio.open_tcp_stream("127.0.0.1", int(server.port))
        await stream.send_all(whole[:cut])
        await stream.aclose()

    async def upload(user: Portal) -> None:
        for _ in range(20):
            good.append(await user.upload("true"))

    async with portal(server.url) as user:
        for start in range(0, len(cuts), 20):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(upload, user)
                for cut in cuts[start : start + 20]:
                    nursery.start_soon(hang_up, cut)
    assert await server.end(signal.SIGTERM) == 0
    assert len(set(good)) == 60
    with closing(sqlite3.connect(here.directory / "server" / "db.sqlite")) as db:
        rows = dict(db.execute("SELECT storage_key, id FROM jobs"))
        kept = {number for (number,) in db.execute("SELECT job_id FROM small_inputs")}
    assert set(good) <= set(rows.values())
    assert len(rows) <= 60 + cuts.count(len(whole))
    assert {path.name for path in on_disk(here)} == (set() if small else set(rows))
    assert kept == (set(rows.values()) if small else set())


def head(kind: str, length: str) -> bytes:
    return f"POST /upload HTTP/1.1\r\nHost: localhost\r\nContent-Type: {kind}\r\n{length}\r\n\r\n".encode()
