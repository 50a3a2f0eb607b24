"""Files that are written in place of what is there, by paths as text or not."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from actors.store.durable import overwrite, replace_plainly, write_durably


@pytest.mark.parametrize("content", [b"", b"x", b"12345", b"longer than it was"])
def test_what_is_overwritten_has_the_new_content_and_no_more(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"12345")
    inode = path.stat().st_ino
    overwrite(str(path), content)
    assert path.read_bytes() == content and path.stat().st_ino == inode


def test_what_has_another_name_or_is_a_link_is_not_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"kept")
    (tmp_path / "link").symlink_to(path)
    with pytest.raises(OSError, match="symbolic links"):
        overwrite(tmp_path / "link", b"new")
    (tmp_path / "other").hardlink_to(path)
    with pytest.raises(OSError, match="no file of ours"):
        overwrite(path, b"new")
    assert path.read_bytes() == b"kept"


@pytest.mark.parametrize("as_text", [True, False])
def test_what_is_replaced_leaves_nothing_beside_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, as_text: bool
) -> None:
    monkeypatch.chdir(tmp_path)
    for place in (tmp_path / "file", Path("here")):
        path = str(place) if as_text else place
        replace_plainly(path, b"one")
        write_durably(path, b"two")
        with pytest.raises(FileExistsError):
            write_durably(path, b"three", replace=False)
        assert place.read_bytes() == b"two"
    assert sorted(os.listdir(tmp_path)) == ["file", "here"]
