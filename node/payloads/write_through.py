"""What has ended on a node, and the disk: most of it is collected and released before it would have to be
there. What is not, within a short time, is written through, all of it at once, and then noted as such: only
that is told in another boot of the machine.

While anything runs the disk is asked from time to time, too, whether it keeps what is written: if it does
not, no file here is to be believed any more, and the node ends (see `Records.sync`).
"""

from __future__ import annotations

import logging
import math
import threading
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Final

import trio

from actors.domain.payload import Payload
from actors.domain.status import Status
from actors.kernel.alarm import Alarm
from actors.kernel.complaint import Complaint
from actors.store.durable import is_passing
from actors.store.sync_disk import STEP
from node.payloads.records import Records
from node.payloads.rows import Row
from node.payloads.table import PayloadTable
from node.runs.large_files import write_large_back

log: Final = logging.getLogger("node.payloads")

WITHIN: Final = 2.0
"""Seconds after which what has ended and is still here is written through."""
EVERY: Final = 5.0
"""Seconds at most, while anything runs, until the disk is asked again."""


class WriteThrough:
    """One task. It is to `hear` of changes."""

    def __init__(self, table: PayloadTable, records: Records) -> None:
        self._table = table
        self._records = records
        self._waiting: dict[str, float] = {}
        """What has ended and is not noted, the oldest first, and when it is to be."""
        self._large: set[str] = set()
        """What of it has left much."""
        self._running: set[str] = set()
        self._ask_at = math.inf
        self._writing = trio.Lock()
        self._hurry = threading.Event()
        self._alarm = Alarm()
        self._complaint = Complaint(log)

    def hear(self, rows: Sequence[Row]) -> None:
        """What has changed."""
        for row in rows:
            self._take_in(row.payload, row.released)

    def _take_in(self, payload: Payload, released: bool) -> None:
        key = payload.key
        if payload.end is None:
            if payload.status is Status.RUNNING:
                self._running.add(key)
                self._ask_soon()
            return
        self._running.discard(key)
        if released:
            self._leave(key)
            return
        self._ask_soon()  # Of what was over at once nobody has heard that it runs.
        if not payload.through and key not in self._records.written:
            if key not in self._waiting:
                self._waiting[key] = due = trio.current_time() + WITHIN
                self._alarm.set(due)
            if payload.end.size > STEP:
                self._large.add(key)

    def _ask_soon(self) -> None:
        if self._ask_at == math.inf:
            self._ask_at = trio.current_time() + EVERY
            self._alarm.set(self._ask_at)

    def _leave(self, key: str) -> None:
        self._waiting.pop(key, None)
        self._large.discard(key)

    def is_writing(self) -> bool:
        return self._writing.locked()

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Write through what is due, until cancelled. Raises `DiskFailed`."""
        for payload in (await self._table.all())[0]:
            self._take_in(payload, released=False)
        task_status.started()
        while True:
            if (due := self._due()) > trio.current_time():
                await self._alarm.wait(due)
                continue
            try:
                await self.write_all(in_no_hurry=True)
            except (OSError, RuntimeError) as error:
                if not isinstance(error, OSError) and not is_passing(error):
                    raise
                self._complaint.say("what has ended is not noted as written through yet: %s", error)
                await trio.sleep(WITHIN)

    def _due(self) -> float:
        return min(self._ask_at, next(iter(self._waiting.values()), math.inf))

    async def write_all(self, *, in_no_hurry: bool = False) -> None:
        """Write through all that has ended by now, and note it; in no hurry, so that others have the disk
        too, until somebody is. Raises `DiskFailed`, or `OSError`: then it is not noted."""
        if not in_no_hurry:
            self._hurry.set()
        async with self._writing:
            self._hurry.clear()
            ended = list(self._waiting)
            self._ask_at = trio.current_time() + EVERY if self._running else math.inf
            places = [self._records.directory(key) for key in (*self._large, *self._running)]
            sync = partial(self._sync, places, self._hurry if in_no_hurry else None)
            await trio.to_thread.run_sync(sync, abandon_on_cancel=True)
            still = [key for key in ended if key in self._waiting]
            if still:
                await trio.to_thread.run_sync(self._records.note_written, still)
            for key in still:
                self._leave(key)

    def _sync(self, places: Sequence[Path], hurry: threading.Event | None) -> None:
        """In a thread."""
        write_large_back(places, hurry)
        self._records.sync()
