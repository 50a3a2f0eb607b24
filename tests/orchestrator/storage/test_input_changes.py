"""How the inputs of two jobs differ, as far as that is read."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.storage import input_changes
from orchestrator.storage.input_changes import compare_inputs
from orchestrator.storage.upload import StoredInput


def in_memory(**files: bytes) -> list[StoredInput]:
    return [(path, data, len(data)) for path, data in files.items()]


def on_disk(top: Path, **files: bytes) -> list[StoredInput]:
    top.mkdir()
    for path, data in files.items():
        (top / path).write_bytes(data)
    return [(path, top / path, len(data)) for path, data in files.items()]


@pytest.mark.parametrize("piece", [1, 4, 1 << 18])
@pytest.mark.parametrize("kept", ["in memory", "on disk", "both"])
def test_each_file_that_differs_is_named_once_by_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kept: str, piece: int
) -> None:
    monkeypatch.setattr(input_changes, "PIECE", piece)
    old = {"same": b"12345", "params": b"x=0.1", "longer": b"a", "old": b"gone", "empty": b""}
    new = {"same": b"12345", "params": b"x=0.2", "longer": b"ab", "seed": b"7", "empty": b""}
    before = in_memory(**old) if kept == "in memory" else on_disk(tmp_path / "old", **old)
    after = on_disk(tmp_path / "new", **new) if kept == "on disk" else in_memory(**new)
    assert compare_inputs(before, after, 1000) == [
        ("longer", "changed"),
        ("old", "left_out"),
        ("params", "changed"),
        ("seed", "new"),
    ]
    assert compare_inputs(before, before, 1000) == []


def test_what_is_too_large_is_not_read_and_says_so(tmp_path: Path) -> None:
    before = in_memory(a=b"123", b=b"1234", c=b"12")
    after = in_memory(a=b"124", b=b"1234", c=b"12")
    assert compare_inputs(before, after, 5) == [("a", "changed"), ("b", "not_compared")]
    assert compare_inputs(before, after, 0) == [(path, "not_compared") for path in "abc"]


def test_a_file_that_both_jobs_share_is_not_read(tmp_path: Path) -> None:
    before = on_disk(tmp_path / "old", big=b"12345")
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / "big").hardlink_to(tmp_path / "old" / "big")
    (tmp_path / "old" / "big").chmod(0)
    assert compare_inputs(before, [("big", tmp_path / "new" / "big", 5)], 0) == []
