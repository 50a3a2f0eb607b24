"""Files of ours that are written in their place."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from actors.store.durable import overwrite


@pytest.mark.parametrize("before", [b"", b"short", b"just so long", b"much longer than what comes"])
@pytest.mark.parametrize("synced", [True, False])
def test_nothing_is_left_of_what_was_there(tmp_path: Path, before: bytes, synced: bool) -> None:
    path = tmp_path / "file"
    path.write_bytes(before)
    inode = path.stat().st_ino
    overwrite(path, b"what comes  ", synced=synced)
    assert path.read_bytes() == b"what comes  " and path.stat().st_ino == inode


@pytest.mark.parametrize("into", ["link", "hard link", "fifo", "directory", "nothing"])
def test_what_is_no_file_of_ours_is_not_written(tmp_path: Path, into: str) -> None:
    path, other = tmp_path / "file", tmp_path / "other"
    other.write_bytes(b"of somebody else")
    if into == "link":
        path.symlink_to(other)
    elif into == "hard link":
        path.hardlink_to(other)
    elif into == "fifo":
        os.mkfifo(path)
    elif into == "directory":
        path.mkdir()
    with pytest.raises(OSError, match=r"no file of ours|links|device|directory|No such file"):
        overwrite(path, b"ours")
    assert other.read_bytes() == b"of somebody else"
