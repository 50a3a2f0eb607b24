"""What is in the stored results of a job: the files of its zip, one by one, and what was left out of it.

Everything blocks and belongs into a thread of the storage, inside `Storage.reading`.
"""

from __future__ import annotations

import json
import posixpath
import stat
import zipfile
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any, Final

from actors.ports.storage import StorageError
from actors.wire.files.listing import Kind

HOPS: Final = 16
"""Links that are followed from one name."""


@dataclass(frozen=True, slots=True)
class FileEntry:
    """One thing in a job's directory. `path` is spelled (`actors.wire.files.names.spell`); `mtime`
    wall-clock; `target` is where a link points to."""

    path: str
    size: int
    mode: int
    mtime: float
    kind: Kind
    target: str | None = None


@dataclass(frozen=True, slots=True)
class Member:
    """A file of a zip, open for reading. `crc` and the zip's own tag say which bytes it has."""

    size: int
    crc: int
    zip_mtime_ns: int
    archive: zipfile.ZipFile
    file: IO[bytes]

    def close(self) -> None:
        self.file.close()
        self.archive.close()


def list_stored(result: Path) -> Sequence[FileEntry] | None:
    """What the zip in a job's `result` directory holds, by path. None if there is no result."""
    try:
        with zipfile.ZipFile(result / "result.zip") as archive:
            found = [_stored(info, archive) for info in archive.infolist()]
    except FileNotFoundError:
        return None
    except (zipfile.BadZipFile, NotImplementedError) as error:
        raise StorageError(f"the stored results are damaged: {error}") from error
    parse_listing = {
        entry["path"]: entry for entry in _manifest(result).get("entries", ()) if "path" in entry
    }
    return sorted((_refined(one, parse_listing.get(one.path)) for one in found), key=lambda one: one.path)


def open_member(result: Path, path: str) -> Member | None:
    """The file at this path, links followed. None if there is no result, no such name, or it is no file."""
    try:
        archive = zipfile.ZipFile(result / "result.zip")
    except FileNotFoundError:
        return None
    except zipfile.BadZipFile as error:
        raise StorageError(f"the stored results are damaged: {error}") from error
    try:
        info = _find(archive, path)
        if info is None:
            archive.close()
            return None
        mtime_ns = (result / "result.zip").stat().st_mtime_ns
        return Member(info.file_size, info.CRC, mtime_ns, archive, archive.open(info))
    except (zipfile.BadZipFile, NotImplementedError) as error:
        archive.close()
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


def _find(archive: zipfile.ZipFile, path: str) -> zipfile.ZipInfo | None:
    for _ in range(HOPS):
        try:
            info = archive.getinfo(path)
        except KeyError:
            return None
        if _kind(info) == "directory":
            return None
        if _kind(info) == "file":
            return info
        target = archive.read(info).decode("utf-8", "replace")
        path = posixpath.normpath(posixpath.join(posixpath.dirname(path), target))
    return None


def _kind(info: zipfile.ZipInfo) -> Kind:
    if info.is_dir():
        return "directory"
    return "link" if stat.S_ISLNK(info.external_attr >> 16) else "file"


def _stored(info: zipfile.ZipInfo, archive: zipfile.ZipFile) -> FileEntry:
    kind = _kind(info)
    target = archive.read(info).decode("utf-8", "replace") if kind == "link" else None
    mode = (info.external_attr >> 16) & 0o7777
    try:
        mtime = datetime(*info.date_time, tzinfo=UTC).timestamp()
    except ValueError:
        mtime = 315532800.0  # 1980, the first that a zip can hold
    size = 0 if kind == "directory" else info.file_size
    return FileEntry(info.filename.rstrip("/"), size, mode or 0o644, mtime, kind, target)


def _refined(one: FileEntry, entry: Mapping[str, Any] | None) -> FileEntry:
    """With the time that the node saw, which a zip holds only in steps of two seconds."""
    mtime = entry.get("mtime") if entry is not None else None
    if not isinstance(mtime, int | float):
        return one
    return FileEntry(one.path, one.size, one.mode, float(mtime), one.kind, one.target)


def _manifest(result: Path) -> Mapping[str, Any]:
    try:
        read = json.loads((result / "manifest.json").read_bytes())
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise StorageError(f"the stored manifest is damaged: {error}") from error
    return read if isinstance(read, dict) else {}


class SkippedFiles:
    """What was left out of results, remembered for the jobs that are looked at: a manifest may be large."""

    def __init__(self, most: int = 256) -> None:
        self._most = most
        self._known: OrderedDict[tuple[str, int], tuple[tuple[str, str], ...]] = OrderedDict()

    def read(self, result: Path) -> tuple[tuple[str, str], ...]:
        """Pairs of path and reason; none when there is no result."""
        try:
            key = (str(result), (result / "manifest.json").stat().st_mtime_ns)
        except FileNotFoundError:
            return ()
        if key not in self._known:
            pairs = _manifest(result).get("left_out", ())
            self._known[key] = tuple((str(path), str(why)) for path, why in pairs)
            while len(self._known) > self._most:
                self._known.popitem(last=False)
        return self._known[key]
