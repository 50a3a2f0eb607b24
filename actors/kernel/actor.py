"""What every actor stands on: a mailbox with a doorbell, questions with a deadline, and a life.

An actor is one task. Its state is its own, made anew for each life; what it starts runs in a nursery that
ends with it. Its mailbox is there before the first life and outlasts each, so who writes to it needs to know
of none. `tell` never waits: into a full mailbox the message is dropped and the bell rung all the same, so no
two actors can wait for each other. That is safe because messages are hints: on each turn the actor looks at
the ledger, and a turn comes with every ring and, as a safety net, with every tick. A message that needs no
turn, as an actor says of itself (`judge_urgency`), waits for the next one, or is taken in by who tells it.
"""

from __future__ import annotations

import logging
import math
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable
from enum import Enum
from typing import Any, ClassVar, Final, Generic, TypeVar

import outcome
import trio

from actors.domain.errors import CoreError

log: Final = logging.getLogger("orchestrator.actors")


class ActorError(CoreError):
    """Something about an actor, not about a job."""


class NoAnswer(ActorError):
    """A question was not answered: mailbox full, deadline over, or the actor was started anew. Ask again."""


class Doorbell:
    """Ringing a ringing bell is free, and a ring is never lost. All who wait for it are woken by one."""

    def __init__(self) -> None:
        self.rings = False
        """Whether `wait` would wait for nothing."""
        self._waiters: list[trio.lowlevel.Task] = []

    @property
    def is_awaited(self) -> bool:
        """Whether a task waits for a ring, and there was none."""
        return bool(self._waiters)

    def ring(self) -> None:
        self.rings = True
        if self._waiters:
            for task in self._waiters:
                trio.lowlevel.reschedule(task)
            self._waiters.clear()

    async def wait(self) -> None:
        if self.rings:
            await trio.lowlevel.checkpoint()
        else:
            task = trio.lowlevel.current_task()
            self._waiters.append(task)

            def leave(_: object) -> trio.lowlevel.Abort:
                self._waiters.remove(task)
                return trio.lowlevel.Abort.SUCCEEDED

            await trio.lowlevel.wait_task_rescheduled(leave)
        self.rings = False


class _Ticker:
    """Rings at a mailbox at a time that is put off again and again: one timer, moved only where it has to go
    off earlier than it would. `run` is its task."""

    def __init__(self, mailbox: Mailbox) -> None:
        self._mailbox = mailbox
        self._at = math.inf
        self._timer = trio.CancelScope()
        self._timer_at = math.inf

    def set(self, at: float) -> None:
        """Ring then, monotonic, and not before; `inf`: not at all."""
        self._at = at
        if at < self._timer_at:
            self._timer_at = self._timer.deadline = at

    async def run(self) -> None:
        while True:
            with self._timer:
                await trio.sleep_forever()
            if self._at <= trio.current_time():
                self._at = math.inf
                self._mailbox.wake()
            self._timer_at = self._at
            self._timer = trio.CancelScope(deadline=self._at)


Answer = TypeVar("Answer")
Answer_co = TypeVar("Answer_co", covariant=True)


class Question(Generic[Answer_co]):
    """A message that wants an answer of that type. One that `only_looks` changes nothing, so no turn follows
    from it."""

    __slots__ = ()
    only_looks: ClassVar[bool] = False


class _Asked(Generic[Answer]):
    """A question on its way; answered once."""

    def __init__(self, question: Question[Answer]) -> None:
        self.question = question
        self._answered = trio.Event()
        self._outcome: outcome.Outcome[Answer] | None = None

    def answer(self, value: outcome.Outcome[Answer]) -> None:
        if self._outcome is None:
            self._outcome = value
            self._answered.set()

    async def wait(self) -> Answer:
        await self._answered.wait()
        assert self._outcome is not None
        return self._outcome.unwrap()


MOST_LEFT: Final = 64
"""Messages of which an actor is not told at once, as none of them needs a turn."""


class Urgency(Enum):
    """What a message needs. LATER: it is taken with what comes next. TAKING: all that follows from it is
    done as it is taken in, which an actor that waits does at once, in the step of who tells it. TURN."""

    LATER = "later"
    TAKING = "taking"
    TURN = "turn"


class Mailbox:
    """Where an actor is reached, whichever of its lives it is in."""

    def __init__(self, name: str, *, size: int = 1024) -> None:
        self.name = name
        self.dropped = 0
        """Messages that found it full, since the process began."""
        self._bell = Doorbell()
        self._size = size
        self._mail: deque[object] = deque()
        self._called = False
        """Whether it rings for more than the mail that is here."""
        self._actor: Actor | None = None
        self._crash: Exception | None = None

    @property
    def waiting(self) -> int:
        """Messages that were not taken yet."""
        return len(self._mail)

    def tell(self, message: object) -> None:
        """Hand over a message, or drop it if the mailbox is full. The bell rings either way, unless the actor
        needs no turn for it: then it is taken at once or with what comes next, at the latest with a tick."""
        mail, actor = self._mail, self._actor
        if len(mail) >= self._size:
            self.dropped += 1
            self.wake()
            return
        mail.append(message)
        urgency = Urgency.TURN
        if actor is not None and len(mail) <= MOST_LEFT:
            urgency = actor.judge_urgency(message)
        if urgency is Urgency.TURN or (urgency is Urgency.TAKING and self._find_reply() is None):
            self._bell.ring()

    def leave(self, message: object) -> None:
        """The same without a ring, for what belongs to something that is told next."""
        if len(self._mail) < self._size:
            self._mail.append(message)
        else:
            self.dropped += 1

    def ring(self) -> None:
        """Something may have changed: have a look."""
        self.wake()

    def wake(self) -> None:
        """Have the actor take a turn."""
        self._called = True
        self._bell.ring()

    async def ask(self, question: Question[Answer], *, deadline: float) -> Answer:
        """The actor's answer, or `NoAnswer` after `deadline` seconds. An actor that waits and has nothing to
        do answers at once what only looks: its state is whole then, and nobody is woken for it."""
        if question.only_looks and (reply := self._find_reply()) is not None:
            answer: Answer = reply(question)
            return answer
        asked = _Asked(question)
        if len(self._mail) >= self._size:
            raise NoAnswer(f"{self.name}: too busy to answer")
        self._mail.append(asked)
        self._bell.ring()
        with trio.move_on_after(deadline):
            return await asked.wait()
        raise NoAnswer(f"{self.name}: no answer within {deadline:g} s")

    def ask_now(self, question: Question[Answer]) -> Answer | None:
        """The answer of an actor that waits and has nothing to do: what it knows is all there is to know, and
        it has acted on it. None from any other."""
        reply = self._find_reply()
        if reply is None:
            return None
        answer: Answer = reply(question)
        return answer

    def _find_reply(self) -> Callable[[Question[Any]], Any] | None:
        """How the actor answers, if it waits with nothing to do. What came and needed no turn it takes in
        before; what it crashes by then ends its life, and is nothing to whoever asks."""
        actor = self._actor
        if actor is None or not self._bell.is_awaited:
            return None
        if self._mail:
            try:
                self.take(actor.receive, actor.answer)
            except Exception as error:
                self._crash = error
                self._bell.ring()
        return actor.answer if self._bell.is_awaited else None

    # ------------------------------------------------------------------ for the actor

    async def wait(self) -> None:
        """Until the bell rings."""
        await self._bell.wait()
        if self._crash is not None:
            crash, self._crash = self._crash, None
            raise crash

    def take(self, receive: Callable[[object], None], answer: Callable[[Question[object]], object]) -> None:
        """Hand out all that has come. Where the bell rang for nothing else, it rings no more."""
        while self._mail:
            message = self._mail.popleft()
            if isinstance(message, _Asked):
                message.answer(outcome.capture(answer, message.question))
            else:
                receive(message)
        self._bell.rings = self._called

    def begin_turn(self, actor: Actor) -> None:
        """Hand out all that has come; what rang up to now is for this turn."""
        self.take(actor.receive, actor.answer)
        self._called = self._bell.rings = False

    def begin_life(self, actor: Actor | None) -> None:
        """From now on this actor is reached here; None: nobody."""
        self._actor, self._crash = actor, None

    def discard(self) -> None:
        """What an earlier life was asked is answered with an error; its other mail is stale."""

        def refuse(question: object) -> None:
            raise NoAnswer(f"{self.name} was started anew; ask again")

        self.take(lambda _: None, refuse)


class Actor(ABC):
    """One life of one task with one mailbox.

    A subclass makes all its state in `__init__` and fills in `begin` (read what the ledger holds), `receive`
    (take a message in; it must not wait), `answer` (the reply to a question; it must not wait) and `turn`
    (look at what changed and act). What it runs beside runs in `nursery`. After a crash a `Supervisor` has
    the next one made: see `live`.
    """

    def __init__(self, mailbox: Mailbox, nursery: trio.Nursery, *, tick: float) -> None:
        self.mailbox = mailbox
        self.nursery = nursery
        self.tick = tick

    async def begin(self) -> None:
        await trio.lowlevel.checkpoint()

    @abstractmethod
    async def turn(self) -> None: ...

    def receive(self, message: object) -> None:
        raise ActorError(f"{self.mailbox.name} does not know the message {message!r}")

    def answer(self, question: Question[object]) -> object:
        raise ActorError(f"{self.mailbox.name} does not know the question {question!r}")

    def judge_urgency(self, message: object) -> Urgency:
        """What a message that has just come needs. It may change nothing, nor wait."""
        return Urgency.TURN

    def ring(self) -> None:
        """Come round for another turn."""
        self.mailbox.ring()


AnyMailbox = TypeVar("AnyMailbox", bound=Mailbox)


async def live(
    mailbox: AnyMailbox,
    make: Callable[[AnyMailbox, trio.Nursery], Actor],
    *,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """One life: of an actor that `make` makes, until it is cancelled or crashes."""
    mailbox.discard()
    ticker = _Ticker(mailbox)
    async with trio.open_nursery() as nursery:
        actor = make(mailbox, nursery)
        await actor.begin()
        task_status.started()
        nursery.start_soon(ticker.run)
        mailbox.begin_life(actor)
        try:
            while True:
                mailbox.begin_turn(actor)
                await actor.turn()
                ticker.set(trio.current_time() + actor.tick)
                await mailbox.wait()
                ticker.set(math.inf)
        finally:
            mailbox.begin_life(None)
