from __future__ import annotations

import os
import tempfile
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from actors.wire.errors import BadRequest
from actors.wire.files.listing import list_tree
from actors.wire.files.names import PathSet, safe_path, spell, unspell


@pytest.mark.parametrize(
    ("sent", "kept"),
    [
        ("run.sh", "run.sh"),
        ("./in.pdb", "in.pdb"),
        ("d//in.pdb", "d/in.pdb"),
        ("sub/./in.pdb", "sub/in.pdb"),
        ("/etc/in.pdb", "in.pdb"),
        ("../../in.pdb", "in.pdb"),
        ("a/../b/in.pdb", "in.pdb"),
        ("C:\\Users\\x\\in.pdb", "in.pdb"),
        ("C:/Users/x/in.pdb", "in.pdb"),
        ("C:\\x\\..\\in.pdb", "in.pdb"),
        ("./C:\\x.pdb", "x.pdb"),
        ("/C:\\x.pdb", "x.pdb"),
        ("d/../C:\\x.pdb", "x.pdb"),
        ("./C://x.pdb", "x.pdb"),
        ("a\\b.pdb", "a\\b.pdb"),
        ("a:b", "a:b"),
        ('a"b.pdb', 'a"b.pdb'),
        ("€ rates.pdb", "€ rates.pdb"),
        ("..hidden", "..hidden"),
        ("a..b/c", "a..b/c"),
        ("x" * 255, "x" * 255),
        ("/" + "y/" * 3000 + "in.pdb", "in.pdb"),
    ],
)
def test_a_safe_relative_path_is_kept_and_a_full_path_gives_its_base_name(sent: str, kept: str) -> None:
    assert safe_path(sent) == kept


@pytest.mark.parametrize(
    "sent",
    [
        *("", ".", "..", "/", "d/", "d/.", "a/..", "/..", "C:\\x\\", "C:\\..", "./."),
        *("a\0b", "a\nb", "a\x7fb", "a\x85b", "\ud800"),
        *("x" * 256, "é" * 128, "d/" * 512 + "x", "d/" * 100 + "x", f"{'d' * 250}/" * 5 + "x"),
    ],
)
def test_what_names_no_file_is_refused(sent: str) -> None:
    with pytest.raises(BadRequest):
        safe_path(sent)


def test_a_refusal_names_the_culprit_in_a_line_of_bounded_length() -> None:
    with pytest.raises(BadRequest, match=r"'bad\\x00name'"):
        safe_path("bad\0name")
    with pytest.raises(BadRequest) as caught:
        safe_path("n" * 5000)
    assert len(caught.value.detail) < 250


@given(st.text() | st.text(alphabet="./\\aC:~\0é", max_size=30))
@example("./C:\\x.pdb")
def test_no_name_ever_leads_out_of_the_directory(sent: str) -> None:
    try:
        path = safe_path(sent)
    except BadRequest:
        return
    assert not os.path.isabs(path)
    assert path == os.path.normpath(path)
    assert os.path.normpath(os.path.join("/job", path)).startswith("/job/")
    assert ".." not in path.split("/")
    assert len(path.encode()) <= 1024
    assert safe_path(path) == path


@pytest.mark.parametrize(
    ("paths", "named"),
    [
        (["in.pdb", "in.pdb"], "in.pdb"),
        (["d", "d/in.pdb"], "d"),
        (["d/in.pdb", "d"], "d"),
        (["a/b", "a/b/c/d"], "a/b"),
        (["a/b/c/d", "a/b"], "a/b"),
    ],
)
def test_two_parts_that_would_be_one_file_are_refused_by_name(paths: list[str], named: str) -> None:
    seen = PathSet()
    for path in paths[:-1]:
        seen.add(path)
    with pytest.raises(BadRequest, match=f"'{named}'"):
        seen.add(paths[-1])


def test_the_comparison_is_made_on_the_path_on_disk() -> None:
    seen = PathSet()
    seen.add(safe_path("in.pdb"))
    seen.add(safe_path("d//in.pdb"))
    with pytest.raises(BadRequest, match=r"'in\.pdb'"):
        seen.add(safe_path("./in.pdb"))
    with pytest.raises(BadRequest, match=r"'d/in\.pdb'"):
        seen.add(safe_path("d/in.pdb"))


def test_siblings_and_names_that_differ_in_case_stand_beside_each_other() -> None:
    seen = PathSet()
    for path in ("d/a", "d/b", "D", "da", "d.x"):
        seen.add(path)


@pytest.mark.parametrize(
    ("raw", "spelled"),
    [
        (b"ok.txt", "ok.txt"),
        (b"r\xe9sultat.txt", "r\ufffdE9sultat.txt"),
        (b"d\xff/z", "d\ufffdFF/z"),
        ("résultat".encode(), "résultat"),
        ("\ufffd".encode(), "\ufffdEF\ufffdBF\ufffdBD"),
        (b"\xed\xa0\x80", "\ufffdED\ufffdA0\ufffd80"),
        (b"\xe2\x82", "\ufffdE2\ufffd82"),
    ],
)
def test_a_name_that_is_no_text_is_spelled_bytewise(raw: bytes, spelled: str) -> None:
    assert spell(raw) == spelled
    assert unspell(spelled) == raw


@given(
    st.binary()
    | st.lists(st.sampled_from([b"\xef\xbf\xbd", b"\xe9", b"E9", b"a", b"\xef", b"\xbd"])).map(b"".join)
)
def test_every_name_is_valid_text_and_comes_back(raw: bytes) -> None:
    spelled = spell(raw)
    spelled.encode()
    assert unspell(spelled) == raw


@given(st.text(alphabet=st.characters() | st.sampled_from("\ufffdEFBD\ud800")))
@example("\ufffd41")
@example("\ufffdC3\ufffdA9")
def test_no_two_spellings_mean_one_name(text: str) -> None:
    try:
        raw = unspell(text)
    except BadRequest:
        return
    assert spell(raw) == text


@pytest.mark.parametrize("text", ["\ufffd", "\ufffde9", "\ufffd41", "a\ufffdZZ", "\udcff"])
def test_a_spelling_that_is_never_written_is_refused(text: str) -> None:
    with pytest.raises(BadRequest):
        unspell(text)


PIECE = st.text(
    st.characters(exclude_categories=["Cc", "Cs"], exclude_characters="/"), min_size=1, max_size=20
) | st.sampled_from(["d", "\ufffd", "e\u0301", "é", "a\\b", "-", "*", "x.", " ", "C:"])


@given(names=st.lists(PIECE, min_size=1, max_size=8), depth=st.integers(1, 110))
@example(names=["d"], depth=100)
@example(names=["d"], depth=101)
@example(names=["x" * 200], depth=5)
def test_what_can_be_uploaded_can_be_collected(names: list[str], depth: int) -> None:
    sent = "/".join((names * depth)[: max(depth, len(names))])
    try:
        path = safe_path(sent)
    except BadRequest:
        return
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        file = root.joinpath(*path.split("/"))
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(b"x")
        found = list_tree(root)
        assert found.left_out == ()
        assert [os.fsdecode(one.raw) for one in found.entries if one.kind == "file"] == [path]
        assert unspell(found.entries[-1].path) == path.encode()
