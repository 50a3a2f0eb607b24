"""How busy the machine is, and what of it this process may use."""

from __future__ import annotations

import logging
import math
import os
import re
import socket
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Final

import psutil
import trio

from actors.domain.ids import is_node_name
from actors.domain.node import Heartbeat
from actors.kernel.complaint import Complaint
from actors.store.durable import free_space, is_passing

log: Final = logging.getLogger("node.load")

SAMPLE_EVERY = 1.0
"""Seconds over which the CPU's use is averaged."""


class LoadSampler:
    """Measures once a second, in its own task; whoever asks gets the last measure and never waits."""

    def __init__(
        self,
        data: Path,
        *,
        slots: int | None,
        cores: int | None = None,
        lifetime: float | None = None,
        name: str = "",
        ahead: int = 0,
    ) -> None:
        """`lifetime`: seconds from now on for which this node is there; None if no end is known. `name`: what
        it wants to be called. `ahead`: how many jobs it takes beyond its slots."""
        self._data = data
        self._end = None if lifetime is None else trio.current_time() + lifetime
        self._slots = slots
        self._cores = usable_cores() if cores is None else cores
        self._name = name
        self._ahead = ahead
        self._now = Heartbeat(slots=slots, cores=self._cores, name=name, ahead=ahead)
        self._unhealthy = ""
        self._stopping = False
        self._complaint = Complaint(log)

    @property
    def now(self) -> Heartbeat:
        """The last measure; `others` is not filled in."""
        return self._now

    def say(self, unhealthy: str) -> None:
        """Why this node wants no jobs, "" if it does; told with the next measure."""
        self._unhealthy = unhealthy

    def stop(self) -> None:
        """This node was told to stop; told with the next heartbeat."""
        self._stopping = True
        self._now = replace(self._now, stopping=True)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Measure for ever. Started once the first measure is there, which has no load yet."""
        psutil.cpu_percent(None)
        self._now = await self._measured(0.0)
        task_status.started()
        while True:
            await trio.sleep(SAMPLE_EVERY)
            # Here and not in the thread: psutil remembers the last measure of each thread by itself. It only
            # reads /proc/stat.
            try:
                load = min(100.0, max(0.0, psutil.cpu_percent(None)))
                self._now = await self._measured(load)
            except (OSError, RuntimeError) as error:
                # The last one counts until there is another.
                if not is_passing(error):
                    raise
                self._complaint.say("the machine cannot be looked at now: %s", error)

    async def _measured(self, load: float) -> Heartbeat:
        measured = await trio.to_thread.run_sync(self._measure, load)
        left = None if self._end is None else max(0.0, self._end - trio.current_time())
        return replace(measured, seconds_left=left)

    def _measure(self, load: float) -> Heartbeat:
        return Heartbeat(
            load=load,
            slots=self._slots,
            cores=self._cores,
            free_disk=_or_none(lambda: free_space(self._data)),
            free_memory=_or_none(lambda: psutil.virtual_memory().available),
            unhealthy=self._unhealthy,
            stopping=self._stopping,
            name=self._name,
            ahead=self._ahead,
        )


def host_name() -> str:
    """What a node is called that was given no name: as its host, without the domain."""
    host = socket.gethostname()
    first = host.partition(".")[0]
    # Of an address the first number alone says nothing.
    said = re.sub(r"[^A-Za-z0-9._-]+", "-", host if first.isdigit() else first)
    name = said.strip("._-")[:63]
    return name if is_node_name(name) else "node"


def usable_cores() -> int:
    """Cores that this process may use: its affinity, and less where a cgroup gives it less time."""
    cores = len(os.sched_getaffinity(0))
    quota = _cgroup_quota()
    return cores if quota is None else max(1, min(cores, math.ceil(quota)))


def _cgroup_quota() -> float | None:
    """Cores' worth of time of the cgroup that is mounted as ours, which in a container is its limit."""
    try:
        most, period = Path("/sys/fs/cgroup/cpu.max").read_text("ascii").split()
        return None if most == "max" else int(most) / int(period)
    except (OSError, ValueError):
        pass
    try:
        most = Path("/sys/fs/cgroup/cpu/cpu.cfs_quota_us").read_text("ascii")
        period = Path("/sys/fs/cgroup/cpu/cpu.cfs_period_us").read_text("ascii")
        return int(most) / int(period) if int(most) > 0 else None
    except (OSError, ValueError):
        return None


def _or_none(measure: Callable[[], int]) -> int | None:
    try:
        return measure()
    except OSError:
        return None
