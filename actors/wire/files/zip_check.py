"""Checking a zip while it is written, in the same pass over its bytes.

This says yes to sound zips as our nodes make them, and to others that are laid out as plainly. What it does
not say yes to may be damaged, or may only be a zip of another form: `zip_reader.check_zip` reads it again and
says which.
"""

from __future__ import annotations

import stat
import struct
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from hashlib import blake2b
from typing import Any, Final, NamedTuple, TypeAlias

from isal import isal_zlib

from actors.wire.files import zip_format as form
from actors.wire.files.listing import Entry, Kind
from actors.wire.files.threaded_iterator import PIECE

_UNDERSTOOD: Final = form.UTF8 | form.SUMS_BEHIND
_NEWEST: Final = 45
"""The version of the format that has the 64-bit form."""
_OTHER_NAME: Final = 0x7075
"""An extra field by which some readers know an entry under another name."""
_LONGEST_TARGET: Final = 64 * 1024
_LINK: Final = stat.S_IFLNK >> 12
_ISAL_ERROR: Final[Any] = isal_zlib.error

_Reading: TypeAlias = Generator[None, None, None]


class _NotPlain(Exception):
    """It is damaged, or of a form that is not looked into here."""


class _Seen(NamedTuple):
    """A member as its data were. `digest`: of all of it, where it is no more than a link's target may be."""

    raw: bytes
    at: int
    flags: int
    method: int
    crc: int
    packed: int
    size: int
    digest: bytes


@dataclass(frozen=True, slots=True)
class Extent:
    """How much there may be in a zip: `members`, and `size`, the bytes that all of them unpack to."""

    members: int
    size: int


class _TooMuch(Exception):
    """There is more in it than there may be; the text says what."""


class ZipCheck:
    """Takes all bytes of a zip, in order, and then tells whether it is sound. Holds what is known of each
    member, and little else.

    `most`: nothing is unpacked beyond that; 70 bytes can unpack to 64 KiB, and many do so together.
    `excess`: what is more, once there is.
    """

    def __init__(self, most: Extent | None = None) -> None:
        self.most = most
        self.excess = ""
        self._unpacked = 0
        self._data = b""
        self._size = 0
        """Bytes of the data."""
        self._place = 0
        """How much of the data was taken."""
        self._at = 0
        self._members: dict[str, tuple[_Seen, Kind]] = {}
        self._reading: _Reading | None = self._read()
        self._is_sound = False

    def feed(self, data: bytes) -> None:
        """The next bytes. Blocks until they are unpacked."""
        if self._reading is None:
            return
        self._keep(self._data[self._place :] + data)
        try:
            next(self._reading)
        except StopIteration:
            self._is_sound = self._place == self._size
            self._reading = None
        except (_NotPlain, _ISAL_ERROR, struct.error, UnicodeDecodeError):
            self._stop()
        except _TooMuch as error:
            self.excess = str(error)
            self._stop()

    def fits(self, expected: Sequence[Entry] | None) -> bool:
        """Whether all of it came, every member unpacks and fits its checksum, and no name is unsafe or there
        twice. With a manifest, the members must be exactly those: path, kind, size, target."""
        self.feed(b"")
        if not self._is_sound or expected is None:
            return self._is_sound
        return len(expected) == len(self._members) and all(map(self._has, expected))

    def _has(self, entry: Entry) -> bool:
        seen, kind = self._members.get(entry.path, (None, None))
        if seen is None or kind != entry.kind or seen.size != entry.size:
            return False
        return kind != "link" or seen.digest == _digest((entry.target or "").encode())

    def _stop(self) -> None:
        self._reading = None
        self._keep(b"")

    def _keep(self, data: bytes) -> None:
        self._data, self._size, self._place = data, len(data), 0

    def _take(self, size: int) -> bytes | None:
        """None if that much is not there yet: then wait for more."""
        end = self._place + size
        if end > self._size:
            return None
        taken = self._data[self._place : end]
        self._place = end
        self._at += size
        return taken

    # ------------------------------------------------------------------ in the order of the zip

    def _read(self) -> _Reading:
        members: list[_Seen] = []
        while (yield from self._signature()) == form.IS_LOCAL:
            if self.most is not None and len(members) == self.most.members:
                raise _TooMuch(
                    f"the zip holds more than {self.most.members} files, which are all there may be"
                )
            members.append((yield from self._member()))
        begin = self._at
        for member in members:
            yield from self._listed(member)
        yield from self._end(len(members), begin)

    def _signature(self) -> Generator[None, None, bytes]:
        """That of the next record, which is not taken by this."""
        while self._size - self._place < 4:
            yield
        return self._data[self._place : self._place + 4]

    def _member(self) -> Generator[None, None, _Seen]:
        at = self._at
        while (record := self._take(form.LOCAL.size)) is None:
            yield
        _, _, flags, method, _, crc, packed, size, name_length, extra_length = form.LOCAL.unpack(record)
        if flags & ~_UNDERSTOOD or method not in (form.STORED, form.DEFLATED):
            raise _NotPlain
        while (named := self._take(name_length + extra_length)) is None:
            yield
        extra = _extra_fields(named[name_length:])
        if form.EXTRA_64 in extra:
            size, packed = _widen(extra, size, packed)
        if method == form.DEFLATED:
            found = yield from self._inflate()
        elif flags & form.SUMS_BEHIND:
            raise _NotPlain
        else:
            found = yield from self._copy(size)
        crc_there, packed_there, size_there, digest = found
        if flags & form.SUMS_BEHIND:
            layout = form.BEHIND_64 if form.EXTRA_64 in extra else form.BEHIND
            while (sums := self._take(layout.size)) is None:
                yield
            behind, crc, packed, size = layout.unpack(sums)
            if behind != form.IS_BEHIND:
                raise _NotPlain
        if (crc, packed, size) != (crc_there, packed_there, size_there):
            raise _NotPlain
        return _Seen(named[:name_length], at, flags, method, crc, packed, size, digest)

    def _count(self, size: int) -> None:
        self._unpacked += size
        if self.most is not None and self._unpacked > self.most.size:
            raise _TooMuch(f"the zip unpacks to more than {self.most.size} bytes, which are all there may be")

    def _inflate(self) -> Generator[None, None, tuple[int, int, int, bytes]]:
        engine = isal_zlib.decompressobj(wbits=-15)
        crc = packed = size = 0
        start = b""
        while not engine.eof:
            if self._place == self._size:
                yield
                continue
            data = self._data[self._place :]
            self._keep(b"")
            packed += len(data)
            more = True
            while not engine.eof and (data or more):
                piece = engine.decompress(data, PIECE)
                data, more = engine.unconsumed_tail, len(piece) == PIECE
                crc = isal_zlib.crc32(piece, crc)
                size += len(piece)
                self._count(len(piece))
                start += piece[: _LONGEST_TARGET - len(start)]
        self._keep(engine.unused_data)
        packed -= len(engine.unused_data)
        self._at += packed
        return crc, packed, size, _digest(start) if size <= _LONGEST_TARGET else b""

    def _copy(self, size: int) -> Generator[None, None, tuple[int, int, int, bytes]]:
        crc, left, start = 0, size, b""
        while left:
            if self._place == self._size:
                yield
                continue
            piece = self._data[self._place : self._place + left]
            taken = len(piece)
            self._place += taken
            self._at += taken
            left -= taken
            self._count(taken)
            crc = isal_zlib.crc32(piece, crc)
            if size <= _LONGEST_TARGET:
                start += piece
        return crc, size, size, _digest(start) if size <= _LONGEST_TARGET else b""

    def _listed(self, member: _Seen) -> _Reading:
        """The zip's directory says the same of a member."""
        while (record := self._take(form.CENTRAL.size)) is None:
            yield
        signature, _, _, version, flags, method, _, crc, packed, size, *rest = form.CENTRAL.unpack(record)
        name_length, extra_length, comment, disk, _, attributes, at = rest
        while (named := self._take(name_length + extra_length)) is None:
            yield
        raw, extra = named[:name_length], _extra_fields(named[name_length:])
        if form.EXTRA_64 in extra:
            size, packed, at = _widen(extra, size, packed, at)
        if signature != form.IS_CENTRAL or version > _NEWEST or comment or disk or _OTHER_NAME in extra:
            raise _NotPlain
        if member[:-1] != (raw, at, flags, method, crc, packed, size):
            raise _NotPlain
        name = raw.decode("utf-8" if flags & form.UTF8 else "ascii")
        is_directory = name[-1:] == "/"
        path = name.rstrip("/") if is_directory else name
        if not path or "\0" in name or name[0] == "/" or (".." in name and ".." in name.split("/")):
            raise _NotPlain
        if path in self._members:
            raise _NotPlain
        is_link = attributes >> 28 == _LINK
        self._members[path] = member, "directory" if is_directory else "link" if is_link else "file"

    def _end(self, count: int, begin: int) -> _Reading:
        told = (0, 0, count, count, self._at - begin, begin)
        most = told
        if (yield from self._signature()) == form.IS_END_64:
            at = self._at
            while (taken := self._take(form.END_64.size + form.LOCATOR.size)) is None:
                yield
            record = form.END_64.unpack_from(taken)
            if record[1] != form.END_64.size - 12 or record[4:] != told:
                raise _NotPlain
            if form.LOCATOR.unpack_from(taken, form.END_64.size) != (form.IS_LOCATOR, 0, at, 1):
                raise _NotPlain
            most = (form.MOST_ENTRIES,) * 4 + (form.MOST,) * 2
        while (taken := self._take(form.END.size)) is None:
            yield
        record = form.END.unpack(taken)
        fits = record[1:7] == told or all(
            one in pair for one, *pair in zip(record[1:7], told, most, strict=True)
        )
        if record[0] != form.IS_END or not fits or record[7]:
            raise _NotPlain


def _digest(data: bytes) -> bytes:
    """What stands for it, as many small files would take much memory."""
    return blake2b(data, digest_size=16).digest()


@lru_cache(maxsize=8)  # mostly a time, which the files of a small job share
def _extra_fields(extra: bytes) -> Mapping[int, bytes]:
    found: dict[int, bytes] = {}
    while extra:
        number, size = struct.unpack_from("<HH", extra)
        if number in found or len(extra) < 4 + size:
            raise _NotPlain
        found[number] = extra[4 : 4 + size]
        extra = extra[4 + size :]
    return found


def _widen(extra: Mapping[int, bytes], *values: int) -> list[int]:
    """Values with those in their places that did not fit 32 bits."""
    if form.EXTRA_64 not in extra:
        return list(values)
    wide = iter(struct.unpack(f"<{values.count(form.MOST)}Q", extra[form.EXTRA_64]))
    return [next(wide) if value == form.MOST else value for value in values]
