"""A session over a WebSocket: who tells something sends it, as far as the socket takes it at once. One task
sends the rest, one reads, and none waits for another.

Whoever hears a message must not wait: what takes time is done by tasks of its own. So a peer that sends and
does not read, or reads and does not send, holds up nothing but its own link, which ends when a send takes
longer than `SENDING`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, Final

import trio

from actors.wire.errors import WireError
from actors.wire.link.proof import NotProved
from actors.wire.link.session import MAX_FRAME, Lane, Message, Question, Session
from actors.wire.link.websocket import LinkBroken, WebSocket

SENDING: Final = 30.0
"""Seconds that the other side may take to read what is sent at once."""

LAST_WORD: Final = 2.0


class NotSent(WireError):
    """Nothing of the question has reached the other side, and nothing will."""


class InDoubt(WireError):
    """The question may have been heard; its answer will not come."""


class Link:
    """`run` it."""

    def __init__(self, socket: WebSocket, session: Session) -> None:
        self.session: Final = session
        self._socket = socket
        self._sends_itself = True
        """Whether `_send` has something to send, or is not there: then nobody else sends."""
        self._bell = trio.Event()
        self._moved: trio.Event | None = None
        """Of who waits until something was sent."""
        self._scope = trio.CancelScope()
        self._looking = trio.CancelScope()
        self._why = "the link was closed"
        self._failure: Exception | None = None
        self._send_due = math.inf
        """When the send that is under way has to be over."""
        self._answers_due: dict[Question, float] = {}
        socket.wants_to_send = self._hurry

    async def run(self, hear: Callable[[Message], None]) -> str:
        """Until it ends; why. What `hear` raises ends it and is raised, unless it is a WireError."""
        try:
            with self._scope:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._send)
                    nursery.start_soon(self._watch_deadlines)
                    nursery.start_soon(self._read, hear)
        finally:
            self._sends_itself = True
            self.session.close()
            self._note_sent()
            await self._socket.aclose()  # noqa: ASYNC102  # it does not wait
        if self._failure is not None:
            raise self._failure
        return self._why

    def end(self, why: str) -> None:
        if not self._scope.cancel_called:
            self._why = why
            self._sends_itself = True
            self._scope.cancel()

    # ------------------------------------------------------------------ saying

    def tell(
        self, kind: str, body: Mapping[str, Any], lane: Lane, blob: bytes = b"", answers: int = 0
    ) -> None:
        self.session.tell(Message(kind, body, blob, answers=answers), lane)
        self._hurry()

    def leave(
        self, kind: str, body: Mapping[str, Any], lane: Lane, blob: bytes = b"", answers: int = 0
    ) -> None:
        """The same for what nobody is in a hurry to hear: it goes with what is told next."""
        self.session.tell(Message(kind, body, blob, answers=answers), lane)

    async def ask(
        self, kind: str, body: Mapping[str, Any], lane: Lane, blob: bytes = b"", *, within: float
    ) -> Message:
        """The answer. Raises NotSent, InDoubt."""
        over = trio.Event()
        question = self.session.ask(Message(kind, body, blob), lane, over.set)
        self._answers_due[question] = due = trio.current_time() + within
        if within < SENDING:  # whoever looks does so as often as that
            self._looking.deadline = min(self._looking.deadline, due)
        self._hurry()
        try:
            await over.wait()
        finally:
            ended = self._answers_due.pop(question, None) is not None
            self.session.withdraw(question)
        if question.answer is not None:
            return question.answer
        why = f"the link ended: {self._why}" if ended else f"no answer within {within:g} s"
        raise InDoubt(why) if question.sent else NotSent(why)

    async def drained(self, lane: Lane) -> None:
        """Wait until what was told on a lane was given to the socket, or never will be."""
        self._hurry()
        while self.session.queued(lane):
            if self._moved is None:
                self._moved = trio.Event()
            await self._moved.wait()

    def prove(self, secret: bytes) -> None:
        """Prove to the other side that we have what both have."""
        self.session.prove(secret)
        self._hurry()

    async def say_last(self) -> None:
        """Wait until what is urgent is on its way, for a while."""
        with trio.move_on_after(LAST_WORD):
            await self.drained(Lane.URGENT)

    # ------------------------------------------------------------------ sending

    def _hurry(self) -> None:
        """Have what there is sent: now, unless `_send` is at it."""
        if not self._sends_itself and not self._send_now():
            self._sends_itself = True
            self._bell.set()

    def _send_now(self) -> bool:
        """Send what the socket takes without waiting; whether that was all."""
        try:
            while self._socket.unsent or self._socket.words or self.session.has_frames:
                if self._socket.unsent or not self._socket.give(self.session.take_some(MAX_FRAME)):
                    return False
                if self._moved is not None:
                    self._note_sent()
        except LinkBroken as error:
            self.end(error.detail)
        return True

    def _note_sent(self) -> None:
        if self._moved is not None:
            self._moved.set()
            self._moved = None

    # ------------------------------------------------------------------ its tasks

    async def _send(self) -> None:
        while True:
            while not self._send_now():
                self._send_due = trio.current_time() + SENDING
                try:
                    await self._socket.send_rest()
                except LinkBroken as error:
                    self.end(error.detail)
                    return
                self._send_due = math.inf
                self._note_sent()
            self._sends_itself = self._scope.cancel_called
            await self._bell.wait()
            self._bell = trio.Event()

    async def _watch_deadlines(self) -> None:
        """In a task of its own: a deadline for each send and each question costs more than both."""
        while True:
            now = trio.current_time()
            if now >= self._send_due:
                self.end(f"the other side has read nothing for {SENDING:g} s")
            for question in [one for one, due in self._answers_due.items() if due <= now]:
                del self._answers_due[question]
                question.over()
            until = min(self._send_due, now + SENDING, *self._answers_due.values())
            with trio.CancelScope(deadline=until) as self._looking:
                await trio.sleep_forever()

    async def _read(self, hear: Callable[[Message], None]) -> None:
        try:
            while True:
                frame = await self._socket.receive()
                message = self.session.receive(frame)
                if message is not None:
                    hear(message)
        except NotProved as error:
            # Both sides are to know why, and what they have said before that.
            self.tell("closed", {"why": error.detail}, Lane.URGENT)
            await self.say_last()
            self.end(error.detail)
        except WireError as error:
            self.end(error.detail)
        except Exception as error:
            self._failure = error
            self.end(repr(error))
