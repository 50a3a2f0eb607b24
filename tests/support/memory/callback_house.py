"""A CallbackSender with a ledger in memory and a receiver that does as it is told, for the mock clock."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial

import trio
from support.memory.memory_callbacks import MemoryCallbacks, Receiver

from actors.callbacks.callback_sender import CallbackSender
from actors.domain.job import Job
from actors.domain.status import Status
from actors.kernel.actor import Mailbox, live
from actors.messages import Committed
from actors.ports.callbacks import CallbackLedger, CallbackStatus

URL = "https://portal.example/done"
ENDED = Committed((Job(1, 1, "example", Status.COMPLETED, "", 1, 0.0, 0.0, "k"),))


class Wall:
    """A wall clock that goes on with the mock clock, and can be made to jump."""

    def __init__(self) -> None:
        self.jumped = 1_700_000_000.0

    def now(self) -> float:
        return self.jumped + trio.current_time()


class House:
    def __init__(self) -> None:
        self.ledger = MemoryCallbacks()
        self.receiver = Receiver()
        self.wall = Wall()
        self.mailbox = Mailbox("callback sender")

    def end(self, *job_ids: int, url: str = URL) -> None:
        for job_id in job_ids:
            self.ledger.end(job_id, url, self.wall.now())
        self.mailbox.tell(ENDED)

    @asynccontextmanager
    async def living(self, ledger: CallbackLedger | None = None) -> AsyncIterator[None]:
        """One life of the CallbackSender; leaving it is its death."""
        make = partial(
            CallbackSender,
            ledger=ledger or self.ledger,
            poster=self.receiver,
            clock=self.wall,
            rng=random.Random(1),
        )
        async with trio.open_nursery() as nursery:
            await nursery.start(live, self.mailbox, make)
            yield
            nursery.cancel_scope.cancel()

    async def crashes(self) -> None:
        """A new life, of which nothing but the ledger remembers the old one."""
        self.mailbox = Mailbox("callback sender")

    def statuses(self) -> set[CallbackStatus]:
        return {self.ledger.status(subject) for subject in self.ledger.rows}


async def settled(house: House, within: float) -> None:
    with trio.fail_after(within):
        while CallbackStatus.PENDING in house.statuses():
            await house.ledger.noted.wait()
