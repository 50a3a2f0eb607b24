"""A directory as a zip, written while it is sent.

Names are spelled as `paths.spell` does, also in the targets of links; permission bits are kept (not setuid
and its like); times are UTC and clamped to what a zip can hold; links are links. Anything that knows zips can
read it: the 64-bit form is used only where the size or the number of files asks for it.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Generator, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from isal import isal_zlib
from stream_zip import ZIP_32, ZIP_64, MemberFile, Method, stream_zip

from actors.wire.errors import SourceChanged
from actors.wire.files.listing import Entry, Kind, Listing, OpenTree, list_tree, open_regular
from actors.wire.files.names import printable
from actors.wire.files.threaded_iterator import PIECE, ThreadedIterator

__all__ = ["Entry", "Kind", "Listing", "list_tree", "zip_pieces", "zip_stream"]

_EARLIEST: Final = datetime(1980, 1, 1, tzinfo=UTC).timestamp()
_LATEST: Final = datetime(2107, 12, 31, 23, 59, 58, tzinfo=UTC).timestamp()
_LATEST_UNIX: Final = 2**31 - 1
_SMALL: Final = 2 << 30
_FEW: Final = 60_000
_OVERHEAD: Final = 256


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
        method = _method([item.entry for item in items])
        for item in items:
            entry = item.entry
            if entry.kind != "file":
                yield _without_file(entry, method)
                continue
            handle = -1
            with self._tolerant(entry.path):
                beside = item.beside
                handle = open_regular(beside, entry.path) if beside else tree.open(entry.raw)
            if handle >= 0:
                try:
                    data = _data(handle, entry, self._strict)
                    mode = stat.S_IFREG | (entry.mode & 0o777)
                    yield entry.path, _time(entry.mtime), mode, method, data
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


def _compressor() -> Any:
    return isal_zlib.compressobj(level=1, wbits=-15)


def _method(entries: Sequence[Entry]) -> Method:
    estimate = sum(entry.size + 3 * len(entry.path.encode()) + _OVERHEAD for entry in entries)
    return ZIP_32 if estimate < _SMALL and len(entries) < _FEW else ZIP_64


def _without_file(entry: Entry, method: Method) -> MemberFile:
    if entry.kind == "directory":
        mode = stat.S_IFDIR | (entry.mode & 0o777)
        return entry.path + "/", _time(entry.mtime), mode, method, ()
    data = (entry.target or "").encode()
    return entry.path, _time(entry.mtime), stat.S_IFLNK | 0o777, method, (data,)


def _data(handle: int, entry: Entry, strict: bool) -> Iterator[bytes]:
    if strict and (found := os.fstat(handle).st_size) != entry.size:
        raise SourceChanged(f"file {printable(entry.path)} has {found} bytes, {entry.size} were listed")
    left = entry.size
    while left and (piece := os.read(handle, min(PIECE, left))):
        left -= len(piece)
        yield piece
    if strict and (left or os.read(handle, 1)):
        raise SourceChanged(f"file {printable(entry.path)} changed while it was packed")


def _time(mtime: float) -> datetime:
    return datetime.fromtimestamp(min(max(mtime, _EARLIEST), _LATEST), UTC)
