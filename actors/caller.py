"""The Caller: tells whoever asked for it that a job has ended.

The end of a job writes its callback into the ledger in the same step, and it stays there until it was
delivered or given up: a crash at any point loses none. One that was delivered, but not recorded, is sent
again under the same id: at least once, and who receives it can drop the second.

Within one life only monotonic time counts: a wall clock that jumps starts nothing early and stops nothing.
Hosts do not wait for each other. A host has a few places once it has answered well; before that it has one.
One whose last try failed, or took long, is sick: it has one place, and all sick ones together have half of
all places, so that hosts that are dead or slow delay nobody else.
"""

from __future__ import annotations

import logging
from collections import deque
from dataclasses import dataclass, field
from heapq import heappop, heappush
from typing import Final
from urllib.parse import urlsplit

import trio

from actors.callback_port import (
    Callback,
    CallbackLedger,
    CallbackStatus,
    PostAnswer,
    Poster,
    PostResult,
    Tried,
)
from actors.kernel import Actor, Backoff
from actors.ledger_port import LedgerError
from actors.lifecycle import ENDED
from actors.messages import Committed
from actors.ports import Chance, Clock
from actors.rows import LedgerPause

log: Final = logging.getLogger("orchestrator.caller")

DELAYS: Final = (5.0, 30.0, 120.0, 600.0, 3600.0)
"""Seconds until the next try, by how many have failed; the last one from then on."""

DAY: Final = 86_400.0
PATIENCE: Final = 3600.0
"""Seconds that a callback is tried for in any life of the Caller, however old the wall clock says it is."""

PLACES: Final = 64
SICK_PLACES: Final = PLACES // 2
PLACES_A_HOST: Final = 4
SLOW: Final = 5.0
"""Seconds from which on a try took long."""

PAGE: Final = 500

_RECORDING: Final = 2.0
"""Seconds that the recording of a try may go on while the server stops."""


@dataclass(order=True, slots=True)
class _Want:
    """A callback in hand. `due` and `deadline` (after which a failure is the last one) are monotonic."""

    due: float
    seq: int
    callback: Callback = field(compare=False)
    deadline: float = field(compare=False)
    tries: int = field(compare=False)


@dataclass(slots=True, eq=False)
class _Host:
    """The callbacks of one host. `alarm`: when it is looked at again; `rests_until`: it asked for that."""

    waiting: list[_Want] = field(default_factory=list)
    active: int = 0
    well: bool = False
    sick: bool = False
    ready: bool = False
    alarm: float | None = None
    rests_until: float = 0.0

    @property
    def has_place(self) -> bool:
        return self.active < (PLACES_A_HOST if self.well else 1)

    @property
    def due(self) -> float:
        return max(self.waiting[0].due, self.rests_until)


class Caller(Actor):
    """See the module. `tick`: seconds after which it looks for callbacks that no message told of."""

    def __init__(
        self,
        *,
        ledger: CallbackLedger,
        poster: Poster,
        clock: Clock,
        chance: Chance,
        tick: float = 60.0,
    ) -> None:
        super().__init__("caller", tick=tick)
        self._ledger = ledger
        self._poster = poster
        self._clock = clock
        self._chance = chance
        self._look_every = tick

    async def begin(self, nursery: trio.Nursery) -> None:
        self._nursery = nursery
        self._hosts: dict[str, _Host] = {}
        self._well: deque[_Host] = deque()
        self._ill: deque[_Host] = deque()
        self._alarms: list[tuple[float, int, _Host]] = []
        self._alarms_set = 0
        self._active = 0
        self._active_ill = 0
        self._read_to = 0
        self._read_at = 0.0
        self._unread = True
        self._dropped_seen = self.dropped
        self._pause = LedgerPause(self._chance, log)

    def receive(self, message: object) -> None:
        if not isinstance(message, Committed):
            super().receive(message)
        elif any(job.status in ENDED for job in message.jobs):
            self._unread = True

    async def turn(self) -> None:
        if self.dropped != self._dropped_seen:  # among the messages that were lost there may be an end
            self._dropped_seen = self.dropped
            self._unread = True
        now = trio.current_time()
        if (self._unread or now >= self._read_at + self._look_every) and not self._pause.lasts:
            with self._pause.heeded():
                await self._read_new()
        now = trio.current_time()
        while self._alarms and self._alarms[0][0] <= now:
            when, _, host = heappop(self._alarms)
            if host.alarm == when:
                host.alarm = None
                self._consider(host)
        self._start_ready()
        self._set_tick()

    def _set_tick(self) -> None:
        """The next turn comes when something is due, if nothing rings before."""
        now = trio.current_time()
        wake = self._read_at + self._look_every
        if self._pause.lasts:
            wake = min(wake, now + 1.0)
        if self._alarms:
            wake = min(wake, self._alarms[0][0])
        self.tick = max(0.0, wake - now)

    # ------------------------------------------------------------------ what is wanted

    async def _read_new(self) -> None:
        self._unread = False
        self._read_at = trio.current_time()
        try:
            while page := await self._ledger.pending(self._read_to, PAGE):
                for callback in page:
                    self._take_in(callback)
                self._read_to = page[-1].seq
                if len(page) < PAGE:
                    break
        except LedgerError:
            self._unread = True
            raise

    def _take_in(self, callback: Callback) -> None:
        """The wall clock is asked here, once. What it says is held within what can be."""
        now, wall = trio.current_time(), self._clock.now()
        delay = min(max(callback.next_at - wall, 0.0), DELAYS[-1])
        left = min(max(callback.since + DAY - wall, PATIENCE), DAY)
        host = self._hosts.setdefault(_host_of(callback.url), _Host())
        heappush(host.waiting, _Want(now + delay, callback.seq, callback, now + left, callback.tries))
        self._consider(host)

    # ------------------------------------------------------------------ whose turn it is

    def _consider(self, host: _Host) -> None:
        """Line the host up if something of it is due and it has a place, or set its alarm."""
        if host.ready or not host.waiting or not host.has_place:
            return
        if host.due <= trio.current_time():
            host.ready = True
            (self._ill if host.sick else self._well).append(host)
        elif host.alarm is None or host.due < host.alarm:
            host.alarm = host.due
            self._alarms_set += 1
            heappush(self._alarms, (host.due, self._alarms_set, host))

    def _start_ready(self) -> None:
        while self._active < PLACES:
            if self._well:
                host = self._well.popleft()
            elif self._ill and self._active_ill < SICK_PLACES:
                host = self._ill.popleft()
            else:
                return
            host.ready = False
            # It may have fallen ill, or been told to rest, while it stood in line.
            if host.waiting and host.has_place and host.due <= trio.current_time():
                host.active += 1
                self._active += 1
                self._active_ill += host.sick
                self._nursery.start_soon(self._call, host, heappop(host.waiting), host.sick)
            self._consider(host)

    async def _call(self, host: _Host, want: _Want, ill: bool) -> None:
        began = trio.current_time()
        answer = await self._posted(want.callback)
        host.well = answer.result is not PostResult.FAILED and trio.current_time() - began < SLOW
        host.sick = not host.well
        want.tries += 1
        tried = self._judged(host, want, answer)
        await self._record(tried)
        if tried.status is CallbackStatus.PENDING:
            heappush(host.waiting, want)
        host.active -= 1
        self._active -= 1
        self._active_ill -= ill
        self._consider(host)
        if not host.waiting and not host.active:
            self._hosts.pop(_host_of(want.callback.url), None)
        self.ring()

    async def _posted(self, callback: Callback) -> PostAnswer:
        try:
            return await self._poster.post(callback)
        # A defect that one callback meets is that callback's: the others go on.
        except Exception as error:
            log.exception("the callback of job %d could not be sent", callback.job_id)
            return PostAnswer(PostResult.FAILED, f"it could not be sent: {type(error).__name__}")

    def _judged(self, host: _Host, want: _Want, answer: PostAnswer) -> Tried:
        """What is to be recorded. What is to be tried again is due then."""
        job_id, now = want.callback.job_id, trio.current_time()
        if answer.result is PostResult.DELIVERED:
            return Tried(job_id, CallbackStatus.DELIVERED, want.tries)
        if answer.result is PostResult.GONE or now >= want.deadline:
            log.error(
                "the callback of job %d to %s is given up after %d tries: %s",
                job_id,
                want.callback.url,
                want.tries,
                answer.reason,
            )
            return Tried(job_id, CallbackStatus.GIVEN_UP, want.tries, answer.reason)
        delay = DELAYS[min(want.tries, len(DELAYS)) - 1] * (0.8 + 0.4 * self._chance.random())
        if answer.retry_after is not None:
            asked = min(answer.retry_after, DELAYS[-1])
            host.rests_until = max(host.rests_until, now + asked)
            delay = max(delay, asked)
        delay = min(delay, want.deadline - now)
        want.due = now + delay
        if want.tries == 1:
            log.warning("the callback of job %d failed, and is tried again: %s", job_id, answer.reason)
        return Tried(job_id, CallbackStatus.PENDING, want.tries, answer.reason, self._clock.now() + delay)

    async def _record(self, tried: Tried) -> None:
        """Keeps its place until the ledger has it: a ledger that is out of order stops the calling, too."""
        backoff = Backoff(self._chance, first=0.5, most=30.0)
        while True:
            # What the receiver has taken is noted although the server stops.
            with trio.CancelScope(shield=True), trio.move_on_after(_RECORDING):
                try:
                    await self._ledger.note(tried)
                    return
                except LedgerError as error:
                    log.warning("the callback of job %d is recorded later: %s", tried.job_id, error)
            await trio.sleep(backoff.next())


def _host_of(url: str) -> str:
    try:
        return urlsplit(url).hostname or ""
    except ValueError:
        return ""
