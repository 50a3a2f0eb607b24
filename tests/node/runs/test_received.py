"""What is noted of large files of an input as they arrive."""

from __future__ import annotations

import os
import zlib
from pathlib import Path

import pytest
import trio

from actors.wire.files.listing import list_tree
from node.executors.executor import WORK
from node.runs.received import await_tick, changes_are_told, is_as_received, read_received
from node.runs.workspace import Workspace


async def arrived(workspace: Workspace, files: dict[str, bytes]) -> Path:
    """The directory of a payload whose files have come in pieces."""
    incoming = workspace.receive()
    incoming.add("one")
    for name, data in files.items():
        incoming.open("one", name)
        for start in range(0, len(data), 100_000):
            await incoming.write(data[start : start + 100_000])
    await trio.to_thread.run_sync(incoming.write_out)
    incoming.hand_over("one")
    return Path(incoming.directory("one"))


async def test_what_is_large_is_noted_and_known_until_it_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("node.runs.workspace.changes_are_told", lambda _: True)
    workspace = Workspace(tmp_path)
    workspace.prepare()
    files = {"a/é": os.urandom(2_000_000), "b": os.urandom(1 << 20), "c": os.urandom(1_100_000)}
    directory = await arrived(workspace, files)
    noted = read_received(directory)
    assert {path: file.crc for path, file in noted.items()} == {
        name: zlib.crc32(files[name]) for name in ("a/é", "c")
    }
    work = directory / WORK
    entries = {entry.path: entry for entry in list_tree(work).entries}
    await_tick(directory)
    for name, crc in (("a/é", zlib.crc32(files["a/é"])), ("b", None), ("c", zlib.crc32(files["c"]))):
        with (work / name).open("rb") as file:
            assert is_as_received(file.fileno(), entries[name], noted) == crc
    (work / "c").write_bytes(files["c"])
    with (work / "c").open("rb") as file:
        assert is_as_received(file.fileno(), entries["c"], noted) is None


async def test_where_changes_are_not_told_nothing_is_noted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("node.runs.workspace.changes_are_told", lambda _: False)
    workspace = Workspace(tmp_path)
    workspace.prepare()
    assert read_received(await arrived(workspace, {"a": bytes(2_000_000)})) == {}


@pytest.mark.parametrize(
    ("mounts", "told"),
    [
        ("1 0 8:1 / / rw - ext4 /dev/sda rw", True),
        ("1 0 8:1 / / rw shared:1 - xfs /dev/sda rw", True),
        ("1 0 8:1 / / rw - ext4 /dev/sda rw\n2 1 0:5 / {here} rw - tmpfs none rw", False),
        ("1 0 8:1 / / rw - ext4 /dev/sda rw\n2 1 0:5 / {here} rw - nfs4 host:/ rw", False),
        ("1 0 8:1 / / rw - ext4 /dev/sda rw\n2 1 0:5 / {here} rw - fuse.sshfs x rw", False),
        ("1 0 8:1 / / rw - ext4 /dev/sda rw\n2 1 0:5 / {here}x rw - tmpfs none rw", True),
        ("1 0 0:5 / / rw - overlay overlay rw\n2 1 8:1 / {here} rw - btrfs /dev/sdb rw", True),
        ("1 0 0:5 / / rw - overlay overlay rw", False),
        ("", False),
    ],
)
def test_only_file_systems_that_tell_of_each_change_are_believed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mounts: str, told: bool
) -> None:
    place = tmp_path / "a b"
    place.mkdir()
    here = os.path.realpath(place).replace(" ", "\\040")
    monkeypatch.setattr(Path, "read_text", lambda *_: mounts.format(here=here))
    assert changes_are_told(place) is told
