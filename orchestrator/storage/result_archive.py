"""What is in the stored results of a job: the files of its zip, one by one, and what was left out of it.

Everything blocks and belongs into a thread of the storage, inside `Storage.reading`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeAlias

from actors.ports.storage import StorageError
from actors.store.durable import read_small
from actors.wire.errors import BadArchive
from actors.wire.files.listing import Kind
from actors.wire.files.names import spell
from actors.wire.files.zip_reader import OpenMember, ZipMember, ZipSource, list_members, open_member
from orchestrator.storage.bundle import Bundle, directories
from orchestrator.storage.result_sink import MANIFEST, RESULT

_LONGEST_MANIFEST: Final = 256 << 20


@dataclass(frozen=True, slots=True)
class FileEntry:
    """One thing in a job's directory. `path` is spelled (`actors.wire.files.names.spell`); `mtime`
    wall-clock; `target` is where a link points to; `crc` its CRC-32 where that is known."""

    path: str
    size: int
    mode: int
    mtime: float
    kind: Kind
    target: str | None = None
    crc: int | None = None


StoredResult: TypeAlias = Path | Bundle
"""The results of a job: the directory where they are if there are any, or the files themselves."""


def list_stored(result: StoredResult) -> Sequence[FileEntry] | None:
    """What the zip of stored results holds, by path. None if there is no result."""
    try:
        found = list_members(_zip(result), targets=True)
    except FileNotFoundError:
        return None
    except BadArchive as error:
        raise StorageError(f"the stored results are damaged: {error}") from error
    seen = {
        entry["path"]: entry.get("mtime") for entry in _manifest(result).get("entries", ()) if "path" in entry
    }
    return sorted((_to_entry(one, seen.get(one.path)) for one in found), key=lambda one: one.path)


def is_stored(result: StoredResult) -> bool:
    """Whether there is a result at all."""
    return isinstance(result, Bundle) or (result / RESULT).is_file()


def list_bundle(bundle: Bundle) -> Sequence[FileEntry]:
    """The files of a small job's input, and their directories, by path."""
    at = bundle.at / 1e9
    files = [
        FileEntry(spell(path.encode()), len(data), 0o644, at, "file") for path, data in bundle.files.items()
    ]
    around = [FileEntry(spell(path.encode()), 0, 0o755, at, "directory") for path in directories(bundle)]
    return sorted(files + around, key=lambda one: one.path)


def open_stored(result: StoredResult, path: str) -> OpenMember | None:
    """The file at this path, links followed. None if there is no result, no such name, or it is no file."""
    try:
        at = result.at if isinstance(result, Bundle) else (result / RESULT).stat().st_mtime_ns
        return open_member(_zip(result), path, at)
    except FileNotFoundError:
        return None
    except BadArchive as error:
        raise StorageError(f"the stored results are damaged: {error}") from error


def parse_listing(manifest: Any) -> Sequence[FileEntry]:
    """What a manifest names, by path. Raises ValueError for what is none."""
    try:
        found = [
            FileEntry(
                path=str(entry["path"]),
                size=0 if entry["kind"] == "directory" else int(entry["size"]),
                mode=int(entry["mode"]),
                mtime=float(entry["mtime"]),
                kind=entry["kind"],
                target=None if entry["target"] is None else str(entry["target"]),
            )
            for entry in manifest["entries"]
        ]
    except (KeyError, TypeError) as error:
        raise ValueError(f"no manifest: {error}") from error
    return sorted(found, key=lambda one: one.path)


def _to_entry(one: ZipMember, mtime: object) -> FileEntry:
    """With the time that the node saw, which a zip holds only in steps of two seconds."""
    at = float(mtime) if isinstance(mtime, int | float) else one.mtime
    size = 0 if one.kind == "directory" else one.size
    return FileEntry(one.path, size, one.mode or 0o644, at, one.kind, one.target, one.crc)


def _zip(result: StoredResult) -> ZipSource:
    return result.files[RESULT] if isinstance(result, Bundle) else result / RESULT


def _manifest(result: StoredResult) -> Mapping[str, Any]:
    """What the node said of these results. A damaged one is told as what they lack; their files stand for
    themselves."""
    if isinstance(result, Bundle):
        content = result.files[MANIFEST]
    else:
        content = read_small(result / MANIFEST, _LONGEST_MANIFEST) or b""
    try:
        found = json.loads(content.decode())
    except ValueError:
        found = None
    if isinstance(found, dict):
        return found
    return {"left_out": [(MANIFEST, "it is damaged, so what else was left out is not known")]}


def read_left_out(result: StoredResult) -> tuple[tuple[str, str], ...]:
    """What was left out of stored results: pairs of path and reason; none when there is no result."""
    if not isinstance(result, Bundle) and not (result / MANIFEST).exists():
        return ()
    return tuple((str(path), str(why)) for path, why in _manifest(result).get("left_out", ()))
