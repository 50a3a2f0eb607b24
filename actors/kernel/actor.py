"""What every actor stands on: a mailbox, a doorbell, questions with a deadline, and a supervisor.

An actor is one task. Its state is its own; what it starts runs in a nursery that it opens and that ends with
it. `tell` never waits: into a full mailbox the message is dropped and the bell rung all the same, so no two
actors can wait for each other. That is safe because messages are hints: on each turn the actor looks at the
ledger, and a turn comes with every ring and, as a safety net, with every tick.
"""

from __future__ import annotations

import contextlib
import logging
from abc import ABC, abstractmethod
from typing import Any, Final

import outcome
import trio

from actors.errors import CoreError

log: Final = logging.getLogger("orchestrator.actors")


class ActorError(CoreError):
    """Something about an actor, not about a job."""


class NoAnswer(ActorError):
    """A question was not answered: mailbox full, deadline over, or the actor was started anew. Ask again."""


class Doorbell:
    """A channel of one: ringing a ringing bell is free, and a ring is never lost."""

    def __init__(self) -> None:
        self._send, self._receive = trio.open_memory_channel[None](1)

    def ring(self) -> None:
        with contextlib.suppress(trio.WouldBlock):
            self._send.send_nowait(None)

    async def wait(self) -> None:
        await self._receive.receive()


class _Question:
    """A message that wants an answer; answered once."""

    def __init__(self, message: object) -> None:
        self.message = message
        self._answered = trio.Event()
        self._outcome: outcome.Outcome[Any] | None = None

    def answer(self, value: outcome.Outcome[Any]) -> None:
        if self._outcome is None:
            self._outcome = value
            self._answered.set()

    async def wait(self) -> Any:
        await self._answered.wait()
        assert self._outcome is not None
        return self._outcome.unwrap()


class Actor(ABC):
    """One task with one mailbox.

    A subclass fills in `begin` (rebuild the state from the ledger, start what runs beside), `receive` (take a
    message in; it must not wait), `answer` (the reply to a question; it must not wait) and `turn` (look at
    what changed and act). A crash is restarted by a `Supervisor` through `begin` again.
    """

    def __init__(self, name: str, *, tick: float, mailbox: int = 1024) -> None:
        self.name = name
        self.tick = tick
        self.dropped = 0
        """Messages that found the mailbox full, since the process began."""
        self._bell = Doorbell()
        self._put, self._mail = trio.open_memory_channel[object](mailbox)

    def tell(self, message: object) -> None:
        """Hand over a message, or drop it if the mailbox is full; the bell rings either way."""
        try:
            self._put.send_nowait(message)
        except trio.WouldBlock:
            self.dropped += 1
        self._bell.ring()

    def ring(self) -> None:
        """Something may have changed: have a look."""
        self._bell.ring()

    async def ask(self, message: object, *, deadline: float) -> Any:
        """The actor's answer, or `NoAnswer` after `deadline` seconds."""
        question = _Question(message)
        try:
            self._put.send_nowait(question)
        except trio.WouldBlock:
            raise NoAnswer(f"{self.name}: too busy to answer") from None
        self._bell.ring()
        with trio.move_on_after(deadline):
            return await question.wait()
        raise NoAnswer(f"{self.name}: no answer within {deadline:g} s")

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """One life of the actor: until it is cancelled or crashes."""
        self._refuse_open_questions()
        async with trio.open_nursery() as nursery:
            await self.begin(nursery)
            task_status.started()
            while True:
                self._take_mail()
                await self.turn()
                with trio.move_on_after(self.tick):
                    await self._bell.wait()

    @abstractmethod
    async def begin(self, nursery: trio.Nursery) -> None: ...

    @abstractmethod
    async def turn(self) -> None: ...

    def receive(self, message: object) -> None:
        raise ActorError(f"{self.name} does not know the message {message!r}")

    def answer(self, message: object) -> Any:
        raise ActorError(f"{self.name} does not know the question {message!r}")

    def _take_mail(self) -> None:
        while True:
            try:
                message = self._mail.receive_nowait()
            except trio.WouldBlock:
                return
            if isinstance(message, _Question):
                message.answer(outcome.capture(self.answer, message.message))
            else:
                self.receive(message)

    def _refuse_open_questions(self) -> None:
        """What an earlier life was asked is answered with an error; its other mail is stale."""
        while True:
            try:
                message = self._mail.receive_nowait()
            except trio.WouldBlock:
                return
            if isinstance(message, _Question):
                message.answer(outcome.Error(NoAnswer(f"{self.name} was started anew; ask again")))
