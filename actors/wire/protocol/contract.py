"""The JSON forms of the published contract, and times as they are written everywhere."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, Final, TypedDict

from actors.domain.ids import MAX_ID

_MAX_PID: Final = 2**31 - 1


class StatusBody(TypedDict):
    """What the orchestrator says of a job, and of every error (`id` 0, `status` "Unknown" without a job)."""

    id: int
    status: str
    message: str


class PayloadBody(TypedDict):
    """What a node says of a payload. Foreign servers refuse one without any of these keys."""

    id: int
    input: dict[str, Any]
    status: str
    loc: str
    pid: int
    killed: bool


def status_body(id: int, status: str, message: str) -> StatusBody:
    return {"id": _fitting(id), "status": str(status), "message": message}


def payload_body(id: int, status: str, loc: str, pid: int, killed: bool) -> PayloadBody:
    """`input` stays empty: it once held the files' bytes, which no reader needs back. A `pid` that 32 bits
    do not hold is told as 0, which means none."""
    return {
        "id": _fitting(id),
        "input": {},
        "status": str(status),
        "loc": loc,
        "pid": pid if 0 <= pid <= _MAX_PID else 0,
        "killed": killed,
    }


def rfc3339(ts: float) -> str:
    """Seconds since the epoch as `2026-01-31T12:00:00.000Z`. Raises ValueError beyond the years 1 to 9999."""
    try:
        return datetime.fromtimestamp(ts, UTC).replace(tzinfo=None).isoformat(timespec="milliseconds") + "Z"
    except (ValueError, OverflowError, OSError):
        raise ValueError(f"{ts} is no time that can be written") from None


def _fitting(id: int) -> int:
    if not 0 <= id <= MAX_ID:
        raise ValueError(f"id {id} does not fit 32 bits")
    return id
