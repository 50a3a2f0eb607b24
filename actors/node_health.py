"""Whether a node is sick: in touch, and yet whatever it is given goes wrong. Pure; times are monotonic.

A sick node is the one that is always free, so it would eat the whole queue. It is set aside with a reason:

- it says so itself (its health command), or has run out of disk or memory: for as long as that lasts;
- it took none of the last `DISPATCHES` attempts, or the last `JOBS` jobs there, of `USERS` users or more,
  failed within `SECONDS` of their start: for a growing while. Then it is on probation: it gets one job, whose
  end decides; a job that runs for `PROBATION` says the same as one that goes well. What is older than
  `REMEMBERED` is forgotten, as users' own mistakes come one by one.

Jobs that fail on every node say nothing of any node: nothing is held against one while the others of the
service do no better.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
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


@dataclass(slots=True)
class _State:
    """`streak`: when, and whose, of the jobs that failed at once since one went well. `until`: set aside
    until then, for `why`. `scarce` and `says`: what its heartbeats tell."""

    backoff: Backoff
    refused: int = 0
    streak: list[tuple[float, int]] = field(default_factory=list)
    why: str = ""
    until: float = 0.0
    probation: bool = False
    probation_until: float = 0.0
    scarce: str = ""
    says: str = ""

    @property
    def users(self) -> set[int]:
        return {user for _, user in self.streak}

    def fails_jobs(self, now: float) -> bool:
        self.streak = [one for one in self.streak if now - one[0] < REMEMBERED]
        return self.probation or (len(self.streak) >= JOBS and len(self.users) >= USERS)


class NodeHealth:
    """See the module. Nodes that nothing was told of are well."""

    def __init__(self, rng: Random) -> None:
        self._rng = rng
        self._states: dict[str, _State] = {}

    # ------------------------------------------------------------------ what it is told

    def heard(self, node_id: str, beat: Heartbeat) -> None:
        """What a node says of itself."""
        state = self._states.get(node_id)
        if state is None:
            if not beat.unhealthy and not _scarce(beat, 1.0):
                return
            state = self._state(node_id)
        state.says = beat.unhealthy
        state.scarce = _scarce(beat, ENOUGH if state.scarce else 1.0)

    def refused(self, node_id: str, reason: str, now: float) -> None:
        """It did not take an attempt."""
        state = self._state(node_id)
        state.refused += 1
        if state.refused >= DISPATCHES or state.probation:
            self._put_aside(state, f"it took none of {state.refused} attempts: {reason}", now)

    def took(self, node_id: str) -> None:
        """It took an attempt."""
        if (state := self._states.get(node_id)) is not None:
            state.refused = 0

    def ended(self, node_id: str, user_id: int, *, badly: bool, others: Iterable[str], now: float) -> None:
        """A job ended there: `badly` if it failed within `SECONDS` of its start. `others` are the ready nodes
        of its service."""
        if not badly:
            state = self._states.get(node_id)
            if state is not None:
                state.streak.clear()
                state.probation = False
                state.backoff.reset()
            return
        state = self._state(node_id)
        state.streak = [*state.streak[-15:], (now, user_id)]
        if not state.fails_jobs(now):
            return
        compared = [self._states.get(one) for one in others if one != node_id]
        if compared and all(one is not None and one.fails_jobs(now) for one in compared):
            # It is the jobs. What was held against the others for the same reason is forgotten too.
            state.probation = False
            return
        told = f"{len(state.streak)} jobs in a row, of {len(state.users)} users, failed at once"
        self._put_aside(state, told, now)

    def left(self, node_id: str) -> None:
        self._states.pop(node_id, None)

    def _put_aside(self, state: _State, why: str, now: float) -> None:
        if now >= state.until:  # else what was under way ends, and was counted
            state.why, state.until = why, now + state.backoff.next()
            state.probation = False

    # ------------------------------------------------------------------ what it says

    def why_aside(self, node_id: str, now: float) -> str:
        """Why a node gets no jobs now; "" if it does."""
        state = self._states.get(node_id)
        if state is None:
            return ""
        if state.says:
            return state.says
        if state.scarce:
            return state.scarce
        if now < state.until:
            return f"{state.why}; it is tried again in {state.until - now:.0f} s"
        if state.why:
            state.why, state.probation, state.probation_until = "", True, now + PROBATION
        return ""

    def on_probation(self, node_id: str, now: float) -> bool:
        """Whether it gets only one job at a time."""
        state = self._states.get(node_id)
        if state is not None and state.probation and now >= state.probation_until:
            state.probation = False
        return state is not None and state.probation

    def _state(self, node_id: str) -> _State:
        state = self._states.get(node_id)
        if state is None:
            backoff = Backoff(self._rng, first=ASIDE_FIRST, most=ASIDE_MOST)
            state = self._states[node_id] = _State(backoff)
        return state


def _scarce(beat: Heartbeat, factor: float) -> str:
    for what, there, least in (
        ("disk", beat.free_disk, LEAST_DISK),
        ("memory", beat.free_memory, LEAST_MEMORY),
    ):
        if there is not None and there < least * factor:
            return f"it has run out of {what}: {there >> 20} MiB are free"
    return ""
