"""Whether a payload is over its limits: asked of the kernel where it has a control group, else sampled.

Each look takes its time, and the next one comes no sooner than after many times that: so watching costs at
most a few percent of one CPU, however large a payload is. Between two looks it may go over its limit.
Imported by the shepherd only.
"""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Iterable, Iterator

from actors.process import procfs
from node.executors import control_groups as groups
from node.executors.exec_script import Request
from node.executors.process_tree import Tree

_SHARE = 30
"""How many times the CPU time of a look passes until the next one."""
_SOONEST = 0.1
"""Seconds from one look to the next at least."""
_ASKED_EVERY = 0.5
"""Seconds from one question to the kernel to the next, which costs next to nothing."""
_SEEN_AT_ONCE = 1000
"""Files that are looked at before anything else is done."""
_DEEPEST = 64
"""Directories that are held open on the way to those whose names have become too long."""
_LONG = 2048
"""Bytes of a path from which on the way to it is held open."""
_PAGE = os.sysconf("SC_PAGE_SIZE")
_TICKS = os.sysconf("SC_CLK_TCK")
_XFSZ = 25
_SHELL_XFSZ = 128 + _XFSZ

CONTROLLERS = {"memory_bytes": groups.MEMORY, "processes": groups.PIDS, "cpu_seconds": groups.CPU}
COUNTED = (b"work", b"home", b"progress")
LEAST = 4096
"""Bytes for which each file counts: an empty one takes what the file system has for files, too."""
"""What of its directory counts as its disk."""
MACHINE_MEMORY = "machine_memory"
"""What is said besides the names of limits: it was the machine that had no more memory."""


def make_group(request: Request, made: groups.ControlGroups) -> groups.Group | None:
    """A control group with the limits of a payload, which its script is to enter. None where there are none
    that would help: then it is looked at, as it is when none can be made now."""
    limits = request.limits
    try:
        group = made.make(request.key, {CONTROLLERS[name] for name in limits if name in CONTROLLERS})
    except OSError:
        return None
    if group is None:
        return None
    try:
        if "memory_bytes" in limits and group.has(groups.MEMORY):
            group.limit_memory(int(limits["memory_bytes"]))
        if "processes" in limits and group.has(groups.PIDS):
            group.limit_processes(int(limits["processes"]))
    except OSError:
        group.remove()
        return None
    request.entrances = group.entrances
    return group


class LimitWatch:
    """Of one payload, from when its script has begun."""

    def __init__(self, request: Request, group: groups.Group | None, tree: Tree, directory: int) -> None:
        """`directory`: the payload's, open. Its path may lead elsewhere in this process by now."""
        self._limits = request.limits
        self._group = group
        self._tree = tree
        self._directory = directory
        self._usage: Iterator[int] | None = None
        looks = {
            "memory_bytes": self._memory if not self._is_kept(groups.MEMORY) else self._killed,
            "cpu_seconds": self._cpu,
            "disk_bytes": self._disk,
        }
        self._looks = {name: look for name, look in looks.items() if name in self._limits}
        self._due = dict.fromkeys(self._looks, time.monotonic())

    def _is_kept(self, controller: str) -> bool:
        return self._group is not None and self._group.has(controller)

    def due(self) -> float | None:
        """When to look again, by the monotonic clock; None: never."""
        return min(self._due.values(), default=None)

    def look(self) -> str:
        """The limit that it is over; "" for none."""
        for name, look in self._looks.items():
            if time.monotonic() < self._due[name]:
                continue
            before = time.thread_time()
            over, wait = look()
            if over:
                return over
            self._due[name] = time.monotonic() + max(wait, _SHARE * (time.thread_time() - before))
        return ""

    def at_end(self) -> str:
        """The same, once nothing of it lives: what only shows then, and what came since the last look."""
        status = self._tree.status
        failed = status != 0
        if self._group is not None and self._group.has(groups.MEMORY) and self._group.was_out_of_memory():
            if self._group.was_at_memory_limit():
                return "memory_bytes"
            if failed:
                return MACHINE_MEMORY
        if failed and self._tree.cpu_seconds >= self._limits.get("cpu_seconds", float("inf")):
            return "cpu_seconds"
        if "file_bytes" in self._limits and status is not None and _ended_by_xfsz(status):
            return "file_bytes"
        if failed and "processes" in self._limits and self._is_kept(groups.PIDS):
            assert self._group is not None
            if self._group.was_at_process_limit():
                return "processes"
        return ""

    # ------------------------------------------------------------------ what is looked at

    def _killed(self) -> tuple[str, float]:
        """The kernel ends one process for want of memory, and not the others."""
        assert self._group is not None
        killed = self._group.was_out_of_memory() and self._group.was_at_memory_limit()
        return "memory_bytes" if killed else "", _ASKED_EVERY

    def _memory(self) -> tuple[str, float]:
        """What it has resident is at most what its processes have. Only where that is too much it is asked
        for what they share, which is much more work."""
        limit = self._limits["memory_bytes"]
        pids = self._tree.pids()
        sizes = {pid: procfs.memory_of(pid) for pid in pids}
        if sum(resident for resident, _ in sizes.values()) * _PAGE <= limit:
            return "", _SOONEST
        used = 0
        for pid, (resident, shared) in sizes.items():
            share = procfs.share_of_memory(pid)
            used += (resident - shared) * _PAGE if share is None else share
        return "memory_bytes" if used > limit else "", _SOONEST

    def _cpu(self) -> tuple[str, float]:
        limit = self._limits["cpu_seconds"]
        if self._is_kept(groups.CPU):
            assert self._group is not None
            used = self._group.cpu_seconds()
        else:
            used = self._tree.cpu_seconds + sum(map(procfs.cpu_ticks, self._tree.pids())) / _TICKS
        if used >= limit:
            return "cpu_seconds", 0.0
        # It cannot be over sooner, whatever it does.
        return "", max(_SOONEST, (limit - used) / (os.cpu_count() or 1))

    def _disk(self) -> tuple[str, float]:
        """A part of its files, as there may be a million. What was seen may have gone before the last part
        is looked at: so too much is only what is so when it is all seen at once."""
        limit = self._limits["disk_bytes"]
        if self._usage is None:
            self._usage = disk_usage(COUNTED, self._directory)
        used = 0
        for _ in range(_SEEN_AT_ONCE):
            seen = next(self._usage, None)
            if seen is None:
                self._usage = None
                used += self._nameless()
                break
            used = seen
        if used <= limit:
            return "", _SOONEST
        self._usage = None
        limit -= self._nameless()
        is_over = any(size > limit for size in disk_usage(COUNTED, self._directory))
        return "disk_bytes" if is_over else "", _SOONEST

    def _nameless(self) -> int:
        """The bytes of files without a name that its processes hold open."""
        found = {}
        device = os.fstat(self._directory).st_dev
        for pid in self._tree.pids():
            for file in procfs.nameless_files(pid):
                if file.st_dev == device:
                    found[file.st_ino] = file.st_blocks * 512
        return sum(found.values())


def _ended_by_xfsz(status: int) -> bool:
    if os.WIFSIGNALED(status):
        return os.WTERMSIG(status) == _XFSZ
    return os.WEXITSTATUS(status) == _SHELL_XFSZ


def disk_usage(directories: Iterable[bytes], above: int) -> Iterator[int]:
    """The bytes that the files in these directories of the one `above` take, as far as they have been looked
    at: once for each file, `LEAST` at least. Holes take none; a file with several names counts once, and its
    names by what the directory takes that has them. What lies deeper than can be followed is as good as
    endless."""
    used = 0
    linked: set[tuple[int, int]] = set()
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
    held: list[int] = []
    # Each is to be read; None: what was read through the last that is held has been.
    waiting: list[bytes | None] = []
    try:
        for top in directories:
            try:
                used += os.stat(top, dir_fd=above, follow_symlinks=False).st_blocks * 512
            except OSError:
                continue  # it has none such
            waiting.append(top)
            while waiting:
                path = waiting.pop()
                if path is None:
                    os.close(held.pop())
                    continue
                try:
                    directory = os.open(path, flags, dir_fd=held[-1] if held else above)
                except OSError:
                    continue  # gone meanwhile, or another thing in its place
                if len(path) > _LONG:
                    if len(held) >= _DEEPEST:
                        os.close(directory)
                        yield 1 << 62
                        return
                    held.append(directory)
                    waiting.append(None)
                    path = b""
                try:
                    with os.scandir(directory) as entries:
                        for entry in entries:
                            try:
                                found = entry.stat(follow_symlinks=False)
                            except OSError:
                                continue
                            if stat.S_ISDIR(found.st_mode):
                                name = os.fsencode(entry.name)
                                waiting.append(path + b"/" + name if path else name)
                            elif found.st_nlink > 1:
                                if (found.st_dev, found.st_ino) in linked:
                                    continue
                                linked.add((found.st_dev, found.st_ino))
                            used += max(LEAST, found.st_blocks * 512)
                            yield used
                finally:
                    if not held or held[-1] != directory:
                        os.close(directory)
    finally:
        for descriptor in held:
            os.close(descriptor)
