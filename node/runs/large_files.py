"""Large files that have come or that scripts have written, given to the disk bit by bit.

A sync of a whole file system gives the disk all at once of what the kernel holds back. Whoever else wants a
small sync waits behind it, for seconds if it is gigabytes: a server on the same disk, say, or the start of
another payload.
"""

from __future__ import annotations

import errno
import os
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final

from actors.process.procfs import bytes_held_back
from actors.store.sync_disk import STEP, write_back
from actors.wire.errors import SourceChanged
from actors.wire.files.listing import OpenTree, TooManyEntries, list_tree

LITTLE: Final = 4 * STEP
"""Bytes that the kernel may hold back of everybody's files for it not to be worth a look."""
LONGEST: Final = 30.0
"""Seconds after which the rest is left to that sync: what a script leaves may take for ever."""
IN_HURRY: Final = 5.0
"""The same where somebody waits for it: who stops a node does so for 20 s, that sync included."""
_LOOKED_AT: Final = 1000
"""Files of a payload; where there are more, most are small."""


def write_large_back(directories: Iterable[Path], hurry: threading.Event | None = None) -> None:
    """Have the large files below each of these directories written, so that a sync that follows finds little
    left. Until there is a `hurry`, the disk is left to others for half of the time; once there is, the rest
    is left to that sync. None: there is one from the begin, and no pause. Of what is deleted meanwhile
    nothing more is written. It makes nothing durable. What cannot be read or written is left to that sync,
    which says so. Blocks, for `LONGEST` or `IN_HURRY` and a step at most."""
    if bytes_held_back() <= LITTLE:
        return
    until = time.monotonic() + (IN_HURRY if hurry is None else LONGEST)
    for directory in directories:
        # The directory may be gone by now, and a script that runs may do anything with its files.
        with suppress(OSError, SourceChanged, TooManyEntries):
            for seconds in _write_back_below(directory):
                if (left := until - time.monotonic()) <= 0:
                    return
                if hurry is not None and hurry.wait(min(seconds, left)):
                    return


def _write_back_below(directory: Path) -> Iterator[float]:
    """After each step, how long it took."""
    listed = list_tree(directory, _LOOKED_AT).entries
    large = [entry for entry in listed if entry.kind == "file" and entry.size > STEP]
    if not large:
        return
    tree = OpenTree(directory)
    try:
        for entry in large:
            fd, _ = tree.open(entry.raw, entry.path)
            try:
                yield from _write_back(fd, entry.size)
            finally:
                os.close(fd)
    finally:
        tree.close()


def _write_back(fd: int, size: int) -> Iterator[float]:
    waited = begun = 0
    while begun < size and os.fstat(fd).st_nlink and (data := _find_data(fd, begun)) is not None:
        # A file may be said to be larger than any disk: there is nothing to be written of its holes.
        begun = max(begun, data - data % STEP)
        end = min(begun + STEP, size)
        began = time.monotonic()
        write_back(fd, waited, begun, end)
        waited, begun = begun, end
        yield time.monotonic() - began


def _find_data(fd: int, start: int) -> int | None:
    """Where there is something in a file from there on."""
    try:
        return os.lseek(fd, start, os.SEEK_DATA)
    except OSError as error:
        if error.errno == errno.ENXIO:
            return None
        raise
