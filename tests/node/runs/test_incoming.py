"""Files of payloads as they arrive: whole or in pieces, in directories of any name."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio

from actors.wire.errors import BadRequest
from node.runs.workspace import Incoming, Workspace

KEY, OTHER = "a" * 32, "b" * 32


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
