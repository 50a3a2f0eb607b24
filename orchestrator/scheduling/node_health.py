"""Whether a node is sick: in touch, and yet whatever it is given goes wrong. Pure; times are monotonic.

A sick node is the one that is always free, so it would eat the whole queue. It is set aside with a reason:

- it says so itself (its health command), or has run out of disk or memory: for as long as that lasts;
- it could not start a job, and says that it is to blame itself, it took none of the last `DISPATCHES`
  attempts, or the last `JOBS` jobs there, of `USERS` users or more, failed within `SECONDS` of their start:
  for a growing while. Then it is on probation: it gets one job, whose end decides; a job that runs for
  `PROBATION` says the same as one that goes well. Where it could not start one, the next that begins
  decides, however long that takes. What is older than `REMEMBERED` is forgotten, as users' own mistakes come
  one by one.

Jobs that fail on every node say nothing of any node: nothing is held against one while the others of the
service do no better, nor against the last that takes jobs of it, as nobody else would have them. What a node
says of itself counts for the last one too: jobs are better kept waiting than used up there.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from actors.domain.node import Heartbeat
from actors.kernel.backoff import Backoff
from actors.ports.world import Random

DISPATCHES: Final = 8
JOBS: Final = 3
USERS: Final = 2
SECONDS: Final = 3.0
REMEMBERED: Final = 60.0
PROBATION: Final = 30.0
ASIDE_FIRST: Final = 15.0
ASIDE_MOST: Final = 900.0
LEAST_DISK: Final = 64 << 20
LEAST_MEMORY: Final = 32 << 20
ENOUGH: Final = 1.5
"""How much more than the least there has to be again before a node comes back."""


class NodeHealth:
    """The health of one node: see the module. One of which nothing was told is well."""

    def __init__(self, rng: Random) -> None:
        self._backoff = Backoff(rng, first=ASIDE_FIRST, most=ASIDE_MOST)
        self._refused = 0
        self._streak: list[tuple[float, int]] = []
        """When, and whose, of the jobs that failed at once since one went well."""
        self._why = ""
        self._until = 0.0
        self._probation = False
        self._probation_until = 0.0
        self._unable = False
        self._scarce = ""
        self._unhealthy = ""

    # ------------------------------------------------------------------ what it is told

    def heard(self, beat: Heartbeat) -> None:
        """What the node says of itself."""
        self._unhealthy = beat.unhealthy
        self._scarce = _scarce(beat, ENOUGH if self._scarce else 1.0)

    def refused(self, reason: str, now: float) -> None:
        """It did not take an attempt."""
        self._refused += 1
        if self._refused >= DISPATCHES or self._probation:
            self._set_aside(f"it took none of {self._refused} attempts: {reason}", now)

    def took(self) -> None:
        """It took an attempt."""
        self._refused = 0

    def start_failed(self, reason: str, now: float) -> None:
        """It could not start a job, through no fault of the job's."""
        self._unable = True
        self._set_aside(f"a job {reason}; mend that on its machine, where its log says more", now)

    @property
    def unable(self) -> bool:
        """Whether it could not start the last job that it tried to."""
        return self._unable

    def began(self) -> None:
        """A job has begun to run there."""
        if self._unable:
            self._unable = self._probation = False

    def ended(self, user_id: int, *, badly: bool, others: Iterable[NodeHealth], now: float) -> None:
        """A job ended there: `badly` if it failed within `SECONDS` of its start. `others` are the other
        nodes of its service that take jobs."""
        if not badly:
            self._streak.clear()
            self._probation = False
            self._backoff.reset()
            return
        self._streak = [*self._streak[-15:], (now, user_id)]
        if not self._fails_jobs(now):
            return
        if all(one._fails_jobs(now) for one in others):
            # It is the jobs, or nobody is left to do better. What was held against others is forgotten too.
            self._probation = False
            return
        users = {user for _, user in self._streak}
        self._set_aside(f"{len(self._streak)} jobs in a row, of {len(users)} users, failed at once", now)

    def _fails_jobs(self, now: float) -> bool:
        self._streak = [one for one in self._streak if now - one[0] < REMEMBERED]
        users = {user for _, user in self._streak}
        return self._probation or (len(self._streak) >= JOBS and len(users) >= USERS)

    def _set_aside(self, why: str, now: float) -> None:
        if now >= self._until:  # else what was under way ends, and was counted
            self._why, self._until = why, now + self._backoff.next()
            self._probation = False

    # ------------------------------------------------------------------ what it says

    def why_set_aside(self, now: float) -> str:
        """Why the node gets no jobs now; "" if it does."""
        if self._unhealthy or self._scarce:
            return self._unhealthy or self._scarce
        if now < self._until:
            return f"{self._why}; it is tried again in {self._until - now:.0f} s"
        if self._why:
            self._why, self._probation, self._probation_until = "", True, now + PROBATION
        return ""

    def on_probation(self, now: float) -> bool:
        """Whether it gets only one job at a time."""
        if now >= self._probation_until and not self._unable:
            self._probation = False
        return self._probation


def _scarce(beat: Heartbeat, factor: float) -> str:
    for what, there, least in (
        ("disk", beat.free_disk, LEAST_DISK),
        ("memory", beat.free_memory, LEAST_MEMORY),
    ):
        if there is not None and there < least * factor:
            wanted = int(least * factor) >> 20
            return f"it has run out of {what}: {there >> 20} MiB are free, and at least {wanted} have to be"
    return ""
