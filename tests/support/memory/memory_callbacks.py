"""Callbacks without a disk or a thread, for the mock clock, and a receiver that does as it is told."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field, replace

import trio

from actors.ports.callbacks import (
    Callback,
    CallbackStatus,
    DeliveryOutcome,
    PostAnswer,
    PostResult,
    Subject,
    subject_of,
)
from actors.ports.ledger import LedgerError

Behaviour = Callable[[Callback], PostAnswer | Awaitable[PostAnswer]]

TAKEN = PostAnswer(PostResult.DELIVERED)
REFUSED = PostAnswer(PostResult.FAILED, "HTTP 500")


class MemoryCallbacks:
    """A `CallbackLedger`. While `broken`, it can do nothing."""

    def __init__(self) -> None:
        self.rows: dict[Subject, Callback] = {}
        self.tried: dict[Subject, DeliveryOutcome] = {}
        self.notes: list[DeliveryOutcome] = []
        self.reads = 0
        self.broken = False
        self.noted = trio.Event()

    def end(self, ended: int | Subject, url: str, at: float) -> None:
        """The job of this id, or the batch, has ended."""
        subject, seq = _subject(ended), len(self.rows) + 1
        self.rows[subject] = Callback(seq, subject, url, at, at)

    async def pending_callbacks(self, after: int, limit: int = 500) -> Sequence[Callback]:
        await trio.lowlevel.checkpoint()
        self._check()
        self.reads += 1
        found = sorted(row for row in map(self._row, self.rows) if row is not None)
        return [callback for seq, callback in found if seq > after][:limit]

    async def record_delivery(self, tried: DeliveryOutcome) -> None:
        await trio.lowlevel.checkpoint()
        self._check()
        before = self.tried.get(tried.subject)
        if before is None or before.status is CallbackStatus.PENDING:
            self.tried[tried.subject] = tried
            self.notes.append(tried)
            self.noted.set()
            self.noted = trio.Event()

    def status(self, ended: int | Subject) -> CallbackStatus:
        tried = self.tried.get(_subject(ended))
        return CallbackStatus.PENDING if tried is None else tried.status

    def _row(self, subject: Subject) -> tuple[int, Callback] | None:
        row, tried = self.rows[subject], self.tried.get(subject)
        if tried is None:
            return row.seq, row
        if tried.status is not CallbackStatus.PENDING:
            return None
        assert tried.next_at is not None
        return row.seq, replace(row, next_at=tried.next_at, tries=tried.tries)

    def _check(self) -> None:
        if self.broken:
            raise LedgerError("it is broken")


@dataclass
class Receiver:
    """A `Poster`. `behave` says what becomes of a post; what it got is in `posts`, with the time."""

    behave: Behaviour = lambda _: TAKEN
    posts: list[tuple[float, Callback]] = field(default_factory=list)
    active: int = 0
    most_active: int = 0

    async def post(self, callback: Callback) -> PostAnswer:
        self.posts.append((trio.current_time(), callback))
        self.active += 1
        self.most_active = max(self.most_active, self.active)
        try:
            await trio.lowlevel.checkpoint()
            answer = self.behave(callback)
            return answer if isinstance(answer, PostAnswer) else await answer
        finally:
            self.active -= 1

    def times(self, ended: int | Subject) -> list[float]:
        return [at for at, callback in self.posts if callback.subject == _subject(ended)]


def _subject(ended: int | Subject) -> Subject:
    return subject_of(ended) if isinstance(ended, int) else ended
