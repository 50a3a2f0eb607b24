"""What is going to happen in one simulated run: frozen data, made from a seed, and nothing else is random."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass, replace
from typing import Final

SERVICE: Final = "example"
KEEPER: Final = "keeper"
"""The service that slots are kept for, on the same nodes."""

KINDS: Final = (
    "restart_agent",
    "reboot_machine",
    "die",
    "partition",
    "lossy",
    "unanswered",
    "slow",
    "duplicate",
    "tear",
    "kill_orchestrator",
    "disk_full",
    "slow_disk",
    "torn_records",
    "full_node",
    "no_files",
    "trickle",
    "stall",
    "endless",
)
COPIES: Final = ("set_back", "set_back", "copy")
"""Of a machine as it is now: it goes on from there once more after `length`, or another one begins with what
is on its disk, by its name, for so long."""
BATCH: Final = (
    *(
        "batch_down",
        "batch_slow",
        "batch_mute",
        "batch_mute",
        "batch_blind",
        "batch_forgets",
        "batch_forgets",
    ),
    *("batch_requeue", "batch_cancel", "batch_node_fail"),
)
"""Of the batch system, which all nodes share that have one."""
DIALLED: Final = ("half_open", "half_open", "tear")
"""Of what a node has opened: what is between forgets it, or ends it with a word."""
LEAVING: Final = ("leave", "leave", "leave_for_good")
LASTING: Final = ("trickle", "stall", "endless")
LARGE: Final = 1_200_000
"""Bytes of a job that travels by itself, and so do its results."""
SCENES: Final = (
    *("cut off", "cut off", "cut off", "away", "away from the dead", "unheard", "slow disk", "slow disk"),
    *("torn", "torn", "full node", "no files", "spoilt"),
)
"""Those that are there more than once break rules that are hard to find broken."""
CROWDED: Final = ("unheard", "slow disk")


@dataclass(frozen=True, slots=True)
class JobPlan:
    """A job: when it is uploaded and by whom, how long it runs, how it exits, whether somebody stops it (so
    long after it was uploaded, or sent to a node). A `stubborn` one has a child process that ignores SIGTERM.
    It says `words` times how far it has come."""

    at: float
    user: int
    length: float
    exit_code: int = 0
    size: int = 1000
    terminate_after: float | None = None
    terminate_when_sent: float | None = None
    stubborn: bool = False
    words: int = 0
    service: str = SERVICE

    def told(self, words: int) -> float:
        """The fraction that this many words stand for."""
        return words / (self.words + 1)


@dataclass(frozen=True, slots=True)
class Fault:
    """`kind` from one of the lists above, on `node` (not for the orchestrator or the batch system), for
    `length` seconds, which may be for ever for those that are `LASTING`; `rng` is how likely each message or
    job suffers, where that applies."""

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
    reboot_after: tuple[int, ...] = ()
    """The submits and releases, over all nodes, shortly after which the node's machine starts anew."""
    set_back_after: tuple[int, ...] = ()
    """The submits and releases, over all nodes, that nobody answers: the node is set back."""
    reboot_after_ends: tuple[int, ...] = ()
    """The ends of payloads, over all nodes, shortly after which the node's machine starts anew."""
    dials: tuple[bool, ...] = ()
    """Which nodes cannot be reached, and open connections themselves."""
    batch: tuple[bool, ...] = ()
    """Which nodes have their payloads in a batch system."""
    kept: int = 0
    """Slots that are kept for `KEEPER`: fewer than the node has that stays, or others would wait for ever."""
    ahead: bool = False
    """Nodes take as many jobs ahead as they have slots, however long these run."""
    cut_after: tuple[int, ...] = ()
    """The commits, counted over all lives, shortly after which the orchestrator's power is cut."""


def make(seed: int) -> Plan:
    """Swarm testing: each seed draws one to four kinds of fault, and up to four faults of these kinds. On
    top, in every third one a node goes on purpose, and there are up to four scenes: faults that do their
    worst together with some jobs, and seldom meet them by chance."""
    rng = random.Random(f"plan/{seed}")
    talk, going = random.Random(f"progress/{seed}"), random.Random(f"leaving/{seed}")
    order = random.Random(f"orders/{seed}")
    nodes = rng.randint(1, 3)
    jobs = tuple(
        JobPlan(
            at=rng.uniform(0, 60),
            user=rng.randint(1, 3),
            length=rng.choice((0.05, 1.0, 5.0, 30.0)) * rng.uniform(0.5, 1.5),
            exit_code=rng.choice((0, 0, 0, 3)),
            size=rng.choice((1000, 1000, LARGE)),
            terminate_after=rng.choice((None, None, None, rng.uniform(0, 40), rng.uniform(0, 0.1))),
            terminate_when_sent=order.choice((None, None, order.uniform(0, 2))),
            stubborn=rng.random() < 0.3,
            words=talk.choice((0, 0, 1, 3, 10)),
        )
        for _ in range(rng.randint(1, 5))
    )
    power = random.Random(f"power/{seed}")
    kinds = rng.sample(KINDS, rng.randint(1, 4))
    faults = []
    for _ in range(rng.randint(0, 4)):
        kind = rng.choice(kinds)
        node = rng.randrange(nodes)
        if kind == "die" and (nodes == 1 or node == 0):
            kind = "restart_agent"  # one node stays, or nothing could ever end
        length = rng.choice((0.1, 2.0, 20.0, 100.0)) * rng.uniform(0.5, 1.5)
        if kind in LASTING and node and rng.random() < 0.6:
            length = math.inf
        faults.append(Fault(rng.uniform(0, 90), kind, node, length, rng.choice((0.1, 0.5, 0.9))))
    for _ in range(going.choice((0, 0, 1))):
        node = going.randrange(nodes)
        kind = going.choice(LEAVING) if node else "leave"
        length = going.choice((2.0, 20.0, 100.0)) * going.uniform(0.5, 1.5)
        faults.append(Fault(going.uniform(0, 90), kind, node, length))
    copies = random.Random(f"copies/{seed}")
    for kind in copies.choice(((), (), copies.sample(COPIES, 1), copies.sample(COPIES, 2))):
        length = copies.choice((2.0, 10.0, 30.0)) * copies.uniform(0.5, 1.5)
        at = copies.uniform(0, 60)
        # No second copy of a machine: both would have one address.
        node = copies.randrange(nodes)
        if kind == "copy" and copies.random() < 0.7:
            faults.append(Fault(at + length / 2, "partition", node, copies.uniform(5, 30)))
        faults.append(Fault(at, kind, node, length * (3 if kind == "copy" else 1)))
    clusters = random.Random(f"batch/{seed}")
    batch = tuple(clusters.choice((False, False, True)) for _ in range(nodes))
    if any(batch):
        for _ in range(clusters.randint(0, 4)):
            length = clusters.choice((5.0, 20.0, 60.0)) * clusters.uniform(0.5, 1.5)
            at, kind = clusters.uniform(0, 90), clusters.choice(BATCH)
            faults.append(Fault(at, kind, 0, length, clusters.choice((0.3, 0.7, 1.0))))
        for _ in range(clusters.choice((0, 1, 2))):
            node, length = clusters.choice([n for n in range(nodes) if batch[n]]), clusters.uniform(1, 20)
            kind = clusters.choice(("reboot_machine", "restart_agent"))
            faults.append(Fault(clusters.uniform(0, 90), kind, node, length))
    flows = random.Random(f"dials/{seed}")
    dials = tuple(flows.choice((False, False, True)) for _ in range(nodes))
    for node in (n for n in range(nodes) if dials[n]):
        for _ in range(flows.randint(0, 6)):
            faults.append(Fault(flows.uniform(0, 90), flows.choice(DIALLED), node, 0.0))
    stage = random.Random(f"scene/{seed}")
    for scene in stage.sample(SCENES, stage.randint(0, 4)):
        at = stage.uniform(5, 40)
        faults += _scene(scene, at, stage, nodes)
        jobs += tuple(
            JobPlan(
                at - stage.uniform(1, 5),
                stage.randint(4, 6),
                stage.uniform(40, 50) if scene == "cut off" else stage.uniform(10, 50),
                terminate_when_sent=stage.uniform(0, 2) if scene == "slow disk" else None,
                words=1,
            )
            for _ in range(stage.randint(2, 4) if scene in CROWDED else stage.randint(1, 3))
        )
    slots = tuple(rng.randint(1, 3) for _ in range(nodes))
    shares = random.Random(f"shares/{seed}")
    kept = shares.randrange(slots[0]) if shares.random() < 0.5 else 0
    if kept:
        jobs = tuple(replace(one, service=shares.choice((SERVICE, KEEPER))) for one in jobs)
        jobs += _crowd(shares, sum(slots))
    return Plan(
        seed=seed,
        slots=slots,
        jobs=jobs,
        kept=kept,
        ahead=not kept and random.Random(f"ahead/{seed}").random() < 0.5,
        faults=tuple(sorted(faults, key=lambda f: f.at)),
        runs_per_user=rng.randint(1, 3),
        max_runs=rng.randint(3, 6),
        drop_messages=rng.choice((0.0, 0.0, 0.3, 1.0)),
        crash_at_call=rng.choice((None, rng.randint(1, 200))),
        reboot_after=tuple(power.sample(range(1, 20), power.choice((0, 0, 1, 3)))),
        dials=dials,
        batch=batch,
        cut_after=tuple(power.sample(range(1, 40), power.choice((0, 0, 1, 3)))),
        set_back_after=tuple(copies.sample(range(1, 20), copies.choice((0, 0, 1, 3)))),
        reboot_after_ends=tuple(power.sample(range(1, 8), power.choice((0, 0, 1, 2)))),
    )


def _crowd(rng: random.Random, slots: int) -> tuple[JobPlan, ...]:
    """Enough to fill all slots, of many users, and some for whom slots are kept."""
    at = rng.uniform(0, 60)
    return tuple(
        JobPlan(at + rng.uniform(0, 2), 7 + n % 4, rng.uniform(5, 20), service=KEEPER if n < 2 else SERVICE)
        for n in range(slots + 2)
    )


def _scene(scene: str, at: float, rng: random.Random, nodes: int) -> list[Fault]:
    match scene:
        case "cut off":  # given up with what runs there, and back while that runs elsewhere
            return [Fault(at, "partition", n, rng.uniform(70, 100)) for n in range(max(1, nodes - 1))]
        case "away":  # on purpose
            return [Fault(at, "leave", n, rng.uniform(80, 120)) for n in range(nodes)]
        case "away from the dead":  # whoever waits for it dies meanwhile
            dies = Fault(at + rng.uniform(1, 60), "kill_orchestrator", 0, 0.1)
            return [*(Fault(at, "leave", n, rng.uniform(100, 150)) for n in range(nodes)), dies]
        case "unheard":  # who takes jobs, and does not come to say so
            kind = rng.choice(("slow", "unanswered", "unanswered"))
            return [Fault(at - 6, kind, n, rng.uniform(15, 45), 0.6) for n in range(nodes)]
        case "slow disk":  # while orders come
            return [Fault(at - 4, "slow_disk", 0, rng.uniform(10, 40))]
        case "torn":
            return [Fault(at, "torn_records", n, rng.choice((0.1, 2.0, 20.0)), 0.7) for n in range(nodes)]
        case "full node":  # with ends to be recorded
            return [Fault(at, "full_node", n, rng.uniform(60, 90)) for n in range(nodes)]
        case "spoilt":  # what it hands over
            kind = rng.choice(LASTING)
            return [Fault(at, kind, n, math.inf if n else 60.0) for n in range(nodes)]
        case _:  # for longer than a node is given to hand over what it has
            return [Fault(at, "no_files", 0, rng.uniform(140, 170))]
