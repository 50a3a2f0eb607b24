"""Jobs that are asked for again and again, in memory: their rows as they are now, and what was handed in with
them, which never changes.

A commit brings each row that it changed before anybody is answered, and what was read is kept only if no
commit changed it meanwhile: so nothing here is older than what somebody was told. A Cleaned row is not kept:
it may be purged, of which no commit tells.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from typing import Final

from actors.domain.changes import JobDetails
from actors.domain.job import Job
from actors.domain.status import Status
from orchestrator.ledger.recent import Recent

MOST_ROWS: Final = 4096
MOST_DETAILS: Final = 1024
MOST_NAMES: Final = 32
"""Of files in details that are kept: most jobs have few, and some have a hundred thousand."""


class RecentJobs:
    """See the module."""

    def __init__(self, most: int = MOST_ROWS) -> None:
        self._rows: Recent[int, Job] = Recent(most)
        self.peek: Final = self._rows.peek
        """The row, if it is here, in any thread, and of no weight for what is kept."""
        self._unchanged: dict[int, object] = {}
        """Jobs whose rows are being read, and that no commit has changed since."""

    def committed(self, jobs: Iterable[Job]) -> None:
        for job in jobs:
            self.put(job.id, job)

    def put(self, job_id: int, row: Job | None) -> None:
        """A row as it is from here on, also where only its attempt has changed; None for one that is not
        known."""
        if self._unchanged:
            self._unchanged.pop(job_id, None)
        if row is None or row.status is Status.CLEANED:
            self._rows.drop(job_id)
        else:
            self._rows.put(job_id, row)

    def get(self, job_id: int) -> Job | None:
        """The row, if it is here."""
        return self._rows.get(job_id)

    async def read(self, job_id: int, read: Callable[[], Awaitable[Job | None]]) -> Job | None:
        """The row as `read` gives it; kept for the next time."""
        mark = self._unchanged.setdefault(job_id, object())
        try:
            row = await read()
            if row is not None and row.status is not Status.CLEANED and self._unchanged.get(job_id) is mark:
                self._rows.put(job_id, row)
            return row
        finally:
            if self._unchanged.get(job_id) is mark:
                del self._unchanged[job_id]


def are_small(details: JobDetails) -> bool:
    """Whether these details are kept."""
    return len(details.input_names) + len(details.ignored) <= MOST_NAMES
