"""What it costs to keep a script from what it may not: CPU of a trivial job in each tier, in turn."""

from __future__ import annotations

import os
import threading
from typing import Final

from testbed.bench.backlog import AFTER, end_of, uploaded
from testbed.bench.rows import Row
from testbed.bench.target import started
from testbed.bench.trivial import WARM_UP
from testbed.bench.wire import Wire

TIERS: Final = (("bash", "0"), ("landlock", "0"), ("landlock", ""), ("bubblewrap", ""))
"""With the uids that they run as: "" for some of their own, "0" for the node's."""


def tiers(jobs: int, rounds: int, slots: int) -> list[Row]:
    taken = dict.fromkeys(TIERS, 0.0)
    before = {name: os.environ.get(name) for name in ("EXECUTOR", "UIDS")}
    try:
        for _ in range(rounds):
            for tier in TIERS:
                os.environ["EXECUTOR"], os.environ["UIDS"] = tier
                taken[tier] += _measured(jobs, slots) / rounds
    finally:
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value
    least = taken[TIERS[0]]
    return [
        Row(
            f"{name} with uids of their own" if not uids else name,
            1000 * seconds,
            "ms",
            1000 * least,
            "bash, in turn",
        )
        for (name, uids), seconds in taken.items()
    ]


def _measured(jobs: int, slots: int) -> float:
    """CPU seconds of the node, its shepherds and scripts, for a job."""
    with started(nodes=1, slots=slots) as target, Wire(target.url) as wire:
        end_of(wire, uploaded(target, WARM_UP, 10, 2)[0])
        with target.metering() as cost:
            end_of(wire, uploaded(target, jobs, 10, 4)[0], 0.1)
            threading.Event().wait(AFTER)
    return sum(seconds for name, seconds in cost.parts.items() if name != "server") / jobs
