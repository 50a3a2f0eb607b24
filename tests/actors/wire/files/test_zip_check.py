"""A zip that is checked while it comes: what is said to be sound is what the other check finds sound."""

from __future__ import annotations

import os
import tracemalloc
import zipfile
from collections.abc import Sequence
from copy import copy
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from isal import isal_zlib

from actors.wire.errors import BadArchive
from actors.wire.files import zip_check, zip_format
from actors.wire.files.listing import Entry, list_tree
from actors.wire.files.threaded_iterator import PIECE
from actors.wire.files.zip_check import Extent, ZipCheck
from actors.wire.files.zip_reader import check_zip, list_members
from actors.wire.files.zip_writer import zip_pieces


def check(data: bytes, cuts: Sequence[int] = ()) -> ZipCheck:
    made = ZipCheck()
    places = sorted({0, len(data), *(cut % (len(data) + 1) for cut in cuts)})
    for begin, end in zip(places, [*places[1:], len(data)], strict=True):
        made.feed(data[begin:end])
    return made


def packed(root: Path) -> tuple[bytes, tuple[Entry, ...]]:
    entries = list_tree(root).entries
    return b"".join(zip_pieces(root, entries, strict=True)), entries


@pytest.fixture
def job(tmp_path: Path) -> Path:
    path = tmp_path / "job"
    (path / "d/é").mkdir(parents=True)
    (path / "d/text").write_bytes(b"all the same " * 200_000)
    (path / "d/random").write_bytes(os.urandom(1 << 21))
    (path / "mixed").write_bytes(os.urandom(1 << 20) + bytes(1 << 20) + os.urandom(70_000))
    (path / "none").write_bytes(b"")
    (path / "link").symlink_to("d/text")
    with (path / "holes").open("wb") as file:
        file.write(os.urandom(5000))
        file.truncate(3 << 20)
        file.seek(2 << 20)
        file.write(os.urandom(1 << 20))
    return path


@settings(max_examples=10)
@given(cuts=st.lists(st.integers(0, 1 << 24), max_size=20))
@example(cuts=[43])  # before the first byte of a link's target
@example(cuts=[44, 45])
def test_what_our_nodes_pack_is_sound_wherever_it_is_cut(cuts: list[int]) -> None:
    with TemporaryDirectory() as where:
        root = Path(where) / "job"
        root.mkdir()
        (root / "random").write_bytes(os.urandom(1_200_000))
        (root / "text").write_bytes(b"text " * 100_000)
        (root / "link").symlink_to("text")
        data, entries = packed(root)
        assert check(data, cuts).fits(entries) and check(data, cuts).fits(None)
        assert not check(data[:-1], cuts).fits(entries)
        assert not check(data + b"\0", cuts).fits(entries)


def test_each_kind_of_member_is_sound_and_another_manifest_is_not(job: Path) -> None:
    data, entries = packed(job)
    assert check(data, range(0, len(data), 100_000)).fits(entries)
    check_zip(data, entries)
    for n, entry in enumerate(entries):
        others = [replace(entry, size=entry.size + 1), replace(entry, path="other")]
        others.append(replace(entry, kind="file" if entry.kind == "directory" else "directory"))
        if entry.kind == "link":
            others.append(replace(entry, target="d/texu"))
        for other in others:
            assert not check(data).fits([*entries[:n], other, *entries[n + 1 :]])
        assert not check(data).fits([*entries[:n], *entries[n + 1 :]])
        assert not check(data).fits([*entries, replace(entry, path="more")])


def test_what_does_not_shrink_is_left_as_it_is_and_what_does_is_not(job: Path) -> None:
    data, _ = packed(job)
    sizes = {one.filename: one.compress_size for one in zipfile.ZipFile(BytesIO(data)).infolist()}
    random = (job / "d/random").read_bytes()
    assert random[-60_000:-10] in data and sizes["d/random"] < len(random) * 1.001
    assert sizes["d/text"] < 50_000
    assert sizes["holes"] < 1_100_000


@settings(max_examples=300)
@given(st.data())
def test_a_damaged_zip_is_not_sound_unless_the_other_check_says_so_too(data: st.DataObject) -> None:
    with TemporaryDirectory() as where:
        root = Path(where)
        for name in ("a", "b", "d/c"):
            (root / name).parent.mkdir(exist_ok=True)
            (root / name).write_bytes(name.encode() * 40)
        (root / "link").symlink_to("a")
        with (root / "large").open("wb") as file:
            file.truncate(300_000)
        good, entries = packed(root)
    bad = bytearray(good)
    for _ in range(data.draw(st.integers(1, 3))):
        bad[data.draw(st.integers(0, len(bad) - 1))] ^= data.draw(st.integers(1, 255))
    if check(bytes(bad)).fits(entries):
        check_zip(bytes(bad), entries)
        archive = zipfile.ZipFile(BytesIO(bytes(bad)))
        assert archive.read("a") == b"a" * 40 and archive.read("large") == bytes(300_000)


@pytest.mark.parametrize("names", [["../x"], ["/x"], ["a/../../x"], ["a", "a/"], ["x\0y"]])
def test_unsafe_and_repeated_names_are_not_sound(names: list[str]) -> None:
    records, data = zip_format.Records(), b""
    for name in names:
        data += records.known(zip_format.Member(name, 1e9, 0o100644), zip_format.STORED, 0, 0, 0)
    assert not check(data + records.end()).fits(None)


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_plain_zips_of_others_are_sound_too(method: int) -> None:
    made = BytesIO()
    with zipfile.ZipFile(made, "w", method) as archive:
        archive.writestr("a", b"x" * 1000)
        with archive.open("b", "w", force_zip64=True) as file:
            file.write(b"y" * 1000)
    # The sizes are in the 64-bit field: before 3.11.4 zipfile does not say so.
    sizes = archive.getinfo("b").header_offset + 18
    made.getbuffer()[sizes : sizes + 8] = b"\xff" * 8
    assert check(made.getvalue()).fits(None)
    with zipfile.ZipFile(made, "a") as archive:
        archive.comment = b"more"
    assert not check(made.getvalue()).fits(None)


def test_a_zip_in_the_64_bit_form_is_sound() -> None:
    records = zip_format.Records()
    data = records.known(zip_format.Member("a", 1e9, 0o100644), zip_format.STORED, 0, 0, 0)
    data += records.begin(zip_format.Member("b", 1e9, 0o100644), 5 << 30)
    data += b"\3\0" + records.finish(0, 2, 0) + records.end()
    assert check(data).fits(None)
    check_zip(data, None)


def zipped(*contents: bytes) -> bytes:
    target = BytesIO()
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as made:
        for number, content in enumerate(contents):
            made.writestr(f"{number}", content)
    return target.getvalue()


@pytest.fixture
def unpacked(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The bytes of each piece that was unpacked, or copied."""
    found: list[int] = []

    def crc32(piece: bytes, crc: int) -> int:
        found.append(len(piece))
        return int(isal_zlib.crc32(piece, crc))

    monkeypatch.setattr(
        zip_check, "isal_zlib", SimpleNamespace(crc32=crc32, decompressobj=isal_zlib.decompressobj)
    )
    return found


@pytest.mark.parametrize("files", [1, 64])
def test_a_bomb_is_unpacked_no_further_than_there_may_be(files: int, unpacked: list[int]) -> None:
    bomb = zipped(*[bytes((64 << 20) // files)] * files)
    made = ZipCheck(Extent(files, 3 << 20))
    made.feed(bomb)
    assert not made.fits(None)
    assert made.excess == "the zip unpacks to more than 3145728 bytes, which are all there may be"
    assert 3 << 20 < sum(unpacked) <= (3 << 20) + PIECE


def test_what_is_stored_as_it_is_counts_too(unpacked: list[int]) -> None:
    target = BytesIO()
    with zipfile.ZipFile(target, "w") as archive:
        archive.writestr("a", bytes(5000))
    made = ZipCheck(Extent(1, 4999))
    for byte in target.getvalue():
        made.feed(bytes([byte]))
    assert "more than 4999 bytes" in made.excess and sum(unpacked) <= 5000


def test_no_more_members_are_looked_at_than_there_may_be(unpacked: list[int]) -> None:
    made = ZipCheck(Extent(100, 1000))
    made.feed(zipped(*[b"x"] * 5000))
    assert not made.fits(None)
    assert made.excess == "the zip holds more than 100 files, which are all there may be"
    assert sum(unpacked) == 100


def test_just_as_much_as_there_may_be_is_sound() -> None:
    made = ZipCheck(Extent(3, 1 << 20))
    made.feed(zipped(bytes(1 << 19), bytes(1 << 19), b""))
    assert (made.fits(None), made.excess) == (True, "")


def test_a_zip_within_a_zip_is_a_file_as_any_other(unpacked: list[int]) -> None:
    """So one that holds itself costs no more than its own size."""
    inner = zipped(bytes(64 << 20))
    made = ZipCheck(Extent(1, len(inner)))
    made.feed(zipped(inner))
    assert made.fits(None) and sum(unpacked) == len(inner)


def test_members_that_share_their_bytes_are_unpacked_once(tmp_path: Path, unpacked: list[int]) -> None:
    content = bytes(1 << 20)
    names = [f"{number:04}" for number in range(1000)]
    target = BytesIO()
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(names[0], content)
        for name in names[1:]:
            archive.filelist.append(info := copy(archive.filelist[0]))
            info.filename = info.orig_filename = name
    made = ZipCheck()
    made.feed(target.getvalue())
    assert not made.fits(None) and sum(unpacked) == len(content)
    told = [Entry(names[0], names[0].encode(), len(content), 0o644, 0.0, "file")]
    with pytest.raises(BadArchive, match="which the manifest does not name"):
        check_zip(target.getvalue(), told)


def test_many_small_files_are_not_held(unpacked: list[int]) -> None:
    bomb = zipped(*[bytes(64 << 10)] * 500)
    tracemalloc.start()
    try:
        assert check(bomb).fits(None)
        assert tracemalloc.get_traced_memory()[1] < 8 << 20
    finally:
        tracemalloc.stop()


def test_a_link_to_a_path_without_end_is_refused_and_of_none_more_than_a_path_is_read() -> None:
    target = BytesIO()
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        info = zipfile.ZipInfo("link")
        info.create_system, info.external_attr = 3, 0o120777 << 16
        archive.writestr(info, b"a" * (64 << 20), zipfile.ZIP_DEFLATED)
    data = target.getvalue()
    told = [Entry("link", b"link", 64 << 20, 0o777, 0.0, "link", "a" * (64 << 10))]
    for expected in (told, None):
        with pytest.raises(BadArchive, match="leads to a path of 67108864 bytes"):
            check_zip(data, expected)
    assert not check(data).fits(told)
    tracemalloc.start()
    try:
        (member,) = list_members(data, targets=True)
        assert tracemalloc.get_traced_memory()[1] < 8 << 20
    finally:
        tracemalloc.stop()
    assert member.target == "a" * (64 << 10)
