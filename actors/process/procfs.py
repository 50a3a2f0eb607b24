"""Reading /proc: which process is which, and who descends from whom.

Also imported by the shepherd, so it keeps to modules that cost no memory there.
"""

from __future__ import annotations

import os

_boot_id: list[str] = []


def boot_id() -> str:
    """This boot of this machine; pids and start times mean nothing in another one."""
    if not _boot_id:
        # Asked once: no process outlives its boot, and this is asked for at each step of each payload.
        _boot_id.append(_read("/proc/sys/kernel/random/boot_id").strip().decode())
    return _boot_id[0]


def _read(path: str) -> bytes:
    """A file of at most a page. Not by `open`: what that makes of it costs a shepherd as much as the rest."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.read(descriptor, 4096)
    finally:
        os.close(descriptor)


def _stat(pid: int | str) -> list[str] | None:
    """The fields of /proc/PID/stat from the state (the third) to the start time, and the rest; None when
    there is no such process."""
    try:
        # The name stands in brackets and may contain anything, brackets and spaces too.
        return _read(f"/proc/{pid}/stat").rpartition(b")")[2].decode().split(" ", 21)[1:]
    except (FileNotFoundError, ProcessLookupError):
        return None


def name_of(pid: int) -> str:
    """What it is called, 15 bytes at most; "" when it is gone."""
    try:
        return os.fsdecode(_read(f"/proc/{pid}/comm").rstrip(b"\n"))
    except (FileNotFoundError, ProcessLookupError):
        return ""


def start_time(pid: int | str) -> int | None:
    """When it started, in clock ticks since boot: with the pid it names one process of this boot."""
    fields = _stat(pid)
    return int(fields[19]) if fields else None


def session_of(pid: int) -> int | None:
    fields = _stat(pid)
    return int(fields[3]) if fields else None


def is_zombie(pid: int) -> bool:
    fields = _stat(pid)
    return fields is not None and fields[0] == "Z"


def cpu_ticks(pid: int) -> int:
    """Of it, and of its children that it has waited for; 0 when it is gone."""
    fields = _stat(pid)
    return sum(map(int, fields[11:15])) if fields else 0


def memory_of(pid: int) -> tuple[int, int]:
    """Its resident pages, and those of them that it shares with files or others; zeros when it is gone."""
    try:
        _, resident, shared, _ = _read(f"/proc/{pid}/statm").split(b" ", 3)
    except (FileNotFoundError, ProcessLookupError):
        return 0, 0
    return int(resident), int(shared)


def nameless_files(pid: int) -> list[os.stat_result]:
    """The files that it holds open and that have no name any more; none where it is not for us to know."""
    found = []
    try:
        for name in os.listdir(f"/proc/{pid}/fd"):
            try:
                told = os.stat(f"/proc/{pid}/fd/{name}")
            except OSError:
                continue  # it is closed by now
            if not told.st_nlink:
                found.append(told)
    except OSError:
        pass  # it is gone, or closed to us
    return found


def share_of_memory(pid: int) -> int | None:
    """Its resident bytes, of what several processes share its part; None if it is not for us to know. The
    kernel looks at each of its pages: that takes a while."""
    try:
        lines = _read(f"/proc/{pid}/smaps_rollup").splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    except PermissionError:
        return None
    return next((int(line.split()[1]) << 10 for line in lines if line.startswith(b"Pss:")), 0)


def bytes_held_back() -> int:
    """Bytes of files of this machine that were written and are not on their disk yet; 0 if it is not for us
    to know."""
    try:
        lines = _read("/proc/meminfo").splitlines()
    except OSError:
        return 0
    return sum(int(line.split()[1]) << 10 for line in lines if line.startswith((b"Dirty:", b"Writeback:")))


def all_pids() -> list[int]:
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]


def children(pid: int | str) -> list[int]:
    """The children of all of its threads; empty when it is gone."""
    found: list[int] = []
    try:
        threads = os.listdir(f"/proc/{pid}/task")
    except (FileNotFoundError, ProcessLookupError):
        return found
    for thread in threads:
        try:
            with open(f"/proc/{pid}/task/{thread}/children", "rb") as file:
                found += map(int, file.read().split())
        except ProcessLookupError:
            continue
        except FileNotFoundError:
            if os.path.exists(f"/proc/{pid}/task/{thread}"):
                # A kernel without CONFIG_PROC_CHILDREN: slower, the same answer.
                return _children_by_parent(os.getpid() if pid == "self" else int(pid))
    return found


def _children_by_parent(parent: int) -> list[int]:
    return [pid for pid in all_pids() if (fields := _stat(pid)) and int(fields[1]) == parent]


def descendants(pid: int) -> list[int]:
    """All that descends from it, itself not included, parents first."""
    found: list[int] = []
    waiting = children(pid)
    while waiting:
        found += waiting
        waiting = [child for parent in waiting for child in children(parent)]
    return found
