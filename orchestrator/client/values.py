"""What the orchestrator tells, as values. What this version does not know of stays in `raw`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final

OVER: Final = frozenset({"Completed", "Failed", "Invalid", "Killed", "Cleaned"})
"""Statuses that a job does not leave for a running one."""


@dataclass(frozen=True, slots=True)
class Job:
    """A job as it stood when it was asked for. Times are UTC, durations seconds, sizes bytes.

    `message` says why it waits or why it ended so. `version` grows with each change. `exit_code` is None if
    the script was ended by `signal`, or never ran. `progress` is the share that the script says is done, 0 to
    1, `progress_message` what it says besides; both None if it says nothing."""

    id: int
    user: int
    service: str
    status: str
    message: str
    version: int
    name: str | None = None
    tags: tuple[str, ...] = ()
    waiting_for: str | None = None
    position: int | None = None
    created_at: datetime | None = None
    updated_at: datetime | None = None
    started_at: datetime | None = None
    ended_at: datetime | None = None
    node: str | None = None
    attempt: int | None = None
    exit_code: int | None = None
    signal: int | None = None
    wall_seconds: float | None = None
    cpu_seconds: float | None = None
    peak_bytes: int | None = None
    input_bytes: int | None = None
    output_bytes: int | None = None
    rerun_of: int | None = None
    progress: float | None = None
    progress_message: str | None = None
    raw: Mapping[str, Any] = field(default_factory=dict, repr=False, compare=False)

    @property
    def over(self) -> bool:
        """Whether it has ended, in whatever way."""
        return self.status in OVER

    @property
    def succeeded(self) -> bool:
        """Whether its script ended with exit code 0."""
        return self.exit_code == 0 and self.status in ("Completed", "Cleaned")


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened. `id` is what the stream is resumed after ("" where it cannot be), `kind` the
    event's name, `data` its body."""

    id: str
    kind: str
    data: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class File:
    """A file of a job's directory. `path` is spelled as in the zip, `size` is bytes, `kind` "file",
    "directory" or "link"; `target` is where a link leads."""

    path: str
    size: int
    kind: str
    mode: str
    mtime: datetime | None = None
    target: str | None = None
    raw: Mapping[str, Any] = field(default_factory=dict, repr=False, compare=False)


@dataclass(frozen=True, slots=True)
class Holder:
    """How many jobs of a user wait for a service, and how many are under way."""

    service: str
    user: int
    queued: int
    under_way: int
    raw: Mapping[str, Any] = field(default_factory=dict, repr=False, compare=False)


@dataclass(frozen=True, slots=True)
class Node:
    """A node as the scheduler sees it. `slots` None: it runs whatever it is sent. `held` are our jobs on it,
    `others` those of somebody else. `draining` says why it gets no new jobs."""

    id: str
    url: str
    status: str
    message: str
    services: tuple[str, ...]
    slots: int | None
    held: int
    others: int
    load: float
    draining: str | None
    raw: Mapping[str, Any] = field(default_factory=dict, repr=False, compare=False)


@dataclass(frozen=True, slots=True)
class Service:
    """A service with its quotas; `jobs` counts its jobs by status."""

    name: str
    runs_per_user: int
    max_runs: int
    paused: bool
    jobs: Mapping[str, int]
    raw: Mapping[str, Any] = field(default_factory=dict, repr=False, compare=False)
