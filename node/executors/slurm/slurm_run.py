"""One payload in a batch system: what is on disk of it, what is known of it, and how it ended.

    DATA/payloads/KEY/order    what is to be run, written through before it is submitted
    DATA/payloads/KEY/batch    the id that the batch system gave it

The batch job's name has the payload's key and a nonce in it, and only what bears this name, of this user
and with the same time of submission, is taken for it: an id that is given out again is nobody's word. Whoever
makes `begun` first decides whether it runs at all: the batch job, once, or this node, which then knows that
it never will, whatever a batch system does that was out of reach.
"""

from __future__ import annotations

import json
import logging
import math
import os
import re
import secrets
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Final

import trio

from actors.domain.batch_request import NOTHING_REQUESTED
from actors.domain.progress import BatchStand
from actors.slurm.states import TAKEN_AWAY
from actors.store.durable import write_durably
from actors.store.kept_file import Damaged, read_kept, read_object
from node.executors import mark_files
from node.executors.executor import RunEnd, RunSpec, TellBatch
from node.executors.shepherded_run import read_end
from node.executors.slurm.batch_program import BEGUN, ORDER, STOP
from node.executors.slurm.batch_system import BatchId, BatchJob, BatchSystem, OutOfReach, Phase
from node.executors.slurm.commands import PREFIX
from node.host.inotify import Inotify

log: Final = logging.getLogger("node.slurm")

BATCH: Final = "batch"
_MOST: Final = 1 << 20
MARK_PATIENCE: Final = 10.0
"""Seconds for which a mark may be late: over NFS it is seen when what is kept of a directory is too old."""
BEAT_PATIENCE: Final = 60.0
"""Seconds after which what the batch system does not know any more has ended, if it shows no sign of life: a
controller may have forgotten what runs."""
WORD_PATIENCE: Final = 45.0
"""Seconds for which is waited for the reason why the batch system ended it, when its end is known."""
_OF_LIMITS: Final = re.compile(
    "memory specification|requested time limit|requested node configuration"
    "|max(wallduration|mem|memory)per(job|node)",
    re.IGNORECASE,
)
"""In what Slurm says when nothing in the cluster is as large as a job may become, or no job of its account
may be so large: that comes in a line before the one that speaks of policies."""
STOP_MARGIN: Final = 10.0
"""Seconds beyond the grace after which all of it is cancelled, and from one try to the next."""


def make_order(spec: RunSpec, rlimits: dict[int, int]) -> str:
    """Leave word of what is to be submitted, written through; its name. Raises `FileExistsError` if there was
    one before. Blocks."""
    nonce = secrets.token_hex(8)
    order = {
        "key": spec.key,
        "nonce": nonce,
        "made": time.time(),
        "environment": dict(spec.environment),
        "options": list(spec.options),
        "grace": spec.grace,
        "log_limit": spec.log_limit,
        "rlimits": rlimits,
    }
    content = json.dumps(order).encode("ascii")
    write_durably(spec.directory / ORDER, content, replace=False)
    return nonce


def read_order(directory: Path) -> str | Damaged | None:
    """The nonce of a payload's order; None without one. Blocks."""
    order = read_object(directory / ORDER, 16 * _MOST)
    if order is None or isinstance(order, Damaged):
        return order
    nonce = order.get("nonce")
    return (
        nonce
        if isinstance(nonce, str) and nonce.isalnum() and len(nonce) == 16
        else Damaged("it has no nonce")
    )


def read_batch_id(directory: Path) -> tuple[BatchId, int] | None:
    """The id of a payload's batch job, and when it was submitted, 0 if that is not known. Blocks."""
    told = read_object(directory / BATCH, _MOST)
    if told is None or isinstance(told, Damaged):
        return None
    number, cluster, submitted = told.get("number"), told.get("cluster"), told.get("submitted")
    if (
        isinstance(number, str)
        and number.isdigit()
        and isinstance(cluster, str)
        and isinstance(submitted, int)
    ):
        return BatchId(number, cluster), submitted
    return None


def give_up(directory: Path) -> bool:
    """Decide that it never begins, unless it has; whether it never will. Blocks."""
    place = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        mark_files.create(BEGUN, mark_files.ABANDONED, place)
        os.fsync(place)
    except FileExistsError:
        return read_kept(directory / BEGUN, mark_files.MOST) == mark_files.ABANDONED
    finally:
        os.close(place)
    return True


def _was_told(directory: Path) -> bool:
    """Whether somebody else than this node had it end, as its mark says."""
    content = read_kept(directory / mark_files.END, mark_files.MOST)
    values = mark_files.unpack(content) if isinstance(content, bytes) else None
    return values is not None and values.get("told") == "1"


def _beat(directory: Path) -> int:
    """When it last showed that it lives, by whatever clock."""
    try:
        return (directory / BEGUN).stat().st_mtime_ns
    except OSError:
        return 0


class SlurmRun:
    """A payload that was submitted, or whose submission is in doubt (`batch_id` None). `watch` is called when
    somebody waits for it, and its answer when that is over."""

    pid: Final = 0
    uptime: Final = None
    is_over: Final = False

    def __init__(
        self,
        spec: RunSpec,
        nonce: str,
        batch: BatchSystem,
        inotify: Inotify,
        *,
        watch: Callable[[SlurmRun], Callable[[], None]],
        known: tuple[BatchId, int] | None = None,
    ) -> None:
        self.spec = spec
        self.name = f"{PREFIX}{spec.key}-{nonce}"
        self.batch_id: BatchId | None = None if known is None else known[0]
        self._submitted = 0 if known is None else known[1]
        self.asked_at = trio.current_time()
        """When it was last submitted."""
        self.absent_since = math.inf
        """When the batch system was first heard not to list it, since it last did."""
        self.refused = ""
        self.over = False
        """Whether its end is known."""
        self._nonce = nonce
        self._batch = batch
        self._inotify = inotify
        self._watch = watch
        self._job: BatchJob | None = None
        self._gone = False
        self._again = False
        """Whether it had begun when somebody had Slurm put it in again, which begins nothing."""
        self._cancelled = False
        self._over_since = math.inf
        self._beat = 0
        self._started_at = time.time()
        self._begun = False
        self._changed = trio.Event()
        self._said = ""

    # ------------------------------------------------------------------ what is known of it

    @property
    def started_at(self) -> float:
        """When it began; while it waits, when it was submitted."""
        return self._started_at

    @property
    def queued(self) -> bool:
        return not self._begun

    @property
    def is_the_jobs_fault(self) -> bool:
        """Whether it was refused for what the job asks for, or for its limits, not for what the node has in
        its settings."""
        limited = self.spec.limits.memory_bytes is not None or self.spec.max_runtime > 0
        return self._has_wishes or (limited and _OF_LIMITS.search(self.refused) is not None)

    @property
    def _has_wishes(self) -> bool:
        return self.spec.batch_request != NOTHING_REQUESTED

    @property
    def settled(self) -> bool:
        """Whether the batch system has said its last word of it."""
        return (
            self._gone
            or self._again
            or bool(self.refused)
            or (self._job is not None and self._job.phase is Phase.ENDED)
        )

    async def submitted(self, found: BatchId) -> None:
        self.batch_id, self.asked_at = found, trio.current_time()
        await self._keep_id()
        self._wake()

    def refuse(self, why: str) -> None:
        self.refused = why
        self._wake()

    async def hear(self, job: BatchJob | None) -> bool:
        """What the batch system lists of it; whether that is news."""
        if job is None:
            self.absent_since = min(self.absent_since, trio.current_time())
            return False
        if self._submitted and job.submitted and job.submitted != self._submitted:
            if await trio.to_thread.run_sync((self.spec.directory / BEGUN).exists):
                self._again = True
                self._wake()
                return True
            self._submitted = job.submitted
            await self._keep_id()
        self.absent_since = math.inf
        news = job != self._job
        self._job = job
        if self.batch_id is None or (job.submitted and not self._submitted):
            self.batch_id = self.batch_id or job.id
            self._submitted = job.submitted
            await self._keep_id()
        if news:
            self._wake()
        return news

    def forget(self) -> None:
        """The batch system surely does not know it any more."""
        self._gone = True
        self._wake()

    async def _keep_id(self) -> None:
        assert self.batch_id is not None
        told = {
            "number": self.batch_id.number,
            "cluster": self.batch_id.cluster,
            "submitted": self._submitted,
        }
        content = json.dumps(told).encode()
        # Without it, it is found by its name. When it has ended and was released meanwhile, there is no
        # directory either.
        with suppress(OSError):
            await trio.to_thread.run_sync(write_durably, self.spec.directory / BATCH, content)

    def _wake(self) -> None:
        self._changed.set()
        self._changed = trio.Event()

    # ------------------------------------------------------------------ waiting for it

    async def leave_queue(self) -> None:
        """Return when it has begun, or never will."""
        await self._until(self._has_left)

    async def tell_news(self, tell: TellBatch) -> None:
        """Tell what it waits for and where it runs, each time that there is news, until it is cancelled."""
        while True:
            changed = self._changed
            if (news := self._describe()) != self._said:
                self._said = news
                await tell(news, self._stand())
            await changed.wait()

    async def tell_end(self, tell: TellBatch) -> None:
        stand = self._stand()
        if stand is not None and stand.ended:
            await tell("", stand)

    def _stand(self) -> BatchStand | None:
        if self.batch_id is None:
            return None
        job = self._job
        if job is None:
            return BatchStand("slurm", self._whole_number(self.batch_id))
        return BatchStand(
            "slurm", self._whole_number(self.batch_id), job.state, job.reason, job.phase is Phase.ENDED
        )

    def _describe(self) -> str:
        if self.batch_id is None:
            return "asks Slurm to take it"
        number = self._whole_number(self.batch_id)
        if self._job is None:
            return f"was given to Slurm as {number}"
        reason = f": {self._job.reason}" if self._job.reason else ""
        if self._job.phase is Phase.WAITING:
            return f"waits in Slurm{reason} (job {number}, {self._job.state})"
        if self._job.phase is Phase.ENDED:
            return f"has ended in Slurm (job {number}, {self._job.state}{reason})"
        host = f" on {self._job.host}" if self._job.host else ""
        return f"runs in Slurm{host} (job {number}, {self._job.state}{reason})"

    def _whole_number(self, batch_id: BatchId) -> str:
        return f"{batch_id.number} of {batch_id.cluster}" if batch_id.cluster else batch_id.number

    async def wait(self) -> RunEnd:
        ends: list[RunEnd] = []

        def look() -> bool:
            end = self._find_end()
            if end is not None:
                ends.append(end)
                self.over = True
            return end is not None

        await self._until(look)
        return ends[-1]

    async def _until(self, condition: Callable[[], bool]) -> None:
        """`condition` looks at the disk. It is asked when a file comes into the directory, when there is news
        of the batch system, and, once the end is near, again and again."""
        unwatch = self._watch(self)
        try:
            while True:
                changed = self._changed
                armed = self._inotify.arm_for_new(self.spec.directory)
                try:
                    if await trio.to_thread.run_sync(condition):
                        return
                    async with trio.open_nursery() as nursery:
                        for event in (changed, *(() if armed is None else (armed.fired,))):
                            nursery.start_soon(_cancel_after, event, nursery.cancel_scope)
                        if self._over_since < math.inf or armed is None:
                            await trio.sleep(1.0)
                            nursery.cancel_scope.cancel()
                finally:
                    if armed is not None:
                        armed.disarm()
        finally:
            unwatch()

    def _has_left(self) -> bool:
        if self._find_mark() is not None or self.settled:
            self._begun = True
            return True
        word = read_kept(self.spec.directory / BEGUN, mark_files.MOST)
        if isinstance(word, bytes):
            values = mark_files.unpack(word) or {}
            with suppress(ValueError):
                self._started_at = float(values.get("started", ""))
            self._begun = True
        return self._begun

    def _find_mark(self) -> RunEnd | None:
        return read_end(self.spec, self._nonce)

    def _find_end(self) -> RunEnd | None:
        """Its end, once all is known that can be. Blocks."""
        end = self._find_mark()
        if end is not None:
            self._begun = True
            # What ended it from outside is told by the batch system a moment later.
            outside = _was_told(self.spec.directory) or (end.signal == 9 and not end.asked)
            if outside and not self.settled and not self._overdue(WORD_PATIENCE):
                return None
            return self._with_word(end) if outside else end
        if self.refused:
            told = f"Slurm does not take it: {self.refused}"
            return self._ended(told=told, lost=not self.is_the_jobs_fault, never_started=True)
        if not self.settled:
            # What never began needs nobody else to end it, once the batch system was told, or could not be.
            if self._cancelled and self._asked and give_up(self.spec.directory):
                return self._ended(asked=True, began=False)
            return None
        if give_up(self.spec.directory):
            return self._without_begin()
        forgotten = self._gone or self._again
        if forgotten and (beat := _beat(self.spec.directory)) != self._beat:
            self._beat, self._over_since = beat, math.inf
        if not self._overdue(BEAT_PATIENCE if forgotten else MARK_PATIENCE):
            return None
        return self._without_mark()

    def _overdue(self, patience: float) -> bool:
        self._over_since = min(self._over_since, time.monotonic())
        return time.monotonic() - self._over_since >= patience

    @property
    def _asked(self) -> bool:
        return (self.spec.directory / STOP).exists()

    def _with_word(self, end: RunEnd) -> RunEnd:
        if self._again:
            return replace(end, told=f"Slurm has put {self._number()} in again", lost=True)
        if (
            self._job is None
            or self._job.phase is not Phase.ENDED
            or self._job.state in ("COMPLETED", "FAILED")
        ):
            return end
        return replace(end, told=self._word(), lost=self._job.state in TAKEN_AWAY)

    def _without_begin(self) -> RunEnd:
        if self._asked:
            return self._ended(asked=True, began=False)
        if self._job is None or self._job.phase is not Phase.ENDED:
            told = f"Slurm does not know {self._number()} any more, and it has not begun"
            return self._ended(told=told, lost=True, began=False)
        state = self._job.state
        if state in ("COMPLETED", "FAILED"):
            told = f"it could not begin in Slurm: {self._word()}{self._own_words()}"
            # It has asked to be in a place of its own choice, or the node has put it into a bad one.
            ours = not self._has_wishes
            return self._ended(told=told, lost=ours, began=False, never_started=ours)
        return self._ended(told=self._word(), lost=state in TAKEN_AWAY, began=False)

    def _without_mark(self) -> RunEnd:
        if self._asked:
            return self._ended(asked=True)
        if self._again:
            told = f"Slurm has put {self._number()} in again, and it has left no mark of its end"
            return self._ended(told=told, lost=True)
        if self._job is None or self._job.phase is not Phase.ENDED:
            told = f"Slurm does not know {self._number()} any more, and it has left no mark of its end"
            return self._ended(told=told, lost=True)
        state = self._job.state
        known = state not in ("COMPLETED", "FAILED")
        told = self._word() if known else f"{self._word()}, and it has left no mark of its end"
        return self._ended(told=told, lost=state in TAKEN_AWAY or not known)

    def _number(self) -> str:
        return "it" if self.batch_id is None else f"job {self.batch_id.number}"

    def _word(self) -> str:
        assert self._job is not None
        job = self._job
        reason = f": {job.reason}" if job.reason and job.reason != job.state else ""
        return f"Slurm says {job.state}{reason} (job {job.id.number})"

    def _own_words(self) -> str:
        said = read_kept(self.spec.directory / "slurm.log", _MOST)
        words = " ".join(said.decode(errors="replace").split())[-200:] if isinstance(said, bytes) else ""
        return f"; {words}" if words else ""

    def _ended(
        self,
        told: str = "",
        *,
        lost: bool = False,
        asked: bool = False,
        began: bool = True,
        never_started: bool = False,
    ) -> RunEnd:
        now = time.time()
        started = self._started_at if self._begun and began and not never_started else 0.0
        wall = max(0.0, now - started) if started else 0.0
        return RunEnd(
            None,
            None,
            started,
            now,
            wall,
            0.0,
            0,
            asked=asked,
            lost=lost,
            told=told,
            never_started=never_started,
        )

    # ------------------------------------------------------------------ ending it

    async def stop(self, grace: float) -> None:
        """The program of the batch job keeps the grace itself: this node may not live to do it."""
        content = f"{grace:.3f}\n".encode()
        await trio.to_thread.run_sync(write_durably, self.spec.directory / STOP, content)
        await trio.to_thread.run_sync(give_up, self.spec.directory)
        patient_until = trio.current_time() + grace + STOP_MARGIN
        while not await trio.to_thread.run_sync(self._is_over):
            try:
                if self.batch_id is not None:
                    late = trio.current_time() >= patient_until
                    await (self._batch.cancel if late else self._batch.stop)(self.batch_id, self.name)
            except OutOfReach as why:
                log.debug("%s is not cancelled yet: %s", self.name, why)
            self._cancelled = True
            self._wake()
            with trio.move_on_after(2.0):
                await self.wait()

    def _is_over(self) -> bool:
        return self._find_end() is not None


async def _cancel_after(event: trio.Event, scope: trio.CancelScope) -> None:
    await event.wait()
    scope.cancel()
