"""Waiting for what other processes do to files, by the kernel's word."""

from __future__ import annotations

import ctypes
import os
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Final

import trio

PATIENCE: Final = 60.0

_MODIFY, _MOVED_FROM, _MOVED_TO, _CREATE, _DELETE = 0x2, 0x40, 0x80, 0x100, 0x200
_ANY: Final = _MODIFY | _MOVED_FROM | _MOVED_TO | _CREATE | _DELETE
_OVERFLOW, _OF_DIRECTORY = 0x4000, 0x40000000
_EVENT: Final = struct.Struct("iIII")
"""Watch, mask, cookie, and how many bytes of a name follow."""
_libc = ctypes.CDLL(None, use_errno=True)


async def until(found: Callable[[], bool], below: Path, within: float = PATIENCE) -> None:
    """Return once `found` says so; it is asked again whenever something changes below a directory."""
    descriptor = _libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
    assert descriptor >= 0, os.strerror(ctypes.get_errno())
    try:
        with trio.fail_after(within):
            # Watched before it is looked at: what happens between the two is an event that waits.
            _watch(descriptor, os.fspath(below))
            is_new = True
            while True:
                for directory, inner, _ in os.walk(below) if is_new else ():
                    for name in inner:
                        _watch(descriptor, os.path.join(directory, name))
                if found():
                    return
                await trio.lowlevel.wait_readable(descriptor)
                is_new = _tell_of_directories(os.read(descriptor, 1 << 16))
    finally:
        os.close(descriptor)


def _watch(descriptor: int, directory: str) -> None:
    _libc.inotify_add_watch(descriptor, os.fsencode(directory), ctypes.c_uint32(_ANY))


def _tell_of_directories(events: bytes) -> bool:
    """Whether there may be directories that are not watched: thousands of files alone make none."""
    position = 0
    while position < len(events):
        _, mask, _, length = _EVENT.unpack_from(events, position)
        if mask & _OVERFLOW or (mask & _OF_DIRECTORY and mask & (_CREATE | _MOVED_TO)):
            return True
        position += _EVENT.size + length
    return False


def all_files(top: Path) -> list[Path]:
    """What there is below a directory, but for directories; it may change meanwhile."""
    return [Path(where) / name for where, _, names in os.walk(top) for name in names]
