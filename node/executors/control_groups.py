"""Control groups: how the kernel itself keeps a whole payload within its limits, where groups may be made.

Version 1 has a hierarchy for each controller, version 2 one for all; a machine may have some of both. What
can be done is found by doing it once. Imported by the shepherd only: standard library, few imports.
"""

from __future__ import annotations

import contextlib
import os
import time

MEMORY = "memory"
PIDS = "pids"
CPU = "cpu"

_MOUNTS = "/proc/self/mountinfo"
_OWN = "/proc/self/cgroup"
_NAMES_1 = {MEMORY: b"memory", PIDS: b"pids", CPU: b"cpuacct"}
_NEEDED = {
    (1, MEMORY): "memory.limit_in_bytes",
    (1, PIDS): "pids.max",
    (1, CPU): "cpuacct.usage",
    (2, MEMORY): "memory.max",
    (2, PIDS): "pids.max",
    (2, CPU): "cpu.stat",
}
"""A file that a group has where the controller works."""
_LEFT_SINCE = 60.0
"""Seconds after which a group without a process is taken for one that was left, not for one just made."""
_GONE_WITHIN = 5.0
"""Seconds in which the last process of a group, which was killed, leaves it."""

Place = tuple[int, bytes]
"""The version, and the directory in which groups are made."""


def _read(path: bytes, name: str) -> bytes:
    descriptor = os.open(path + b"/" + name.encode(), os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.read(descriptor, 1 << 16)
    finally:
        os.close(descriptor)


def _write(path: bytes, name: str, content: str) -> None:
    descriptor = os.open(path + b"/" + name.encode(), os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(descriptor, content.encode())
    finally:
        os.close(descriptor)


def _count(path: bytes, name: str, key: bytes) -> int:
    """What a file of lines `KEY NUMBER` has of a key; 0 if nothing, also where there is no such file."""
    try:
        lines = _read(path, name).splitlines()
    except FileNotFoundError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith(key + b" ")), 0)


class Group:
    """The group of one payload, in each hierarchy that it needs. `entrances`: descriptors; a process that
    writes `0` into each of them is in the group, with all that comes of it."""

    def __init__(self, parts: dict[str, Place]) -> None:
        self._parts = parts
        self._paths = sorted({path for _, path in parts.values()})
        self.entrances = [
            os.open(path + b"/cgroup.procs", os.O_WRONLY | os.O_CLOEXEC) for path in self._paths
        ]

    def has(self, controller: str) -> bool:
        return controller in self._parts

    def has_file(self, name: str) -> bool:
        return all(os.access(path + b"/" + name.encode(), os.F_OK) for path in self._paths)

    def limit_memory(self, size: int) -> None:
        """Swap included. Raises `OSError`."""
        version, path = self._parts[MEMORY]
        if version == 1:
            _write(path, "memory.limit_in_bytes", str(size))
            # Without swap, or where it is not counted, these are not there.
            with contextlib.suppress(FileNotFoundError):
                _write(path, "memory.memsw.limit_in_bytes", str(size))
            return
        _write(path, "memory.max", str(size))
        for name, content in (("memory.swap.max", "0"), ("memory.oom.group", "1")):
            with contextlib.suppress(FileNotFoundError):
                _write(path, name, content)

    def limit_processes(self, number: int) -> None:
        """Raises `OSError`."""
        _write(self._parts[PIDS][1], "pids.max", str(number))

    def was_out_of_memory(self) -> bool:
        """Whether the kernel has killed a process of it for want of memory."""
        version, path = self._parts[MEMORY]
        return _count(path, "memory.oom_control" if version == 1 else "memory.events", b"oom_kill") > 0

    def was_at_memory_limit(self) -> bool:
        """Whether its own limit stood in its way; else it was the machine that had no more."""
        version, path = self._parts[MEMORY]
        if version == 1:
            # Later kernels do not count how often it was met where swap is limited as well.
            peak, limit = (int(_read(path, f"memory.{name}_in_bytes")) for name in ("max_usage", "limit"))
            return peak >= limit * 0.95
        return _count(path, "memory.events", b"oom") > 0

    def was_at_process_limit(self) -> bool:
        return _count(self._parts[PIDS][1], "pids.events", b"max") > 0

    def cpu_seconds(self) -> float:
        version, path = self._parts[CPU]
        if version == 1:
            return int(_read(path, "cpuacct.usage")) / 1e9
        return _count(path, "cpu.stat", b"usage_usec") / 1e6

    def close(self) -> None:
        """Nobody enters any more."""
        for entrance in self.entrances:
            os.close(entrance)
        self.entrances = []

    def remove(self) -> None:
        """When nothing of it lives. One that cannot be removed now is when the next spawner begins."""
        self.close()
        until = time.monotonic() + _GONE_WITHIN
        for path in self._paths:
            while True:
                try:
                    os.rmdir(path)
                except FileNotFoundError:
                    break
                except OSError:
                    if time.monotonic() >= until:
                        break
                    time.sleep(0.01)
                    continue
                break


class ControlGroups:
    """Where groups may be made, by controller. Those of this node are called `prefix` and something more."""

    def __init__(self, places: dict[str, Place], prefix: str) -> None:
        self._places = places
        self._prefix = prefix.encode()

    @property
    def controllers(self) -> list[str]:
        """That work here."""
        return list(self._places)

    def make(self, name: str, controllers: set[str]) -> Group | None:
        """A group with those of the controllers that there are; None if there is none of them. Raises
        `OSError`."""
        parts = {
            controller: (version, path + b"/" + self._prefix + name.encode())
            for controller, (version, path) in self._places.items()
            if controller in controllers
        }
        if not parts:
            return None
        made: list[bytes] = []
        try:
            for path in {path for _, path in parts.values()}:
                os.mkdir(path, 0o755)
                made.append(path)
            return Group(parts)
        except OSError:
            for path in made:
                os.rmdir(path)
            raise

    def sweep(self, now: float) -> None:
        """Remove what shepherds have left that were killed. `now`: by the wall clock."""
        for path in {path for _, path in self._places.values()}:
            for name in os.listdir(path):
                if not name.startswith(self._prefix):
                    continue
                group = path + b"/" + name
                # In use, or gone, or another's: not ours to remove.
                with contextlib.suppress(OSError):
                    if now - os.stat(group).st_mtime > _LEFT_SINCE:
                        os.rmdir(group)


def find(prefix: str) -> ControlGroups:
    """What works here, found by trying; perhaps nothing."""
    found: dict[str, Place] = {}
    with open(_MOUNTS, "rb") as mounts, open(_OWN, "rb") as own:
        candidates = places(mounts.read(), own.read())
    for controller, wanted in candidates.items():
        for version, path in wanted:
            if _works(version, path, controller, prefix):
                found[controller] = version, path
                break
    return ControlGroups(found, prefix)


def places(mounts: bytes, own: bytes) -> dict[str, list[Place]]:
    """Where groups of ours could be made, by what the kernel tells of mounts and of our own group: below our
    own, and in version 2 rather beside it, as a group with processes has none below it that are limited. A
    slice is systemd's, which would take its controllers away again."""
    groups = {names: path for _, names, path in (line.split(b":", 2) for line in own.splitlines())}
    found: dict[str, list[Place]] = {controller: [] for controller in (MEMORY, PIDS, CPU)}
    for line in mounts.splitlines():
        before, _, after = line.partition(b" - ")
        root, mount = before.split()[3:5]
        kind, _, options = after.split()[:3]
        if kind == b"cgroup":
            for controller, name in _NAMES_1.items():
                group = next((path for names, path in groups.items() if name in names.split(b",")), None)
                if name in options.split(b",") and (place := _below(mount, root, group)) is not None:
                    found[controller].append((1, place))
        elif kind == b"cgroup2" and (place := _below(mount, root, groups.get(b""))) is not None:
            parent = place.rpartition(b"/")[0]
            beside = [] if place == mount or parent.endswith(b".slice") else [parent]
            for listed in found.values():
                listed += [(2, path) for path in (*beside, place)]
    return found


def _below(mount: bytes, root: bytes, group: bytes | None) -> bytes | None:
    """Where a group is seen, whose hierarchy is mounted from `root` on."""
    if group is None or b"\\" in mount:
        return None
    root = root.rstrip(b"/")
    if group != root and not group.startswith(root + b"/"):
        return None
    return (mount + group.removeprefix(root)).rstrip(b"/")


def _works(version: int, path: bytes, controller: str, prefix: str) -> bool:
    """Make a group and enter it, with a process that then ends."""
    name = f"try-{os.getpid()}"
    groups = ControlGroups({controller: (version, path)}, prefix)
    try:
        if version == 2 and controller != CPU:
            # Fails where it holds processes; where it is enabled already nothing changes.
            _write(path, "cgroup.subtree_control", f"+{controller}")
        group = groups.make(name, {controller})
    except OSError:
        return False
    assert group is not None
    try:
        return group.has_file(_NEEDED[version, controller]) and _can_enter(group)
    finally:
        group.remove()


def _can_enter(group: Group) -> bool:
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            for entrance in group.entrances:
                os.write(entrance, b"0")
            status = 0
        finally:
            os._exit(status)
    return os.waitpid(pid, 0)[1] == 0
