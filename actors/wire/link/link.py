"""A session over a WebSocket: one task reads, one sends, and neither waits for the other.

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
from actors.wire.link.session import MAX_FRAME, Lane, Message, Session
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
        self._bell = trio.Event()
        self._bell.set()  # the hello is there
        self._moved = trio.Event()
        self._scope = trio.CancelScope()
        self._why = "the link was closed"
        self._failure: Exception | None = None
        self._send_due = math.inf
        """When the send that is under way has to be over."""
        socket.wants_to_send = self._ring

    async def run(self, hear: Callable[[Message], None]) -> str:
        """Until it ends; why. What `hear` raises ends it and is raised, unless it is a WireError."""
        try:
            with self._scope:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._send)
                    nursery.start_soon(self._watch_sends)
                    nursery.start_soon(self._read, hear)
        finally:
            self.session.close()
            self._moved.set()
            await self._socket.aclose()  # noqa: ASYNC102  # it does not wait
        if self._failure is not None:
            raise self._failure
        return self._why

    def end(self, why: str) -> None:
        if not self._scope.cancel_called:
            self._why = why
            self._scope.cancel()

    # ------------------------------------------------------------------ saying

    def tell(
        self, kind: str, body: Mapping[str, Any], lane: Lane, blob: bytes = b"", answers: int = 0
    ) -> None:
        self.leave(kind, body, lane, blob, answers)
        self._ring()

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
        self._ring()
        try:
            with trio.move_on_after(within):
                await over.wait()
        finally:
            self.session.withdraw(question)
        if question.answer is not None:
            return question.answer
        why = f"no answer within {within:g} s" if not over.is_set() else f"the link ended: {self._why}"
        raise InDoubt(why) if question.sent else NotSent(why)

    async def drained(self, lane: Lane) -> None:
        """Wait until what was told on a lane was given to the socket, or never will be."""
        while self.session.queued(lane):
            self._ring()
            await self._moved.wait()

    def prove(self, secret: bytes) -> None:
        """Prove to the other side that we have what both have."""
        self.session.prove(secret)
        self._ring()

    async def say_last(self) -> None:
        """Wait until what is urgent is on its way, for a while."""
        with trio.move_on_after(LAST_WORD):
            await self.drained(Lane.URGENT)

    def _ring(self) -> None:
        self._bell.set()

    # ------------------------------------------------------------------ its tasks

    async def _send(self) -> None:
        while True:
            await self._bell.wait()
            self._bell = trio.Event()
            while self._socket.words or self.session.has_frames:
                frames, size = [], 0
                while size < MAX_FRAME and (frame := self.session.take()) is not None:
                    frames.append(frame)
                    size += len(frame)
                self._send_due = trio.current_time() + SENDING
                try:
                    await self._socket.send(frames)
                except LinkBroken as error:
                    self.end(error.detail)
                    return
                self._send_due = math.inf
                self._moved.set()
                self._moved = trio.Event()

    async def _watch_sends(self) -> None:
        """In a task of its own: a deadline for each send costs more than the send."""
        while True:
            await trio.sleep_until(min(self._send_due, trio.current_time() + SENDING))
            if trio.current_time() >= self._send_due:
                self.end(f"the other side has read nothing for {SENDING:g} s")

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
