"""The spool keeps nothing of an earlier life, and touches nothing that it did not write."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from pathlib import Path

from orchestrator.nodes.contract_only.spool import Spool


async def _rest() -> AsyncIterator[bytes]:
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
