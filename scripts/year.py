#!/usr/bin/env python3
"""A year of jobs through the real ledger, storage and Cleaner, on real files: what grows, and what does not.

    python scripts/year.py              a year of 100 jobs a day, a hundredth of what a busy server sees
    python scripts/year.py --jobs 1000  the same with more of them
    python scripts/year.py --write      and put the table into docs/operations.md

Jobs are uploaded, run, end, are cleaned and forgotten. The wall clock is virtual: a day passes when its jobs
have ended. The Cleaner's own guard against clocks that jump is off, as this one does nothing else. Ends with
1 if rows, files, descriptors or memory grow with the days once as much is forgotten as comes.
"""

from __future__ import annotations

import argparse
import logging
import math
import os
import re
import secrets
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import trio

from actors.cleaner import Cleaner
from actors.domain.changes import Change, ChangeResult, MoveAttempt, NewJob, Transition
from actors.domain.job import Attempt, AttemptState, End, Job
from actors.domain.status import OWNER, Status
from actors.kernel.actor import Mailbox
from orchestrator.ledger.ledger import SqliteLedger
from orchestrator.ledger.tables.usage import UsageFilter
from orchestrator.storage.bundle import Bundle, pack
from orchestrator.storage.storage import DiskStorage

DAY: Final = 86_400.0
BEGIN: Final = 1_767_225_600.0
"""2026-01-01."""
DOCUMENT: Final = Path(__file__).resolve().parents[1] / "docs" / "operations.md"
TABLE: Final = re.compile(
    r"(?<=<!-- a year, written by scripts/year.py -->\n).*?(?=<!-- end of the year -->)", re.DOTALL
)
SMALL: Final = 4096
"""Bytes of files up to which the ledger keeps them."""
LARGE_EACH: Final = 20
"""One job of so many has a directory of its own."""
USERS: Final = 20
AT_ONCE: Final = 200
"""Jobs that are under way at once, and moved in one step."""
SERVICES: Final = ("docking", "folding")
SLACK: Final = 1.1
MIB: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class Plan:
    """Days, jobs a day, and days for which files and rows are kept; every so many days it is looked."""

    days: int
    jobs: int
    max_age: int
    keep_rows: int
    every: int

    @property
    def steady_from(self) -> int:
        """The first day of which as much is forgotten as comes."""
        return max(self.keep_rows, self.max_age) + 2


@dataclass(frozen=True, slots=True)
class Sample:
    """How it stands at a day's end. `rows` are those of jobs, `sums` those of usage; sizes are bytes."""

    day: int
    submitted: int
    rows: int
    sums: int
    ledger: int
    directories: int
    descriptors: int
    memory: int


class VirtualClock:
    """A wall clock that is moved by hand."""

    def __init__(self) -> None:
        self.time = BEGIN

    def now(self) -> float:
        return self.time


class Year:
    """See the module. `samples` are taken on the way."""

    def __init__(self, plan: Plan, place: Path) -> None:
        self.plan = plan
        self.samples: list[Sample] = []
        self.last_id = 0
        self.counted = 0
        self._place = place
        self._clock = VirtualClock()
        self._step = DAY / (5 * math.ceil(plan.jobs / AT_ONCE))
        self._submitted = 0

    async def run(self) -> None:
        async with AsyncExitStack() as stack:
            ledger = await SqliteLedger.open(str(self._place / "db.sqlite"), clock=self._clock)
            stack.push_async_callback(ledger.aclose)
            storage = DiskStorage(self._place / "data", self._clock, small=SMALL)
            await storage.open()
            storage.keep_small_in(ledger)
            async with trio.open_nursery() as nursery:
                await nursery.start(ledger.run)
                nursery.start_soon(ledger.watch_log)
                nursery.start_soon(ledger.watch_room)
                cleaner = Cleaner(
                    Mailbox("cleaner"),
                    nursery,
                    ledger=ledger,
                    storage=storage,
                    clock=self._clock,
                    max_age=self.plan.max_age * DAY,
                    keep_rows=self.plan.keep_rows * DAY,
                    patience=0.0,
                    orphan_grace=0.0,
                    sweep_every=0.0,
                )
                for day in range(1, self.plan.days + 1):
                    await self._pass_day(ledger, storage)
                    await cleaner.turn()
                    if day % self.plan.every == 0:
                        self.samples.append(await self._look(day, ledger, storage))
                        print(draw_row(self.samples[-1]), flush=True)
                self.last_id = await ledger.max_id()
                self.counted = sum(one.completed for one in await ledger.queries.usage(UsageFilter()))
                nursery.cancel_scope.cancel()

    async def _pass_day(self, ledger: SqliteLedger, storage: DiskStorage) -> None:
        begun, left = self._clock.time, self.plan.jobs
        while left:
            count = min(left, AT_ONCE)
            left -= count
            await self._pass_jobs(count, ledger, storage)
        self._clock.time = begun + DAY

    async def _pass_jobs(self, count: int, ledger: SqliteLedger, storage: DiskStorage) -> None:
        jobs: list[Job] = []
        async with trio.open_nursery() as nursery:
            for _ in range(count):
                self._submitted += 1
                nursery.start_soon(self._submit, ledger, storage, self._submitted, jobs)
        for target in (Status.PROCESSING, Status.SUBMITTED, Status.RUNNING, Status.COMPLETED):
            self._clock.time += self._step
            jobs = await self._move(ledger, jobs, target)
        keys = [job.attempt.key for job in jobs if job.attempt is not None]
        await ledger.record([MoveAttempt(key, AttemptState.RELEASED) for key in keys])

    async def _submit(self, ledger: SqliteLedger, storage: DiskStorage, number: int, jobs: list[Job]) -> None:
        size = 2 * SMALL if number % LARGE_EACH == 0 else 200
        user, service = number % USERS, SERVICES[number % len(SERVICES)]
        async with storage.receive(size) as upload:
            file = upload.file("run.sh")
            await file.write(b"#".ljust(size))
            await file.close()
            files = await upload.commit(user, service)
            jobs.append(await ledger.insert(NewJob(user, service, upload.key, size, files=files)))

    async def _move(self, ledger: SqliteLedger, jobs: Sequence[Job], target: Status) -> list[Job]:
        moves: list[Change] = [self._transition(job, target) for job in jobs]
        answers = await ledger.record(moves)
        moved = [one.job for one in answers if one.outcome is ChangeResult.DONE and one.job is not None]
        assert len(moved) == len(jobs), [one.outcome for one in answers]
        return moved

    def _transition(self, job: Job, target: Status) -> Transition:
        by = OWNER[job.status]
        if target is Status.PROCESSING:
            attempt = Attempt(secrets.token_hex(16), job.id, 1, f"node-{job.id % 10}")
            return Transition(job.id, job.status, target, "sent", attempt=attempt, by=by)
        if target is not Status.COMPLETED:
            return Transition(job.id, job.status, target, "", by=by)
        end = End(target, "", 0, wall_seconds=3600.0, cpu_seconds=3000.0, peak_bytes=10**9, size=200)
        results = pack(Bundle(int(self._clock.now() * 1e9), {"output.txt": b"done".ljust(200)}))
        return Transition(job.id, job.status, target, "", end=end, results=results, by=by)

    async def _look(self, day: int, ledger: SqliteLedger, storage: DiskStorage) -> Sample:
        return Sample(
            day,
            self._submitted,
            sum((await ledger.queries.job_counts()).values()),
            len(await ledger.queries.usage(UsageFilter())),
            sum(ledger.file_sizes()),
            len(await storage.directories()),
            len(os.listdir("/proc/self/fd")),
            read_memory(),
        )


def read_memory() -> int:
    """Bytes of this process in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def find_faults(year: Year) -> list[str]:
    """What has grown that may not, each as a sentence."""
    plan, faults = year.plan, []
    steady = [one for one in year.samples if one.day >= plan.steady_from]
    if len(steady) < 2:
        return ["it ended before as much was forgotten as came: more days, or fewer to keep"]
    first, last = steady[0], steady[-1]
    most_rows = plan.jobs * (plan.keep_rows + 1)
    if (rows := max(one.rows for one in steady)) > most_rows:
        faults.append(f"{rows} rows of jobs are kept, and {most_rows} may be")
    most_directories = plan.jobs // LARGE_EACH * (plan.max_age + 2)
    if (kept := max(one.directories for one in steady)) > most_directories:
        faults.append(f"{kept} directories are kept, and {most_directories} may be")
    for name, spare in (("ledger", 4 * MIB), ("memory", 16 * MIB), ("descriptors", 4)):
        before, after = getattr(first, name), getattr(last, name)
        if after > before * SLACK + spare:
            faults.append(f"{name} grew from {before} to {after} after as much was forgotten as came")
    submitted = last.submitted if last.day == plan.days else plan.days * plan.jobs
    if year.last_id != submitted:
        faults.append(f"the last id is {year.last_id} after {submitted} jobs: one was given twice, or none")
    if year.counted != submitted:
        faults.append(f"{year.counted} of {submitted} jobs are counted in what was used")
    return faults


HEADINGS: Final = (
    *("day", "jobs so far", "rows of jobs", "rows of usage", "ledger, MiB", "directories of jobs"),
    *("descriptors", "memory, MiB"),
)


def draw_row(one: Sample) -> str:
    cells = (
        *(f"{one.day}", f"{one.submitted:,}", f"{one.rows:,}", f"{one.sums:,}", f"{one.ledger / MIB:.1f}"),
        *(f"{one.directories:,}", f"{one.descriptors}", f"{one.memory / MIB:.0f}"),
    )
    return f"| {' | '.join(cells)} |"


def draw_table(year: Year) -> str:
    """The document's part: what was done, and how it stood on the way."""
    plan = year.plan
    lines = [
        f"{plan.days} days of {plan.jobs:,} jobs, files for {plan.max_age} days, rows for {plan.keep_rows}; "
        f"one job of {LARGE_EACH} has a directory,",
        "the files of the others are in the ledger.",
        "",
        f"| {' | '.join(HEADINGS)} |",
        f"|{' ---: |' * len(HEADINGS)}",
        *map(draw_row, year.samples),
    ]
    return "\n" + "\n".join(lines) + "\n\n"


def read_arguments(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--days", type=int, default=365)
    parser.add_argument("--jobs", type=int, default=100, help="a day")
    parser.add_argument("--max-age", type=int, default=10, help="days for which files are kept")
    parser.add_argument("--keep-rows", type=int, default=90, help="days for which rows are kept")
    parser.add_argument("--every", type=int, default=30, help="days between two rows of the table")
    parser.add_argument("--write", action="store_true", help="put the table into docs/operations.md")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str]) -> int:
    given = read_arguments(arguments)
    logging.basicConfig(level=logging.WARNING)
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="year-") as place:
        year = Year(Plan(given.days, given.jobs, given.max_age, given.keep_rows, given.every), Path(place))
        print(" | ".join(HEADINGS))
        trio.run(year.run)
    faults = find_faults(year)
    for fault in faults:
        print(f"wrong: {fault}")
    print(f"{year.last_id} jobs in {time.monotonic() - began:.0f} s, {len(faults)} wrong")
    if given.write and not faults:
        text, written = TABLE.subn(
            draw_table(year).replace("\\", "\\\\"), DOCUMENT.read_text(encoding="utf-8")
        )
        assert written == 1, f"{DOCUMENT} has no place for the table"
        DOCUMENT.write_text(text, encoding="utf-8")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
