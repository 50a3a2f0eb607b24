"""The Cleaner: ends the keeping of what has ended and stayed older than `max_age`, and takes away directories
that belong to no job.

The wall clock may jump, so a job is cleaned only when it was found expired and is still so after `patience`
seconds of monotonic time. The row goes first (Cleaned), then the directory: a crash between the two leaves a
directory without a job, which the sweep finds. What is being read is skipped and comes again.
"""

from __future__ import annotations

import logging
from typing import Final

import trio

from actors.domain.changes import ChangeResult, Transition
from actors.domain.job import Job
from actors.domain.status import Owner, Status
from actors.kernel.actor import Actor, Mailbox
from actors.ports.ledger import Ledger, LedgerError
from actors.ports.storage import Storage, StorageError
from actors.ports.world import Clock

log: Final = logging.getLogger("orchestrator.cleaner")

PAGE: Final = 200


class Cleaner(Actor):
    """See the module. `max_age` in seconds since a job's end; `orphan_grace` is the age in seconds that a
    directory without a job must have."""

    def __init__(
        self,
        mailbox: Mailbox,
        nursery: trio.Nursery,
        *,
        ledger: Ledger,
        storage: Storage,
        clock: Clock,
        max_age: float,
        tick: float = 60.0,
        patience: float = 3600.0,
        orphan_grace: float = 3600.0,
        sweep_every: float = 600.0,
    ) -> None:
        super().__init__(mailbox, nursery, tick=tick)
        self._ledger = ledger
        self._storage = storage
        self._clock = clock
        self._max_age = max_age
        self._patience = min(patience, max_age)
        self._orphan_grace = orphan_grace
        self._sweep_every = sweep_every
        self._found: dict[int, float] = {}
        self._kept: set[str] = set()
        self._next_sweep = trio.current_time()

    async def turn(self) -> None:
        try:
            await self._clean()
            if trio.current_time() >= self._next_sweep:
                self._next_sweep = trio.current_time() + self._sweep_every
                await self._sweep()
        except (LedgerError, StorageError) as error:
            log.warning("cleaning goes on at the next tick: %s", error)

    async def _clean(self) -> None:
        """One page after the other, oldest end first; what is not ripe yet is remembered."""
        now = trio.current_time()
        expired: set[int] = set()
        after: tuple[float, int] | None = None
        while True:
            page = await self._ledger.ended_before(self._clock.now() - self._max_age, PAGE, after)
            if not page:
                break
            last = page[-1]
            after = (last.ended_at or 0.0, last.id)
            expired.update(job.id for job in page)
            await self._clean_page(
                [j for j in page if now - self._found.setdefault(j.id, now) >= self._patience]
            )
        # A job that is no longer expired (the clock had jumped) begins its patience anew.
        self._found = {job_id: since for job_id, since in self._found.items() if job_id in expired}

    async def _clean_page(self, ripe: list[Job]) -> None:
        if not ripe:
            return
        moves = [_cleaned(job, f"older than {self._max_age:g} s since its end") for job in ripe]
        for job, answer in zip(ripe, await self._ledger.record(moves), strict=True):
            if answer.outcome is ChangeResult.DONE:
                self._found.pop(job.id, None)
                await _discard(self._storage, job.storage_key)

    async def _sweep(self) -> None:
        old = [key for key, age in await self._storage.directories() if age >= self._orphan_grace]
        for start in range(0, len(old), PAGE):
            for key in await self._ledger.unknown_directories(old[start : start + PAGE]):
                if await self._is_nobodys(key):
                    log.info("directory %s belongs to no job; it is taken away", key)
                    await _discard(self._storage, key)

    async def _is_nobodys(self, storage_key: str) -> bool:
        """Not that of a job that was accepted and that the ledger does not know: then the ledger was restored
        from an older copy, and the directory is all that is left of the job."""
        job_id = await self._storage.noted_id(storage_key)
        if job_id is None:
            return True
        job = await self._ledger.get(job_id)
        if job is not None and job.storage_key == storage_key:
            return True
        if storage_key not in self._kept:
            self._kept.add(storage_key)
            log.warning("directory %s is job %d, which the ledger does not know; kept", storage_key, job_id)
        return False


async def clean_now(ledger: Ledger, storage: Storage, job: Job) -> Job | None:
    """End the keeping of an ended job's data because somebody asks for it, in the Cleaner's name: for the
    task of whoever asks. The job as it is then; None if it is no longer as `job` says. What is being read
    goes with the next sweep. Raises LedgerError."""
    (answer,) = await ledger.record([_cleaned(job, "its data was deleted on request")])
    if answer.outcome is not ChangeResult.DONE:
        return None
    await _discard(storage, job.storage_key)
    return answer.job


async def _discard(storage: Storage, storage_key: str) -> None:
    """One directory that cannot be deleted keeps no other from it; the sweep finds it again."""
    try:
        await storage.discard(storage_key)
    except StorageError as error:
        log.warning("a directory stays for now: %s", error)


def _cleaned(job: Job, reason: str) -> Transition:
    return Transition(job.id, job.status, Status.CLEANED, reason, by=Owner.CLEANER)
