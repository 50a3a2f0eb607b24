"""Values from the bodies of answers."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Final

from orchestrator.client.errors import BadAnswer
from orchestrator.client.values import File, Holder, Job, Node, Service


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
            progress=None if raw.get("progress") is None else min(1.0, max(0.0, float(raw["progress"]))),
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


def file(body: Any) -> File:
    raw = _object(body, "a file")
    try:
        return File(
            path=str(raw["path"]),
            size=int(raw["size"]),
            kind=str(raw["kind"]),
            mode=str(raw["mode"]),
            mtime=_time(raw.get("mtime")),
            target=raw.get("target"),
            raw=raw,
        )
    except (KeyError, TypeError, ValueError) as error:
        raise _strange("a file", error) from error


def holder(body: Any) -> Holder:
    raw = _object(body, "a user of the queue")
    try:
        return Holder(
            service=str(raw["service"]),
            user=int(raw["user_id"]),
            queued=int(raw["queued"]),
            under_way=int(raw["under_way"]),
            raw=raw,
        )
    except (KeyError, TypeError, ValueError) as error:
        raise _strange("a user of the queue", error) from error


def service(body: Any) -> Service:
    raw = _object(body, "a service")
    try:
        return Service(
            name=str(raw["name"]),
            runs_per_user=int(raw["runs_per_user"]),
            max_runs=int(raw["max_runs"]),
            paused=raw.get("paused") not in (None, False),
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
    "progress_message",
)


def _object(body: Any, what: str) -> dict[str, Any]:
    if not isinstance(body, dict):
        raise BadAnswer(f"instead of {what} came {str(body)[:80]!r}; is the URL that of an orchestrator?")
    return body


def _time(text: str | None) -> datetime | None:
    return None if text is None else datetime.fromisoformat(text)


def _strange(what: str, error: Exception) -> BadAnswer:
    return BadAnswer(f"{what} came without what belongs to it ({error}); is the URL that of an orchestrator?")
