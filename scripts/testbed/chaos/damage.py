"""Files torn while nobody lives who writes them, as by a machine that went down or a disk that failed."""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

OF_A_NODE: Final = (
    *("payloads/*/record.json", "payloads/*/running", "payloads/*/intent", "payloads/*/manifest.json"),
    *("payloads/*/run", "payloads/*/ended", "payloads/*/ended.*"),
    *("tombstones/*", "node.json", "counter", "reserve/space", "spawner.lock"),
)
OF_THE_SERVER: Final = (
    *("data/jobs/*/*/job.json", "data/jobs/*/*/job_id", "data/jobs/*/*/result/manifest.json"),
    *("data/last_id", "*.reserve/space"),
)
"""Beside the ledger. Neither an input nor a result: no promise holds of bytes that the disk has lost."""


@dataclass(frozen=True, slots=True)
class Torn:
    """What was done to a file. `kind` is the pattern that it was found by, `key` that of its payload, "" if
    it is no payload's."""

    path: Path
    kind: str
    way: str
    key: str


def _empty(path: Path) -> None:
    os.truncate(path, 0)


def _halve(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def _zero(path: Path) -> None:
    with path.open("r+b") as file:
        file.write(bytes(os.fstat(file.fileno()).st_size))


WAYS: Final[Mapping[str, Callable[[Path], None]]] = {
    "cut in half": _halve,
    "emptied": _empty,
    "zeroed": _zero,
    "removed": os.unlink,
}


def tear(directory: Path, kinds: tuple[str, ...], way: str, rng: random.Random) -> Torn | None:
    """Damage one file of one of these kinds, those of payloads before the others. None if there is none, or
    it has gone in the meantime: a shepherd lives on while its node is down."""
    found = {kind: sorted(path for path in directory.glob(kind) if path.is_file()) for kind in kinds}
    if way == "removed":
        found.pop("tombstones/*", None)  # nothing tells any more that there was one
    there = [kind for kind, paths in found.items() if paths]
    if not there:
        return None
    kind = rng.choices(there, [3 if kind.startswith("payloads/") else 1 for kind in there])[0]
    path = rng.choice(found[kind])
    with suppress(FileNotFoundError):
        WAYS[way](path)
        parts = path.relative_to(directory).parts
        return Torn(path, kind, way, parts[1] if parts[0] in ("payloads", "tombstones") else "")
    return None
