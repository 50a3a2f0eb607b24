#!/usr/bin/env python3
"""Run the fault simulation in virtual time on as many seeds as you like, on all cores; replay one; shrink it.

scripts/simulate_faults.py --seeds 10000          # seeds 0 to 9999
scripts/simulate_faults.py --replay 1234          # one seed with its whole trace, shrunk if it fails
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from simulation.plan import make  # noqa: E402
from simulation.run import run  # noqa: E402
from simulation.shrink import shrink  # noqa: E402

CHUNK = 25


def chunk(first: int, last: int) -> list[tuple[int, str]]:
    """The seeds of a range that break a promise, with what they break."""
    logging.disable(logging.ERROR)  # what the actors say of the faults that they are given
    found = []
    for seed in range(first, last):
        result = run(make(seed))
        if result.violation is not None:
            found.append((seed, result.violation))
    return found


def many(first: int, seeds: int) -> int:
    from rich.console import Console
    from rich.progress import Progress

    began = time.monotonic()
    found: list[tuple[int, str]] = []
    starts = range(first, first + seeds, CHUNK)
    ends = [min(start + CHUNK, first + seeds) for start in starts]
    with Progress(console=Console(stderr=True)) as progress, ProcessPoolExecutor(os.cpu_count()) as pool:
        task = progress.add_task("seeds", total=seeds)
        for (start, end), violations in zip(
            zip(starts, ends, strict=True), pool.map(chunk, starts, ends), strict=True
        ):
            progress.advance(task, end - start)
            found.extend(violations)
            for seed, violation in violations:
                progress.console.print(f"seed {seed}: {violation}", style="red", markup=False)
    seconds = time.monotonic() - began
    print(f"{seeds} seeds in {seconds:.0f} s ({seeds / seconds:.0f} a second): {len(found)} violations")
    if found:
        print(f"look at one with: scripts/simulate_faults.py --replay {found[0][0]}")
    return 1 if found else 0


def replay(seed: int) -> int:
    result = run(make(seed))
    print("\n".join(result.trace))
    if result.violation is None:
        print(f"seed {seed}: no promise is broken ({result.virtual_seconds:.0f} s of virtual time)")
        return 0
    print(f"seed {seed}: {result.violation}\nshrinking…")
    logging.disable(logging.ERROR)
    plan, smaller = shrink(make(seed), run)
    print("\n".join(smaller.trace[-60:]))
    print(f"{smaller.violation}\n{plan!r}")
    return 1


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=1000, help="how many seeds to run (default: 1000)")
    parser.add_argument("--first", type=int, default=0, help="the first seed (default: 0)")
    parser.add_argument("--replay", type=int, metavar="SEED", help="run one seed and print its trace")
    args = parser.parse_args()
    return replay(args.replay) if args.replay is not None else many(args.first, args.seeds)


if __name__ == "__main__":
    sys.exit(main())
