"""A zip that is checked while it comes: what is said to be sound is what the other check finds sound."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Sequence
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from actors.wire.files import zip_format
from actors.wire.files.listing import Entry, list_tree
from actors.wire.files.zip_check import ZipCheck
from actors.wire.files.zip_reader import check_zip
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


@settings(max_examples=10, deadline=None)
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


@settings(max_examples=300, deadline=None)
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
