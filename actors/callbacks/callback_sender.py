"""The CallbackSender: tells whoever asked for it that a job, or a batch of jobs, has ended.

The end writes its callback into the ledger in the same step, and it stays there until it was
delivered or given up: a crash at any point loses none. One that was delivered, but not recorded, is sent
again under the same id: at least once, and who receives it can drop the second.

Within one life only monotonic time counts: a wall clock that jumps starts nothing early and stops nothing.
Whose turn it is, so that hosts that are dead or slow delay nobody else: see
`actors.callbacks.delivery_queue`."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Final

import trio

from actors.callbacks.delivery_queue import Delivery, DeliveryQueue, PendingCallback
from actors.domain.status import ENDED
from actors.kernel.actor import Actor, Mailbox
from actors.kernel.backoff import Backoff
from actors.ledger_cursor import LedgerBackoff
from actors.messages import CallbackWritten, Committed
from actors.ports.callbacks import (
    Callback,
    CallbackLedger,
    CallbackStatus,
    DeliveryOutcome,
    PostAnswer,
    Poster,
    PostResult,
)
from actors.ports.ledger import LedgerError
from actors.ports.world import Clock, Random

log: Final = logging.getLogger("orchestrator.callbacks")

DELAYS: Final = (5.0, 30.0, 120.0, 600.0, 3600.0)
"""Seconds until the next try, by how many have failed; the last one from then on."""

DAY: Final = 86_400.0
PATIENCE: Final = 3600.0
"""Seconds that a callback is tried for in any life of the CallbackSender, however old the wall clock says it
is."""

PAGE: Final = 500

_RECORDING: Final = 2.0
"""Seconds that the recording of a try may go on while the server stops."""


class CallbackSender(Actor):
    """See the module. `tick`: seconds after which it looks for callbacks that no message told of."""

    def __init__(
        self,
        mailbox: Mailbox,
        nursery: trio.Nursery,
        *,
        ledger: CallbackLedger,
        poster: Poster,
        clock: Clock,
        rng: Random,
        tick: float = 60.0,
    ) -> None:
        super().__init__(mailbox, nursery, tick=tick)
        self._ledger = ledger
        self._poster = poster
        self._clock = clock
        self._rng = rng
        self._look_every = tick
        self._deliveries = DeliveryQueue()
        self._read_to = 0
        self._read_at = 0.0
        self._unread = True
        self._dropped_seen = mailbox.dropped
        self._pause = LedgerBackoff(rng, log)

    def receive(self, message: object) -> None:
        match message:
            case Committed(jobs=jobs):
                self._unread = self._unread or any(job.status in ENDED for job in jobs)
            case CallbackWritten():
                self._unread = True
            case _:
                super().receive(message)

    async def turn(self) -> None:
        dropped = self.mailbox.dropped
        if dropped != self._dropped_seen:  # among the messages that were lost there may be an end
            self._dropped_seen = dropped
            self._unread = True
        now = trio.current_time()
        if (self._unread or now >= self._read_at + self._look_every) and not self._pause.lasts:
            with self._pause:
                await self._read_new()
        for delivery in self._deliveries.begin(trio.current_time()):
            self.nursery.start_soon(self._call, delivery)
        self._set_tick()

    def _set_tick(self) -> None:
        """The next turn comes when something is due, if nothing rings before."""
        now = trio.current_time()
        wake = self._read_at + self._look_every
        if self._pause.lasts:
            wake = min(wake, now + 1.0)
        if self._deliveries.next_alarm is not None:
            wake = min(wake, self._deliveries.next_alarm)
        self.tick = max(0.0, wake - now)

    # ------------------------------------------------------------------ what is wanted

    async def _read_new(self) -> None:
        self._unread = False
        self._read_at = trio.current_time()
        try:
            while page := await self._ledger.pending_callbacks(self._read_to, PAGE):
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
        age = max(wall - callback.since, 0.0)
        deadline, late = now + max(DAY - age, PATIENCE), now + max(2 * DAY - age, PATIENCE)
        self._deliveries.add(
            PendingCallback(now + delay, callback.seq, callback, deadline, late, callback.tries), now
        )

    # ------------------------------------------------------------------ a try

    async def _call(self, delivery: Delivery) -> None:
        began = trio.current_time()
        answer = await self._post(delivery.pending.callback)
        self._deliveries.learn(delivery, answer, trio.current_time() - began)
        delivery.pending.tries += 1
        let_go = self._let_rest(delivery, answer)
        tried = self._decide(delivery.pending, answer)
        for each in (tried, *let_go):
            await self._record(each)
        self._deliveries.end(delivery, trio.current_time(), again=tried.status is CallbackStatus.PENDING)
        self.ring()

    async def _post(self, callback: Callback) -> PostAnswer:
        try:
            return await self._poster.post(callback)
        # A defect that one callback meets is that callback's: the others go on.
        except Exception as error:
            log.exception("the callback of %s could not be sent", callback.subject)
            reason = f"it could not be sent: {type(error).__name__}"
            return PostAnswer(PostResult.FAILED, reason, connected=False)

    def _let_rest(self, delivery: Delivery, answer: PostAnswer) -> Sequence[DeliveryOutcome]:
        """Let the receiver rest if it asked for that. What is given up by that is to be recorded."""
        if answer.retry_after is None:
            return ()
        now = trio.current_time()
        let_go = self._deliveries.rest(delivery.receiver, now + min(answer.retry_after, DELAYS[-1]), now)
        return [_give_up(pending, "its receiver asked to be left alone") for pending in let_go]

    def _decide(self, pending: PendingCallback, answer: PostAnswer) -> DeliveryOutcome:
        """What is to be recorded. What is to be tried again is due then."""
        subject, now = pending.callback.subject, trio.current_time()
        if answer.result is PostResult.DELIVERED:
            return DeliveryOutcome(subject, CallbackStatus.DELIVERED, pending.tries)
        if answer.result is PostResult.GONE or now >= pending.last:
            return _give_up(pending, answer.reason)
        delay = DELAYS[min(pending.tries, len(DELAYS)) - 1] * (0.8 + 0.4 * self._rng.random())
        delay = min(delay, pending.last - now)
        if answer.retry_after is not None:
            delay = max(delay, min(answer.retry_after, DELAYS[-1]))
        pending.due = now + delay
        if pending.tries == 1:
            log.warning("the callback of %s failed, and is tried again: %s", subject, answer.reason)
        return DeliveryOutcome(
            subject, CallbackStatus.PENDING, pending.tries, answer.reason, self._clock.now() + delay
        )

    async def _record(self, tried: DeliveryOutcome) -> None:
        """Keeps its place until the ledger has it: a ledger that is out of order stops the calling, too."""
        backoff = Backoff(self._rng, first=0.5, most=30.0)
        while True:
            # What the receiver has taken is noted although the server stops.
            with trio.CancelScope(shield=True), trio.move_on_after(_RECORDING):
                try:
                    await self._ledger.record_delivery(tried)
                    return
                except LedgerError as error:
                    log.warning("the callback of %s is recorded later: %s", tried.subject, error)
            await trio.sleep(backoff.next())


def _give_up(pending: PendingCallback, reason: str) -> DeliveryOutcome:
    callback = pending.callback
    log.error(
        "the callback of %s to %s is given up after %d tries: %s",
        callback.subject,
        callback.url,
        pending.tries,
        reason,
    )
    return DeliveryOutcome(callback.subject, CallbackStatus.GIVEN_UP, pending.tries, reason)
