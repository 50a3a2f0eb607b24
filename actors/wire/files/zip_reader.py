"""Looking into a zip that came from elsewhere. All of this blocks: call it in a thread."""

from __future__ import annotations

import errno
import posixpath
import stat
import struct
import zipfile
import zlib
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from io import BufferedReader, BytesIO, FileIO
from pathlib import Path
from typing import IO, Any, Final, TypeAlias

from isal import isal_zlib

from actors.wire.errors import BadArchive
from actors.wire.files.listing import Entry, Kind
from actors.wire.files.names import printable
from actors.wire.files.threaded_iterator import PIECE

ZipSource: TypeAlias = Path | bytes
"""Where a zip is, or all of it."""

_METHODS: Final = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
_ISAL_ERROR: Final[Any] = isal_zlib.error
_SAID_OF_DAMAGE: Final[tuple[type[Exception], ...]] = (
    zipfile.BadZipFile,
    zlib.error,
    _ISAL_ERROR,
    struct.error,
    EOFError,
    NotImplementedError,
    ValueError,
)
_TARGET_LIMIT: Final = 64 * 1024
_MOST_AT_ONCE: Final = 64 << 20
"""Bytes of a zip's directory, which is read at once and takes many times as much memory."""


_HOPS: Final = 16
"""Links that are followed from one name."""

_FIRST_TIME: Final = 315532800.0  # 1980


@dataclass(frozen=True, slots=True)
class ZipMember:
    """A member as the zip's directory tells it. `path` has no slash at its end; `mode` holds the permission
    bits, 0 if the zip tells none; `mtime` is wall-clock, in steps of two seconds. `target` is where a link
    points to, if it was asked for."""

    path: str
    size: int
    mode: int
    kind: Kind
    mtime: float
    crc: int
    target: str | None = None


@dataclass(frozen=True, slots=True)
class OpenMember:
    """A file of a zip, open for reading from any place. `crc` and the zip's own time say which bytes it
    has."""

    size: int
    crc: int
    zip_mtime_ns: int
    file: IO[bytes]
    close: Callable[[], None]


def list_members(path: ZipSource, *, targets: bool = False) -> Sequence[ZipMember]:
    """What is in the zip, in its order, with the `targets` of links if so wanted. Raises BadArchive, also for
    a name that is unsafe or there twice, OSError."""
    with _open_zip(path) as archive:
        return [_member(info, archive if targets else None) for info in _infos(archive)]


def check_zip(path: ZipSource, expected: Sequence[Entry] | None) -> None:
    """Read all of the zip once: every member must unpack and fit its checksum, and no name may be unsafe or
    there twice. With a manifest, the members must be exactly those: path, kind, size, target. Raises
    BadArchive with what is wrong, OSError when the disk fails. Memory stays small."""
    with _open_zip(path) as archive:
        missing = None if expected is None else {entry.path: entry for entry in expected}
        for info in _infos(archive):
            member = _member(info)
            if member.kind == "link" and member.size > _TARGET_LIMIT:
                raise BadArchive(
                    f"the link {printable(member.path)} leads to a path of {member.size} bytes in the zip,"
                    f" and {_TARGET_LIMIT} are the limit"
                )
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


def open_member(path: ZipSource, name: str, mtime_ns: int) -> OpenMember | None:
    """The file of this name, links followed, in the zip that was made at `mtime_ns`. None if there is no such
    name, or it is no file. Raises BadArchive, OSError."""
    with ExitStack() as undo:
        archive = undo.enter_context(_open_zip(path))
        for _ in range(_HOPS):
            try:
                info = archive.getinfo(name)
            except KeyError:
                return None
            member = _member(info, archive)
            if member.kind == "file":
                file = undo.enter_context(archive.open(info))
                return OpenMember(member.size, member.crc, mtime_ns, file, undo.pop_all().close)
            if member.target is None:
                return None
            name = posixpath.normpath(posixpath.join(posixpath.dirname(name), member.target))
    return None


def read_member(path: ZipSource, name: str) -> Generator[bytes, None, None]:
    """The bytes of one member in pieces of 256 KiB, checked at the end. KeyError when it is not there or is a
    directory, BadArchive when it is damaged. Close it, or read it to its end: it holds the file open.
    `ThreadedIterator(read_member(…))` reads it from a task."""
    with _open_zip(path) as archive:
        info = archive.getinfo(name)
        if info.is_dir():
            raise KeyError(name)
        _check_supported(info)
        with archive.open(info) as source:
            yield from _pieces(source)


@contextmanager
def _open_zip(source: ZipSource) -> Iterator[zipfile.ZipFile]:
    opened = BytesIO(source) if isinstance(source, bytes) else _Sips(FileIO(source))
    with opened, _damage("the zip is damaged"), zipfile.ZipFile(opened) as archive:
        yield archive


class _Sips(BufferedReader):
    """A file of which nobody reads very much at once, however much it says that there is."""

    def read(self, size: int | None = -1, /) -> bytes:
        if size is not None and size > _MOST_AT_ONCE:
            raise BadArchive(
                f"the zip's directory is said to have {size} bytes, and {_MOST_AT_ONCE} are the limit"
            )
        return super().read(size)


@contextmanager
def _damage(said: str) -> Iterator[None]:
    """All the ways in which zipfile says that something is wrong with a zip."""
    try:
        yield
    except OSError as error:
        if error.errno != errno.EINVAL:  # a seek to a place before the beginning
            raise
        raise BadArchive(f"{said}: an offset in it leads nowhere") from None
    except _SAID_OF_DAMAGE as error:
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


def _member(info: zipfile.ZipInfo, archive: zipfile.ZipFile | None = None) -> ZipMember:
    """With the target of a link, if `archive` is given."""
    mode = info.external_attr >> 16
    kind: Kind = "directory" if info.is_dir() else "link" if stat.S_ISLNK(mode) else "file"
    try:
        mtime = datetime(*info.date_time, tzinfo=UTC).timestamp()
    except ValueError:
        mtime = _FIRST_TIME
    target = None
    if kind == "link" and archive is not None:
        with archive.open(info) as source:
            target = source.read(_TARGET_LIMIT).decode("utf-8", "replace")
    path = info.filename.rstrip("/")
    return ZipMember(path, info.file_size, stat.S_IMODE(mode), kind, mtime, info.CRC, target)


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
        if info.compress_type == zipfile.ZIP_DEFLATED:
            # Holes of a file unpack to a lot of nothing: six times as fast with this one.
            vars(source)["_decompressor"] = isal_zlib.decompressobj(wbits=-zlib.MAX_WBITS)
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
