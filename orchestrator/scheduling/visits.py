"""Who came to a service lately, and how often. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

TOGETHER: Final = 5.0
"""Seconds: jobs of a user that come closer to each other belong to the same visit."""


class Visits:
    """`arrivals`: the jobs that came, the oldest first: how many seconds ago, whose, and what they require;
    not empty. `kinds`: each visit's jobs: how long after its beginning, whose, and what they require.
    `recent`: how many visits began within the last `window` seconds; `longest`: seconds that one took."""

    def __init__(self, arrivals: Sequence[tuple[float, int, str]], window: float) -> None:
        self.window = window
        self.recent = 0
        self.kinds: list[list[tuple[float, int, str]]] = []
        open_visits: dict[int, tuple[float, float, list[tuple[float, int, str]]]] = {}
        """By user: when the visit began and when its last job came, both ago, and its jobs."""
        for ago, user_id, requires in arrivals:
            begun, last, jobs = open_visits.get(user_id, (ago, ago + 2 * TOGETHER, []))
            if last - ago > TOGETHER:
                begun, jobs = ago, []
                self.kinds.append(jobs)
                self.recent += ago <= window
            jobs.append((begun - ago, user_id, requires))
            open_visits[user_id] = begun, ago, jobs
        self.longest = max(jobs[-1][0] for jobs in self.kinds)
