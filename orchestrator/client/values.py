"""What the orchestrator tells, as values. What this version does not know of stays in `raw`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final

from orchestrator.client.errors import BadAnswer

OVER: Final = frozenset({"Completed", "Failed", "Invalid", "Killed", "Cleaned"})
"""Statuses that a job does not leave for a running one."""


@dataclass(frozen=True, slots=True)
class Job:
    """A job as it stood when it was asked for. Times are UTC, durations seconds, sizes bytes.

    `message` says why it waits or why it ended so. `version` grows with each change. `exit_code` is None if
    the script was ended by `signal`, or never ran."""

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


def job(body: Any) -> Job:
    """Raises BadAnswer, as all of these do."""
    raw = _object(body, "a job")
    waiting = raw.get("waiting") or {}
    if not isinstance(waiting, dict):
        waiting = {}
    try:
        return Job(
            id=int(raw["id"]),
            user=int(raw["user_id"]),
            service=str(raw["service"]),
            status=str(raw["status"]),
            message=str(raw["message"]),
            version=int(raw["version"]),
            name=raw.get("name"),
            tags=tuple(raw.get("tags") or ()),
            waiting_for=raw.get("waiting_for") or waiting.get("reason"),
            position=waiting.get("position", raw.get("position")),
            created_at=_time(raw.get("created_at")),
            updated_at=_time(raw.get("updated_at")),
            started_at=_time(raw.get("started_at")),
            ended_at=_time(raw.get("ended_at")),
            rerun_of=raw.get("rerun_of"),
            raw=raw,
            **{name: raw.get(name) for name in _AS_THEY_ARE},
        )
    except (KeyError, TypeError, ValueError) as error:
        raise _strange("a job", error) from error


def node(body: Any) -> Node:
    raw = _object(body, "a node")
    try:
        return Node(
            id=str(raw["id"]),
            url=str(raw["url"]),
            status=str(raw["status"]),
            message=str(raw["message"]),
            services=tuple(raw["services"]),
            slots=raw["slots"],
            held=int(raw["held"]),
            others=int(raw["others"]),
            load=float(raw["load"]),
            draining=raw.get("draining"),
            raw=raw,
        )
    except (KeyError, TypeError, ValueError) as error:
        raise _strange("a node", error) from error


def service(body: Any) -> Service:
    raw = _object(body, "a service")
    try:
        return Service(
            name=str(raw["name"]),
            runs_per_user=int(raw["runs_per_user"]),
            max_runs=int(raw["max_runs"]),
            paused=bool(raw.get("paused", False)),
            jobs=dict(raw["jobs"]),
            raw=raw,
        )
    except (KeyError, TypeError, ValueError) as error:
        raise _strange("a service", error) from error


_AS_THEY_ARE: Final = (
    "node",
    "attempt",
    "exit_code",
    "signal",
    "wall_seconds",
    "cpu_seconds",
    "peak_bytes",
    "input_bytes",
    "output_bytes",
)


def _object(body: Any, what: str) -> dict[str, Any]:
    if not isinstance(body, dict):
        raise BadAnswer(f"instead of {what} came {str(body)[:80]!r}; is the URL that of an orchestrator?")
    return body


def _time(text: str | None) -> datetime | None:
    return None if text is None else datetime.fromisoformat(text)


def _strange(what: str, error: Exception) -> BadAnswer:
    return BadAnswer(f"{what} came without what belongs to it ({error}); is the URL that of an orchestrator?")
