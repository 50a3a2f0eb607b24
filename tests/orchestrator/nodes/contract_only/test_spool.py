"""The spool keeps nothing of an earlier life, and touches nothing that it did not write."""

from __future__ import annotations

import os
import zipfile
from collections.abc import AsyncGenerator
from contextlib import aclosing
from pathlib import Path

import pytest

from actors.kernel.clock import WallClock
from actors.wire.errors import BadArchive, TooLarge
from orchestrator.nodes.contract_only import spool
from orchestrator.nodes.contract_only.marker import MARKER
from orchestrator.nodes.contract_only.spool import CONTRACT_RESULT_LIMIT, MOST_FILES, Spool
from orchestrator.storage.storage import DiskStorage


async def _rest() -> AsyncGenerator[bytes, None]:
    yield b"of it"


async def test_a_file_in_its_place_makes_room(tmp_path: Path) -> None:
    (tmp_path / "spool").write_bytes(b"\0")
    written = await Spool(tmp_path / "spool").write(b"all ", _rest())
    assert written.read_bytes() == b"all of it"


async def test_what_an_earlier_life_left_goes_and_what_is_not_ours_stays(tmp_path: Path) -> None:
    (tmp_path / "1.zip").write_bytes(b"left")
    (tmp_path / "notes").mkdir()
    (tmp_path / "somebody.txt").write_text("theirs")

    written = await Spool(tmp_path).write(b"all ", _rest())
    assert written.read_bytes() == b"all of it"
    assert sorted(os.listdir(tmp_path)) == ["1.zip", "notes", "somebody.txt"]


@pytest.mark.parametrize(("files", "size"), [(2, CONTRACT_RESULT_LIMIT // 2 + 1), (MOST_FILES + 1, 0)])
async def test_a_bomb_is_neither_unpacked_nor_stored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, files: int, size: int
) -> None:
    if files > 2:
        monkeypatch.setattr(spool, "MOST_FILES", 100)
        files = 101
    bomb = tmp_path / "bomb.zip"
    with zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(MARKER, "a" * 32)
        for number in range(files):
            archive.writestr(f"{number}.txt", b"0")
        if size:
            # Whoever reads it is told so before it is unpacked.
            for info in archive.infolist()[1:]:
                info.file_size = size
    kept = Spool(tmp_path / "spool")
    contents = await kept.inspect(bomb)
    assert contents.marker == "a" * 32
    storage = DiskStorage(tmp_path / "data", WallClock())
    await storage.open()
    sink = storage.receive_result("b" * 32, "a" * 32)
    with pytest.raises(BadArchive, match=r"the most that is stored|the limit \(contract_result_limit\)"):
        await kept.store(bomb, sink)
    await sink.abort()


async def test_more_bytes_than_are_taken_are_refused_and_none_are_kept(tmp_path: Path) -> None:
    assert (await Spool(tmp_path, limit=9).write(b"all ", _rest())).read_bytes() == b"all of it"
    async with aclosing(_rest()) as rest:
        with pytest.raises(TooLarge, match=r"more than 8 bytes, which is the limit \(contract_result_limit"):
            await Spool(tmp_path, limit=8).write(b"all ", rest)
    assert os.listdir(tmp_path) == []
