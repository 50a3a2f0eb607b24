"""What a process has used, from /proc."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final

import psutil

from testbed.cluster import Member

TICK: Final = os.sysconf("SC_CLK_TCK")


def peak_memory(pid: int) -> int:
    """The most memory that this process ever had resident, in bytes."""
    return _status(pid, "VmHWM")


def memory(pid: int) -> int:
    """What this process has resident, in bytes."""
    return _status(pid, "VmRSS")


def _status(pid: int, name: str) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    raise ValueError(f"/proc/{pid}/status says nothing of {name}")


def cpu_seconds(pid: int) -> float:
    """The CPU time of a process and of all that it started, what has ended and was waited for included."""
    try:
        family = [pid, *(child.pid for child in psutil.Process(pid).children(recursive=True))]
    except psutil.NoSuchProcess:
        return 0.0
    return sum(sum(_times(member)) for member in family)


def own_cpu_seconds(pid: int) -> float:
    """The CPU time of a process alone, without what it started."""
    return sum(_times(pid)[:2])


def _times(pid: int) -> tuple[float, float, float, float]:
    """CPU seconds: its own in user mode and in the kernel, and those of its children that it waited for."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return 0.0, 0.0, 0.0, 0.0  # it has ended meanwhile
    # The name is in parentheses and may hold anything; what follows it are numbers.
    fields = stat.rpartition(")")[2].split()
    user, system, children_user, children_system = (int(field) for field in fields[11:15])
    return user / TICK, system / TICK, children_user / TICK, children_system / TICK


def cpu_shares(members: Sequence[Member], during: Callable[[], object]) -> Mapping[str, float]:
    """The share of one core (more than 1 for several) that each process used while `during` ran."""
    began = time.monotonic()
    before = {member.name: cpu_seconds(member.pid) for member in members}
    during()
    took = time.monotonic() - began
    return {member.name: (cpu_seconds(member.pid) - before[member.name]) / took for member in members}
