"""What goes away on a node, and when: released payloads at once, results that nobody collects after their
time, old tombstones.

The wall clock may jump, so what is older than its age is only noted; it goes when it has stayed too old for
an hour of monotonic time as well, or for its age where that is less.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Final

import trio

from actors.kernel.alarm import Alarm
from actors.kernel.complaint import Complaint
from actors.ports.world import Clock
from actors.store.durable import is_passing
from node.payloads.rows import Row
from node.payloads.table import PayloadTable
from node.runs.workspace import Workspace

log: Final = logging.getLogger("node.cleaning")

HOUR: Final = 3600.0
AGAIN: Final = 2.0
"""Seconds until what failed is tried again."""
GATHER: Final = 0.2
"""Seconds between a release and the deletion: nobody waits for it, and many at once cost less."""


class PayloadCleaner:
    """One task that keeps the data directory clean. It is to `hear` of changes."""

    def __init__(
        self,
        table: PayloadTable,
        workspace: Workspace,
        clock: Clock,
        *,
        max_age: float,
        keep_uncollected: float,
        keep_tombstones: float,
        every: float = 60.0,
    ) -> None:
        self._table = table
        self._workspace = workspace
        self._clock = clock
        self._ages = ((False, max_age), (True, keep_uncollected))
        self._keep_tombstones = keep_tombstones
        self._every = every
        self._alarm = Alarm()
        self._complaint = Complaint(log)
        self._too_old_since: dict[str, float] = {}
        self._tombstones_too_old_since: float | None = None
        self._expire_at = -1.0

    def ring(self) -> None:
        """Something may go now."""
        # What is released until then goes along.
        self._alarm.set(trio.current_time() + GATHER)

    def hear(self, rows: Sequence[Row]) -> None:
        """What has changed: is there anything that can be discarded?"""
        for row in rows:
            if row.released and row.payload.end is not None:
                self.ring()
                return

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Clean for ever: released payloads on each ring, the rest by the clock."""
        task_status.started()
        while True:
            patience = self._every
            try:
                await self.clean()
            except (OSError, RuntimeError) as error:
                if not isinstance(error, OSError) and not is_passing(error):
                    raise
                self._complaint.say("cleaning did not succeed and is tried again: %s", error)
                # All of it again: what was forgotten already may still be in the trash.
                patience, self._expire_at = AGAIN, -1.0
            await self._alarm.wait(trio.current_time() + patience)

    async def clean(self) -> None:
        """One pass: what is released, and from time to time what is old. Raises `OSError`."""
        now = trio.current_time()
        if now >= self._expire_at:
            self._expire_at = now + self._every
            await self._expire(now)
            # What an earlier process has left there, or an error.
            await self._workspace.empty_trash()
        await self._discard_released()

    async def _discard_released(self) -> None:
        gone = []
        for payload in self._table.releasable():
            # One by one and here: whoever begins to read does so in this same thread of control.
            if self._workspace.discard(payload.key):
                gone.append(payload.key)
        if gone:
            self._table.forget(gone)
            await self._workspace.delete_discarded()

    async def _expire(self, now: float) -> None:
        wall = self._clock.now()
        too_old: dict[str, float] = {}
        expired: list[str] = []
        for keyed, age in self._ages:
            for payload in self._table.ended_before(wall - age, keyed=keyed):
                too_old[payload.key] = self._too_old_since.get(payload.key, now)
                if now - too_old[payload.key] >= min(HOUR, age):
                    expired.append(payload.key)
        for key in expired:
            del too_old[key]
        self._too_old_since = too_old
        if expired:
            log.info("%d payloads were older than their age and are deleted", len(expired))
            await self._table.release(expired)
        await self._expire_tombstones(now, wall - self._keep_tombstones)

    async def _expire_tombstones(self, now: float, before: float) -> None:
        if not self._table.old_tombstones(before):
            self._tombstones_too_old_since = None
        elif self._tombstones_too_old_since is None:
            self._tombstones_too_old_since = now
        elif now - self._tombstones_too_old_since >= min(HOUR, self._keep_tombstones):
            self._tombstones_too_old_since = None
            await self._table.expire_tombstones(before)
