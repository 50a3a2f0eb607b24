"""Which large files of a payload's input are still as they were received: they need not go back to where they
came from.

Their checksums are noted as they arrive, with what the file system says of them then. A good one tells
another time of change (ctime) after whatever a script does to a file: writing, also through a mapping, and
setting its times, links and renames. It counts time in ticks, so a script begins no sooner than a tick after
its input was noted. All of it blocks.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import astuple, dataclass, replace
from pathlib import Path
from typing import Final

from isal import isal_zlib

from actors.process.procfs import boot_id
from actors.store.kept_file import read_object
from actors.wire.files.listing import Entry
from actors.wire.files.names import spell, unspell

RECEIVED: Final = "received.json"
LARGE: Final = 1 << 20
"""Bytes over which a file is noted."""

_TICK: Final = 0.02
"""Seconds in which two changes may have the same time. The kernel's longest tick has 0.01."""
_TELLING: Final = frozenset({"ext2", "ext3", "ext4", "xfs", "btrfs"})
"""File systems that are known to tell of each change, also by writing to a mapping: tmpfs does not."""
_MOST: Final = 16 << 20


@dataclass(frozen=True, slots=True)
class ReceivedFile:
    """A file as it was when its last byte had been written; `crc` of these bytes."""

    inode: int
    size: int
    changed_ns: int
    crc: int


class Arriving:
    """A file that is being written: its bytes so far."""

    def __init__(self) -> None:
        self.size = 0
        self._crc = 0

    def add(self, data: bytes) -> None:
        self.size += len(data)
        self._crc = isal_zlib.crc32(data, self._crc)

    def as_written(self, fd: int) -> ReceivedFile:
        found = os.fstat(fd)
        return ReceivedFile(found.st_ino, self.size, found.st_ctime_ns, self._crc)


def changes_are_told(directory: Path) -> bool:
    """Whether the file system that it is on says of each file when it was changed last."""
    path, best, kind = os.path.realpath(directory), "", ""
    try:
        mounts = Path("/proc/self/mountinfo").read_text("utf-8", "surrogateescape")
    except OSError:
        return False
    for line in mounts.splitlines():
        before, _, after = line.partition(" - ")
        place = before.split(" ")[4].encode("utf-8", "surrogateescape").decode("unicode_escape")
        # Of several at one place the last is seen.
        if len(place) >= len(best) and (path + "/").startswith(place.rstrip("/") + "/"):
            best, kind = place, after.split(" ")[0]
    return kind in _TELLING


def note_received(directory: Path, files: Mapping[Path, ReceivedFile], work: Path) -> None:
    """Write down, in a payload's directory, the files below its `work` that have arrived. What cannot be
    noted is sent back like all else."""
    listed = {spell(os.fsencode(path.relative_to(work))): astuple(file) for path, file in files.items()}
    with suppress(OSError):
        (directory / RECEIVED).write_text(json.dumps({"boot": boot_id(), "files": listed}), "utf-8")


def note_given(directory: Path, work: Path) -> None:
    """The files of a payload have another owner now, which is all that has changed of them: note that, and
    return when any other change would be told."""
    if not (noted := read_received(directory)):
        return
    files: dict[Path, ReceivedFile] = {}
    for name, file in noted.items():
        path = work / os.fsdecode(unspell(name))
        with suppress(OSError):
            found = os.lstat(path)
            if (found.st_ino, found.st_size) == (file.inode, file.size):
                files[path] = replace(file, changed_ns=found.st_ctime_ns)
    note_received(directory, files, work)
    await_tick(directory)


def await_tick(directory: Path) -> None:
    """Return when any change to what was noted would be told."""
    if noted := read_received(directory):
        age = time.time() - max(file.changed_ns for file in noted.values()) / 1e9
        if not age >= _TICK:
            time.sleep(_TICK)


def read_received(directory: Path) -> Mapping[str, ReceivedFile]:
    """The files that were noted, by their spelled paths; none after another start of the machine, before
    which some of their changes may have been lost."""
    noted = read_object(directory / RECEIVED, _MOST)
    if not isinstance(noted, dict) or noted.get("boot") != boot_id():
        return {}
    try:
        return {path: ReceivedFile(*map(int, values)) for path, values in noted["files"].items()}
    except (KeyError, TypeError, ValueError, AttributeError):
        return {}


def is_as_received(handle: int, entry: Entry, noted: Mapping[str, ReceivedFile]) -> int | None:
    """The checksum of an open file if it is still as it was noted; None if not."""
    file, found = noted.get(entry.path), os.fstat(handle)
    now = (found.st_ino, found.st_size, found.st_ctime_ns)
    if file is None or now != (file.inode, file.size, file.changed_ns) or entry.size != file.size:
        return None
    return file.crc
