"""Who held a place in the quotas, from when to when, as the ledger's history tells; and whether that ever was
more than allowed."""

from __future__ import annotations

import sqlite3
from collections import defaultdict
from collections.abc import Iterable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Final

HOLDING: Final = frozenset({"Processing", "Submitted", "Prepared", "Running", "Locked"})
"""The states that count against the quotas."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One transition of a job, in the order of the history. `verdict_at` is when the job's last attempt ended
    on its node by the node's own word, None if the ledger has none."""

    job: int
    user: int
    at: float
    target: str
    verdict_at: float | None


@dataclass(frozen=True, slots=True)
class Held:
    """A job held a place from `begin` to `end`, seconds since the epoch."""

    job: int
    user: int
    begin: float
    end: float


@dataclass(frozen=True, slots=True)
class Peaks:
    """The most jobs that held a place at one instant: of all, and of one user (with who that was)."""

    total: int
    of_one_user: int
    user: int


def read_history(db_path: Path) -> list[Entry]:
    """Every transition of every job. The ledger may be in use; it is opened read-only."""
    with closing(sqlite3.connect(f"{db_path.absolute().as_uri()}?mode=ro", uri=True)) as db:
        rows = db.execute(
            "SELECT h.job_id, j.user_id, h.at, h.target, j.end_ended_at FROM history AS h "
            "JOIN jobs AS j ON j.id = h.job_id ORDER BY h.rowid"
        )
        return [Entry(*row) for row in rows]


def held(history: Iterable[Entry]) -> list[Held]:
    """The places that were held: from Processing until the end is recorded.

    The history has no line for that record, which comes between the end on the node and the final state. So a
    place counts here until the node's own time of the end, or, without one, until the last change before the
    final state: never longer than it was held, so that what is found too many was too many.
    """
    jobs: dict[int, list[Entry]] = defaultdict(list)
    for entry in history:
        jobs[entry.job].append(entry)
    found = []
    for entries in jobs.values():
        begin: float | None = None
        last = 0.0
        for entry in entries:
            if entry.target in HOLDING:
                begin = entry.at if begin is None else begin
                last = entry.at
            elif begin is not None:
                end = entry.at
                if entry.target != "Queued":
                    end = min(end, last if entry.verdict_at is None else entry.verdict_at)
                found.append(Held(entry.job, entry.user, begin, max(begin, end)))
                begin = None
        if begin is not None:
            found.append(Held(entries[0].job, entries[0].user, begin, float("inf")))
    return found


def peaks(places: Iterable[Held]) -> Peaks:
    """The largest numbers of places held at once."""
    changes: list[tuple[float, int, int]] = []
    for place in places:
        changes.append((place.begin, 1, place.user))
        changes.append((place.end, -1, place.user))
    total = most = most_user = who = 0
    users: dict[int, int] = defaultdict(int)
    # At the same instant what ends comes before what begins.
    for _at, step, user in sorted(changes):
        total += step
        users[user] += step
        most = max(most, total)
        if users[user] > most_user:
            most_user, who = users[user], user
    return Peaks(most, most_user, who)
