"""A job as a line of a list."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Final

from orchestrator.commands.console.output import age, share, span

if TYPE_CHECKING:
    from orchestrator.client import Job, Period

NAMED: Final = 5
"""Files that are named where there may be many."""

UNDER_WAY: Final = ("Processing", "Submitted", "Prepared", "Running", "Locked")

COLUMNS: Final = ("ID", "STATUS", "USER", "SERVICE", "NAME", "AGE", "RAN", "MESSAGE")


def progress(job: Job) -> str:
    """What its script says: how much is done, and what it does."""
    return " ".join(part for part in (share(job.progress), job.progress_message) if part)


def batch(job: Job) -> str:
    """What the batch system that runs it calls it, and says of it."""
    if job.batch is None:
        return ""
    said = ": ".join(word for word in (job.batch.state, job.batch.reason) if word)
    return " ".join(part for part in (job.batch.system, job.batch.id, said and f"({said})") if part)


def place(job: Job) -> int | None:
    """Where it stands in the queue of its service; the next has place 1."""
    return None if job.position is None else job.position + 1


def expected(period: Period | None) -> str:
    """When something is likely to happen, by the clock of who reads it."""
    if period is None or period.earliest is None:
        return ""
    earliest = period.earliest.astimezone()
    if period.latest is None:
        return f"after {_clock(earliest)}"
    latest = period.latest.astimezone()
    if _clock(earliest) == _clock(latest):
        return f"about {_clock(earliest)}"
    until = f"{latest:%H:%M}" if earliest.date() == latest.date() else _clock(latest)
    return f"between {_clock(earliest)} and {until}"


def _clock(at: datetime) -> str:
    """With the date unless that is today's."""
    return f"{at:%H:%M}" if at.date() == datetime.now().astimezone().date() else f"{at:%Y-%m-%d %H:%M}"


def left_out(job: Job) -> str:
    """What its results lack, and why; "" if that is nothing, or not known."""
    found = job.files_left_out or ()
    told = [f"{one.path} ({one.reason})" for one in found[:NAMED]]
    return ", ".join([*told, *([f"and {len(found) - NAMED} more"] if len(found) > NAMED else [])])


def row(job: Job) -> Sequence[object]:
    """Its cells in a list. What its script says is the news as long as it runs and nobody ends it."""
    return (
        job.id,
        job.status,
        job.user,
        job.service,
        job.name,
        age(job.created_at),
        span(job.wall_seconds) if job.over else age(job.started_at),
        (progress(job) if job.status == "Running" else "") or job.message,
    )
