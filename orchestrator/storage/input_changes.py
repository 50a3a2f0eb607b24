"""How the inputs of two jobs differ. Bytes are compared piece by piece, and those of one file on disk, which
two names may have, not at all."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from io import BytesIO
from pathlib import Path
from typing import Final

from orchestrator.contract.inputs import InputChangeKind
from orchestrator.storage.upload import StoredInput

PIECE: Final = 1 << 18


def compare_inputs(
    before: Sequence[StoredInput], after: Sequence[StoredInput], most: int
) -> list[tuple[str, InputChangeKind]]:
    """Paths of files that differ, in their order, and how. Files of one length are read, `most` bytes of each
    job at most: those that are left are not_compared. Raises OSError."""
    old = {path: (source, size) for path, source, size in before}
    new = {path: (source, size) for path, source, size in after}
    found: list[tuple[str, InputChangeKind]] = []
    for path in sorted(old.keys() | new.keys()):
        if path not in old:
            found.append((path, "new"))
        elif path not in new:
            found.append((path, "left_out"))
        elif old[path][1] != new[path][1]:
            found.append((path, "changed"))
        elif not _is_same_file(old[path][0], new[path][0]):
            size = new[path][1]
            if size > most:
                found.append((path, "not_compared"))
                continue
            most -= size
            if not _are_equal(old[path][0], new[path][0]):
                found.append((path, "changed"))
    return found


def _is_same_file(one: Path | bytes, other: Path | bytes) -> bool:
    return isinstance(one, Path) and isinstance(other, Path) and one.samefile(other)


def _are_equal(one: Path | bytes, other: Path | bytes) -> bool:
    with ExitStack() as opened:
        first, second = (
            opened.enter_context(source.open("rb") if isinstance(source, Path) else BytesIO(source))
            for source in (one, other)
        )
        while piece := first.read(PIECE):
            if piece != second.read(PIECE):
                return False
        return not second.read(1)
