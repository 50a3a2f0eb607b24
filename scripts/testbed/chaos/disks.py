"""A small file system for each machine, so that its inodes can be used up without anybody else's."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

import trio

_BALLAST: Final = ".ballast"
_AGAIN: Final = 0.1
"""Seconds after which what was given up meanwhile is used up, too."""


class Disks:
    """Mounted with so many inodes at each of these places, in a mount namespace that is ours alone."""

    def __init__(self, inodes: Mapping[Path, int]) -> None:
        self._places = list(inodes)
        for place, number in inodes.items():
            place.mkdir()
            _run("mount", "-t", "tmpfs", "-o", f"mode=755,nr_inodes={number}", "chaos", str(place))
            (place / _BALLAST).mkdir()

    async def use_up(self, place: Path, seconds: float) -> bool:
        """Use up all inodes for so long, those included that somebody gives up meanwhile. Whether there was a
        moment without any."""
        ballast, used_up, names = place / _BALLAST, False, iter(range(1 << 62))
        try:
            with trio.move_on_after(seconds):
                while True:
                    used_up |= await trio.to_thread.run_sync(_fill, ballast, names)
                    await trio.sleep(_AGAIN)
        finally:
            with trio.CancelScope(shield=True):
                await trio.to_thread.run_sync(_empty, ballast)
        return used_up

    def take_down(self, *, keep: bool) -> None:
        """Unmount all; if they are to be kept, what is on them is left in their places."""
        for place in self._places:
            shutil.rmtree(place / _BALLAST)
            aside = place.with_name(f"{place.name}.kept")
            if keep:
                _run("cp", "--archive", str(place), str(aside))
            _run("umount", "--lazy", str(place))
            place.rmdir()
            if keep:
                aside.rename(place)


def _fill(ballast: Path, names: Iterator[int]) -> bool:
    """Make empty files until there is no inode for another one."""
    try:
        while True:
            (ballast / str(next(names))).touch()
    except OSError:
        return os.statvfs(ballast).f_ffree == 0


def _empty(ballast: Path) -> None:
    for path in list(ballast.iterdir()):
        path.unlink(missing_ok=True)


def _run(*command: str) -> None:
    subprocess.run(command, check=True, stdin=subprocess.DEVNULL)
