"""Whether there is room for one more job of a user, by the limits that are set."""

from __future__ import annotations

import sqlite3

from orchestrator.access.limits import Limits
from orchestrator.ledger.errors import LimitReached
from orchestrator.ledger.tables.jobs import read_number_queued
from orchestrator.ledger.tables.kept_bytes import read_bytes
from orchestrator.ledger.tables.queue_counts import read_queued_of_user


def require_room(
    db: sqlite3.Connection, limits: Limits, *, user: int, service: str | None, size: int
) -> None:
    """Raise LimitReached for a job of `size` bytes that would be one too many. A service that is
    not known yet is not looked at. The work is a few look-ups, whatever waits."""
    if (most := limits.queued) and service is not None and read_number_queued(db, service) >= most:
        raise LimitReached(
            "max_queued", f"{most} jobs of service {service} wait, and no more may", retry_after=30
        )
    if (most := limits.queued_per_user) and read_queued_of_user(db, user) >= most:
        raise LimitReached(
            "max_queued_per_user", f"{most} jobs of user {user} wait, and no more may", retry_after=30
        )
    if (most := limits.bytes_per_user) and (kept := read_bytes(db, user)) + size > most:
        raise LimitReached(
            "max_bytes_per_user",
            f"{kept} bytes of user {user}'s jobs are stored, and {size} more would be above {most}: "
            "delete what is not needed",
            retry_after=60,
        )
