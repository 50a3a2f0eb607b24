"""Waiting for changes of files by the kernel's inotify, which Python has no functions for."""

from __future__ import annotations

import ctypes
import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import trio

_MODIFY: Final = 0x00000002
_MOVED_TO: Final = 0x00000080
_CREATE: Final = 0x00000100
_MOVE_SELF: Final = 0x00000800
_ONLYDIR: Final = 0x01000000
_DONT_FOLLOW: Final = 0x02000000
_MASK_ADD: Final = 0x20000000
_ONESHOT: Final = 0x80000000
_ONCE: Final = _ONLYDIR | _DONT_FOLLOW | _ONESHOT
_ANY: Final = _MODIFY | _MOVED_TO | _CREATE | _MOVE_SELF | _ONCE
_NEW: Final = _MOVED_TO | _CREATE | _MASK_ADD | _ONCE
"""Added to what others watch the same directory for, which it would replace."""
_FLAGS: Final = os.O_NONBLOCK | os.O_CLOEXEC  # IN_NONBLOCK and IN_CLOEXEC are the same numbers
_OVERFLOWN: Final = -1
"""The watch that an event names when others were lost."""
_EVENT: Final = struct.Struct("iIII")

_libc = ctypes.CDLL(None, use_errno=True)


class DirectoryWatch:
    """Tells of the first change in a directory since it was armed. `disarm` it when nobody waits any more."""

    def __init__(self, inotify: Inotify, watch: int) -> None:
        self.fired = trio.Event()
        """Set when a file in the directory has been written to or come into it, or the directory has gone:
        which of these is not told."""
        self._inotify = inotify
        self._watch = watch

    def disarm(self) -> None:
        """Idempotent."""
        self._inotify._disarm(self, self._watch)


class Inotify:
    """All watches of this process behind one descriptor: the kernel grants few of them, and takes 10 ms to
    close one. A watch fires once, so that nobody pays for what changes while nobody waits. Somebody has to
    `hear`."""

    def __init__(self) -> None:
        self._descriptor = _libc.inotify_init1(_FLAGS)
        self._armed: dict[int, set[DirectoryWatch]] = {}

    def arm(self, directory: Path) -> DirectoryWatch | None:
        """None where the kernel refuses to (the number of watches is limited), and where there is no such
        directory."""
        return self._arm(directory, _ANY)

    def arm_for_new(self, directory: Path) -> DirectoryWatch | None:
        """The same for who waits until something comes into it, and is not to be woken by what is written to
        what is there."""
        return self._arm(directory, _NEW)

    def _arm(self, directory: Path, mask: int) -> DirectoryWatch | None:
        if self._descriptor < 0:
            return None
        watch = _libc.inotify_add_watch(self._descriptor, os.fsencode(directory), ctypes.c_uint32(mask))
        if watch < 0:
            return None
        armed = DirectoryWatch(self, watch)
        self._armed.setdefault(watch, set()).add(armed)
        return armed

    @contextmanager
    def open_watch(self, directory: Path) -> Iterator[DirectoryWatch | None]:
        """The same for as long as it is open."""
        armed = self.arm(directory)
        try:
            yield armed
        finally:
            if armed is not None:
                armed.disarm()

    async def hear(self) -> None:
        """Hear the kernel until it is cancelled. After that nothing fires, and nothing can be armed."""
        try:
            while self._descriptor >= 0:
                await trio.lowlevel.wait_readable(self._descriptor)
                try:
                    self._dispatch(os.read(self._descriptor, 64 * 1024))
                except BlockingIOError:
                    continue
        finally:
            if self._descriptor >= 0:
                os.close(self._descriptor)
                self._descriptor = -1

    def _dispatch(self, events: bytes) -> None:
        at = 0
        while at < len(events):
            watch, _, _, length = _EVENT.unpack_from(events, at)
            at += _EVENT.size + length
            for number in list(self._armed) if watch == _OVERFLOWN else (watch,):
                # Whatever it is, it is the last of this watch.
                for armed in self._armed.pop(number, ()):
                    armed.fired.set()

    def _disarm(self, armed: DirectoryWatch, watch: int) -> None:
        mine = self._armed.get(watch, set())
        mine.discard(armed)
        if not mine and self._armed.pop(watch, None) is not None and self._descriptor >= 0:
            # It may have fired by now, or have gone with its directory: then the kernel knows it no more.
            _libc.inotify_rm_watch(self._descriptor, watch)
