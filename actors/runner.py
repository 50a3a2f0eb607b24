"""The Runner: starts each payload of a node, follows it, and records how it ended.

The payload table is its ledger. The Runner hears from it what changed, and with each tick reads it as well. A
payload that is Running when a life of the Runner begins is adopted, never started again. What goes wrong with
one payload is that payload's: it is tried again with growing delays, and nothing else waits for it.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Final

import trio

from actors.domain.failure import Failure
from actors.domain.job import End
from actors.domain.limits import UNLIMITED, JobLimits, show_limit
from actors.domain.payload import Payload, PayloadMove, RunResult
from actors.domain.status import ENDED, Status
from actors.kernel.actor import Actor, Mailbox
from actors.kernel.backoff import Backoff
from actors.kernel.complaint import Complaint
from actors.ports.payloads import Payloads, Running, Runs
from actors.ports.world import Clock, Random
from actors.store.durable import is_full, is_passing

log: Final = logging.getLogger("node.runner")

DAMAGED: Final = "what the node knew of it is damaged"

NO_SLOT: Final = "no slot was free for it in time"
"""What is said of a payload that is given back."""

FREEZE_TRIES: Final = 20
"""About a minute."""


class Cause(StrEnum):
    """Why the Runner stops a run."""

    CANCELLED = "cancelled"
    TIMED_OUT = "timed out"
    NODE_STOPPED = "node stopped"


@dataclass(slots=True)
class _Watch:
    """What the Runner knows of a payload that it starts or follows. `stop`: it is to be stopped. `cause`: why
    it was stopped, once that has begun. `waiting` is cancelled by `stop_now`. `backoff` grows while the
    watching itself goes wrong."""

    backoff: Backoff
    cancelled: bool = False
    stop: bool = False
    waiting: trio.CancelScope | None = None
    cause: Cause | None = None

    def stop_now(self) -> None:
        self.stop = True
        if self.waiting is not None:
            self.waiting.cancel()


class RunnerMailbox(Mailbox):
    """What the Runner is told, whichever of its lives it is in: news of payloads, of which the newest of each
    counts and none is dropped, and the order to stop."""

    def __init__(self) -> None:
        super().__init__("runner")
        self.news: dict[str, Payload] = {}
        self.unread = False
        self.begun: set[str] = set()
        """What a life set out to start, and none has seen the end of: it may run, and not be recorded so."""
        self.halted = False
        """Nothing is started any more."""
        self.returned = trio.Event()
        self.closing = trio.Event()
        self.closed = trio.Event()
        self.grace = math.inf

    def hear(self, payloads: Iterable[Payload]) -> None:
        """What has just changed in the table, in its order, released payloads too. Does not wait. Of what has
        ended there is nothing to be done: that is heard with the next turn."""
        heard = {payload.key: payload for payload in payloads}
        self.news.update(heard)
        for payload in heard.values():
            if payload.status not in ENDED:
                self.wake()
                break

    def ring(self) -> None:
        """Something may have changed: read it."""
        self.unread = True
        self.wake()

    async def give_back_all(self) -> None:
        """Have nothing started any more and what may be given back so, and return when that is recorded."""
        self.halted = True
        self.wake()
        await self.returned.wait()

    async def stop_all(self, grace: float) -> None:
        """The same, and all that runs stopped; return when it has ended. `grace` in seconds, unless the
        Runner's own is less. What is stopped so is lost, not killed: nobody asked for its end, it may run
        elsewhere."""
        self.grace, self.halted = grace, True
        self.closing.set()
        self.wake()
        await self.closed.wait()


class Runner(Actor):
    """See the module. `slots` None: whatever is sent runs at once. `grace` is the time in seconds between
    SIGTERM and SIGKILL."""

    def __init__(
        self,
        mailbox: RunnerMailbox,
        nursery: trio.Nursery,
        *,
        payloads: Payloads,
        runs: Runs,
        clock: Clock,
        rng: Random,
        slots: int | None = None,
        grace: float = 5.0,
        tick: float = 0.5,
    ) -> None:
        super().__init__(mailbox, nursery, tick=tick)
        self._inbox = mailbox
        self._inbox.news.clear()
        self._closing = mailbox.closing
        self._payloads = payloads
        self._runs = runs
        self._clock = clock
        self._rng = rng
        self._slots = slots
        self._own_grace = grace
        self._seen = 0
        self._read_at = -math.inf
        self._complaint = Complaint(log)
        self._prepared: dict[str, Payload] = {}
        self._waiting_since: dict[str, float] = {}
        """When this life was told of those that are prepared."""
        self._watched: dict[str, _Watch] = {}
        self._returning: set[str] = set()
        """Those of them that are given back."""

    # ------------------------------------------------------------------ life

    async def begin(self) -> None:
        picture, self._seen = await self._payloads.all()
        for payload in picture:
            self._take_in(payload)

    async def turn(self) -> None:
        inbox = self._inbox
        if inbox.unread or trio.current_time() >= self._read_at + self.tick:
            inbox.unread, self._read_at = False, trio.current_time()
            for payload in await self._payloads.changes(self._seen):
                self._seen = max(self._seen, payload.sequence)
                # What came meanwhile may be its end, already seen through: it would be adopted once more.
                if (newer := inbox.news.get(payload.key)) is None or newer.sequence <= payload.sequence:
                    self._take_in(payload)
        news, inbox.news = inbox.news, {}
        for payload in news.values():
            # What was read is the state of all payloads at that number: older news would take them back.
            if payload.sequence > self._seen:
                self._take_in(payload)
        while not inbox.halted and self._free() and (found := self._find_next()):
            self._follow(found, adopt=False)
        if inbox.halted or not self._free():
            self._give_back()
        if inbox.halted and not self._returning:
            inbox.returned.set()
        if self._closing.is_set():
            for watch in self._watched.values():
                watch.stop_now()
            if not self._watched:
                inbox.closed.set()

    def _take_in(self, payload: Payload) -> None:
        key = payload.key
        if payload.status in ENDED:
            self._forget_prepared(key)
        elif (watch := self._watched.get(key)) is not None:
            if payload.cancelled:
                watch.cancelled = True
                watch.stop_now()
        elif payload.status is Status.RUNNING:
            self._follow(payload, adopt=True)
        elif payload.cancelled:
            # It needs no slot, and nothing of it has started, unless by an earlier life of the Runner.
            self._forget_prepared(key)
            self._follow(payload, adopt=key in self._inbox.begun)
        else:
            self._prepared[key] = payload
            self._waiting_since.setdefault(key, trio.current_time())

    def _forget_prepared(self, key: str) -> None:
        self._prepared.pop(key, None)
        self._waiting_since.pop(key, None)

    def _grace(self) -> float:
        return min(self._own_grace, self._inbox.grace)

    def _free(self) -> bool:
        return self._slots is None or len(self._watched) < self._slots

    def _find_next(self) -> Payload | None:
        """The oldest for which there is what it needs."""
        if not self._prepared:
            return None
        oldest = min(self._prepared.values(), key=_age)
        if self._runs.claim(oldest):
            return oldest
        return next(filter(self._runs.claim, sorted(self._prepared.values(), key=_age)), None)

    def _give_back(self) -> None:
        """What has waited for a slot as long as it may, or would wait for one that never comes, and of which
        nothing can have started."""
        now = math.inf if self._inbox.halted else trio.current_time()
        for payload in list(self._prepared.values()):
            wait, since = payload.slot_wait, self._waiting_since[payload.key]
            if wait is not None and now > since + wait and payload.key not in self._inbox.begun:
                self._returning.add(payload.key)
                self._follow(payload, adopt=False, give_back=True)

    def _follow(self, payload: Payload, *, adopt: bool, give_back: bool = False) -> None:
        self._forget_prepared(payload.key)
        watch = self._watched[payload.key] = _Watch(self._backoff())
        watch.cancelled = payload.cancelled
        if payload.cancelled or self._closing.is_set():
            watch.stop_now()
        self.nursery.start_soon(self._see_through, payload, watch, adopt, give_back)

    # ------------------------------------------------------------------ one payload

    async def _see_through(self, payload: Payload, watch: _Watch, adopt: bool, give_back: bool) -> None:
        """A payload from here to its recorded end."""
        try:
            if give_back or (payload.cancelled and not adopt):
                await self._end_unstarted(payload, give_back)
                return
            found = await (self._adopt(payload) if adopt else self._start(payload, watch))
            while not isinstance(found, RunResult):
                if payload.status is Status.PREPARED:
                    payload, began = _begin(payload, found)
                    await self._record(payload, began)
                found = await self._until_end(payload, watch, found)
            await self._record_end(payload, watch, found)
            self._inbox.begun.discard(payload.key)
        finally:
            self._watched.pop(payload.key, None)
            self._returning.discard(payload.key)
            if self._prepared or self._inbox.halted:
                self._inbox.wake()

    async def _end_unstarted(self, payload: Payload, give_back: bool) -> None:
        end = End(Status.KILLED, "terminated", ended_at=self._clock.now())
        if give_back:
            end = replace(end, status=Status.FAILED, message=NO_SLOT, failure=Failure.NOT_RUN)
        move = PayloadMove(payload.key, Status.PREPARED, end.status, end=end, lost=give_back)
        await self._record(payload, move)

    async def _start(self, payload: Payload, watch: _Watch) -> Running | RunResult:
        backoff = self._backoff()
        self._inbox.begun.add(payload.key)
        while True:
            try:
                return await self._runs.start(payload)
            except Exception as error:
                self._complain(payload, "starting it went wrong", error)
                # Whether something runs now is not known: that is what adopting finds out.
                found = await self._adopt(payload)
                if not isinstance(found, RunResult) or not found.refused:
                    return found
                if not is_passing(error) or watch.stop:
                    reason = f"{type(error).__name__}: {error}"
                    return replace(found, refused=reason, refused_by=Failure.NODE)
            with trio.move_on_after(backoff.next()) as watch.waiting:
                await trio.sleep_forever()

    async def _adopt(self, payload: Payload) -> Running | RunResult:
        """Ask until there is an answer: that it could not be asked is no end."""
        backoff = self._backoff()
        while True:
            try:
                return await self._runs.adopt(payload)
            except Exception as error:
                self._complain(payload, "not found out yet", error)
            await trio.sleep(backoff.next())

    def _complain(self, payload: Payload, what: str, error: BaseException) -> None:
        """Of what lasts a line from time to time, of what should not be each time with all that is known."""
        if is_passing(error) or (isinstance(error, Exception) and is_full(error)):
            again = "payload %s: %s, and is tried again: %s"
            self._complaint.say(again, payload.key, what, error, about=payload.about)
        else:
            log.error("payload %s: %s", payload.key, what, exc_info=error, extra=payload.about)

    async def _until_end(self, payload: Payload, watch: _Watch, running: Running) -> Running | RunResult:
        """Wait for the end of a run, and stop it when there is a cause. A `Running` when its turn has come,
        and when the watching itself went wrong."""
        try:
            if not watch.stop:
                # Most are never stopped: no task waits for that.
                with trio.move_on_after(_time_left(payload, running)) as watch.waiting:
                    return await running.wait()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._stop, watch, running)
                result = await running.wait()
                nursery.cancel_scope.cancel()
            return result
        except* Exception as group:
            self._complain(payload, "watching it went wrong", group)
        await trio.sleep(watch.backoff.next())
        return await self._adopt(payload)

    async def _stop(self, watch: _Watch, running: Running) -> None:
        if watch.cause is None:
            closing = Cause.NODE_STOPPED if self._closing.is_set() else Cause.TIMED_OUT
            watch.cause = Cause.CANCELLED if watch.cancelled else closing
        async with trio.open_nursery() as nursery:
            nursery.start_soon(running.stop, self._grace())
            if not self._closing.is_set():
                # When the node stops meanwhile, there is less time than was given.
                await self._closing.wait()
                nursery.start_soon(running.stop, self._grace())

    async def _record_end(self, payload: Payload, watch: _Watch, result: RunResult) -> None:
        cause = watch.cause or _earlier_cause(payload, watch, result)
        if cause is None and result.refused and self._closing.is_set():
            # Who takes the machine away ends what was about to start it, too.
            cause = Cause.NODE_STOPPED
        end, lost = verdict(result, cause, payload.max_runtime, payload.limits)
        if end.ended_at is None:
            end = replace(end, ended_at=self._clock.now())
        if result.refused and end.failure is Failure.NODE:
            failed = "attempt %d of job %d %s; the node is to blame, not the job"
            log.warning(failed, payload.n, payload.job_id, end.message, extra=payload.about)
        pid, started_at = result.pid, result.started_at
        move = PayloadMove(payload.key, payload.status, end.status, pid, started_at, end, lost)
        await self._record(payload, await self._close(payload, move, end))

    async def _close(self, payload: Payload, move: PayloadMove, end: End) -> PayloadMove:
        """The move to the end with what there is to be collected. A full disk is waited for; what lasts
        otherwise is told as the end, for nothing runs any more and the slot is wanted."""
        backoff = self._backoff()
        while True:
            try:
                return await self._runs.close(payload, move)
            except (OSError, RuntimeError) as error:
                if not is_full(error) and not is_passing(error):
                    if not isinstance(error, OSError):
                        raise
                    if backoff.failures >= FREEZE_TRIES:
                        without = "payload %s: no manifest (%s); it ends without"
                        log.error(without, payload.key, error, extra=payload.about)
                        why = f"what it left cannot be read: {error.strerror or error}"
                        end = without_results(end, why)
                        return replace(move, target=end.status, end=end)
                self._complain(payload, "no manifest yet", error)
            await trio.sleep(backoff.next())

    async def _record(self, payload: Payload, move: PayloadMove) -> None:
        backoff = self._backoff()
        while True:
            try:
                (done,) = await self._payloads.record([move])
            except (OSError, RuntimeError) as error:
                if not isinstance(error, OSError) and not is_passing(error):
                    raise
                self._complain(payload, "not recorded yet", error)
            else:
                if not done:
                    was_not = "payload %s was not %s any more"
                    log.error(was_not, payload.key, move.source, extra=payload.about)
                return
            await trio.sleep(backoff.next())

    def _backoff(self) -> Backoff:
        return Backoff(self._rng, first=0.2, most=5.0)


def _begin(payload: Payload, running: Running) -> tuple[Payload, PayloadMove]:
    """The payload as one that runs, and the move that makes it so."""
    pid, started_at = running.pid, running.started_at
    move = PayloadMove(payload.key, Status.PREPARED, Status.RUNNING, pid=pid, started_at=started_at)
    return replace(payload, status=Status.RUNNING, pid=pid, started_at=started_at), move


def _time_left(payload: Payload, running: Running) -> float:
    """Seconds that it may go on."""
    return max(0.0, payload.max_runtime - running.age()) if payload.max_runtime > 0 else math.inf


def _age(payload: Payload) -> int:
    return payload.id


def without_results(end: End, why: str) -> End:
    """The end of what has left nothing that could be collected: no success, whatever the script said."""
    message = f"{end.message}; {why}" if end.message else why
    if end.status is Status.COMPLETED:
        return replace(end, status=Status.FAILED, message=message, failure=Failure.RESULTS)
    return replace(end, message=message)


_OVER: Final = {
    "cpu_seconds": (Failure.CPU_TIME, "over its limit of CPU time: {}"),
    "disk_bytes": (Failure.DISK, "over its limit of disk: {}"),
    "file_bytes": (Failure.FILE_SIZE, "over its limit of the size of a file: {}"),
    "memory_bytes": (Failure.MEMORY, "out of memory: its limit is {}"),
}


def _over(exceeded: str, limits: JobLimits) -> tuple[Failure, str] | None:
    """What is said of a payload that was ended for a limit, or by the machine's want of memory."""
    if exceeded == "machine_memory":
        return Failure.MEMORY, "out of memory: the machine had no more"
    if exceeded not in _OVER or (value := getattr(limits, exceeded)) is None:
        return None
    failure, text = _OVER[exceeded]
    return failure, text.format(show_limit(exceeded, value))


def _earlier_cause(payload: Payload, watch: _Watch, result: RunResult) -> Cause | None:
    """Why an earlier process of the node had stopped it, when that process did not live to record it."""
    if watch.cancelled and (result.asked or result.refused or result.supervision_killed or result.unreadable):
        return Cause.CANCELLED
    if not result.asked:
        return None
    if 0 < payload.max_runtime <= (result.wall_seconds or 0.0):
        return Cause.TIMED_OUT
    return Cause.NODE_STOPPED


def verdict(
    result: RunResult, cause: Cause | None, max_runtime: float, limits: JobLimits = UNLIMITED
) -> tuple[End, bool]:
    """How a payload ended, and whether it was lost, from what the kernel tells and why we stopped it."""
    lost, failure = False, None
    if result.invalid:
        status, message, failure = Status.INVALID, result.invalid, Failure.INVALID
    elif cause is Cause.CANCELLED and (result.refused or not result.lost):
        # What it has left is not known then, and nobody is to take it for all of it.
        status, message, lost = Status.KILLED, "terminated", result.unreadable
    elif result.refused and cause is not Cause.NODE_STOPPED:
        status, message, failure = Status.FAILED, f"could not be started: {result.refused}", result.refused_by
        lost = failure is not Failure.BATCH_SYSTEM
    elif result.told:
        status, message, lost = Status.FAILED, result.told, result.lost
        failure = Failure.BATCH_SYSTEM
    elif result.lost:
        status, message, lost, failure = Status.FAILED, "machine restarted", True, Failure.LOST
    elif result.unreadable:
        status, message, lost, failure = Status.FAILED, DAMAGED, True, Failure.LOST
    elif over := _over(result.exceeded, limits):
        status, (failure, message) = Status.FAILED, over
    elif cause is Cause.TIMED_OUT:
        status, message = Status.FAILED, f"timed out after {max_runtime:g} s"
        failure = Failure.MAX_RUNTIME
    elif cause is Cause.NODE_STOPPED:
        status, message, lost, failure = Status.FAILED, "the node was stopped", True, Failure.LOST
    elif result.supervision_killed:
        status, message, failure = Status.FAILED, "supervision was killed", Failure.NODE
    elif result.signal is not None:
        status, message = Status.FAILED, f"killed by signal {result.signal}"
    elif result.exit_code == 0:
        status, message = Status.COMPLETED, ""
    elif result.exit_code is not None:
        status, message = Status.FAILED, f"exit code {result.exit_code}"
    else:
        status, message = Status.FAILED, "its end is not known"
    if result.loss and status is Status.COMPLETED:
        status, failure = Status.FAILED, Failure.RESULTS
    reached = ""
    if result.exceeded == "processes" and limits.processes and status is Status.FAILED:
        reached = f"it had as many processes as it may have: {limits.processes}"
    message = "; ".join(filter(None, (message, reached, result.loss, result.note)))
    ran = not (result.invalid or result.refused)
    end = End(
        status=status,
        message=message,
        exit_code=result.exit_code if ran and result.signal is None else None,
        signal=result.signal if ran else None,
        started_at=result.started_at,
        ended_at=result.ended_at,
        wall_seconds=result.wall_seconds,
        cpu_seconds=result.cpu_seconds,
        peak_bytes=result.peak_bytes,
        failure=failure,
    )
    return end, lost
