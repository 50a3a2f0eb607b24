"""What is going to happen in one simulated run: frozen data, made from a seed, and nothing else is random."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Final

SERVICE: Final = "example"

KINDS: Final = (
    "restart_agent",
    "reboot_machine",
    "die",
    "partition",
    "lossy",
    "slow",
    "duplicate",
    "tear",
    "kill_orchestrator",
    "disk_full",
    "slow_disk",
)
LEAVING: Final = ("leave", "leave", "leave_for_good")


@dataclass(frozen=True, slots=True)
class JobPlan:
    """A job: when it is uploaded and by whom, how long it runs, how it exits, whether somebody stops it. A
    `stubborn` one has a child process that ignores SIGTERM. It says `words` times how far it has come."""

    at: float
    user: int
    length: float
    exit_code: int = 0
    size: int = 1000
    terminate_after: float | None = None
    stubborn: bool = False
    words: int = 0

    def told(self, words: int) -> float:
        """The fraction that this many words stand for."""
        return words / (self.words + 1)


@dataclass(frozen=True, slots=True)
class Fault:
    """`kind` from `KINDS` or `LEAVING`, on `node` (ignored for the orchestrator), for `length` seconds; `rng`
    is how likely each message suffers, where that applies."""

    at: float
    kind: str
    node: int
    length: float
    rng: float = 0.5


@dataclass(frozen=True, slots=True)
class Plan:
    seed: int
    slots: tuple[int, ...]
    jobs: tuple[JobPlan, ...]
    faults: tuple[Fault, ...] = ()
    runs_per_user: int = 2
    max_runs: int = 4
    max_attempts: int = 3
    drop_messages: float = 0.0
    crash_at_call: int | None = None


def make(seed: int) -> Plan:
    """Swarm testing: each seed draws one to four kinds of fault, and up to a dozen faults of these kinds. On
    top, in every second one nodes go on purpose."""
    rng = random.Random(f"plan/{seed}")
    talk, going = random.Random(f"progress/{seed}"), random.Random(f"leaving/{seed}")
    nodes = rng.randint(1, 3)
    jobs = tuple(
        JobPlan(
            at=rng.uniform(0, 60),
            user=rng.randint(1, 3),
            length=rng.choice((0.05, 1.0, 5.0, 30.0)) * rng.uniform(0.5, 1.5),
            exit_code=rng.choice((0, 0, 0, 3)),
            size=rng.choice((1000, 1000, 5_000_000)),
            terminate_after=rng.choice((None, None, None, rng.uniform(0, 40), rng.uniform(0, 0.1))),
            stubborn=rng.random() < 0.3,
            words=talk.choice((0, 0, 1, 3, 10)),
        )
        for _ in range(rng.randint(3, 14))
    )
    kinds = rng.sample(KINDS, rng.randint(1, 4))
    faults = []
    for _ in range(rng.randint(0, 12)):
        kind = rng.choice(kinds)
        node = rng.randrange(nodes)
        if kind == "die" and (nodes == 1 or node == 0):
            kind = "restart_agent"  # one node stays, or nothing could ever end
        length = rng.choice((0.1, 2.0, 20.0, 100.0)) * rng.uniform(0.5, 1.5)
        faults.append(Fault(rng.uniform(0, 90), kind, node, length, rng.choice((0.1, 0.5, 0.9))))
    for _ in range(going.choice((0, 0, 1, 3))):
        node = going.randrange(nodes)
        kind = going.choice(LEAVING) if node else "leave"
        length = going.choice((2.0, 20.0, 100.0)) * going.uniform(0.5, 1.5)
        faults.append(Fault(going.uniform(0, 90), kind, node, length))
    return Plan(
        seed=seed,
        slots=tuple(rng.randint(1, 3) for _ in range(nodes)),
        jobs=jobs,
        faults=tuple(sorted(faults, key=lambda f: f.at)),
        runs_per_user=rng.randint(1, 3),
        max_runs=rng.randint(2, 5),
        drop_messages=rng.choice((0.0, 0.0, 0.3, 1.0)),
        crash_at_call=rng.choice((None, rng.randint(1, 200))),
    )
