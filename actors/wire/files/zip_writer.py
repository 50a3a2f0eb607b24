"""A directory as a zip, written while it is sent.

Names are spelled as `paths.spell` does, also in the targets of links; permission bits are kept (not setuid
and its like); times are UTC and clamped to what a zip can hold; links are links. Anything that knows zips can
read it: an entry has the 64-bit form only if its size or its place asks for it, and the end of the zip only
if the number of entries or their sizes do. Holes of files are packed without being read.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Generator, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from isal import isal_zlib
from stream_zip import ZIP_AUTO, MemberFile, Method, stream_zip

from actors.wire.errors import SourceChanged
from actors.wire.files.listing import Entry, Kind, Listing, OpenTree, list_tree, open_regular
from actors.wire.files.names import printable
from actors.wire.files.threaded_iterator import PIECE, ThreadedIterator

__all__ = ["Entry", "Kind", "Listing", "list_tree", "zip_pieces", "zip_stream"]

_EARLIEST: Final = datetime(1980, 1, 1, tzinfo=UTC).timestamp()
_LATEST: Final = datetime(2107, 12, 31, 23, 59, 58, tzinfo=UTC).timestamp()
_LATEST_UNIX: Final = 2**31 - 1
_ZEROS: Final = bytes(PIECE)
_BLOCK: Final = 512
"""Bytes that `st_blocks` counts by."""


@dataclass(frozen=True, slots=True)
class _ZipEntry:
    """An entry of the tree, or a file `beside` it that goes by the entry's name."""

    entry: Entry
    beside: Path | None = None


def zip_stream(
    root: Path,
    entries: Sequence[Entry],
    extra: Sequence[tuple[str, Path]] = (),
    *,
    strict: bool = False,
    left_out: list[tuple[str, str]] | None = None,
) -> ThreadedIterator:
    """The zip of these entries of `list_tree(root)`, as an async iterator of pieces of about 256 KiB.

    `extra` are (name in the zip, regular file anywhere), for what belongs to a job and is not in its
    directory; one whose name an entry has is dropped. Compressing happens in threads, memory stays small, and
    the iterator may be left in the middle.

    Strict (the directory is frozen): SourceChanged when anything is not as it was listed. Otherwise (the
    script still runs) each file is taken up to the size it was listed with, or less if it shrank, and what is
    no longer a readable file is skipped and appended to `left_out`. OSError when the disk fails.
    """
    return ThreadedIterator(zip_pieces(root, entries, extra, strict=strict, left_out=left_out))


def zip_pieces(
    root: Path,
    entries: Sequence[Entry],
    extra: Sequence[tuple[str, Path]] = (),
    *,
    strict: bool = False,
    left_out: list[tuple[str, str]] | None = None,
) -> Generator[bytes, None, None]:
    """The same as a generator that blocks, for what is put together with more in a thread."""
    return _Packing(strict, [] if left_out is None else left_out).bytes(root, entries, extra)


class _Packing:
    def __init__(self, strict: bool, left_out: list[tuple[str, str]]) -> None:
        self._strict = strict
        self._left_out = left_out

    def bytes(
        self, root: Path, entries: Sequence[Entry], extra: Sequence[tuple[str, Path]]
    ) -> Generator[bytes, None, None]:
        with ExitStack() as stack:
            tree = OpenTree(root)
            stack.callback(tree.close)
            items = [*map(_ZipEntry, entries), *self._extras({entry.path for entry in entries}, extra)]
            members = self._members(tree, items)
            # Closed at once, and before the tree: it may be within a file.
            stack.callback(members.close)
            latest = max((item.entry.mtime for item in items), default=0.0)
            yield from stream_zip(
                members,
                chunk_size=PIECE,
                get_compressobj=_compressor,
                # The extended form is exact and in UTC, but has 32 bits: one later file would break all.
                extended_timestamps=latest <= _LATEST_UNIX,
            )

    def _extras(self, taken: set[str], extra: Sequence[tuple[str, Path]]) -> Iterator[_ZipEntry]:
        for name, path in extra:
            if name in taken:
                continue
            with self._tolerant(name):
                handle = open_regular(path, name)
                try:
                    found = os.fstat(handle)
                finally:
                    os.close(handle)
                mode = stat.S_IMODE(found.st_mode)
                yield _ZipEntry(Entry(name, b"", found.st_size, mode, found.st_mtime, "file"), path)

    def _members(self, tree: OpenTree, items: Sequence[_ZipEntry]) -> Generator[MemberFile, None, None]:
        for item in items:
            entry = item.entry
            if entry.kind != "file":
                yield _without_file(entry)
                continue
            handle = -1
            with self._tolerant(entry.path):
                beside = item.beside
                handle = open_regular(beside, entry.path) if beside else tree.open(entry.raw)
            if handle >= 0:
                try:
                    data = _data(handle, entry, self._strict)
                    mode = stat.S_IFREG | (entry.mode & 0o777)
                    yield entry.path, _time(entry.mtime), mode, _Needed(entry.size), data
                finally:
                    os.close(handle)

    @contextmanager
    def _tolerant(self, name: str) -> Iterator[None]:
        try:
            yield
        except SourceChanged as error:
            if self._strict:
                raise
            self._left_out.append((name, error.detail))


class _Needed(Method):
    """The form with 32 bits for an entry of this size, with 64 if it needs them."""

    def __init__(self, size: int) -> None:
        # What does not compress grows by a little.
        self._method = ZIP_AUTO(size + (size >> 8))

    def _get(self, offset: int, default_get_compressobj: Any) -> Any:
        form, upgrade, _, *rest = self._method._get(offset, default_get_compressobj)
        return form, upgrade, default_get_compressobj, *rest


def _compressor() -> Any:
    return _Compressor()


class _Compressor:
    """Deflates; `_ZEROS`, of which holes are made, are deflated once for all."""

    def __init__(self) -> None:
        self._deflate = isal_zlib.compressobj(level=1, wbits=-15)
        self._begun = False

    def compress(self, piece: bytes) -> bytes:
        if piece is not _ZEROS:
            self._begun = True
            return bytes(self._deflate.compress(piece))
        # What stands before ends with its byte, and what comes after refers to nothing before.
        before = bytes(self._deflate.flush(isal_zlib.Z_FULL_FLUSH)) if self._begun else b""
        self._begun = False
        return before + _DEFLATED_ZEROS

    def flush(self) -> bytes:
        return bytes(self._deflate.flush())


def _deflated_zeros() -> bytes:
    deflate = isal_zlib.compressobj(level=1, wbits=-15)
    return bytes(deflate.compress(_ZEROS) + deflate.flush(isal_zlib.Z_FULL_FLUSH))


_DEFLATED_ZEROS: Final = _deflated_zeros()


def _without_file(entry: Entry) -> MemberFile:
    if entry.kind == "directory":
        mode = stat.S_IFDIR | (entry.mode & 0o777)
        return entry.path + "/", _time(entry.mtime), mode, _Needed(0), ()
    data = (entry.target or "").encode()
    return entry.path, _time(entry.mtime), stat.S_IFLNK | 0o777, _Needed(len(data)), (data,)


def _data(handle: int, entry: Entry, strict: bool) -> Iterator[bytes]:
    found = os.fstat(handle)
    if strict and found.st_size != entry.size:
        told = f"{found.st_size} bytes, {entry.size} were listed"
        raise SourceChanged(f"file {printable(entry.path)} has {told}")
    sparse = found.st_blocks * _BLOCK < found.st_size
    left = entry.size
    while left:
        if sparse and (hole := min(left, _hole(handle))) >= PIECE:
            left -= hole
            os.lseek(handle, hole, os.SEEK_CUR)
            yield from (_ZEROS for _ in range(hole // PIECE))
            yield bytes(hole % PIECE)
            continue
        if not (piece := os.read(handle, min(PIECE, left))):
            break
        left -= len(piece)
        yield piece
    if strict and (left or os.read(handle, 1)):
        raise SourceChanged(f"file {printable(entry.path)} changed while it was packed")


def _hole(handle: int) -> int:
    """Bytes from here to the next data, or to the end; 0 where the file system knows of no holes."""
    at = os.lseek(handle, 0, os.SEEK_CUR)
    try:
        return os.lseek(handle, at, os.SEEK_DATA) - at
    except OSError as error:
        return max(0, os.fstat(handle).st_size - at) if error.errno == errno.ENXIO else 0
    finally:
        os.lseek(handle, at, os.SEEK_SET)


def _time(mtime: float) -> datetime:
    return datetime.fromtimestamp(min(max(mtime, _EARLIEST), _LATEST), UTC)
