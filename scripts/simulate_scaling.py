#!/usr/bin/env python3
"""A day of auto-scaling in virtual time: the real AutoScaler, policy, queue manager and service pool under
the arrivals of a day, beside pools of a fixed size and an oracle that knows the arrivals.

    python scripts/simulate_scaling.py                      a day of 20,000 jobs on up to 100 nodes
    python scripts/simulate_scaling.py --scale 10           200,000 jobs on up to 1,000 nodes
    python scripts/simulate_scaling.py --plot scaling.png   and the picture (needs the extra `plots`)

Ends with 1 if the crowd's p95 wait or node-hours are further from the oracle's than asked for.
"""

from __future__ import annotations

import argparse
import dataclasses
import logging
import sys
import time
from pathlib import Path

from testbed.scaling.arrivals import DAY, Shape, arrivals
from testbed.scaling.day import Cloud, scaled
from testbed.scaling.line import SERVICE
from testbed.scaling.plot import draw
from testbed.scaling.standing import fixed, oracle
from testbed.scaling.table import table, verdict

from actors.domain.scaling import ScalingLimits

KNOBS = (
    "target_wait",
    "idle_timeout",
    "cooldown",
    "max_booting",
    "boot_timeout",
    "slots_per_node",
    "min_nodes",
)


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--scale", type=float, default=1.0, help="1: 20,000 jobs on up to 100 nodes")
    parser.add_argument("--nodes", type=int, help="max_nodes, in place of 100 times the scale")
    parser.add_argument("--crowd", type=int, help="jobs of the crowd, in place of 5,000 times the scale")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--quota", type=int, default=50, help="running jobs a user")
    parser.add_argument("--boot", type=float, default=90.0, help="seconds that a machine boots")
    parser.add_argument("--look", type=float, default=2.0, help="seconds between two looks of the AutoScaler")
    parser.add_argument("--alone", action="store_true", help="without the pools of a fixed size")
    parser.add_argument("--plot", type=Path, help="where to put the picture")
    defaults = {one.name: one.default for one in dataclasses.fields(ScalingLimits)}
    for knob in KNOBS:
        kind = type(defaults[knob])
        parser.add_argument(f"--{knob.replace('_', '-')}", type=kind, default=defaults[knob])
    return parser.parse_args()


def main() -> int:
    chosen = options()
    logging.disable(logging.ERROR)
    began = time.perf_counter()
    scale, nodes = chosen.scale, chosen.nodes or max(1, round(100 * chosen.scale))
    shape = Shape(
        tide=round(13_000 * scale),
        burst_jobs=round(100 * scale),
        crowd=round(5_000 * scale) if chosen.crowd is None else chosen.crowd,
        users=max(10, round(400 * scale)),
    )
    jobs = arrivals(shape, chosen.seed)
    limits = ScalingLimits(SERVICE, max_nodes=nodes, **{knob: getattr(chosen, knob) for knob in KNOBS})
    slots, quota = limits.slots_per_node, chosen.quota
    print(f"{len(jobs):,} jobs, up to {nodes:,} nodes of {slots} slots, boot {chosen.boot:g} s", flush=True)
    ours, records = scaled(
        jobs, limits, quota=quota, cloud=Cloud(boot_seconds=chosen.boot), look_every=chosen.look
    )
    print(f"the scaled day took {time.perf_counter() - began:.0f} s of real time", flush=True)
    best = oracle(jobs, nodes, slots=slots, quota=quota, boot_seconds=chosen.boot)
    outcomes = [ours, best]
    if not chosen.alone:
        there = [count for t, _, count, _ in ours.samples if 3600 <= t <= DAY]
        sizes = {"least": max(1, min(there)), "mean": max(1, round(sum(there) / len(there))), "most": nodes}
        outcomes += [
            fixed(jobs, size, slots=slots, quota=quota, name=f"fixed, {name} ({size})")
            for name, size in sizes.items()
        ]
    print(table(outcomes))
    kinds = {one.action for one in records.noted}
    counts = {kind: sum(one.action == kind for one in records.noted) for kind in sorted(kinds)}
    print("decisions: " + ", ".join(f"{count} {kind}" for kind, count in counts.items()))
    told = verdict(ours, best, shape, chosen.boot)
    print(told)
    if chosen.plot is not None:
        title = f"{len(jobs):,} jobs in a day, up to {nodes:,} nodes, boot {chosen.boot:g} s"
        draw(outcomes, chosen.plot, title)
    print(f"all of it took {time.perf_counter() - began:.0f} s of real time")
    return 0 if told.good else 1


if __name__ == "__main__":
    sys.exit(main())
