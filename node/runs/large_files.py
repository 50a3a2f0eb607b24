"""Large files that have come or that scripts have written, given to the disk bit by bit.

A sync of a whole file system gives the disk all at once of what the kernel holds back. Whoever else wants a
small sync waits behind it, for seconds if it is gigabytes: a server on the same disk, say, or the start of
another payload.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final

from actors.process.procfs import bytes_held_back
from actors.store.sync_disk import write_back
from actors.wire.errors import SourceChanged
from actors.wire.files.listing import OpenTree, TooManyEntries, list_tree

STEP: Final = 8 << 20
"""Bytes that the disk is given at a time."""
LITTLE: Final = 4 * STEP
"""Bytes that the kernel may hold back of everybody's files for it not to be worth a look."""
_LOOKED_AT: Final = 1000
"""Files of a payload; where there are more, most are small."""


def write_large_back(directories: Iterable[Path], *, in_no_hurry: bool = False) -> None:
    """Have the large files below each of these directories written, so that a sync that follows finds little
    left. In no hurry, the disk is left to others for half of the time; of what is deleted meanwhile nothing
    more is written. It makes nothing durable. What cannot be read or written is left to that sync, which says
    so. Blocks."""
    if bytes_held_back() <= LITTLE:
        return
    for directory in directories:
        # The directory may be gone by now, and a script that runs may do anything with its files.
        with suppress(OSError, SourceChanged, TooManyEntries):
            for seconds in _write_back_below(directory):
                if in_no_hurry:
                    time.sleep(seconds)


def _write_back_below(directory: Path) -> Iterator[float]:
    """After each step, how long it took."""
    listed = list_tree(directory, _LOOKED_AT).entries
    large = [entry for entry in listed if entry.kind == "file" and entry.size > STEP]
    if not large:
        return
    tree = OpenTree(directory)
    try:
        for entry in large:
            fd = tree.open(entry.raw)
            try:
                yield from _write_back(fd, entry.size)
            finally:
                os.close(fd)
    finally:
        tree.close()


def _write_back(fd: int, size: int) -> Iterator[float]:
    waited = begun = 0
    for end in (*range(STEP, size, STEP), size):
        if not os.fstat(fd).st_nlink:
            return
        began = time.monotonic()
        write_back(fd, waited, begun, end)
        waited, begun = begun, end
        yield time.monotonic() - began
