"""Capacity: many trivial jobs at once, and nobody who waits for each of them.

With `pollers`, clients that do what those of 2.x do run beside it: each sends a job, and asks for it again
and again on new connections until it has its result.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from resource import RUSAGE_CHILDREN, getrusage
from typing import Final

from testbed.baseline import bash_many
from testbed.bench.rows import Row, Wrong
from testbed.bench.target import Target
from testbed.bench.trivial import TRIVIAL, WARM_UP
from testbed.bench.wire import Wire
from testbed.figures import percentile
from testbed.portal import ENDED, multipart

CORES: Final = os.cpu_count() or 1
EVERY: Final = 0.5
"""Seconds between two questions for the oldest job that may not have ended."""
MARKS: Final = 50
"""So many jobs are asked for while they run, evenly over all, so that asking costs next to nothing."""
PATIENCE: Final = 600.0
"""Seconds that the next of these may take."""
AFTER: Final = 1.0
"""Seconds after the last end in which what follows an end belongs to the cost: release, deletion."""


@dataclass(slots=True)
class Polled:
    """What the pollers did: ids of jobs that they have the results of, and the seconds of their questions."""

    jobs: list[int] = field(default_factory=list)
    polls: list[float] = field(default_factory=list)


def backlog(
    target: Target, jobs: int, users: int, clients: int, *, pollers: int = 0, every: float = 0.03
) -> list[Row]:
    bash = [_bash(jobs)]
    with Wire(target.url) as wire:
        end_of(wire, [_upload(wire, target, 1) for _ in range(WARM_UP)])
    with target.metering() as cost:
        began = time.monotonic()
        with _polling(target, pollers, every, first_user=users + 1) as polled:
            numbers, uploads = uploaded(target, jobs, users, clients)
            sent = time.monotonic()
            with Wire(target.url) as wire:
                marks = [*numbers[:: max(1, jobs // MARKS)], numbers[-1]]
                seen = end_of(wire, marks)
        threading.Event().wait(AFTER)
    with Wire(target.url) as wire:
        took = _span(wire, numbers, seen - began)
    bash.append(_bash(jobs))
    bash_seconds, bash_cpu = (sum(values) / 2 for values in zip(*bash, strict=True))
    beside = f"bash run.sh, {CORES} at once"
    ended, watched = jobs + len(polled.jobs), seen - began
    rows = [
        Row("jobs ended", jobs / took + len(polled.jobs) / watched, "a second", 1 / bash_seconds, beside),
        Row("uploads meanwhile", jobs / (sent - began), "a second"),
        Row("one of these uploads, p99", 1000 * percentile(uploads, 0.99), "ms"),
        *cost.rows(ended, "job", all_beside=1000 * bash_cpu, beside_is="bash run.sh alone"),
    ]
    if pollers:
        rows += [
            Row(f"polls of {pollers} clients", len(polled.polls) / watched, "a second"),
            Row("one poll, p50", 1000 * percentile(polled.polls, 0.5), "ms"),
            Row("jobs of these clients", len(polled.jobs), f"of {ended}"),
        ]
    return rows


def uploaded(target: Target, jobs: int, users: int, clients: int) -> tuple[list[int], list[float]]:
    """Send trivial jobs over so many connections at once: their ids in order, and the seconds of each."""

    def client(first: int) -> list[tuple[int, float]]:
        done = []
        with Wire(target.url) as wire:
            for serial in range(first, jobs, clients):
                began = time.monotonic()
                number = _upload(wire, target, 1 + serial % users)
                done.append((number, time.monotonic() - began))
        return done

    with ThreadPoolExecutor(clients) as pool:
        done = [pair for part in pool.map(client, range(clients)) for pair in part]
    return sorted(number for number, _ in done), [seconds for _, seconds in done]


def _upload(wire: Wire, target: Target, user: int) -> int:
    return wire.upload(*multipart({"run.sh": TRIVIAL}, user, target.service))


def _bash(times: int) -> tuple[float, float]:
    """What one run.sh takes without an orchestrator: seconds, and CPU seconds of bash itself."""
    before = getrusage(RUSAGE_CHILDREN)
    took = bash_many(TRIVIAL, times, CORES)
    after = getrusage(RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return took / times, cpu / times


def end_of(wire: Wire, numbers: Sequence[int], every: float = EVERY) -> float:
    """The time of the monotonic clock when the last of these ended that had to be waited for; only the oldest
    that has not ended is asked for."""
    ended = time.monotonic()
    for number in numbers:
        deadline = time.monotonic() + PATIENCE
        while not _has_completed(wire, number):
            if time.monotonic() > deadline:
                raise Wrong(f"job {number} has not ended after {PATIENCE:.0f} s")
            threading.Event().wait(every)
            ended = time.monotonic()
    return ended


def _has_completed(wire: Wire, number: int) -> bool:
    """By the route of the contract: the zip of a completed job, else its status."""
    answer = wire.get(f"/download/{number}")
    if answer.status != 200:
        raise Wrong(f"GET /download/{number} was answered {answer.status}: {answer.body[:200]!r}")
    if answer.headers.get("content-type") == "application/zip":
        return True
    status = answer.json()
    if status["status"] in ENDED:
        raise Wrong(f"job {number} is {status['status']}: {status.get('message')}")
    return False


def _span(wire: Wire, numbers: Sequence[int], seen: float) -> float:
    """Seconds from the first job's begin to the last one's end: by the server's clock, where it tells the
    times, else `seen`. Raises Wrong if one of them has not ended well."""
    began, ended = [], []
    for number in numbers:
        answer = wire.get(f"/v1/jobs/{number}")
        if answer.status == 404:
            break
        job = answer.json()
        if job["status"] != "Completed":
            end_of(wire, [number], 0.05)
            job = wire.get(f"/v1/jobs/{number}").json()
        began.append(datetime.fromisoformat(job["created_at"]))
        ended.append(datetime.fromisoformat(job["ended_at"]))
    if ended:
        return (max(ended) - min(began)).total_seconds()
    begun = time.monotonic()
    return seen + max(0.0, end_of(wire, numbers, 0.05) - begun)


@contextmanager
def _polling(target: Target, pollers: int, every: float, first_user: int) -> Iterator[Polled]:
    """So many clients of 2.x beside what is done meanwhile."""
    polled, leave = Polled(), threading.Event()

    def poller(user: int) -> None:
        with Wire(target.url, keep=False) as wire:
            while not leave.is_set():
                number = _upload(wire, target, user)
                due = time.monotonic() + every
                while not leave.wait(max(0.0, due - time.monotonic())):
                    due = max(due, time.monotonic()) + every
                    began = time.monotonic()
                    completed = _has_completed(wire, number)
                    polled.polls.append(time.monotonic() - began)
                    if completed:
                        polled.jobs.append(number)
                        break

    with ThreadPoolExecutor(max(1, pollers)) as pool:
        running = [pool.submit(poller, first_user + number) for number in range(pollers)]
        try:
            yield polled
        finally:
            leave.set()
        for future in running:
            future.result()
