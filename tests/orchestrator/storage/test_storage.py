"""Job directories: what is durable when, what is left when something fails, what is visible meanwhile."""

from __future__ import annotations

import errno
import io
import json
import os
import zipfile
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import trio
from support.data.ledgers import SetClock
from support.data.node_jobs import result_file

from actors.ports.storage import StorageError
from actors.wire.errors import BadArchive
from actors.wire.files.listing import Entry
from orchestrator.storage.disk import Disk, NameRefused, StorageFull, StorageGone
from orchestrator.storage.result_sink import DiskResultSink
from orchestrator.storage.storage import DiskStorage

ATTEMPT = "a" * 32


@pytest.fixture
def trace() -> list[tuple[str, str]]:
    return []


@pytest.fixture
async def storage(tmp_path: Path, trace: list[tuple[str, str]]) -> AsyncIterator[DiskStorage]:
    made = DiskStorage(tmp_path / "data", SetClock(), trace=lambda what, path: trace.append((what, path)))
    await made.open()
    trace.clear()
    yield made


async def stored(storage: DiskStorage, **files: bytes) -> str:
    async with storage.receive() as upload:
        for name, data in files.items():
            file = upload.file(name.replace("__", "/"))
            await file.write(data)
            await file.close()
        await upload.commit(7, "example")
        return upload.key


def left(storage: DiskStorage) -> list[str]:
    """Everything below the data directory but the fixed directories."""
    found = [path.relative_to(storage.root) for path in storage.root.rglob("*")]
    return sorted(str(p) for p in found if len(p.parts) > (2 if p.parts[0] == "jobs" else 1))


def packed(**files: bytes) -> tuple[bytes, list[Entry]]:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    entries = [Entry(name, name.encode(), len(data), 0o600, 0.0, "file") for name, data in files.items()]
    return buffer.getvalue(), entries


async def test_everything_is_synced_before_it_appears_and_its_place_after(
    storage: DiskStorage, trace: list[tuple[str, str]]
) -> None:
    key = await stored(storage, **{"run.sh": b"true", "a__b__in": b"x" * 3_000_000, "a__c": b""})
    incoming, job = f"incoming/{key}", f"jobs/{key[:2]}/{key}"
    renamed = trace.index(("rename", job))
    before = trace[:renamed]
    files = {
        ("fsync", f"{incoming}/{name}") for name in ("input/run.sh", "input/a/b/in", "input/a/c", "job.json")
    }
    directories = {("fsync", f"{incoming}/input{name}") for name in ("", "/a", "/a/b")}
    assert files | directories | {("fsync", incoming)} == set(before)
    # What names a thing is synced after the thing.
    assert before.index(("fsync", f"{incoming}/input/a/b")) > before.index(
        ("fsync", f"{incoming}/input/a/b/in")
    )
    assert before.index(("fsync", f"{incoming}/input/a")) > before.index(("fsync", f"{incoming}/input/a/b"))
    assert before.index(("fsync", f"{incoming}/input")) > before.index(("fsync", f"{incoming}/input/a"))
    assert before[-2:] == [("fsync", f"{incoming}/job.json"), ("fsync", incoming)]
    assert trace[renamed + 1 :] == [("fsync", f"jobs/{key[:2]}")]


async def test_an_upload_is_found_as_it_was(storage: DiskStorage) -> None:
    key = await stored(storage, **{"run.sh": b"true", "a__b__in": b"x" * 3_000_000})
    found = await storage.input_files(key)
    assert [(name, size, path.read_bytes()) for name, path, size in found] == [
        ("a/b/in", 3_000_000, b"x" * 3_000_000),
        ("run.sh", 4, b"true"),
    ]
    about = json.loads((storage.job(key) / "job.json").read_text())
    assert about == {
        "storage_key": key,
        "user_id": 7,
        "service": "example",
        "created_at": 1_700_000_000.0,
        "size": 3_000_004,
    }


async def test_what_was_not_committed_is_gone(storage: DiskStorage) -> None:
    with pytest.raises(RuntimeError, match="cut off"):
        async with storage.receive() as upload:
            await upload.file("a/b").write(b"x" * 2_000_000)
            raise RuntimeError("cut off")
    with trio.move_on_after(0.05) as scope:
        async with storage.receive() as upload:
            await upload.file("a/b").write(b"x" * 2_000_000)
            await trio.sleep_forever()
    assert scope.cancelled_caught
    async with storage.receive() as upload:
        await upload.file("never written").close()
    assert left(storage) == []


async def test_a_commit_that_is_cancelled_is_all_or_nothing(storage: DiskStorage) -> None:
    with trio.CancelScope() as scope:
        async with storage.receive() as upload:
            scope.cancel()
            await upload.commit(7, "example")
    assert left(storage) == [] or [key for key, _ in await storage.directories()] == [upload.key]


@pytest.mark.parametrize("path", ["../x", "/x", "a//b", "a/./b", "", ".", "a/../b"])
async def test_a_path_that_leads_elsewhere_is_a_defect_of_the_caller(storage: DiskStorage, path: str) -> None:
    with pytest.raises(StorageError):
        async with storage.receive() as upload:
            upload.file(path)


async def test_a_name_that_the_disk_does_not_take_is_told(storage: DiskStorage) -> None:
    with pytest.raises(NameRefused, match="File name too long"):
        async with storage.receive() as upload:
            await upload.file("x" * 300).close()
    assert left(storage) == []


@pytest.mark.parametrize("failing", ["write", "sync", "sync_directory", "rename"])
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO])
async def test_when_the_disk_fails_nothing_is_left(
    storage: DiskStorage, monkeypatch: pytest.MonkeyPatch, failing: str, number: int
) -> None:
    def fail(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patched:
        patched.setattr(Disk, failing, fail)
        with pytest.raises(StorageFull if number == errno.ENOSPC else StorageError):
            await stored(storage, run=b"x" * 2_000_000)
    assert left(storage) == []


async def test_when_the_last_sync_fails_the_job_does_not_appear(
    storage: DiskStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    sync_directory = Disk.sync_directory

    def fail(disk: Disk, path: Path) -> None:
        if path.parent.name == "jobs":
            raise OSError(errno.EIO, "Input/output error")
        sync_directory(disk, path)

    with monkeypatch.context() as patched:
        patched.setattr(Disk, "sync_directory", fail)
        with pytest.raises(StorageError):
            await stored(storage, run=b"x")
    assert left(storage) == []


async def test_an_upload_for_which_there_is_no_room_is_refused_at_once(tmp_path: Path) -> None:
    storage = DiskStorage(tmp_path / "data", SetClock(), keep_free=1 << 60)
    await storage.open()
    with pytest.raises(StorageFull, match="bytes free"):
        async with storage.receive(10):
            pass


async def test_a_start_empties_what_was_on_its_way(storage: DiskStorage) -> None:
    key = await stored(storage, run=b"x")
    for name in ("incoming/half/input", "trash/old", f"incoming/result-{key}-x"):
        (storage.root / name).mkdir(parents=True)
        (storage.root / name / "file").write_bytes(b"x")
    os.chmod(storage.root / "trash" / "old", 0)
    again = DiskStorage(storage.root, SetClock())
    await again.open()
    assert not list((storage.root / "incoming").iterdir()) and not list((storage.root / "trash").iterdir())
    assert [name for name, _, _ in await again.input_files(key)] == ["run"]


async def test_what_is_being_read_is_not_discarded(storage: DiskStorage) -> None:
    key = await stored(storage, run=b"x")
    with storage.reading(key), storage.reading(key):
        assert not await storage.discard(key)
    assert await storage.exists(key)
    assert await storage.discard(key)
    assert await storage.discard(key)
    assert left(storage) == []


async def test_directories_are_listed_with_their_age(storage: DiskStorage, tmp_path: Path) -> None:
    key = await stored(storage, run=b"x")
    os.utime(storage.job(key), (1_600_000_000, 1_600_000_000))
    assert await storage.directories() == [(key, 100_000_000.0)]


@pytest.mark.parametrize("size", [0, 2, 100])
async def test_inputs_that_are_not_as_long_as_they_were_are_told(storage: DiskStorage, size: int) -> None:
    async with storage.receive() as upload:
        file = upload.file("run.sh")
        await file.write(b"true\n")
        await file.close()
        await upload.commit(7, "example")
        key = upload.key
    assert await storage.input_files(key, 5) == await storage.input_files(key)
    os.truncate(storage.job(key) / "input" / "run.sh", size)
    with pytest.raises(StorageError, match=f"{size} bytes are there, and 5 were uploaded"):
        await storage.input_files(key, 5)


async def test_inputs_that_cannot_be_read_are_told(storage: DiskStorage) -> None:
    with pytest.raises(StorageGone):
        await storage.input_files("0" * 32)


async def test_inputs_that_may_not_be_read_are_told(
    storage: DiskStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = await stored(storage, run=b"x")

    def denied(*_: object, **__: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(Path, "open", denied)
    with pytest.raises(StorageError, match="Permission denied"):
        await storage.input_files(key)


# ---------------------------------------------------------------------- results


async def filled(storage: DiskStorage, key: str, data: bytes) -> DiskResultSink:
    sink = storage.receive_result(key, ATTEMPT)
    await sink.write_zip(data[:100])
    await sink.write_zip(data[100:])
    await sink.write_log("stdout", b"out")
    return sink


async def test_a_result_appears_as_a_whole_after_it_was_checked_and_synced(
    storage: DiskStorage, trace: list[tuple[str, str]]
) -> None:
    key = await stored(storage, run=b"x")
    data, entries = packed(a=b"1", b=b"2" * 1000)
    sink = await filled(storage, key, data)
    assert result_file(storage, key) is None
    trace.clear()
    await sink.commit({"left_out": []}, entries)
    await sink.abort()
    result = storage.job(key) / "result"
    assert {path.name: path.read_bytes() for path in result.iterdir()} == {
        "result.zip": data,
        "stdout.log": b"out",
        "stderr.log": b"",
        "manifest.json": b'{"left_out": []}',
    }
    renamed = trace.index(("rename", f"jobs/{key[:2]}/{key}/result"))
    synced = {path.rpartition("/")[2] for what, path in trace[:renamed] if what == "fsync"}
    assert {"result.zip", "stdout.log", "stderr.log", "manifest.json"} < synced
    assert trace[renamed - 1][0] == "fsync" and trace[renamed - 1][1].startswith("incoming/result-")
    assert trace[renamed + 1 :] == [("fsync", f"jobs/{key[:2]}/{key}")]
    assert not list((storage.root / "incoming").iterdir())


async def test_a_newer_result_takes_the_place_of_an_older(storage: DiskStorage) -> None:
    key = await stored(storage, run=b"x")
    for content in (b"one", b"two"):
        data, entries = packed(a=content)
        await (await filled(storage, key, data)).commit({}, entries)
    path = result_file(storage, key)
    assert path is not None and path.read_bytes() == data
    assert not list((storage.root / "trash").iterdir())


async def test_what_cannot_be_deleted_for_want_of_descriptors_is_deleted_with_the_next(
    storage: DiskStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    async def give_up() -> None:
        async with storage.receive() as upload:
            await upload.file("half").write(b"1")
            await upload.file("other").close()

    key, discarded = await stored(storage, run=b"x"), await stored(storage, run=b"x")
    data, entries = packed(a=b"1")
    await (await filled(storage, key, data)).commit({}, entries)
    kept = [path for path in left(storage) if discarded not in path]
    with monkeypatch.context() as patched:
        patched.setattr("orchestrator.storage.disk.shutil.rmtree", fail)
        await give_up()
        sink = await filled(storage, key, data)
        await sink.commit({}, entries)  # the older one is to be deleted, and that is no failure of this one
        half = storage.receive_result(key, ATTEMPT)
        await half.write_zip(bytes(2_000_000))
        await half.abort()
        assert await storage.discard(discarded)
    assert len(list((storage.root / "incoming").iterdir())) == 2
    assert len(list((storage.root / "trash").iterdir())) == 2
    await give_up()
    assert left(storage) == kept


@pytest.mark.parametrize("damage", ["cut", "flipped", "more", "less", "size", "nothing"])
async def test_a_result_that_is_not_what_its_manifest_says_is_refused(
    storage: DiskStorage, damage: str
) -> None:
    key = await stored(storage, run=b"x")
    data, entries = packed(a=b"1" * 500, b=b"2" * 500)
    match damage:
        case "cut":
            data = data[:-10]
        case "flipped":
            data = data[:200] + bytes([data[200] ^ 1]) + data[201:]
        case "more":
            entries = entries[:1]
        case "less":
            entries = [*entries, Entry("c", b"c", 1, 0o600, 0.0, "file")]
        case "size":
            entries = [Entry("a", b"a", 499, 0o600, 0.0, "file"), entries[1]]
        case _:
            data = b""
    sink = await filled(storage, key, data)
    with pytest.raises(BadArchive):
        await sink.commit({}, entries)
    await sink.abort()
    assert result_file(storage, key) is None
    assert not list((storage.root / "incoming").iterdir())


async def test_a_result_without_a_manifest_is_checked_for_damage_only(storage: DiskStorage) -> None:
    key = await stored(storage, run=b"x")
    data, _ = packed(a=b"1")
    await (await filled(storage, key, data)).commit({}, None)
    assert result_file(storage, key) is not None


async def test_a_result_that_does_not_fit_leaves_the_older_one(
    storage: DiskStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = await stored(storage, run=b"x")
    data, entries = packed(a=b"1")
    await (await filled(storage, key, data)).commit({}, entries)

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    sink = storage.receive_result(key, ATTEMPT)
    with monkeypatch.context() as patched:
        patched.setattr(Disk, "write", full)
        with pytest.raises(StorageFull):
            await sink.write_zip(bytes(2 << 20))
        await sink.abort()
    path = result_file(storage, key)
    assert path is not None and path.read_bytes() == data
    assert not list((storage.root / "incoming").iterdir())


async def test_a_large_result_of_a_job_with_small_input_makes_its_directory(
    storage: DiskStorage, trace: list[tuple[str, str]]
) -> None:
    key = "0" * 32
    data, entries = packed(a=b"1")
    sink = await filled(storage, key, data)
    trace.clear()
    await sink.commit({}, entries)
    path = result_file(storage, key)
    assert path is not None and path.read_bytes() == data
    made = trace.index(("fsync", f"jobs/{key[:2]}"))
    assert made < trace.index(("rename", f"jobs/{key[:2]}/{key}/result"))
    assert [name for name, _ in await storage.directories()] == [key]  # nobody's, if no job says otherwise


async def test_a_directory_whose_upload_is_under_way_is_nobodys_orphan(storage: DiskStorage) -> None:
    async with storage.receive() as upload:
        await upload.commit(1, "example")
        key = upload.key
        assert await storage.directories() == []
    assert [name for name, _ in await storage.directories()] == [key]
