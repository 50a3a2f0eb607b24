"""A job as a line of a list."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from orchestrator.commands.output import age, span

if TYPE_CHECKING:
    from orchestrator.client import Job

COLUMNS: Final = ("ID", "STATUS", "USER", "SERVICE", "NAME", "AGE", "RAN", "MESSAGE")


def row(job: Job) -> Sequence[object]:
    """Its cells in a list."""
    return (
        job.id,
        job.status,
        job.user,
        job.service,
        job.name,
        age(job.created_at),
        span(job.wall_seconds),
        job.message,
    )
