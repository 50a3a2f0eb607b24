"""Small inputs and results live in the ledger: nobody who reads them sees a difference."""

from __future__ import annotations

import io
import secrets
import zipfile
from collections.abc import AsyncIterator, Mapping
from dataclasses import replace
from functools import partial
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.data.ledgers import SetClock, by_owner, new_job, open_ledger, walk
from support.processes.api_server import Server, api_server

from actors.domain.changes import ChangeResult
from actors.domain.job import Job
from actors.domain.status import Status
from actors.ports.storage import StorageError
from actors.wire.errors import BadArchive
from actors.wire.files.listing import list_tree
from actors.wire.files.zip_writer import zip_stream
from orchestrator.ledger.id_blocks import IdBlocks
from orchestrator.ledger.recent import Recent
from orchestrator.startup import end_orderly, go_on_from
from orchestrator.storage.bundle import Bundle, directories, pack, unpack, zip_bundle
from orchestrator.storage.storage import DiskStorage

SMALL = 4096
ATTEMPT = "a" * 32
FILES = {"run.sh": b"ls > listing.txt", "sub/deep/in.pdb": b"ATOM\n" * 20, "empty": b""}

bundles = st.builds(
    Bundle,
    st.integers(0, 2**63),
    st.dictionaries(st.text(st.characters(exclude_categories=["Cs"]), min_size=1), st.binary()),
)


@given(bundles)
def test_a_bundle_is_read_as_it_was_packed(bundle: Bundle) -> None:
    assert unpack(pack(bundle)) == bundle


@given(bundles, st.data())
def test_a_bundle_that_is_cut_is_damage(bundle: Bundle, data: st.DataObject) -> None:
    packed = pack(bundle)
    cut = packed[: data.draw(st.integers(0, len(packed) - 1))]
    with pytest.raises(StorageError, match="damaged"):
        unpack(cut)


@pytest.mark.parametrize("rubbish", [b"", bytes(9), b"\0\0\0\2[]", b"\0\0\0\4null", b"\xff" * 40])
def test_what_is_no_bundle_is_damage(rubbish: bytes) -> None:
    with pytest.raises(StorageError, match="damaged"):
        unpack(rubbish)


def test_a_bundle_as_a_zip_has_its_directories_too() -> None:
    bundle = Bundle(1_700_000_000 * 10**9, {"a/b/c": b"1", "a/d": b"2"})
    assert directories(bundle) == ["a", "a/b"]
    with zipfile.ZipFile(io.BytesIO(zip_bundle(bundle))) as archive:
        assert archive.testzip() is None
        assert archive.namelist() == ["a/", "a/b/", "a/b/c", "a/d"]


def test_recent_files_are_bounded_and_dropped() -> None:
    recent: Recent[tuple[str, str], bytes] = Recent(10, len)
    recent.put(("k1", "input"), b"12345")
    recent.put(("k1", "result"), b"abcde")
    recent.put(("k2", "input"), b"x")
    assert recent.get(("k1", "input")) is None
    assert recent.get(("k1", "result")) == b"abcde"
    recent.drop(("k1", "result"))
    recent.put(("k3", "input"), b"123456789")
    assert [recent.get((key, "input")) for key in ("k2", "k3")] == [b"x", b"123456789"]


# ---------------------------------------------------------------------- over the wire


@pytest.fixture(params=[0, SMALL])
async def server(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Server]:
    async with api_server(tmp_path / "server", small=request.param) as running:
        yield running


async def send(server: Server, files: Mapping[str, bytes]) -> Job:
    parts = [f'name="file"; filename="{name}"|'.encode() + data for name, data in files.items()]
    answer = await server.post(*parts)
    assert answer.status_code == 201, answer.text
    job = await server.ledger.get(answer.json()["id"])
    assert job is not None
    return job


async def end(server: Server, job: Job, made: Path, *, log: bytes = b"printed\n") -> Job:
    entries = list_tree(made).entries
    sink = server.storage.receive_result(job.storage_key, ATTEMPT)
    async for piece in zip_stream(made, entries):
        await sink.write_zip(piece)
    await sink.write_log("stdout", log)
    left_out = [["fifo", "it is no file"]]
    listed = [{"path": e.path, "kind": e.kind, "size": e.size, "mtime": e.mtime} for e in entries]
    results = await sink.commit({"entries": listed, "left_out": left_out}, entries)
    await sink.abort()
    job = await walk(server.ledger, job, Status.PROCESSING, Status.SUBMITTED)
    move = by_owner(job.id, job.status, Status.COMPLETED, "done", results=results)
    (answer,) = await server.ledger.record([move])
    assert answer.outcome is ChangeResult.DONE and answer.job is not None
    return answer.job


@pytest.fixture
def made(tmp_path: Path) -> Path:
    path = tmp_path / "made"
    (path / "sub").mkdir(parents=True)
    (path / "out.txt").write_bytes(b"0123456789")
    (path / "sub" / "more").write_bytes(b"more")
    (path / "link").symlink_to("out.txt")
    return path


def contents(answer: httpx.Response) -> dict[str, bytes]:
    assert answer.status_code == 200, answer.text
    with zipfile.ZipFile(io.BytesIO(answer.content)) as archive:
        return {name: archive.read(name) for name in archive.namelist() if not name.endswith("/")}


async def test_what_was_uploaded_is_read_back(server: Server) -> None:
    job = await send(server, FILES)
    get = server.client.get
    assert contents(await get(f"/download_partial/{job.id}")) == FILES
    listed = (await get(f"/v1/jobs/{job.id}/files")).json()["items"]
    assert [(one["path"], one["kind"], one["size"]) for one in listed] == [
        ("empty", "file", 0),
        ("run.sh", "file", 16),
        ("sub", "directory", 0),
        ("sub/deep", "directory", 0),
        ("sub/deep/in.pdb", "file", 100),
    ]
    assert (await get(f"/v1/jobs/{job.id}/files/sub/deep/in.pdb")).content == FILES["sub/deep/in.pdb"]
    assert (await get(f"/v1/jobs/{job.id}/files/sub")).status_code == 404
    part = await get(f"/v1/jobs/{job.id}/files/run.sh", headers={"Range": "bytes=3-"})
    assert (part.status_code, part.content) == (206, b"> listing.txt")


async def test_a_result_is_read_whole_in_ranges_and_file_by_file(server: Server, made: Path) -> None:
    job = await end(server, await send(server, FILES), made)
    get = server.client.get
    whole = await get(f"/download/{job.id}")
    assert contents(whole) == {"out.txt": b"0123456789", "sub/more": b"more", "link": b"out.txt"}
    tag = whole.headers["etag"]
    assert (await get(f"/download/{job.id}", headers={"If-None-Match": tag})).status_code == 304
    part = await get(f"/download/{job.id}", headers={"Range": "bytes=10-19", "If-Range": tag})
    assert (part.status_code, part.content) == (206, whole.content[10:20])
    assert (await get(f"/download/{job.id}", headers={"Range": "bytes=99999-"})).status_code == 416
    head = await server.client.head(f"/download/{job.id}")
    assert (head.headers["content-length"], head.content) == (str(len(whole.content)), b"")
    assert (await get(f"/v1/jobs/{job.id}/files/link")).content == b"0123456789"
    part = await get(f"/v1/jobs/{job.id}/files/out.txt", headers={"Range": "bytes=-3"})
    assert (part.status_code, part.content) == (206, b"789")
    assert [one["path"] for one in (await get(f"/v1/jobs/{job.id}/files")).json()["items"]] == [
        "link",
        "out.txt",
        "sub",
        "sub/more",
    ]
    assert (await get(f"/v1/jobs/{job.id}/logs?offset=3")).content == b"nted\n"
    assert (await get(f"/v1/jobs/{job.id}/logs?stream=stderr")).content == b""
    shown = (await get(f"/v1/jobs/{job.id}")).json()
    assert [one["path"] for one in shown["files_left_out"]] == ["fifo"]


async def test_a_rerun_and_a_deletion(server: Server, made: Path) -> None:
    job = await end(server, await send(server, FILES), made)
    again = (await server.client.post(f"/v1/jobs/{job.id}/rerun")).json()["id"]
    deleted = await server.client.delete(f"/v1/jobs/{job.id}")
    assert deleted.json()["status"] == "Cleaned"
    for route in ("/download/{}", "/download_partial/{}", "/v1/jobs/{}/files", "/v1/jobs/{}/logs"):
        answer = await server.client.get(route.format(job.id))
        assert answer.status_code == 404 or b"PK" not in answer.content, route
    for part in ("input", "result"):
        assert await server.ledger.small_files(job.storage_key, part) is None
    assert contents(await server.client.get(f"/download_partial/{again}")) == FILES


@pytest.mark.parametrize("more", [0, 1])
async def test_what_is_small_has_no_directory_and_what_is_not_has_one(tmp_path: Path, more: int) -> None:
    async with api_server(tmp_path, small=SMALL) as server:
        files = {"run.sh": b"x" * 96, "in": b"y" * (SMALL - 96 + more)}
        job = await send(server, files)
        assert server.directories() == [job.storage_key] * more
        assert (await server.ledger.small_files(job.storage_key, "input") is None) == bool(more)
        assert contents(await server.client.get(f"/download_partial/{job.id}")) == files


@pytest.mark.parametrize("size", [100, SMALL])
async def test_both_kinds_outlive_a_restart(tmp_path: Path, made: Path, size: int) -> None:
    async with api_server(tmp_path / "server", small=SMALL) as server:
        job = await end(server, await send(server, FILES), made, log=b"l" * size)
        assert server.directories() == ([job.storage_key] if size == SMALL else [])
    async with api_server(tmp_path / "server", small=0) as server:
        assert (await server.client.get(f"/v1/jobs/{job.id}/logs")).content == b"l" * size
        assert "out.txt" in contents(await server.client.get(f"/download/{job.id}"))


@pytest.mark.parametrize("damage", ["cut", "other"])
async def test_a_small_result_that_is_not_what_was_frozen_is_refused(
    tmp_path: Path, made: Path, damage: str
) -> None:
    storage = DiskStorage(tmp_path / "data", SetClock(), small=SMALL)
    storage.keep_small_in(Kept({}))
    await storage.open()
    entries = list_tree(made).entries
    packed = b"".join([piece async for piece in zip_stream(made, entries)])
    sink = storage.receive_result("0" * 32, ATTEMPT)
    await sink.write_zip(packed[:-9] if damage == "cut" else packed)
    with pytest.raises(BadArchive):
        await sink.commit({}, [replace(entries[0], size=11), *entries[1:]] if damage == "other" else entries)
    await sink.abort()
    assert not list((tmp_path / "data" / "incoming").iterdir())


class Kept:
    def __init__(self, files: Mapping[str, bytes]) -> None:
        self._files = files

    async def small_files(self, storage_key: str, part: str) -> bytes | None:
        return self._files.get(storage_key)


async def test_a_damaged_bundle_is_told_as_damage(tmp_path: Path) -> None:
    storage = DiskStorage(tmp_path / "data", SetClock(), small=SMALL)
    storage.keep_small_in(Kept({"0" * 32: b"rubbish"}))
    with pytest.raises(StorageError, match="damaged"):
        await storage.input_files("0" * 32)


# ---------------------------------------------------------------------- ids


async def test_a_block_is_reserved_before_its_first_id_is_given() -> None:
    told: list[int] = []

    async def reserve(upto: int) -> None:
        told.append(upto)

    async def store() -> Any:
        job_id = next(numbers)
        assert told and told[-1] >= job_id
        return SimpleNamespace(id=job_id)

    ids, numbers = IdBlocks(0, reserve), count(1)
    for _ in range(1000):
        await ids.give(store)
    assert told == sorted(set(told)) and len(told) < 10


async def test_an_id_is_not_given_where_none_can_be_reserved() -> None:
    async def reserve(upto: int) -> None:
        raise StorageError("no room")

    async def store() -> Any:
        pytest.fail("there is none")

    with pytest.raises(StorageError):
        await IdBlocks(0, reserve).give(store)


async def ids_after(path: Path, data: Path, jobs: int, *, orderly: bool) -> list[int]:
    storage = DiskStorage(data, SetClock())
    await storage.open()
    async with open_ledger(path) as ledger:
        await go_on_from(ledger, storage)
        given = [(await ledger.insert(new_job(storage_key=secrets.token_hex(16)))).id for n in range(jobs)]
        if orderly:
            await end_orderly(ledger, storage)
    return given


@pytest.mark.parametrize("orderly", [False, True])
async def test_ids_go_on_and_a_restored_ledger_gives_none_twice(tmp_path: Path, orderly: bool) -> None:
    run = partial(ids_after, data=tmp_path / "data", orderly=orderly)
    first = await run(tmp_path / "a", jobs=3)
    assert first == [1, 2, 3]
    older = (tmp_path / "a").read_bytes()
    second = await run(tmp_path / "a", jobs=300)
    assert second[0] == 4 if orderly else second[0] > 3
    (tmp_path / "b").write_bytes(older)
    third = await run(tmp_path / "b", jobs=3)
    assert not set(third) & {*first, *second}
    assert third[0] > max(second)
