"""Directories that scripts have made hard to delete. They go, and keep nothing else from going."""

from __future__ import annotations

import os
import resource
from pathlib import Path

import pytest

from node.runs.workspace import Workspace

DEEPER_THAN_A_PATH = 5000
KEYS = ("a" * 32, "b" * 32, "c" * 32)


def made(data: Path) -> Workspace:
    workspace = Workspace(data)
    workspace.prepare()
    for key in KEYS:
        (workspace.payloads / key / "work").mkdir(parents=True)
        (workspace.payloads / key / "work" / "file").write_bytes(b"x")
    return workspace


def deepen(place: Path, mode: int = 0o755) -> None:
    at = os.open(place, os.O_RDONLY | os.O_DIRECTORY)
    for number in range(DEEPER_THAN_A_PATH):
        os.mkdir("deep", dir_fd=at)
        inner = os.open("deep", os.O_RDONLY | os.O_DIRECTORY, dir_fd=at)
        if number % 100 == 0:
            os.close(os.open("file", os.O_CREAT | os.O_WRONLY, dir_fd=inner))
        os.fchmod(at, mode)
        os.close(at)
        at = inner
    os.close(at)


@pytest.mark.parametrize("mode", [0o755, 0o000])
async def test_a_tree_deeper_than_a_path_may_be(tmp_path: Path, mode: int) -> None:
    workspace = made(tmp_path)
    deepen(workspace.payloads / KEYS[0] / "work", mode)
    assert all(map(workspace.discard, KEYS))
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(256, before[1]), before[1]))
    try:
        await workspace.empty_trash()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
    assert os.listdir(tmp_path / "trash") == [] == os.listdir(workspace.payloads)


async def test_links_are_not_followed(tmp_path: Path) -> None:
    workspace = made(tmp_path / "data")
    kept = tmp_path / "kept"
    kept.mkdir()
    (kept / "file").write_bytes(b"kept")
    work = workspace.payloads / KEYS[0] / "work"
    deepen(work)  # for it to be deleted in the way that such trees are
    for place in (work, work / "deep" / "deep"):
        (place / "out").symlink_to(kept)
        (place / "hard").hardlink_to(kept / "file")
    kept.chmod(0o500)
    assert workspace.discard(KEYS[0])
    await workspace.empty_trash()
    assert os.listdir(tmp_path / "data" / "trash") == []
    assert (kept / "file").read_bytes() == b"kept" and kept.stat().st_mode & 0o777 == 0o500
