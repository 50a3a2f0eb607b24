"""The ledger in memory answers like the one on disk, whatever is done to both."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from support.data.ledgers import SetClock, new_job, open_ledger
from support.memory.memory_ledger import MemoryLedger

from actors.domain.changes import (
    Change,
    FirstAttempt,
    JobDetails,
    MoveAttempt,
    RecordEnd,
    SetProgress,
    Transition,
)
from actors.domain.job import Attempt, AttemptState, End, LiveJobs
from actors.domain.progress import BatchStand
from actors.domain.status import JOB, OWNER, QUOTA, Owner, Status
from actors.ports.ledger import Ledger, LedgerError

S = Status
STANDS = (
    None,
    BatchStand("slurm", "17", "PENDING", "Priority"),
    BatchStand("slurm", "17", "TIMEOUT", ended=True),
)


class Script:
    """A random but likely sequence of operations: mostly what actors would do, sometimes late or wrong."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.others = random.Random(f"others/{seed}")
        self.keys: list[str] = []

    def first_attempt(self) -> FirstAttempt | None:
        """For one in three jobs, now and then with a key that is there already."""
        if self.others.random() < 2 / 3:
            return None
        key = f"{len(self.keys):032x}"
        if self.keys and self.others.random() < 0.1:
            key = self.others.choice(self.keys)
        else:
            self.keys.append(key)
        return FirstAttempt(Attempt(key, 0, 0, "n1"), "sent to n1")

    async def change(self, ledger: Ledger, last_id: int) -> Change:
        rng = self.rng
        job_id = rng.randint(max(1, last_id - 9), last_id + 1)
        job = await ledger.get(job_id)
        if job is None or rng.random() < 0.1:
            return MoveAttempt(rng.choice([*self.keys, "none"]), rng.choice(list(AttemptState)))
        current = job.attempt.key if job.attempt is not None else None
        key = rng.choice([None, current, current, *self.keys[-1:]])
        end = End(S.FAILED, "exit code 3", 3, None, 1.5, 2.5, 1.0, 0.5, 4096, 7)
        if key is not None and rng.random() < 0.2:
            return RecordEnd(job_id, key, end)
        if key is not None and rng.random() < 0.15:
            said = rng.choice([None, 0.25, 1.0]), rng.choice(["", "half"]), rng.choice(STANDS)
            return SetProgress(job_id, key, *said)
        source = job.status if rng.random() < 0.9 else rng.choice(list(Status))
        possible = sorted(JOB.get(source, ())) if rng.random() < 0.9 else []
        possible += 2 * [status for status in possible if status in QUOTA]
        target = rng.choice(possible or list(Status))
        attempt = None
        if (target is S.PROCESSING) != (rng.random() < 0.05):
            new = rng.choice(self.keys) if self.keys and rng.random() < 0.1 else f"{len(self.keys):032x}"
            self.keys.append(new)
            attempt = Attempt(new, job_id, job.attempts_used + 1, rng.choice(["n1", "n2"]))
        return Transition(
            job_id,
            source,
            target,
            f"{source} to {target}",
            key=key,
            attempt=attempt,
            attempt_state=rng.choice([None, None, *AttemptState]),
            foreign_id=rng.choice([None, None, 17]),
            spent=rng.random() < 0.3,
            end=rng.choice([None, end]),
            by=OWNER.get(source, Owner.CLEANER) if self.others.random() < 0.95 else Owner.CLEANER,
        )


def by_line(live: LiveJobs) -> LiveJobs:
    return replace(live, queued=sorted(live.queued, key=lambda one: (one.service, one.requires, one.user_id)))


async def answer(call: Any) -> Any:
    try:
        return await call
    except LedgerError as error:
        return type(error), str(error)


@pytest.mark.parametrize("seed", range(6))
async def test_both_ledgers_give_the_same_answers(seed: int, tmp_path: Path) -> None:
    clock, script = SetClock(), Script(seed)
    memory, rng = MemoryLedger(clock=clock), script.rng
    async with open_ledger(tmp_path / "ledger.db", clock) as disk:
        for _ in range(120):
            clock.time += rng.choice([0.0, 1.0, -0.5])
            seq = (await memory.live()).seq
            last_id = max([job.id for job in await memory.changes(0)], default=0)
            changes = [await script.change(memory, last_id) for _ in range(rng.randint(1, 4))]
            new = new_job(
                user=rng.randint(1, 2),
                idempotency_key=rng.choice([*[None] * 6, "k1", "k2"]),
                fingerprint=rng.choice("fg"),
                details=JobDetails(requires={"gpu": "", "ssd": "fast"} if last_id % 2 else {}),
                first=script.first_attempt(),
            )
            ordered, kind = rng.randint(1, last_id + 1), rng.random()
            for_both = []
            for ledger in (memory, disk):
                if kind < 0.3:
                    for_both.append(await answer(ledger.insert(new)))
                elif kind < 0.35:
                    for_both.append(await answer(ledger.request_terminate(ordered)))
                else:
                    for_both.append(await answer(ledger.record(changes)))
            assert for_both[0] == for_both[1]
            assert by_line(await disk.live(queued=True)) == by_line(await memory.live(queued=True))
            assert await disk.live() == await memory.live()
            assert await disk.unreleased() == await memory.unreleased()
            assert await disk.changes(seq) == await memory.changes(seq)
        assert await disk.changes(0) == await memory.changes(0)
        assert await disk.ended_before(clock.time) == await memory.ended_before(clock.time)
        reached = set()
        for job in await memory.changes(0):
            reached |= {entry.target for entry in await memory.history(job.id)}
            assert await disk.get(job.id) == job
            assert await disk.history(job.id) == await memory.history(job.id)
            assert await disk.attempts(job.id) == await memory.attempts(job.id)
            keys = [job.storage_key, "?"]
            assert await disk.unknown_directories(keys) == await memory.unknown_directories(keys)
        assert len(reached) > 6, "the script goes everywhere"
