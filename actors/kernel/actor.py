"""What every actor stands on: a mailbox with a doorbell, questions with a deadline, and a life.

An actor is one task. Its state is its own, made anew for each life; what it starts runs in a nursery that
ends with it. Its mailbox is there before the first life and outlasts each, so who writes to it needs to know
of none. `tell` never waits: into a full mailbox the message is dropped and the bell rung all the same, so no
two actors can wait for each other. That is safe because messages are hints: on each turn the actor looks at
the ledger, and a turn comes with every ring and, as a safety net, with every tick.
"""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable
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
    """Ringing a ringing bell is free, and a ring is never lost. One task waits for it."""

    def __init__(self) -> None:
        self._rung = trio.Event()

    @property
    def rings(self) -> bool:
        """Whether `wait` would wait for nothing."""
        return self._rung.is_set()

    def ring(self) -> None:
        self._rung.set()

    async def wait(self) -> None:
        await self._rung.wait()
        self._rung = trio.Event()


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


class Mailbox:
    """Where an actor is reached, whichever of its lives it is in."""

    def __init__(self, name: str, *, size: int = 1024) -> None:
        self.name = name
        self.dropped = 0
        """Messages that found it full, since the process began."""
        self._bell = Doorbell()
        self._size = size
        self._mail: deque[object] = deque()
        self._answer: Callable[[Question[Any]], Any] | None = None
        """How the actor answers, while it waits for mail."""

    @property
    def waiting(self) -> int:
        """Messages that were not taken yet."""
        return len(self._mail)

    def tell(self, message: object) -> None:
        """Hand over a message, or drop it if the mailbox is full; the bell rings either way."""
        self.leave(message)
        self._bell.ring()

    def leave(self, message: object) -> None:
        """The same without a ring, for what belongs to something that is told next."""
        if not self._put(message):
            self.dropped += 1

    def _put(self, message: object) -> bool:
        if len(self._mail) >= self._size:
            return False
        self._mail.append(message)
        return True

    def ring(self) -> None:
        """Something may have changed: have a look."""
        self._bell.ring()

    async def ask(self, question: Question[Answer], *, deadline: float) -> Answer:
        """The actor's answer, or `NoAnswer` after `deadline` seconds. An actor that waits and has no mail
        answers at once what only looks: its state is whole then, and nobody is woken for it."""
        if question.only_looks and self._answer is not None and not self._mail:
            answer: Answer = self._answer(question)
            return answer
        asked = _Asked(question)
        if not self._put(asked):
            raise NoAnswer(f"{self.name}: too busy to answer")
        self._bell.ring()
        with trio.move_on_after(deadline):
            return await asked.wait()
        raise NoAnswer(f"{self.name}: no answer within {deadline:g} s")

    def ask_now(self, question: Question[Answer]) -> Answer | None:
        """The answer of an actor that waits and has nothing to do: what it knows is all there is to know, and
        it has acted on it. None from any other."""
        if self._answer is None or self._mail or self._bell.rings:
            return None
        answer: Answer = self._answer(question)
        return answer

    # ------------------------------------------------------------------ for the actor

    async def wait(self, at_most: float, answer: Callable[[Question[Any]], Any]) -> None:
        """Until the bell rings, for that many seconds at most; `answer` is asked meanwhile."""
        self._answer = answer
        try:
            if self._bell.rings:
                await self._bell.wait()
            else:
                with trio.move_on_after(at_most):
                    await self._bell.wait()
        finally:
            self._answer = None

    def take(self, receive: Callable[[object], None], answer: Callable[[Question[object]], object]) -> None:
        """Hand out all that has come."""
        while self._mail:
            message = self._mail.popleft()
            if isinstance(message, _Asked):
                message.answer(outcome.capture(answer, message.question))
            else:
                receive(message)

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
    async with trio.open_nursery() as nursery:
        actor = make(mailbox, nursery)
        await actor.begin()
        task_status.started()
        while True:
            mailbox.take(actor.receive, actor.answer)
            await actor.turn()
            await mailbox.wait(actor.tick, actor.answer)
