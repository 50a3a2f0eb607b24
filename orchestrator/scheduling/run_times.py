"""How long the jobs of a service run, by user. Pure: runs in, samples out.

A user's jobs are alike: the logarithms of their run times scatter about the user's own mean, and these means
about the service's. So a user of whom few runs are known is put between the two, with the error that is left,
and the scatter is the one of all users; where many are known they stand for themselves.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Sequence
from random import Random
from statistics import fmean
from typing import Final

MANY: Final = 30
"""With so many runs a user's own are all that counts."""

SAMPLE: Final = 50
"""Run times of a sample, and the newest of a user that are looked at."""

ALIKE: Final = 3.0
"""How many times as much a user's runs scatter (variance) as users differ, until enough users are known."""

TRIED: Final = 8
"""Samples of which the likeliest are taken where jobs of the user have run for a while already."""

_LEAST: Final = 1e-3
"""Seconds: shorter runs count as this long."""


class RunTimes:
    """`holds`: whose runs took how many seconds, the newest last; not empty."""

    def __init__(self, holds: Sequence[tuple[int, float]]) -> None:
        self._own: dict[int, list[float]] = {}
        for user_id, seconds in reversed(holds):
            own = self._own.setdefault(user_id, [])
            if len(own) < SAMPLE:
                own.append(math.log(max(seconds, _LEAST)))
        self._means = {user_id: fmean(own) for user_id, own in self._own.items()}
        self._mean = fmean(self._means.values())
        # Runs scatter less about the mean of few of them than about the true one.
        self._scatter = sorted(
            (run - self._means[user_id]) * math.sqrt(len(own) / (len(own) - 1))
            for user_id, own in self._own.items()
            if len(own) > 1
            for run in own
        ) or [0.0]
        self._within = fmean(one * one for one in self._scatter)
        apart = sum(
            (self._means[user_id] - self._mean) ** 2 - self._within / len(own)
            for user_id, own in self._own.items()
        )
        self._between = max(0.0, (apart + 2.0 * self._within / ALIKE) / (len(self._own) + 1))

    def sample(self, user_id: int, elapsed: Sequence[float], rng: Random) -> list[float]:
        """What runs of this user may take, in seconds, in order; `elapsed`: for how long some go on already.
        The samples differ by as much as the user is unknown."""
        own = self._own.get(user_id, [])
        if len(own) >= MANY:
            logs = rng.choices(own, k=len(own))
        else:
            pace = self._draw_pace(user_id, elapsed, rng)
            logs = [pace + one for one in rng.choices(self._scatter, k=SAMPLE)]
        return sorted(map(math.exp, logs))

    def _draw_pace(self, user_id: int, elapsed: Sequence[float], rng: Random) -> float:
        """The mean of the logarithm: the likelier one, given the user's runs and those that go on."""
        runs = len(self._own.get(user_id, ()))
        known = runs * self._between
        weight = known / (known + self._within) if known else 0.0
        mean = self._mean + weight * (self._means.get(user_id, self._mean) - self._mean)
        error = math.sqrt((1.0 - weight) * self._between)
        if not elapsed:
            return rng.gauss(mean, error)
        tried = [rng.gauss(mean, error) for _ in range(TRIED)]
        least = [math.log(max(seconds, _LEAST)) for seconds in elapsed]
        likely = [math.prod(self._share_above(one - pace) for one in least) for pace in tried]
        return rng.choices(tried, likely)[0]

    def _share_above(self, deviation: float) -> float:
        """How many runs are longer; never nothing."""
        return 1.0 - bisect_right(self._scatter, deviation) / (len(self._scatter) + 1)
