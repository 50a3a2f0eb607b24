from __future__ import annotations

import io
import os
import socket
import stat
import subprocess
import zipfile
from collections.abc import AsyncIterator
from contextlib import nullcontext, suppress
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st

from actors.wire.errors import BadArchive, SourceChanged
from actors.wire.files.names import MAX_DEPTH, spell
from actors.wire.files.threaded_iterator import ThreadedIterator
from actors.wire.files.zip_reader import check_zip, list_members, read_member
from actors.wire.files.zip_writer import Content, Entry, list_tree, zip_pieces, zip_stream


@pytest.fixture
def job(tmp_path: Path) -> Path:
    path = tmp_path / "job"
    path.mkdir()
    return path


def _read(path: Path) -> bytes:
    return path.read_bytes()


def _write(path: Path | bytes, data: bytes) -> None:
    with open(path, "wb") as file:
        file.write(data)


async def taken(stream: AsyncIterator[bytes]) -> bytes:
    return b"".join([piece async for piece in stream])


async def packed(root: Path, *extra: tuple[str, Path]) -> zipfile.ZipFile:
    entries = list_tree(root).entries
    archive = zipfile.ZipFile(io.BytesIO(await taken(zip_stream(root, entries, extra, strict=True))))
    assert archive.testzip() is None
    return archive


def contents(archive: zipfile.ZipFile) -> dict[str, bytes]:
    return {info.filename: archive.read(info) for info in archive.infolist() if not info.is_dir()}


def unzip(data: bytes, where: Path) -> None:
    where.mkdir()
    (where.parent / "it.zip").write_bytes(data)
    subprocess.run(["unzip", "-q", "../it.zip"], cwd=where, check=True, stdin=subprocess.DEVNULL)


def open_below(root: Path) -> list[str]:
    found = []
    for handle in os.listdir("/proc/self/fd"):
        with suppress(FileNotFoundError):
            name = os.readlink(f"/proc/self/fd/{handle}")
            found += [name] if name.startswith(str(root)) else []
    return found


async def test_files_directories_modes_and_times_come_through_unzip(job: Path, tmp_path: Path) -> None:
    (job / "out/empty").mkdir(parents=True)
    (job / "out/a.bin").write_bytes(b"\r\n\0\xff" * 1000)
    (job / "run.sh").write_bytes(b"true")
    (job / "run.sh").chmod(0o4751)
    (job / "none").write_bytes(b"")
    (job / "a\\b.pdb").write_bytes(b"backslash")
    (job / 'a"b €.pdb').write_bytes(b"quote")
    os.utime(job / "none", (1_600_000_001, 1_600_000_001))
    listing = list_tree(job)
    assert listing.left_out == ()
    unzip(await taken(zip_stream(job, listing.entries, strict=True)), tmp_path / "out")
    assert (tmp_path / "out/out/empty").is_dir()
    for name in ("out/a.bin", "run.sh", "none", "a\\b.pdb", 'a"b €.pdb'):
        assert (tmp_path / "out" / name).read_bytes() == (job / name).read_bytes()
    assert stat.S_IMODE((tmp_path / "out/run.sh").stat().st_mode) == 0o751
    assert (tmp_path / "out/none").stat().st_mtime == 1_600_000_001


async def test_an_empty_directory_is_an_empty_zip(job: Path) -> None:
    assert (await packed(job)).namelist() == []


@pytest.mark.parametrize(
    ("mtime", "year"), [(0, 1980), (-2_177_452_800, 1980), (5_680_281_600, 2107), (2_147_483_648, 2038)]
)
async def test_a_time_that_a_zip_cannot_hold_is_clamped(
    job: Path, mtime: int, year: int, tmp_path: Path
) -> None:
    for name in ("a", "b"):
        (job / name).write_text(name)
    (job / "d").mkdir()
    if year == 2107:
        mtime = 5_680_281_600  # 2150
    os.utime(job / "a", (mtime, mtime))
    os.utime(job / "d", (mtime, mtime))
    entries = list_tree(job).entries
    # Not every file system keeps such times: what counts is what was listed.
    entries = tuple(replace(entry, mtime=float(mtime)) if entry.raw != b"b" else entry for entry in entries)
    data = await taken(zip_stream(job, entries, strict=True))
    archive = zipfile.ZipFile(io.BytesIO(data))
    assert archive.getinfo("a").date_time[0] == archive.getinfo("d/").date_time[0] == year
    unzip(data, tmp_path / "out")
    assert (tmp_path / "out/a").read_text() == "a"
    assert (tmp_path / "out/b").read_text() == "b"


async def test_a_name_that_is_no_text_is_spelled_and_costs_no_other_file(job: Path, tmp_path: Path) -> None:
    root = os.fsencode(job)
    os.mkdir(root + b"/d\xff")
    for name, data in ((b"r\xe9sultat.txt", b"x"), (b"ok.txt", b"y"), (b"d\xff/z", b"z")):
        _write(root + b"/" + name, data)
    os.symlink(b"d\xff/z", root + b"/link")
    listing = list_tree(job)
    assert contents(await packed(job)) == {
        "r\ufffdE9sultat.txt": b"x",
        "ok.txt": b"y",
        "d\ufffdFF/z": b"z",
        "link": "d\ufffdFF/z".encode(),
    }
    unzip(await taken(zip_stream(job, listing.entries)), tmp_path / "out")
    assert (tmp_path / "out/link").read_bytes() == b"z"


@settings(max_examples=30)
@given(
    st.sets(
        st.binary(min_size=1, max_size=20).filter(lambda n: not {0, 47} & set(n) and n not in (b".", b"..")),
        max_size=8,
    )
)
async def test_whatever_the_names_each_file_is_there_under_its_spelling(names: set[bytes]) -> None:
    with TemporaryDirectory() as directory:
        for name in names:
            _write(os.fsencode(directory) + b"/" + name, name)
        assert contents(await packed(Path(directory))) == {spell(name): name for name in names}


async def test_special_files_and_links_that_lead_astray_are_left_out_and_named(job: Path) -> None:
    (job / "ok.txt").write_text("ok")
    os.mkfifo(job / "p")
    for name, target in {
        "dang": "nowhere",
        "loop": "loop",
        "ping": "pong",
        "pong": "ping",
        "self": ".",
        "leak": "/etc/passwd",
        "up": "../..",
        "up2": "self/../../x",
        "fine": "ok.txt",
        "through": "self/self/ok.txt",
        "to_fifo": "p",
        "to_dang": "dang",
        "to_fine": "fine",
        "under_file": "ok.txt/x",
        "absolute": f"{job}/ok.txt",
        "whole": str(job),
        "sly": f"{job}/../../etc",
        "beside": f"{job}2/x",
    }.items():
        (job / name).symlink_to(target)
    (job / "d").mkdir()
    (job / "d/absolute").symlink_to(f"{job}/ok.txt")
    (job / "d/up").symlink_to("../ok.txt")
    with socket.socket(socket.AF_UNIX) as listener:
        here = os.open(job, os.O_RDONLY)
        listener.bind(f"/proc/self/fd/{here}/sock")
        os.close(here)
        listing = list_tree(job)
        archive = await packed(job)
    assert {entry.path: entry.target for entry in listing.entries} == {
        "ok.txt": None,
        "self": ".",
        "fine": "ok.txt",
        "through": "self/self/ok.txt",
        "to_fine": "fine",
        "absolute": "ok.txt",
        "whole": ".",
        "d": None,
        "d/absolute": "../ok.txt",
        "d/up": "../ok.txt",
    }
    assert dict(listing.left_out) == {
        "p": "a FIFO",
        "sock": "a socket",
        "dang": "a link that leads nowhere",
        "to_dang": "a link that leads nowhere",
        "to_fifo": "a link that leads nowhere",
        "under_file": "a link that leads nowhere",
        "loop": "a link that leads in a circle",
        "ping": "a link that leads in a circle",
        "pong": "a link that leads in a circle",
        "leak": "a link that leads out of the directory",
        "up": "a link that leads out of the directory",
        "up2": "a link that leads out of the directory",
        "sly": "a link that leads out of the directory",
        "beside": "a link that leads out of the directory",
    }
    assert set(archive.namelist()) == {entry.path for entry in listing.entries} - {"d"} | {"d/"}
    assert stat.S_ISLNK(archive.getinfo("fine").external_attr >> 16)
    assert archive.read("fine") == b"ok.txt"


async def test_directories_nested_too_deep_are_left_out_and_the_rest_is_kept(job: Path) -> None:
    here = os.open(job, os.O_RDONLY)
    for _ in range(MAX_DEPTH + 50):
        os.mkdir("d", dir_fd=here)
        inner = os.open("d", os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = inner
    os.close(here)
    (job / "z").write_text("z")
    listing = list_tree(job)
    assert [why for _, why in listing.left_out] == ["it is too deep"]
    assert contents(await packed(job)) == {"z": b"z"}


def swap(path: Path, into: str) -> None:
    path.unlink()
    if into == "fifo":
        os.mkfifo(path)
    elif into == "link":
        path.symlink_to("/etc/passwd")
    elif into == "directory":
        path.mkdir()


@pytest.mark.parametrize("into", ["fifo", "link", "directory", "nothing"])
async def test_a_file_that_became_something_else_is_left_out_while_live(job: Path, into: str) -> None:
    (job / "a").write_text("a")
    (job / "b").write_text("b")
    entries = list_tree(job).entries
    swap(job / "a", into)
    left_out: list[tuple[str, str]] = []
    data = await taken(zip_stream(job, entries, left_out=left_out))
    assert contents(zipfile.ZipFile(io.BytesIO(data))) == {"b": b"b"}
    assert [name for name, _ in left_out] == ["a"]
    with pytest.raises(SourceChanged, match="'a'"):
        await taken(zip_stream(job, entries, strict=True))
    assert open_below(job) == []


async def test_a_directory_that_became_a_link_is_not_followed(job: Path, tmp_path: Path) -> None:
    for name in ("a/b", "secret/b"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "f").write_text(name)
    (tmp_path / "a").rename(job / "a")
    entries = list_tree(job).entries
    (job / "a").rename(job / "gone")
    (job / "a").symlink_to(tmp_path / "secret")
    left_out: list[tuple[str, str]] = []
    data = await taken(zip_stream(job, entries, left_out=left_out))
    assert contents(zipfile.ZipFile(io.BytesIO(data))) == {}
    assert [name for name, _ in left_out] == ["a/b/f"]


@pytest.mark.parametrize("size", [0, 5, 20])
async def test_a_file_of_another_size_fails_a_frozen_zip_and_not_a_live_one(job: Path, size: int) -> None:
    (job / "log").write_bytes(b"0123456789")
    entries = list_tree(job).entries
    (job / "log").write_bytes(b"0123456789" * 2)
    os.truncate(job / "log", size)
    data = await taken(zip_stream(job, entries))
    assert contents(zipfile.ZipFile(io.BytesIO(data))) == {"log": b"0123456789"[:size]}
    with pytest.raises(SourceChanged, match="'log'"):
        await taken(zip_stream(job, entries, strict=True))


async def test_logs_from_outside_are_added_unless_the_job_has_files_of_these_names(
    job: Path, tmp_path: Path
) -> None:
    (job / "stdout.log").write_text("mine")
    os.mkfifo(job / "stderr.log")
    for name in ("out", "err"):
        (tmp_path / name).write_text(name)
    extra = (("stdout.log", tmp_path / "out"), ("stderr.log", tmp_path / "err"))
    assert contents(await packed(job, *extra)) == {"stdout.log": b"mine", "stderr.log": b"err"}
    left_out: list[tuple[str, str]] = []
    data = await taken(zip_stream(job, (), (("stdout.log", tmp_path / "no"),), left_out=left_out))
    assert contents(zipfile.ZipFile(io.BytesIO(data))) == {}
    assert left_out == [("stdout.log", "'stdout.log' is gone")]


def test_what_was_read_already_is_added_as_a_file_is(job: Path, tmp_path: Path) -> None:
    (job / "mine").write_text("mine")
    extra = []
    for name, data in (("mine", b"x"), ("none", b""), ("one", b"a"), ("much", b"much " * 100)):
        (tmp_path / name).write_bytes(data)
        found = (tmp_path / name).stat()
        extra.append(
            (Content(name, data, stat.S_IMODE(found.st_mode), found.st_mtime), (name, tmp_path / name))
        )
    entries = list_tree(job).entries
    read, unread = (
        b"".join(zip_pieces(job, entries, given, strict=True)) for given in zip(*extra, strict=True)
    )
    assert read == unread
    assert contents(zipfile.ZipFile(io.BytesIO(read))) == {
        "mine": b"mine",
        "none": b"",
        "one": b"a",
        "much": b"much " * 100,
    }


@pytest.mark.parametrize("strict", [True, False])
def test_a_file_that_comes_bit_by_bit_is_whole(
    job: Path, monkeypatch: pytest.MonkeyPatch, strict: bool
) -> None:
    (job / "a").write_bytes(bytes(range(100)))
    entries, read = list_tree(job).entries, os.read
    with monkeypatch.context() as patched:
        patched.setattr(os, "read", lambda fd, most: read(fd, min(most, 7)))
        zipped = b"".join(zip_pieces(job, entries, strict=strict))
    assert contents(zipfile.ZipFile(io.BytesIO(zipped))) == {"a": bytes(range(100))}


@pytest.mark.parametrize("grown", [b"1", b"12345"])
def test_a_file_that_grows_after_it_was_opened_fails_a_frozen_zip_and_not_a_live_one(
    job: Path, monkeypatch: pytest.MonkeyPatch, grown: bytes
) -> None:
    (job / "log").write_bytes(b"0123456789")
    entries, fstat = list_tree(job).entries, os.fstat

    def grow(handle: int) -> os.stat_result:
        found = fstat(handle)
        if stat.S_ISREG(found.st_mode):
            with (job / "log").open("ab") as file:
                file.write(grown)
        return found

    with monkeypatch.context() as patched:
        patched.setattr(os, "fstat", grow)
        zipped = b"".join(zip_pieces(job, entries))
        os.truncate(job / "log", 10)
        with pytest.raises(SourceChanged, match="'log' changed while it was packed"):
            b"".join(zip_pieces(job, entries, strict=True))
    assert contents(zipfile.ZipFile(io.BytesIO(zipped))) == {"log": b"0123456789"}
    assert open_below(job) == []


async def test_a_zip_left_in_the_middle_leaves_nothing_open(job: Path) -> None:
    (job / "big").write_bytes(os.urandom(2 << 20))
    entries = list_tree(job).entries
    stream = zip_stream(job, entries)
    await anext(stream)
    assert open_below(job)
    await stream.aclose()
    assert open_below(job) == []
    with pytest.raises(trio.ClosedResourceError):
        await anext(stream)
    stream = zip_stream(job, entries)
    await anext(stream)
    del stream
    assert open_below(job) == []


async def test_a_zip_whose_reader_is_cancelled_leaves_nothing_open(job: Path) -> None:
    (job / "big").write_bytes(os.urandom(2 << 20))
    entries = list_tree(job).entries
    with trio.CancelScope() as scope:
        async for _ in zip_stream(job, entries):
            scope.cancel()
    assert scope.cancelled_caught
    assert open_below(job) == []


async def test_many_small_files_share_a_hop_and_large_ones_come_in_pieces(job: Path) -> None:
    for n in range(300):
        (job / str(n)).write_bytes(b"x" * 50)
    assert len([piece async for piece in zip_stream(job, list_tree(job).entries)]) == 1
    (job / "big").write_bytes(os.urandom(3 << 20))
    sizes = [len(piece) async for piece in zip_stream(job, list_tree(job).entries)]
    assert len(sizes) >= 6
    assert max(sizes) <= 600 << 10


async def test_an_entry_that_may_be_large_is_written_in_the_64_bit_form_and_no_other(job: Path) -> None:
    (job / "f").write_bytes(b"x")
    (job / "g").write_bytes(b"y")
    f, g = list_tree(job).entries
    small = await taken(zip_stream(job, [f, g]))
    large = await taken(zip_stream(job, [f, replace(g, size=5 << 30)]))
    assert _versions(small) == {"f": 20, "g": 20} and END_64 not in small
    assert _versions(large) == {"f": 20, "g": 45} and END_64 in large
    assert contents(zipfile.ZipFile(io.BytesIO(large))) == {"f": b"x", "g": b"y"}


@pytest.mark.parametrize("count", [61_004, 65_535, 65_536])
async def test_many_small_entries_are_in_the_32_bit_form_and_only_the_end_counts_in_64(
    job: Path, count: int
) -> None:
    (job / "f").write_bytes(b"x")
    entries = [Entry(f"d{n:x}", b"", 0, 0o755, 0.0, "directory") for n in range(count - 1)]
    zipped = await taken(zip_stream(job, [*entries, *list_tree(job).entries]))
    archive = zipfile.ZipFile(io.BytesIO(zipped))
    versions = _versions(zipped, archive)
    assert len(versions) == count and set(versions.values()) == {20}
    assert (END_64 in zipped) == (count > 65_535)
    assert archive.read("f") == b"x"


END_64 = b"PK\x06\x06"


def _versions(zipped: bytes, archive: zipfile.ZipFile | None = None) -> dict[str, int]:
    """The version that each local head asks of its reader, which says its form. None has an extra field of
    64 bits in the 32-bit form."""
    found = {}
    for info in (archive or zipfile.ZipFile(io.BytesIO(zipped))).infolist():
        head = zipped[info.header_offset : info.header_offset + 30]
        version, names, extras = (
            int.from_bytes(head[a:b], "little") for a, b in ((4, 6), (26, 28), (28, 30))
        )
        begin = info.header_offset + 30 + names
        extra = zipped[begin : begin + extras]
        assert (extra[:2] == b"\x01\x00") == (version == 45)
        found[info.filename.rstrip("/")] = version
    return found


@given(
    st.lists(st.tuples(st.integers(0, 5), st.integers(-2, 2), st.binary(max_size=9)), max_size=5),
    st.integers(0, 3 << 20),
)
@settings(max_examples=60)
def test_holes_are_what_was_there(writes: list[tuple[int, int, bytes]], size: int) -> None:
    with TemporaryDirectory() as where:
        path = Path(where) / "x"
        with path.open("wb") as file:
            for block, beside, data in writes:
                file.seek(max(0, block * (256 << 10) + beside))
                file.write(data * 1000)
            file.truncate(size)
        entries = list_tree(Path(where)).entries
        zipped = b"".join(zip_pieces(Path(where), entries, strict=True))
        (Path(where) / "zip").write_bytes(zipped)
        check_zip(Path(where) / "zip", entries)
        assert zipfile.ZipFile(io.BytesIO(zipped)).read("x") == path.read_bytes()


def test_gigabytes_of_holes_are_packed_without_being_read(
    job: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with (job / "x").open("wb") as file:
        file.write(b"a")
        file.truncate(5 << 30)
    read: list[int] = []
    original = os.read

    def counted(handle: int, size: int) -> bytes:
        read.append(size)
        return original(handle, size)

    monkeypatch.setattr(os, "read", counted)
    entries = list_tree(job).entries
    with (tmp_path / "zip").open("wb") as zipped:
        for piece in zip_pieces(job, entries, strict=True):
            zipped.write(piece)
    assert sum(read) < 2 << 20
    [member] = list_members(tmp_path / "zip")
    assert member.size == 5 << 30


async def saved(root: Path, path: Path) -> tuple[Entry, ...]:
    entries = list_tree(root).entries
    _write(path, await taken(zip_stream(root, entries, strict=True)))
    return entries


@pytest.fixture
async def zipped(job: Path, tmp_path: Path) -> tuple[Path, tuple[Entry, ...]]:
    (job / "d/empty").mkdir(parents=True)
    (job / "d/a").write_bytes(os.urandom(600_000))
    (job / "none").write_bytes(b"")
    (job / "link").symlink_to("d/a")
    return tmp_path / "it.zip", await saved(job, tmp_path / "it.zip")


async def test_a_zip_that_fits_its_manifest_is_good(
    zipped: tuple[Path, tuple[Entry, ...]], job: Path
) -> None:
    path, entries = zipped
    check_zip(path, entries)
    check_zip(path, None)
    assert {(m.path, m.size, m.kind, m.mode) for m in list_members(path) if m.kind != "link"} == {
        (e.path, e.size, e.kind, e.mode) for e in entries if e.kind != "link"
    }
    assert b"".join(read_member(path, "d/a")) == (job / "d/a").read_bytes()
    assert await taken(ThreadedIterator(read_member(path, "d/a"))) == (job / "d/a").read_bytes()
    for name in ("d/", "nowhere"):
        with pytest.raises(KeyError):
            next(read_member(path, name))


async def test_a_zip_that_differs_from_its_manifest_is_refused_by_name(
    zipped: tuple[Path, tuple[Entry, ...]],
) -> None:
    path, entries = zipped
    for n, entry in enumerate(entries):
        with pytest.raises(BadArchive, match=f"'{entry.path}'"):
            check_zip(path, entries[:n] + entries[n + 1 :])
        with pytest.raises(BadArchive, match="lacks"):
            check_zip(path, [*entries, replace(entry, path="other")])
        other: dict[str, object] = {
            "file": {"size": entry.size + 1},
            "directory": {"kind": "file"},
            "link": {"target": "d/b"},
        }[entry.kind]  # type: ignore[assignment]
        with pytest.raises(BadArchive, match=f"'{entry.path}'"):
            check_zip(path, [*entries[:n], replace(entry, **other), *entries[n + 1 :]])  # type: ignore[arg-type]


@settings(max_examples=150)
@given(st.data())
async def test_a_damaged_zip_is_refused_or_still_the_same(data: st.DataObject) -> None:
    with TemporaryDirectory() as directory:
        root, path = Path(directory, "job"), Path(directory, "it.zip")
        os.mkdir(root)
        for name in ("a", "b"):
            _write(root / name, name.encode() * 40)
        entries = await saved(root, path)
        good = bytearray(_read(path))
        for _ in range(data.draw(st.integers(1, 3))):
            good[data.draw(st.integers(0, len(good) - 1))] ^= data.draw(st.integers(1, 255))
        cut = data.draw(st.integers(0, len(good))) if data.draw(st.booleans()) else len(good)
        _write(path, bytes(good[:cut]))
        with suppress(BadArchive):
            check_zip(path, entries)
            assert b"".join(read_member(path, "a")) == b"a" * 40


@pytest.mark.parametrize("names", [["../x"], ["/x"], ["a/../../x"], ["a", "a"], ["a", "a/"]])
def test_unsafe_and_repeated_names_are_refused(tmp_path: Path, names: list[str]) -> None:
    path = tmp_path / "it.zip"
    with (
        pytest.warns(UserWarning) if names == ["a", "a"] else nullcontext(),
        zipfile.ZipFile(path, "w") as archive,
    ):
        for name in names:
            archive.writestr(name, "x")
    with pytest.raises(BadArchive):
        check_zip(path, None)
    with pytest.raises(BadArchive):
        list_members(path)


@pytest.mark.parametrize("data", [b"", b"hello", b"<html>", b"PK\x05\x06"])
def test_what_is_no_zip_is_refused(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "it.zip"
    path.write_bytes(data)
    with pytest.raises(BadArchive):
        check_zip(path, None)


@pytest.mark.parametrize("size", [1 << 31, (1 << 32) - 2])
async def test_a_directory_that_would_fill_the_memory_is_not_read(
    job: Path, tmp_path: Path, size: int
) -> None:
    (job / "f").write_bytes(b"x")
    zipped = bytearray(await taken(zip_stream(job, list_tree(job).entries)))
    made = tmp_path / "sparse.zip"
    end = len(zipped) - 22
    zipped[end + 12 : end + 16] = size.to_bytes(4, "little")
    with made.open("wb") as file:
        file.truncate(size)
        file.seek(size)
        file.write(zipped[end:])
    with pytest.raises(BadArchive, match=f"directory is said to have {size} bytes"):
        list_members(made)
    assert open_below(tmp_path) == []
