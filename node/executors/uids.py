"""Users that are nobody else: each payload runs as one of its own, out of a range, and owns its files."""

from __future__ import annotations

import os
import stat
import tempfile
import threading
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


def find_closed(directory: Path) -> Path | None:
    """Which of the directory and those above it these users may not enter, the topmost. Blocks."""
    absolute = directory.absolute()
    for each in (*reversed(absolute.parents), absolute):
        if not each.stat().st_mode & stat.S_IXOTH:
            return each
    return None


@dataclass(slots=True)
class Uids:
    """Which payload has which. The owner of its `work` is the record of it. Any thread may take one."""

    range: UidRange
    _starting: dict[str, int] = field(default_factory=dict)
    """Of payloads that have one and do not run yet."""
    _runs: dict[int, ShepherdedRun] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def take(self, key: str) -> int:
        """One that no other payload of this node has; it is taken until `give_back` or its run ends. Raises
        `LookupError`."""
        count = self.range.last - self.range.first + 1
        begin = int.from_bytes(blake2b(key.encode(), digest_size=8).digest(), "big")
        with self._lock:
            if (mine := self._starting.get(key)) is not None:
                return mine
            taken = frozenset(self._starting.values())
            for step in range(count):
                uid = self.range.first + (begin + step) % count
                run = self._runs.get(uid)
                if uid not in taken and (run is None or not run.alive()):
                    self._starting[key] = uid
                    return uid
        raise LookupError

    def taken_by(self, key: str) -> int | None:
        """That of a payload which does not run yet, if it has one."""
        return self._starting.get(key)

    def give_back(self, key: str) -> None:
        """It does not run with that which it took."""
        self._starting.pop(key, None)

    def note(self, uid: int, run: ShepherdedRun) -> None:
        """Who runs with it."""
        if uid in self.range:
            self._runs[uid] = run


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
