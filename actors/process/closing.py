"""Closing this process to others of its own account."""

from __future__ import annotations

from contextlib import suppress
from typing import Final

_PR_SET_DUMPABLE: Final = 4


def close_to_others() -> None:
    """From now on nobody but root may look into this process or attach to it, not even the same user, and it
    leaves no core: its memory and its environment hold secrets. What it starts is as open as ever. Not where
    /proc shows only what one may look into: there it would look dead to whoever watches it."""
    with suppress(OSError, AttributeError):
        if not _hides_processes():
            import ctypes

            ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)


def _hides_processes() -> bool:
    with open("/proc/self/mounts", "rb") as mounts:
        return any(line.split()[2] == b"proc" and b"hidepid=" in line for line in mounts)
