"""The Cleaner: ends the keeping of what has ended and stayed older than `max_age`, and takes away directories
that belong to no job.

The wall clock may jump, so a job is cleaned only when it was found expired at each look within `patience`
seconds of monotonic time. The row goes first (Cleaned), then the directory: a crash between the two leaves a
directory without a job, which the sweep finds. What is being read is skipped and comes again. Where rows are
not kept for ever, those of cleaned jobs go in the same way, and so do lines of who did what.
"""

from __future__ import annotations

import logging
from collections import deque
from typing import Final

import trio

from actors.domain.changes import ChangeResult, Transition
from actors.domain.job import Job
from actors.domain.status import Owner, Status
from actors.kernel.actor import Actor, Mailbox
from actors.messages import KeepingChanged
from actors.ports.ledger import Ledger, LedgerError
from actors.ports.storage import Storage, StorageError
from actors.ports.world import Clock

log: Final = logging.getLogger("orchestrator.cleaner")

PAGE: Final = 200


class Cleaner(Actor):
    """See the module. `max_age` and `keep_rows` are seconds since a job's end, `audit_keep` since an order;
    the last two 0: for ever. `orphan_grace`: the age in seconds that a directory without a job must have."""

    def __init__(
        self,
        mailbox: Mailbox,
        nursery: trio.Nursery,
        *,
        ledger: Ledger,
        storage: Storage,
        clock: Clock,
        max_age: float,
        keep_rows: float = 0.0,
        audit_keep: float = 0.0,
        tick: float = 60.0,
        patience: float = 3600.0,
        orphan_grace: float = 3600.0,
        sweep_every: float = 600.0,
    ) -> None:
        super().__init__(mailbox, nursery, tick=tick)
        self._ledger = ledger
        self._storage = storage
        self._clock = clock
        self._patience = patience
        self._keep(max_age, keep_rows, audit_keep)
        self._orphan_grace = orphan_grace
        self._sweep_every = sweep_every
        self._kept: set[str] = set()
        self._next_sweep = trio.current_time()

    def _keep(self, max_age: float, keep_rows: float, audit_keep: float) -> None:
        self._max_age = max_age
        self._keep_rows = keep_rows
        self._audit_keep = audit_keep
        self._expired = _Horizon(min(self._patience, max_age))
        self._forgettable = _Horizon(min(self._patience, keep_rows))
        self._old_orders = _Horizon(min(self._patience, audit_keep))

    def receive(self, message: object) -> None:
        match message:
            case KeepingChanged(max_age=max_age, keep_rows=keep_rows, audit_keep=audit_keep):
                self._keep(max_age, keep_rows, audit_keep)
            case _:
                super().receive(message)

    async def turn(self) -> None:
        try:
            await self._clean()
            if self._keep_rows:
                await self._purge()
            if self._audit_keep:
                await self._purge_audit()
            if trio.current_time() >= self._next_sweep:
                self._next_sweep = trio.current_time() + self._sweep_every
                await self._sweep()
        except (LedgerError, StorageError) as error:
            log.warning("cleaning goes on at the next tick: %s", error)

    async def _clean(self) -> None:
        """One page after the other, oldest end first."""
        before = self._expired.look(self._clock.now() - self._max_age)
        after: tuple[float, int] | None = None
        while before is not None and (page := await self._ledger.ended_before(before, PAGE, after)):
            after = (page[-1].ended_at or 0.0, page[-1].id)
            moves = [_cleaned(job, f"older than {self._max_age:g} s since its end") for job in page]
            for job, answer in zip(page, await self._ledger.record(moves), strict=True):
                if answer.outcome is ChangeResult.DONE:
                    await _discard(self._storage, job.storage_key)

    async def _purge(self) -> None:
        before = self._forgettable.look(self._clock.now() - self._keep_rows)
        while before is not None and await self._ledger.purge(before, PAGE) == PAGE:
            pass

    async def _purge_audit(self) -> None:
        before = self._old_orders.look(self._clock.now() - self._audit_keep)
        while before is not None and await self._ledger.forget_audit(before, PAGE) == PAGE:
            pass

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


class _Horizon:
    """Before which wall-clock time all is old enough. A clock that has jumped is believed only after
    `patience` seconds of monotonic time."""

    def __init__(self, patience: float) -> None:
        self._patience = patience
        self._looks: deque[tuple[float, float]] = deque()

    def look(self, before: float) -> float | None:
        """The earliest of what was said within the patience, `before` being the newest; None while too little
        was."""
        now = trio.current_time()
        self._looks.append((now, before))
        while len(self._looks) > 1 and self._looks[1][0] <= now - self._patience:
            self._looks.popleft()
        if self._looks[0][0] > now - self._patience:
            return None
        return min(said for _, said in self._looks)


async def clean_now(
    ledger: Ledger, storage: Storage, job: Job, reason: str = "its data was deleted on request"
) -> Job | None:
    """End the keeping of an ended job's data because somebody asks for it, in the Cleaner's name: for the
    task of whoever asks. The job as it is then; None if it is no longer as `job` says. What is being read
    goes with the next sweep. Raises LedgerError."""
    (answer,) = await ledger.record([_cleaned(job, reason)])
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
