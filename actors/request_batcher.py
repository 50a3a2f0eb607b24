"""Requests to one node: what it has to be asked, told, or relieved of, until it has answered.

One call is under way at a time; what piles up meanwhile goes into the next. No timer waits for a batch to
fill, and there is a task from the first request on.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, Generic, TypeVar

import trio

from actors.domain.node import NodeRef
from actors.kernel.actor import Doorbell
from actors.kernel.backoff import Backoff
from actors.ports.world import Random
from actors.store.durable import is_passing

log: Final = logging.getLogger("orchestrator.requests")

Item = TypeVar("Item")
Answer = TypeVar("Answer")

GIVE_UP_DEFECT: Final = 5
"""Calls for one item alone that may end in a defect before `on_defect` is told."""


class _Request(Generic[Item]):
    def __init__(self, item: Item) -> None:
        self.item = item
        self.backoff: Backoff | None = None
        self.due = 0.0
        self.alone = False
        self.defects = 0


class RequestBatcher(Generic[Item, Answer]):
    """`call` does it for many; `on_answer` takes each answer and says whether that item is done (else it is
    tried again, later and later). `on_defect` is told of an item that cannot be done because of a defect.
    A batch holds at most `most_at_once` items and, unless it is one, `most_weight` of what `weigh` says."""

    def __init__(
        self,
        name: str,
        nursery: trio.Nursery,
        *,
        call: Callable[[NodeRef, Sequence[Item]], Awaitable[Sequence[Answer]]],
        on_answer: Callable[[str, Item, Answer], bool],
        on_defect: Callable[[str, Item, Exception], None],
        rng: Random,
        most_at_once: int = 256,
        weigh: Callable[[Item], int] = lambda _: 0,
        most_weight: int = 0,
        first: float = 0.2,
        most: float = 4.0,
    ) -> None:
        self._name = name
        self._nursery = nursery
        self._call = call
        self._on_answer = on_answer
        self._on_defect = on_defect
        self._rng = rng
        self._most_at_once = most_at_once
        self._weigh = weigh
        self._most_weight = most_weight
        self._first = first
        self._most = most
        self._requests: dict[str, _Request[Item]] = {}
        self._node: NodeRef | None = None
        self._bell = Doorbell()
        self._begun = self._ended = False

    def __len__(self) -> int:
        return len(self._requests)

    def __contains__(self, key: str) -> bool:
        return key in self._requests

    def request(self, key: str, item: Item) -> None:
        """Have it done. Idempotent by key."""
        if key not in self._requests:
            self._requests[key] = _Request(item)
            self._wake()

    def drop(self, key: str) -> None:
        self._requests.pop(key, None)

    def node_up(self, node: NodeRef) -> None:
        """The node is in touch (again): nothing has to wait for its backoff."""
        self._node = node
        for request in self._requests.values():
            request.due = 0.0
        self._wake()

    def _put_off(self, request: _Request[Item]) -> None:
        if request.backoff is None:
            request.backoff = Backoff(self._rng, first=self._first, most=self._most)
        request.due = trio.current_time() + request.backoff.next()

    def _wake(self) -> None:
        if self._begun:
            self._bell.ring()
        elif self._requests and self._node is not None:
            self._begun = True
            self._nursery.start_soon(self._work)

    def end(self) -> None:
        """Nothing more will be requested: its task ends."""
        self._ended = True
        self._bell.ring()

    async def _work(self) -> None:
        while not self._ended:
            self._bell.rings = False
            if batch := self._next_batch():
                await self._do(batch)
            elif self._requests:
                with trio.move_on_at(min(w.due for w in self._requests.values())):
                    await self._bell.wait()
            else:
                await self._bell.wait()

    def _next_batch(self) -> list[tuple[str, _Request[Item]]]:
        batch: list[tuple[str, _Request[Item]]] = []
        weight = 0
        for key, request in self._requests.items():
            if request.due and request.due > trio.current_time():
                continue
            if request.alone:
                return [(key, request)]
            weight += self._weigh(request.item)
            if batch and weight > self._most_weight:
                break
            batch.append((key, request))
            if len(batch) == self._most_at_once:
                break
        return batch

    async def _do(self, batch: list[tuple[str, _Request[Item]]]) -> None:
        assert self._node is not None
        try:
            answers = await self._call(self._node, [request.item for _, request in batch])
        # A defect that one item brings out must not stop the others: each is tried by itself.
        except Exception as error:
            self._isolate(batch, error)
            return
        for (key, request), answer in zip(batch, answers, strict=True):
            if self._requests.get(key) is not request:
                continue
            if self._on_answer(key, request.item, answer):
                if self._requests.get(key) is request:
                    del self._requests[key]
            else:
                self._put_off(request)

    def _isolate(self, batch: list[tuple[str, _Request[Item]]], error: Exception) -> None:
        passing = is_passing(error)
        if not passing:
            log.error("%s failed for %d items", self._name, len(batch), exc_info=error)
        for key, request in batch:
            self._put_off(request)
            if passing:
                continue
            request.alone = True
            if len(batch) == 1:
                request.defects += 1
                if request.defects >= GIVE_UP_DEFECT and self._requests.get(key) is request:
                    del self._requests[key]
                    self._on_defect(key, request.item, error)
