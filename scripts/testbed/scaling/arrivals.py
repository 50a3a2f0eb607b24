"""The jobs of a day at a science portal: a tide of single users, bursts of one user each, and one crowd that
comes out of nothing (a course begins, a paper is in the news)."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass

DAY = 86_400.0


@dataclass(frozen=True, slots=True)
class Arrival:
    """A job: when it comes, how long it runs, whose it is, and whether it belongs to the crowd."""

    at: float
    seconds: float
    user: int
    crowd: bool = False


@dataclass(frozen=True, slots=True)
class Shape:
    """How many jobs of each kind, how long a job runs in the mean, and when the crowd comes (seconds after
    midnight) for how long."""

    tide: int = 130_000
    bursts: int = 20
    burst_jobs: int = 1_000
    crowd: int = 50_000
    crowd_at: float = 15 * 3600.0
    crowd_for: float = 600.0
    mean_seconds: float = 40.0
    longest: float = 1800.0
    users: int = 4_000
    length: float = DAY

    @property
    def jobs(self) -> int:
        return self.tide + self.bursts * self.burst_jobs + self.crowd


def arrivals(shape: Shape, seed: int) -> list[Arrival]:
    """In the order of time; the same for the same seed."""
    rng = random.Random(f"day/{seed}")

    def seconds() -> float:
        sigma = 1.0
        drawn = rng.lognormvariate(math.log(shape.mean_seconds) - sigma**2 / 2, sigma)
        return min(max(drawn, 0.5), shape.longest)

    jobs = [
        Arrival(_tide(rng, shape.length), seconds(), rng.randrange(shape.users)) for _ in range(shape.tide)
    ]
    for burst in range(shape.bursts):
        at, user = rng.uniform(0.05, 0.95) * shape.length, shape.users + burst
        jobs += [Arrival(at + rng.uniform(0.0, 60.0), seconds(), user) for _ in range(shape.burst_jobs)]
    for _ in range(shape.crowd):
        # Most of a crowd comes early.
        at = shape.crowd_at + shape.crowd_for * rng.betavariate(1.2, 2.0)
        jobs.append(Arrival(at, seconds(), rng.randrange(shape.users), crowd=True))
    return sorted(jobs, key=lambda job: (job.at, job.user, job.seconds))


def _tide(rng: random.Random, length: float) -> float:
    """Few at night, most in the early afternoon."""
    while True:
        part = rng.random()
        if rng.random() < 0.12 + 0.88 * math.sin(math.pi * part) ** 4:
            return part * length
