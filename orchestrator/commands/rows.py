"""A job as a line of a list."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from orchestrator.commands.output import age, share, span

if TYPE_CHECKING:
    from orchestrator.client import Job

COLUMNS: Final = ("ID", "STATUS", "USER", "SERVICE", "NAME", "AGE", "RAN", "MESSAGE")


def progress(job: Job) -> str:
    """What its script says: how much is done, and what it does."""
    return " ".join(part for part in (share(job.progress), job.progress_message) if part)


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
