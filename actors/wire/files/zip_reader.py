"""Looking into a zip that came from elsewhere. All of this blocks: call it in a thread."""

from __future__ import annotations

import errno
import stat
import struct
import zipfile
import zlib
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final

from actors.wire.errors import BadArchive
from actors.wire.files.listing import Entry, Kind
from actors.wire.files.names import printable
from actors.wire.files.threaded_iterator import PIECE

_METHODS: Final = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
_TARGET_LIMIT: Final = 64 * 1024


@dataclass(frozen=True, slots=True)
class ZipMember:
    """A member as the zip's directory tells it. `path` has no slash at its end; `mode` holds the permission
    bits, 0 if the zip tells none."""

    path: str
    size: int
    mode: int
    kind: Kind


def members(path: Path) -> tuple[ZipMember, ...]:
    """What is in the zip, in its order. Raises BadArchive, also for a name that is unsafe or there twice."""
    with _open_zip(path) as archive:
        return tuple(_member(info) for info in _infos(archive))


def check_zip(path: Path, expected: Sequence[Entry] | None) -> None:
    """Read all of the zip once: every member must unpack and fit its checksum, and no name may be unsafe or
    there twice. With a manifest, the members must be exactly those: path, kind, size, target. Raises
    BadArchive with what is wrong, OSError when the disk fails. Memory stays small."""
    with _open_zip(path) as archive:
        missing = None if expected is None else {entry.path: entry for entry in expected}
        for info in _infos(archive):
            member = _member(info)
            entry = None
            if missing is not None:
                entry = missing.pop(member.path, None)
                if entry is None:
                    raise BadArchive(
                        f"the zip holds {printable(member.path)}, which the manifest does not name"
                    )
                _compare(member, entry)
            _verify(archive, info, member, entry)
        if missing:
            raise BadArchive(f"the zip lacks {printable(next(iter(missing)))} and {len(missing) - 1} others")


def open_member(path: Path, name: str) -> Generator[bytes, None, None]:
    """The bytes of one member in pieces of 256 KiB, checked at the end. KeyError when it is not there or is a
    directory, BadArchive when it is damaged. Close it, or read it to its end: it holds the file open.
    `ThreadedIterator(open_member(…))` reads it from a task."""
    with _open_zip(path) as archive:
        info = archive.getinfo(name)
        if info.is_dir():
            raise KeyError(name)
        _check_supported(info)
        with archive.open(info) as source:
            yield from _pieces(source)


@contextmanager
def _open_zip(path: Path) -> Iterator[zipfile.ZipFile]:
    with _damage("the zip is damaged"), zipfile.ZipFile(path) as archive:
        yield archive


@contextmanager
def _damage(said: str) -> Iterator[None]:
    """All the ways in which zipfile says that something is wrong with a zip."""
    try:
        yield
    except OSError as error:
        if error.errno != errno.EINVAL:  # a seek to a place before the beginning
            raise
        raise BadArchive(f"{said}: an offset in it leads nowhere") from None
    except (zipfile.BadZipFile, zlib.error, struct.error, EOFError, NotImplementedError, ValueError) as error:
        raise BadArchive(f"{said}: {error or 'it ends early'}") from None


def _infos(archive: zipfile.ZipFile) -> Iterator[zipfile.ZipInfo]:
    seen: set[str] = set()
    for info in archive.infolist():
        name = info.filename.rstrip("/")
        if "\0" in info.orig_filename or name.startswith("/") or not name or ".." in name.split("/"):
            raise BadArchive(f"the zip holds an unsafe name, {printable(info.orig_filename)}")
        if name in seen:
            raise BadArchive(f"the zip holds {printable(name)} twice")
        seen.add(name)
        _check_supported(info)
        yield info


def _check_supported(info: zipfile.ZipInfo) -> None:
    if info.flag_bits & 1:
        raise BadArchive(f"the zip holds {printable(info.filename)} encrypted")
    if info.compress_type not in _METHODS:
        raise BadArchive(f"the zip holds {printable(info.filename)} in a compression that is not known")


def _member(info: zipfile.ZipInfo) -> ZipMember:
    mode = info.external_attr >> 16
    kind: Kind = "directory" if info.is_dir() else "link" if stat.S_ISLNK(mode) else "file"
    return ZipMember(info.filename.rstrip("/"), info.file_size, stat.S_IMODE(mode), kind)


def _compare(member: ZipMember, entry: Entry) -> None:
    if member.kind != entry.kind:
        raise BadArchive(
            f"{printable(entry.path)} is a {member.kind} in the zip and a {entry.kind} in the manifest"
        )
    if member.size != entry.size:
        raise BadArchive(
            f"{printable(entry.path)} has {member.size} bytes in the zip and {entry.size} in the manifest"
        )


def _verify(archive: zipfile.ZipFile, info: zipfile.ZipInfo, member: ZipMember, entry: Entry | None) -> None:
    size = 0
    start = b""
    with _damage(f"{printable(member.path)} is damaged in the zip"), archive.open(info) as source:
        for piece in _pieces(source):
            size += len(piece)
            start = start or piece[:_TARGET_LIMIT]
    if size != member.size:
        raise BadArchive(f"{printable(member.path)} has {size} bytes in the zip, which says {member.size}")
    if entry is not None and entry.kind == "link" and start != (entry.target or "").encode():
        raise BadArchive(f"the link {printable(member.path)} leads elsewhere in the zip than in the manifest")


def _pieces(source: IO[bytes]) -> Iterator[bytes]:
    while piece := source.read(PIECE):
        yield piece
