"""Users that are nobody else: each payload runs as one of its own, out of a range, and owns its files."""

from __future__ import annotations

import os
import tempfile
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path

from node.confinement.tier_settings import UidRange
from node.executors.executor import HOME, PROGRESS, WORK
from node.executors.shepherded_run import ShepherdedRun


def find_trouble(ranges: UidRange, directory: Path) -> str:
    """Why files in the directory cannot be given to these users; empty if they can. Blocks."""
    try:
        with tempfile.NamedTemporaryFile(dir=directory) as file:
            for uid in (ranges.first, ranges.last):
                os.chown(file.name, uid, uid)
    except OSError as error:
        return f"files cannot be given to uid {ranges.first}: {error.strerror}"
    return ""


@dataclass(slots=True)
class Uids:
    """Which payload has which. The owner of its `work` is the record of it."""

    range: UidRange
    _taken: dict[int, ShepherdedRun | None] = field(default_factory=dict)

    def take(self, key: str) -> int:
        """One that no running payload of this node has; it is taken until `give_back` or its run ends."""
        count = self.range.last - self.range.first + 1
        begin = int.from_bytes(blake2b(key.encode(), digest_size=8).digest(), "big")
        for step in range(count):
            uid = self.range.first + (begin + step) % count
            run = self._taken.get(uid)
            if uid not in self._taken or (run is not None and not run.alive()):
                self._taken[uid] = None
                return uid
        raise LookupError

    def give_back(self, uid: int) -> None:
        self._taken.pop(uid, None)

    def note(self, uid: int, run: ShepherdedRun) -> None:
        """Who has it."""
        if uid in self.range:
            self._taken[uid] = run


def give_files(directory: Path, uid: int, *, enter: bool) -> None:
    """Make a payload's files its user's. `enter`: this user may reach them by their paths as far as this
    directory goes, and list nothing in it. Blocks. Raises `OSError`.

    Links are not followed, and nobody lives yet who could put one there.
    """
    for name in (WORK, HOME, PROGRESS):
        path = directory / name
        if not path.is_dir():
            continue
        for _, directories, files, here in os.fwalk(path, follow_symlinks=False):
            os.fchown(here, uid, uid)
            for each in (*files, *directories):
                os.chown(each, uid, uid, dir_fd=here, follow_symlinks=False)
    if enter:
        os.chown(directory, -1, uid)
        os.chmod(directory, 0o710)


def owner(directory: Path) -> int:
    """Of a payload's files; -1 when they are gone. Raises `OSError`."""
    try:
        return os.stat(directory / WORK, follow_symlinks=False).st_uid
    except FileNotFoundError:
        return -1
