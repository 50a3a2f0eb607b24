"""The records that a zip is made of, as its writer lays them out and a check finds them again.

An entry has the 64-bit form only if its size or its place asks for it, and the end of the zip only if the
number of entries or their sizes do.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from typing import Final, TypeAlias

STORED: Final = 0
DEFLATED: Final = 8
SUMS_BEHIND: Final = 1 << 3
"""Flag: checksum and sizes follow the data."""
UTF8: Final = 1 << 11

LOCAL: Final = struct.Struct("<4sHHHIIIIHH")
"""Signature, version, flags, method, time, crc, packed bytes, bytes, length of the name, of what is extra."""
CENTRAL: Final = struct.Struct("<4sBBHHHIIIIHHHHHII")
"""Signature, version and system of the maker, then as in LOCAL; length of the comment, disk, attributes,
attributes of the system, place of the local record."""
BEHIND: Final = struct.Struct("<4sIII")
BEHIND_64: Final = struct.Struct("<4sIQQ")
END: Final = struct.Struct("<4sHHHHIIH")
END_64: Final = struct.Struct("<4sQHHIIQQQQ")
LOCATOR: Final = struct.Struct("<4sIQI")
IS_LOCAL: Final = b"PK\3\4"
IS_CENTRAL: Final = b"PK\1\2"
IS_BEHIND: Final = b"PK\7\x08"
IS_END: Final = b"PK\5\6"
IS_END_64: Final = b"PK\6\6"
IS_LOCATOR: Final = b"PK\6\7"
MOST: Final = 0xFFFFFFFF
MOST_ENTRIES: Final = 0xFFFF
EXTRA_64: Final = 1

_SIZES_64: Final = struct.Struct("<HHQQ")
_PLACE_64: Final = struct.Struct("<HHQQQ")
_TIME: Final = struct.Struct("<2sHBl")
_EARLIEST: Final = datetime(1980, 1, 1, tzinfo=UTC).timestamp()
_LATEST: Final = datetime(2107, 12, 31, 23, 59, 58, tzinfo=UTC).timestamp()
_LATEST_UNIX: Final = 2**31 - 1
_UNIX: Final = 3
_IS_DIRECTORY: Final = 0x10


@dataclass(frozen=True, slots=True)
class Member:
    """What is said of an entry before its data. `mode` holds the kind of file too; a directory's name ends
    with a slash."""

    name: str
    mtime: float
    mode: int


_Begun: TypeAlias = tuple[bytes, int, int, tuple[int, int, int, int], int, bytes, bool]
"""Of a member that was begun: name and its length, mode, what is in both its records, its place, what is
extra there, and whether it has the 64-bit form."""


class Records:
    """The records of one zip, in order, and where in it they are."""

    def __init__(self) -> None:
        self._at = 0
        self._central: list[bytes] = []
        self._is_64 = False
        self._begun: _Begun

    def known(self, member: Member, method: int, crc: int, packed: int, size: int) -> bytes:
        """The record before `packed` bytes of data that are known."""
        head = self._local(member, method, UTF8, size if size > packed else packed, (crc, packed, size))
        self._at += packed
        self._note(crc, packed, size)
        return head

    def begin(self, member: Member, most: int) -> bytes:
        """The record before deflated data of `most` bytes or less, which `finish` ends."""
        # What does not compress grows by a little.
        return self._local(member, DEFLATED, UTF8 | SUMS_BEHIND, most + (most >> 8))

    def finish(self, crc: int, packed: int, size: int) -> bytes:
        """What follows the data of the member that was begun."""
        *_, is_64 = self._begun
        behind = (BEHIND_64 if is_64 else BEHIND).pack(IS_BEHIND, crc, packed, size)
        self._at += packed + len(behind)
        self._note(crc, packed, size)
        return behind

    def end(self) -> bytes:
        """All that comes after the last member."""
        directory, count, at = b"".join(self._central), len(self._central), self._at
        if not self._is_64 and count <= MOST_ENTRIES and max(at, len(directory)) <= MOST:
            return directory + END.pack(IS_END, 0, 0, count, count, len(directory), at, 0)
        return b"".join(
            (
                directory,
                END_64.pack(IS_END_64, END_64.size - 12, 45, 45, 0, 0, count, count, len(directory), at),
                LOCATOR.pack(IS_LOCATOR, 0, at + len(directory), 1),
                END.pack(IS_END, 0, 0, MOST_ENTRIES, MOST_ENTRIES, MOST, MOST, 0),
            )
        )

    def _local(
        self, member: Member, method: int, flags: int, most: int, sums: tuple[int, int, int] = (0, 0, 0)
    ) -> bytes:
        crc, packed, size = sums
        is_64 = self._at > MOST or most > MOST
        mtime = member.mtime
        if not _EARLIEST <= mtime <= _LATEST:
            mtime = _EARLIEST if mtime < _EARLIEST else _LATEST
        fixed = (45 if is_64 else 20, flags, method, _dos_time(int(mtime)))
        # Exact and in UTC, but of 32 bits.
        extra = b"" if mtime > _LATEST_UNIX else _TIME.pack(b"UT", 5, 1, int(mtime))
        name = member.name.encode()
        length = len(name)
        self._begun = name, length, member.mode, fixed, self._at, extra, is_64
        if is_64:
            extra = _SIZES_64.pack(EXTRA_64, _SIZES_64.size - 4, size, packed) + extra
            packed = size = MOST
        head = LOCAL.pack(IS_LOCAL, *fixed, crc, packed, size, length, len(extra)) + name + extra
        self._at += len(head)
        return head

    def _note(self, crc: int, packed: int, size: int) -> None:
        name, length, mode, fixed, at, extra, is_64 = self._begun
        if is_64:
            self._is_64 = True
            extra = _PLACE_64.pack(EXTRA_64, _PLACE_64.size - 4, size, packed, at) + extra
            packed = size = at = MOST
        attributes = mode << 16 | (_IS_DIRECTORY if name.endswith(b"/") else 0)
        lengths = (length, len(extra), 0, 0, 0)
        told = (fixed[0], _UNIX, *fixed, crc, packed, size)
        self._central.append(CENTRAL.pack(IS_CENTRAL, *told, *lengths, attributes, at) + name + extra)


@lru_cache(maxsize=64)  # what is in a zip was mostly written in the same second
def _dos_time(mtime: int) -> int:
    at = datetime.fromtimestamp(mtime, UTC)
    date = at.day | at.month << 5 | at.year - 1980 << 9
    return date << 16 | at.second // 2 | at.minute << 5 | at.hour << 11
