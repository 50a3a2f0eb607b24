#!/usr/bin/env python3
"""How good the estimates of begins are: in a day of virtual time, or with real jobs on a system of this
machine.

    python scripts/forecast.py day --seed 1 2 3
    python scripts/forecast.py day --seed 1 --known 30
    python scripts/forecast.py jobs --jobs 300

Tells the share of jobs that began within what was first said of them, how wide that was and how long they
waited from then on (medians), of each day and of all; a range without an end counts as infinitely wide. Ends
with 1 if of all fewer than 75 % did, or the median width is not under half of the median wait.
"""

from __future__ import annotations

import argparse
import random
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from statistics import median
from typing import Final

from testbed.forecast.day import DayShape, Said, simulate_day

from orchestrator.client import Client, Job, Period
from orchestrator.scheduling.forecast import Span

SLOTS: Final = 8
AT_ONCE: Final = 8
"""Jobs that a user hands in one after the other."""
OVERLOAD: Final = 1.4
"""How much faster real jobs are handed in than they run."""
_LISTENING = re.compile(r"listening on (\S+)")


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=("day", "jobs"))
    parser.add_argument("--seed", type=int, nargs="+", default=[1], help="of several days each")
    parser.add_argument("--forecasts", type=int, default=200, help="of a day: of how many jobs, about")
    parser.add_argument("--known", type=int, default=0, help="of a day: runs of each user before it")
    parser.add_argument("--jobs", type=int, default=300, help="real ones")
    parser.add_argument("--users", type=int, default=6, help="who hand in the real ones")
    parser.add_argument("--seconds", type=float, default=4.0, help="that a real job runs in the mean")
    return parser.parse_args()


def run_jobs(wanted: argparse.Namespace) -> list[Said]:
    """Hand in real jobs, ask soon when each begins, and see when it did."""
    with tempfile.TemporaryDirectory() as data:
        command = str(Path(sys.executable).with_name("orchestrator"))
        flags = ("--port", "0", "--slots", str(SLOTS), "--data", data)
        server = subprocess.Popen(
            [command, "up", *flags], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        try:
            assert server.stdout is not None
            found = _LISTENING.search(server.stdout.readline())
            if found is None:
                raise SystemExit("the server did not start")
            with Client(found[1]) as client:
                return _hand_in(client, wanted)
        finally:
            server.terminate()
            server.wait()


def _hand_in(client: Client, wanted: argparse.Namespace) -> list[Said]:
    rng = random.Random(wanted.seed[0])
    said: dict[int, tuple[float, Period]] = {}
    begun = time.monotonic()
    for n in range(wanted.jobs):
        if n % AT_ONCE == 0:
            _ask(client, said)
            user = rng.randrange(wanted.users)
            # However fast this machine hands them in, they come somewhat faster than they run.
            due = begun + n * wanted.seconds / (SLOTS * OVERLOAD)
            time.sleep(max(0.0, due - time.monotonic()))
        script = f"sleep {wanted.seconds * rng.lognormvariate(-0.125, 0.5):.2f}\n".encode()
        client.submit({"run.sh": script}, user=user, service="example")
    _ask(client, said)
    for job_id in said:
        client.wait(job_id)
    began = {job_id: client.job(job_id) for job_id in said}
    return [Said(at, _span(period), _began(began[job_id])) for job_id, (at, period) in said.items()]


def _ask(client: Client, said: dict[int, tuple[float, Period]]) -> None:
    """Keep the first thing that is said of each job that waits."""
    for job in client.jobs(status="Queued", estimates=True):
        if job.id not in said and job.starts_at is not None:
            said[job.id] = time.time(), job.starts_at


def _span(period: Period) -> Span:
    return Span(_seconds(period.earliest) or 0.0, _seconds(period.latest))


def _seconds(at: datetime | None) -> float | None:
    return None if at is None else at.timestamp()


def _began(job: Job) -> float:
    return _seconds(job.started_at) or 0.0


def tell(found: Sequence[Said]) -> bool:
    """Whether it is as good as it has to be."""
    inside = sum(one.inside for one in found) / len(found)
    width, wait = median(one.width for one in found), median(one.wait for one in found)
    print(f"{len(found)} jobs waited; {inside:.1%} began within their estimate;")
    each = median(one.width / max(1.0, one.wait) for one in found)
    print(f"median width {width:.1f} s, median wait {wait:.1f} s, {width / wait:.2f} of it;")
    print(f"the median of each job's width by its own wait {each:.2f}")
    return inside >= 0.75 and width < wait / 2


def main() -> None:
    wanted = options()
    if wanted.what == "day":
        shape = DayShape(forecasts=wanted.forecasts, known=wanted.known)
        found = list[Said]()
        for seed in wanted.seed:
            print(f"seed {seed}:")
            day = simulate_day(shape, seed)
            tell(day)
            found += day
        print("together:")
    else:
        found = run_jobs(wanted)
    sys.exit(0 if tell(found) else 1)


if __name__ == "__main__":
    main()
