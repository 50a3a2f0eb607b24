"""When what is done to whom: drawn from a seed, before anything runs."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from testbed.chaos.damage import WAYS

SERVER = 0
"""The orchestrator among the targets; nodes count from 1."""


class What(StrEnum):
    KILL = "kill -9"
    KILL_AT_UPLOAD = "kill -9 amid the next upload"
    STOP = "SIGSTOP"
    TEAR = "kill -9, and a file torn before the next start"
    INODES = "no inodes left"
    DESCRIPTORS = "no descriptors left"
    SPAWNER = "kill -9 of the spawner"
    CUT = "network"


@dataclass(frozen=True, slots=True)
class Fault:
    """At `at` seconds from the begin, for `seconds`. `mode` is how a network is cut or a file is torn;
    `delay` what passes after the event that it waits for, if it waits for one."""

    at: float
    target: int
    what: What
    seconds: float
    mode: str = ""
    delay: float = 0.0


def draw(
    *,
    seed: int,
    kills: int,
    nodes: int,
    seconds: float,
    longest: float,
    modes: Sequence[str],
    disks: bool,
) -> list[Fault]:
    """`kills` kills of the orchestrator and nodes, and in proportion everything else, in order of time.
    `longest` is the longest time that anybody is away; `disks` says whether theirs can be used up."""
    rng = random.Random(f"{seed}/faults")

    def away() -> float:
        # Most are short, so that most of the time most of it works: what is always down is never tried.
        return 0.05 + (longest - 0.05) * rng.random() ** 2

    found = []
    for _ in range(kills):
        target = rng.choice([SERVER, *range(nodes + 1)])
        what = What.KILL_AT_UPLOAD if target == SERVER and rng.random() < 0.4 else What.KILL
        delay = 0.15 * rng.random()
        found.append(Fault(seconds * rng.random(), target, what, away(), delay=delay))
    for _ in range(-(-kills // 3)):
        found.append(Fault(seconds * rng.random(), rng.randint(0, nodes), What.STOP, away()))
    for _ in range(-(-kills // 2)):
        node, mode = rng.randint(1, nodes), rng.choice(modes)
        found.append(Fault(seconds * rng.random(), node, What.CUT, away(), mode))
    for _ in range(-(-kills // 6)):
        found.append(Fault(seconds * rng.random(), rng.randint(1, nodes), What.SPAWNER, 0.0))
    ways = list(WAYS)
    # Those that tear a file kill as well, and are not among the kills that were asked for.
    for number in range(-(-kills // 4)):
        target, way = number % (nodes + 1), ways[(number + number // (nodes + 1)) % len(ways)]
        found.append(Fault(seconds * rng.random(), target, What.TEAR, away(), way))
    for what in (What.INODES, What.DESCRIPTORS) if disks else (What.DESCRIPTORS,):
        # The orchestrator first, then a node: both even in the shortest run.
        for number in range(max(2, -(-kills // 10))):
            target = number % 2 and rng.randint(1, nodes)
            lasts = rng.uniform(1.0, max(1.0, longest))
            found.append(Fault(seconds * rng.random(), target, what, lasts))
    return sorted(found, key=lambda fault: fault.at)
