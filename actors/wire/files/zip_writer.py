"""A directory as a zip, written while it is sent.

Names are spelled as `paths.spell` does, also in the targets of links; permission bits are kept (not setuid
and its like); times are UTC and clamped to what a zip can hold; links are links. Anything that knows zips can
read it (`zip_format.py`). What does not shrink in its first MiB is not compressed. Holes of files are packed
without being read.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from struct import Struct
from typing import Final, TypeAlias, cast

from isal import isal_zlib

from actors.wire.errors import SourceChanged
from actors.wire.files.listing import Entry, Kind, Listing, OpenTree, list_tree, open_and_stat
from actors.wire.files.names import printable
from actors.wire.files.threaded_iterator import PIECE, ThreadedIterator
from actors.wire.files.zip_format import DEFLATED, STORED, Member, Records

__all__ = ["Entry", "Kind", "Listing", "list_tree", "zip_pieces", "zip_stream"]

_ZEROS: Final = bytes(PIECE)
_BLOCK: Final = 512
"""Bytes that `st_blocks` counts by."""
_TRIED: Final = 1 << 20
"""Bytes of a file by which it is judged whether it is worth compressing."""
_WORTH: Final = 0.95
"""What these have to shrink to."""
_LEAST: Final = 16
"""Bytes of a file for which it is not even tried."""
_MOST_AS_IS: Final = 65535
_AS_IS: Final = Struct("<BHH")
"""What stands before bytes that are not compressed, in deflated data: they may end up so at any place of it,
as they could not in a zip's other form, whose sum has to be known before."""


@dataclass(frozen=True, slots=True)
class Known:
    """A file that the reader has. In the zip are `size` bytes of it as they are; it is left to the reader to
    put them there. `crc` is their checksum."""

    path: str
    size: int
    crc: int


IsKnown: TypeAlias = Callable[[int, Entry], int | None]
"""Given a file's descriptor and its entry: the checksum of what the reader has already; None if it has not
got it."""


@dataclass(frozen=True, slots=True)
class Content:
    """A small file that was read already, with its mode and its time."""

    name: str
    data: bytes
    mode: int
    mtime: float


Extra: TypeAlias = tuple[str, Path] | Content
"""What is not in the tree: a name in the zip and a regular file anywhere, or its content."""


def zip_stream(
    root: Path | str,
    entries: Sequence[Entry],
    extra: Sequence[Extra] = (),
    *,
    strict: bool = False,
    left_out: list[tuple[str, str]] | None = None,
) -> ThreadedIterator:
    """The zip of these entries of `list_tree(root)`, as an async iterator of pieces of about 256 KiB.

    `extra` is for what belongs to a job and is not in its directory; one whose name an entry has is dropped.
    Compressing happens in threads, memory stays small, and the iterator may be left in the middle.

    Strict (the directory is frozen): SourceChanged when anything is not as it was listed. Otherwise (the
    script still runs) each file is taken up to the size it was listed with, or less if it shrank, and what is
    no longer a readable file is skipped and appended to `left_out`. OSError when the disk fails.
    """
    return ThreadedIterator(zip_pieces(root, entries, extra, strict=strict, left_out=left_out))


def zip_pieces(
    root: Path | str,
    entries: Sequence[Entry],
    extra: Sequence[Extra] = (),
    *,
    strict: bool = False,
    left_out: list[tuple[str, str]] | None = None,
) -> Generator[bytes, None, None]:
    """The same as a generator that blocks, for what is put together with more in a thread."""
    packing = _Packing(strict, [] if left_out is None else left_out, None)
    return cast(Generator[bytes, None, None], packing.parts(root, entries, extra))


def zip_parts(
    root: Path | str, entries: Sequence[Entry], extra: Sequence[Extra], is_known: IsKnown | None
) -> Generator[bytes | Known, None, None]:
    """The same, strict, for a reader who has some of the files."""
    return _Packing(True, [], is_known).parts(root, entries, extra)


class _Packing:
    def __init__(self, strict: bool, left_out: list[tuple[str, str]], is_known: IsKnown | None) -> None:
        self._strict = strict
        self._left_out = left_out
        self._is_known = is_known
        self._records = Records()

    def parts(
        self, root: Path | str, entries: Sequence[Entry], extra: Sequence[Extra]
    ) -> Generator[bytes | Known, None, None]:
        tree = OpenTree(root)
        try:
            for entry in entries:
                if entry.kind != "file":
                    yield self._without_content(entry)
                elif (opened := self._open_entry(tree, entry)) is None:
                    continue
                else:
                    yield from self._file(*opened, entry)
            taken = {entry.path for entry in entries}
            for one in extra:
                if isinstance(one, Content):
                    if one.name not in taken:
                        yield self._whole(one.name, one.mtime, stat.S_IFREG | (one.mode & 0o777), one.data)
                elif one[0] not in taken:
                    yield from self._beside(*one)
            yield self._records.end()
        finally:
            tree.close()

    def _open_entry(self, tree: OpenTree, entry: Entry) -> tuple[int, os.stat_result] | None:
        try:
            return tree.open(entry.raw, entry.path)
        except SourceChanged as error:
            self._miss(entry.path, error)
            return None

    def _miss(self, name: str, error: SourceChanged) -> None:
        """Go on without it, unless all has to be as it was listed."""
        if self._strict:
            raise error
        self._left_out.append((name, error.detail))

    def _beside(self, name: str, path: Path) -> Iterator[bytes | Known]:
        """A file anywhere, that goes by this name."""
        try:
            handle, found = open_and_stat(path, name)
        except SourceChanged as error:
            self._miss(name, error)
            return
        entry = Entry(name, b"", found.st_size, stat.S_IMODE(found.st_mode), found.st_mtime, "file")
        yield from self._file(handle, found, entry)

    def _without_content(self, entry: Entry) -> bytes:
        if entry.kind == "directory":
            return self._whole(entry.path + "/", entry.mtime, stat.S_IFDIR | (entry.mode & 0o777), b"")
        target = (entry.target or "").encode()
        return self._whole(entry.path, entry.mtime, stat.S_IFLNK | 0o777, target)

    def _file(self, handle: int, found: os.stat_result, entry: Entry) -> Iterable[bytes | Known]:
        """An open file, which is closed by the end."""
        if self._strict and found.st_size != entry.size:
            os.close(handle)
            told = f"{found.st_size} bytes, {entry.size} were listed"
            raise SourceChanged(f"file {printable(entry.path)} has {told}")
        return (self._small(handle, entry),) if entry.size <= PIECE else self._large(handle, found, entry)

    def _small(self, handle: int, entry: Entry) -> bytes:
        """A file that is read whole. Closes it."""
        try:
            # One more than there should be, to see whether there is more.
            data = os.read(handle, entry.size + 1) if entry.size else b""
            while 0 < len(data) < entry.size and (piece := os.read(handle, entry.size + 1 - len(data))):
                data += piece
        finally:
            os.close(handle)
        if len(data) != entry.size:
            if self._strict:
                raise _changed_meanwhile(entry)
            data = data[: entry.size]
        return self._whole(entry.path, entry.mtime, stat.S_IFREG | (entry.mode & 0o777), data)

    def _large(self, handle: int, found: os.stat_result, entry: Entry) -> Iterator[bytes | Known]:
        """A file that comes in pieces. Closes it."""
        try:
            yield from self._packed(handle, found, entry)
        finally:
            os.close(handle)

    def _packed(self, handle: int, found: os.stat_result, entry: Entry) -> Iterator[bytes | Known]:
        member = Member(entry.path, entry.mtime, stat.S_IFREG | (entry.mode & 0o777))
        crc = None if self._is_known is None else self._is_known(handle, entry)
        if crc is not None:
            yield self._records.known(member, STORED, crc, entry.size, entry.size)
            yield Known(entry.path, entry.size, crc)
            return
        yield self._records.begin(member, entry.size)
        compressor, crc, size, packed = _Compressor(), 0, 0, 0
        for piece in _data(handle, found, entry, self._strict):
            crc = isal_zlib.crc32(piece, crc)
            size += len(piece)
            done = compressor.compress(piece)
            packed += len(done)
            yield done
        done = compressor.flush()
        yield done
        yield self._records.finish(crc, packed + len(done), size)

    def _whole(self, name: str, mtime: float, mode: int, data: bytes) -> bytes:
        """A member with its data, which are all at hand."""
        member, size = Member(name, mtime, mode), len(data)
        crc = isal_zlib.crc32(data)
        if size > _LEAST:
            packed = isal_zlib.compress(data, 1, -15)
            if len(packed) < size:
                return self._records.known(member, DEFLATED, crc, len(packed), size) + packed
        return self._records.known(member, STORED, crc, size, size) + data


def _changed_meanwhile(entry: Entry) -> SourceChanged:
    return SourceChanged(f"file {printable(entry.path)} changed while it was packed")


class _Compressor:
    """Deflates, until it is seen that this is of no use; `_ZEROS`, of which holes are made, are deflated once
    for all."""

    def __init__(self) -> None:
        self._deflate = isal_zlib.compressobj(level=1, wbits=-15)
        self._begun = False
        self._taken = self._made = 0
        self._judged = self._as_is = False

    def compress(self, piece: bytes) -> bytes:
        if piece is _ZEROS:
            return self._break() + _DEFLATED_ZEROS
        if self._as_is:
            return _leave_as_is(piece)
        self._begun = True
        made = bytes(self._deflate.compress(piece))
        self._taken += len(piece)
        self._made += len(made)
        if self._taken >= _TRIED and not self._judged:
            self._judged = True
            ended = self._break()
            made += ended
            self._as_is = self._made + len(ended) > _WORTH * self._taken
        return made

    def flush(self) -> bytes:
        return bytes(self._deflate.flush())

    def _break(self) -> bytes:
        """What stands before ends with its byte, and what comes after refers to nothing before."""
        before = bytes(self._deflate.flush(isal_zlib.Z_FULL_FLUSH)) if self._begun else b""
        self._begun = False
        return before


def _leave_as_is(data: bytes) -> bytes:
    view = memoryview(data)
    parts: list[bytes | memoryview] = []
    for start in range(0, len(data), _MOST_AS_IS):
        part = view[start : start + _MOST_AS_IS]
        parts += [_AS_IS.pack(0, len(part), len(part) ^ 0xFFFF), part]
    return b"".join(parts)


def _deflated_zeros() -> bytes:
    deflate = isal_zlib.compressobj(level=1, wbits=-15)
    return bytes(deflate.compress(_ZEROS) + deflate.flush(isal_zlib.Z_FULL_FLUSH))


_DEFLATED_ZEROS: Final = _deflated_zeros()


def _data(handle: int, found: os.stat_result, entry: Entry, strict: bool) -> Iterator[bytes]:
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
        raise _changed_meanwhile(entry)


def _hole(handle: int) -> int:
    """Bytes from here to the next data, or to the end; 0 where the file system knows of no holes."""
    at = os.lseek(handle, 0, os.SEEK_CUR)
    try:
        return os.lseek(handle, at, os.SEEK_DATA) - at
    except OSError as error:
        return max(0, os.fstat(handle).st_size - at) if error.errno == errno.ENXIO else 0
    finally:
        os.lseek(handle, at, os.SEEK_SET)
