"""Files of payloads as they arrive: whole or in pieces, in directories of any name."""

from __future__ import annotations

import errno
import os
import time
from pathlib import Path

import pytest
import trio

from actors.store import sync_disk
from actors.store.sync_disk import STEP
from actors.wire.errors import BadRequest
from node.payloads.operations import Arrival
from node.payloads.records import Records
from node.payloads.table import open_table
from node.runs import workspace as workspace_module
from node.runs.workspace import Incoming, Workspace

KEY, OTHER = "a" * 32, "b" * 32


class Clock:
    def now(self) -> float:
        return time.time()


def begun(data: Path) -> Incoming:
    workspace = Workspace(data)
    workspace.prepare()
    incoming = workspace.receive()
    incoming.add(KEY, OTHER)
    return incoming


def files_of(incoming: Incoming, name: str) -> dict[str, bytes]:
    root = Path(incoming.directory(name))
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


async def test_whole_files_and_pieces_go_where_they_belong(tmp_path: Path) -> None:
    incoming = begun(tmp_path)
    incoming.put(KEY, "run.sh", b"exit 0\n")
    incoming.put(KEY, "empty", b"")
    # Called as the directory of the script is.
    incoming.put(KEY, "work/a", b"a")
    incoming.open(KEY, "work/work/b")
    await incoming.write(b"b1")
    incoming.put(KEY, "d/e/f", b"f")
    await incoming.write(b"b2")
    incoming.open(OTHER, "d/e/f")
    await trio.to_thread.run_sync(incoming.write_out)
    assert files_of(incoming, KEY) == {
        "work/run.sh": b"exit 0\n",
        "work/empty": b"",
        "work/work/a": b"a",
        "work/work/work/b": b"b1b2",
        "work/d/e/f": b"f",
    }
    assert files_of(incoming, OTHER) == {"work/d/e/f": b""}
    modes = [(tmp_path / incoming.directory(KEY) / name).stat().st_mode & 0o777 for name in (".", "work")]
    assert modes == [0o700, 0o755]
    await incoming.close()
    assert list((tmp_path / "incoming").iterdir()) == []


async def test_large_files_are_given_to_the_disk_as_they_come(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or the next sync of anybody would wait for all of them at once."""
    given: list[tuple[int, int, int]] = []
    monkeypatch.setattr(sync_disk, "write_back", lambda fd, *step: given.append(step))
    incoming = begun(tmp_path)
    for name, pieces in (("large", 10), ("small", 3), ("larger", 13)):
        incoming.open(KEY, name)
        for _ in range(pieces):
            await incoming.write(bytes(STEP // 4))
    await trio.to_thread.run_sync(incoming.write_out)
    await incoming.close()
    two = [(0, 0, STEP), (0, STEP, 2 * STEP)]
    assert given == [*two, *two, (STEP, 2 * STEP, 3 * STEP)]


async def test_what_is_dropped_is_not_written(tmp_path: Path) -> None:
    incoming = begun(tmp_path)
    for name in (KEY, OTHER):
        incoming.put(name, "run.sh", b"exit 0\n")
        incoming.put(name, "d/a", b"a")
        incoming.open(name, "e/b")
        await incoming.write(b"b")
    await incoming.drop(KEY)
    await trio.to_thread.run_sync(incoming.write_out)
    assert [path.name[-32:] for path in (tmp_path / "incoming").iterdir()] == [OTHER]
    assert files_of(incoming, OTHER) == {"work/run.sh": b"exit 0\n", "work/d/a": b"a", "work/e/b": b"b"}
    await incoming.drop(OTHER)
    assert list((tmp_path / "incoming").iterdir()) == []


@pytest.mark.parametrize(("first", "second"), [("a", "a"), ("a", "a/b"), ("a/b", "a")])
async def test_two_files_at_one_place_are_refused(tmp_path: Path, first: str, second: str) -> None:
    incoming = begun(tmp_path)
    incoming.put(KEY, first, b"")
    with pytest.raises(BadRequest):
        incoming.put(KEY, second, b"")
    incoming.put(OTHER, second, b"")
    await incoming.close()


async def test_a_file_that_stands_there_is_not_written_through(tmp_path: Path) -> None:
    incoming = begun(tmp_path)
    incoming.put(KEY, "a", b"")
    incoming.write_out()
    kept = tmp_path / "kept"
    kept.write_bytes(b"kept")
    (Path(incoming.directory(KEY)) / "work" / "b").symlink_to(kept)
    incoming.put(KEY, "b", b"new")
    with pytest.raises(FileExistsError):
        incoming.write_out()
    assert kept.read_bytes() == b"kept"
    await incoming.close()


async def test_none_is_taken_over_whose_files_a_full_disk_did_not_take(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_all = workspace_module.write_all

    def fill_disk(fd: int, content: bytes) -> None:
        """It has room for all but what is large."""
        if len(content) > 100:
            os.write(fd, content[:10])
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        write_all(fd, content)

    monkeypatch.setattr(workspace_module, "write_all", fill_disk)
    records, workspace = Records(tmp_path, boot="boot"), Workspace(tmp_path)
    workspace.prepare()
    taken_over, refused = list[str](), list[int | None]()

    async def submit(key: str, content: bytes) -> None:
        incoming = workspace.receive()
        incoming.add(key)
        incoming.put(key, "input", content)
        incoming.put(key, "run.sh", b"exit 0\n")
        try:
            await table.accept([Arrival(key, incoming.directory(key))], incoming.write_out)
            incoming.hand_over(key)
            taken_over.append(key)
        except OSError as error:
            refused.append(error.errno)
        await incoming.close()

    async with open_table(records, Clock()) as table, trio.open_nursery() as nursery:
        # The others come together, after the first: each is tried again by itself.
        for key in (KEY, OTHER, "c" * 32):
            nursery.start_soon(submit, key, b"x" * 1000)
        nursery.start_soon(submit, "d" * 32, b"small")
    records.close()
    assert taken_over == ["d" * 32] and refused == [errno.ENOSPC] * 3
    assert os.listdir(tmp_path / "payloads") == ["d" * 32]
