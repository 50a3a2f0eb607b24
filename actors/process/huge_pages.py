"""Huge pages for what a process has in memory once it has started."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import suppress
from typing import Final

_SIZE: Final = 2 << 20
_MADV_COLLAPSE: Final = 25
_OURS: Final = ("", "[heap]")
"""Names of what was asked of the kernel as plain memory."""


def use_huge_pages() -> int:
    """Have the kernel put this process's heap, as far as there is one by now, on pages of 2 MiB; how many. An
    interpreter reads all over its heap, and on a virtual machine each page that it looks up costs two walks
    through tables: a tenth of a job's CPU. No more memory is used, as stacks and what is not there yet are
    left alone. Blocks for some 5 ms a page, without the interpreter's lock. 0 where the kernel cannot do it
    (before Linux 6.1)."""
    with suppress(OSError, AttributeError):
        advise = ctypes.CDLL(None).madvise
        advise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
        return sum(advise(at, _SIZE, _MADV_COLLAPSE) == 0 for at in list(_find_heap()))
    return 0


def _find_heap() -> Iterator[int]:
    """Where a huge page of it may begin. Below a stack is a page that nobody may touch."""
    guard_ends = 0
    with open("/proc/self/maps") as maps:
        for line in maps:
            area, rights, _, _, _, *name = line.split()
            start, end = (int(one, 16) for one in area.split("-"))
            if rights == "rw-p" and (name or [""])[0] in _OURS and start != guard_ends:
                yield from range(-(-start // _SIZE) * _SIZE, end - _SIZE + 1, _SIZE)
            guard_ends = end if rights == "---p" else 0
