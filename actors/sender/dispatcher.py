"""Sending attempts to one node. A dispatcher is part of the Sender: its tasks run in the Sender's nursery and
end with it. Its rules, to which the code below refers by number:

1. An attempt is *in doubt* once a byte of it may have reached the node, and so is one that an earlier life
   has left. From then on it is only ever sent again under the same key, which the node knows how to answer,
   until the node has said what it has, or is lost. If the input cannot be read any more, the node is asked,
   and if it does not have it told to refuse it.
2. A node that knows only the contract knows no keys: what is in doubt there is never sent again, as it might
   run twice.
3. What was never in doubt needs no node to be ended or given back: when it is to stop, or the node is lost.
4. What is to stop and is in doubt is stopped by the node: it says that it never runs there, or has it.
5. A lost node cuts what is on its way to it; what becomes of each attempt is then the Sender's to decide.
6. Small attempts go together, one batch at a time; large ones by themselves, a few at once: nobody waits
   behind 400 MB.
7. A defect that a batch brings out parts it: each of its attempts is sent alone from then on, and refused
   after `GIVE_UP_DEFECT` such tries. For want of descriptors, threads or memory nothing is a defect.
8. A node whose machine was started anew may have forgotten what it was sent before, and so may one that was
   set back: an attempt that was made for another boot, or when the node had counted more than it has now, is
   lost if it is in doubt, and was never there if not. One whose boot is not known, made before a server knew
   boots, is never sent again: the node is asked, and if it does not have it told to refuse it.
9. An attempt is let go of once the ledger has what became of it. Until then it is kept, and told again.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

import trio

from actors.domain.job import Attempt
from actors.domain.node import NodeRef, PayloadView
from actors.kernel.actor import Doorbell
from actors.kernel.backoff import Backoff
from actors.kernel.complaint import Complaint
from actors.ports.nodes import AttemptLookup, Dispatch, LookupResult, Nodes, SubmitAnswer, SubmitResult
from actors.ports.world import Random
from actors.request_batcher import GIVE_UP_DEFECT
from actors.store.durable import is_passing

log: Final = logging.getLogger("orchestrator.sender")

RETRY_FIRST: Final = 0.2
RETRY_MOST: Final = 4.0
LARGE_AT_ONCE: Final = 2


class Verdict(StrEnum):
    """What is certain about an attempt now. HAS: the node has it. NOT_THERE: the node does not have it and
    nothing of it is on its way. TOMBSTONED: it will never run there. REFUSED: no node will ever take it.
    KILLED: stopped by order, nothing of it runs. GONE: it may have run there, and no longer does. LOST: the
    node is lost. UNKNOWABLE: a contract-only node
    took it or not, and cannot be asked."""

    HAS = "has"
    NOT_THERE = "not_there"
    TOMBSTONED = "tombstoned"
    REFUSED = "refused"
    KILLED = "killed"
    GONE = "gone"
    LOST = "lost"
    UNKNOWABLE = "unknowable"


@dataclass(frozen=True, slots=True)
class DispatchResult:
    """What became of one attempt. `sent` says whether anything of it may have reached the node.
    `found_at` is monotonic."""

    dispatch: Dispatch
    verdict: Verdict
    reason: str = ""
    sent: bool = True
    view: PayloadView | None = None
    foreign_id: int | None = None
    node: NodeRef | None = None
    found_at: float = field(default_factory=trio.current_time)


class _Item:
    def __init__(self, dispatch: Dispatch, doubt: bool, backoff: Backoff) -> None:
        self.dispatch = dispatch
        self.doubt = doubt
        self.backoff = backoff
        self.due = 0.0
        self.sending: trio.CancelScope | None = None
        self.stop = False
        self.forgotten = False
        self.stopping = False
        self.reporting = False
        self.alone = False
        self.unreadable = False
        self.defects = 0

    def later(self) -> None:
        self.due = trio.current_time() + self.backoff.next()


class NodeDispatcher:
    """`on_results` takes what became of attempts, and says of each whether it was recorded; what was not is
    told again (rule 9). `ref` may be None until the node has been seen in this life of the Sender."""

    def __init__(
        self,
        node_id: str,
        *,
        nodes: Nodes,
        ref: NodeRef | None,
        on_results: Callable[[Sequence[DispatchResult]], Awaitable[Sequence[bool]]],
        rng: Random,
        batch_bytes: int,
        name_of: Callable[[str], str] = str,
    ) -> None:
        self.node_id = node_id
        self._name_of = name_of
        self._nodes = nodes
        self._ref = ref
        self._record_results = on_results
        self._rng = rng
        self._batch_bytes = batch_bytes
        self._items: dict[str, _Item] = {}
        self._lost: str | None = None
        self._bell = Doorbell()
        self._small_bell = Doorbell()
        self._large_busy = 0
        self._complaint = Complaint(log)

    def put(self, dispatch: Dispatch, *, doubt: bool) -> None:
        """Take an attempt on. Of one that is known already, only the job's row is renewed."""
        key = dispatch.attempt.key
        known = self._items.get(key)
        if known is not None:
            known.dispatch = dispatch  # the job's row may be newer
            return
        backoff = Backoff(self._rng, first=RETRY_FIRST, most=RETRY_MOST)
        item = self._items[key] = _Item(dispatch, doubt, backoff)
        # What is fresh goes without a look at all the rest.
        (self._bell if doubt or self._is_large(item) else self._small_bell).ring()

    def cancel(self, key: str) -> None:
        """The job's termination was ordered: see to it that this attempt never runs, or let it be handed over
        as it is, for the Getter to stop it."""
        item = self._items.get(key)
        if item is not None and not item.stop:
            item.stop = True
            item.due = 0.0
            if item.sending is not None and self._is_large(item):
                item.sending.cancel()
            self._bell.ring()

    def node_seen(self, node: NodeRef) -> None:
        back = self._ref is None or self._lost is not None or self._ref != node
        if self._ref is None or node.has_forgotten(self._ref.moment):
            back = True
            for item in self._items.values():
                # It stays so, however far the node comes from now on.
                item.forgotten |= node.has_forgotten(item.dispatch.attempt.boot)
        self._ref = node
        self._lost = None
        if back:
            for item in self._items.values():
                item.due = 0.0
            self._bell.ring()

    def node_lost(self, reason: str) -> None:
        if self._lost is None:
            self._lost = reason
            for item in self._items.values():
                if item.sending is not None:
                    item.sending.cancel()
            self._bell.ring()

    async def run(self) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._send_small)
            while True:
                due, to_stop, next_due = self._find_due()
                if certain := self._find_certain(due):
                    await self._report(certain)
                    continue  # what became due meanwhile rings no more
                self._start(nursery, due, to_stop)
                if next_due == math.inf:
                    await self._bell.wait()
                else:
                    with trio.move_on_at(next_due):
                        await self._bell.wait()

    # ------------------------------------------------------------------ deciding

    def _is_large(self, item: _Item) -> bool:
        return item.dispatch.job.size > self._batch_bytes

    def _find_due(self) -> tuple[list[_Item], list[_Item], float]:
        """What is due now and idle, what is to be stopped by the node (rule 4), and when anything else
        becomes due. What is due already waits for something that rings: a transfer's end, or the node."""
        now, next_due = trio.current_time(), math.inf
        due: list[_Item] = []
        to_stop: list[_Item] = []
        for item in self._items.values():
            if item.due > now:
                if item.due < next_due and not item.stopping and not item.reporting:
                    next_due = item.due
                continue
            if item.sending is None and not item.stopping and not item.reporting:
                due.append(item)
            if item.stop and item.doubt and not item.stopping:
                to_stop.append(item)
        return due, to_stop, next_due

    def _find_certain(self, due: Sequence[_Item]) -> list[DispatchResult]:
        """What can be said without asking the node: rules 2, 3, 5 and 8."""
        certain: list[DispatchResult] = []
        for item in due:
            if item.stop and not item.doubt:
                reason = "terminated before it was sent"
                certain.append(DispatchResult(item.dispatch, Verdict.KILLED, reason, sent=False))
            elif self._lost is not None:
                certain.append(DispatchResult(item.dispatch, Verdict.LOST, self._lost, sent=item.doubt))
            elif self._is_of_another_boot(item):
                reason = f"the machine of node {self._name_of(self.node_id)} was started anew, or set back"
                verdict = Verdict.GONE if item.doubt else Verdict.LOST
                certain.append(DispatchResult(item.dispatch, verdict, reason, sent=item.doubt))
            elif item.doubt and self._ref is not None and self._ref.contract_only:
                reason = "the connection or the orchestrator broke while it was being sent"
                certain.append(DispatchResult(item.dispatch, Verdict.UNKNOWABLE, reason, node=self._ref))
        return certain

    def _is_of_another_boot(self, item: _Item) -> bool:
        moment = item.dispatch.attempt.boot
        return item.forgotten or (self._ref is not None and self._ref.has_forgotten(moment))

    def _is_unclear(self, item: _Item) -> bool:
        """Rules 1 and 8: not to be sent again, and not to be given up either."""
        if item.unreadable:
            return True
        return (
            item.doubt and not item.dispatch.attempt.boot and self._ref is not None and bool(self._ref.boot)
        )

    def _start(self, nursery: trio.Nursery, due: Sequence[_Item], to_stop: list[_Item]) -> None:
        node = self._ref
        if node is None or self._lost is not None:
            return
        # Rules 1 and 8.
        to_ask: list[_Item] = []
        to_send: list[_Item] = []
        for item in due:
            if not item.stop:
                (to_ask if self._is_unclear(item) else to_send).append(item)
        for task, items in ((self._ask, to_ask), (self._stop, to_stop)):
            for item in items:
                item.stopping = True
            if items:
                nursery.start_soon(task, node, items)
        # Rule 6.
        for item in to_send:
            if not self._is_large(item):
                self._small_bell.ring()
            elif self._large_busy < LARGE_AT_ONCE:
                self._large_busy += 1
                item.sending = trio.CancelScope()
                nursery.start_soon(self._send_large, node, item)

    def _choose_small(self) -> list[_Item]:
        """What goes together now (rules 6 and 7), if nothing has to be looked at before."""
        batch: list[_Item] = []
        due, _, _ = self._find_due()
        if self._ref is None or self._find_certain(due):
            self._bell.ring()
            return batch
        size = 0
        for item in due:
            if item.stop or self._is_unclear(item) or self._is_large(item) or (item.alone and batch):
                continue
            if not batch or size + item.dispatch.job.size <= self._batch_bytes:
                batch.append(item)
                if item.alone:
                    break
                size += item.dispatch.job.size
        return batch

    # ------------------------------------------------------------------ doing

    async def _send_small(self) -> None:
        while True:
            await self._small_bell.wait()
            node, batch = self._ref, self._choose_small()
            if node is None or not batch:
                continue
            scope = trio.CancelScope()
            for item in batch:
                item.sending = scope
            await self._send(node, batch, scope)
            if self._items:
                self._bell.ring()

    async def _send_large(self, node: NodeRef, item: _Item) -> None:
        assert item.sending is not None
        try:
            await self._send(node, [item], item.sending)
        finally:
            self._large_busy -= 1
            self._bell.ring()

    async def _send(self, node: NodeRef, batch: list[_Item], scope: trio.CancelScope) -> None:
        answers: Sequence[SubmitAnswer] | None = None
        earlier_doubt = [item.doubt for item in batch]
        for item in batch:
            item.doubt = True
        why = "cut short"
        with scope:
            try:
                answers = await self._nodes.submit(node, [item.dispatch for item in batch])
            # Rule 7: a defect that one job brings out must not stop the others.
            except Exception as error:
                why = f"internal error: {error!r}"
                if not is_passing(error):
                    log.error("%d attempts could not be sent", len(batch), exc_info=error)
                    for item in batch:
                        item.alone = True
                        item.defects += len(batch) == 1
        results = []
        for index, item in enumerate(batch):
            item.sending = None
            answer = answers[index] if answers is not None else SubmitAnswer(SubmitResult.DOUBT, why)
            if item.defects >= GIVE_UP_DEFECT:
                answer = SubmitAnswer(SubmitResult.MALFORMED, why)
            verdict = _verdict_on_submit(answer, node, earlier_doubt[index])
            if answer.result is SubmitResult.HELD:
                name = self._name_of(self.node_id)
                self._complaint.say("jobs for node %s are held: %s", name, answer.reason)
                item.doubt = earlier_doubt[index]
            if verdict is None:
                item.unreadable = answer.result is SubmitResult.UNREADABLE
                item.later()
            elif self._items.get(item.dispatch.attempt.key) is item:
                item.doubt = earlier_doubt[index] or verdict is not Verdict.NOT_THERE
                results.append(
                    DispatchResult(
                        item.dispatch,
                        verdict,
                        answer.reason,
                        item.doubt,
                        answer.view,
                        answer.foreign_id,
                        node,
                    )
                )
        await self._report(results)

    async def _ask(self, node: NodeRef, batch: list[_Item]) -> None:
        attempts = [item.dispatch.attempt for item in batch]
        answers = dict(zip(attempts, await self._look(node, attempts, self._nodes.lookup), strict=True))
        gone = [attempt for attempt in attempts if answers[attempt].result is LookupResult.GONE]
        if gone:
            answers |= zip(gone, await self._look(node, gone, self._nodes.cancel), strict=True)
        await self._take_looks(node, batch, list(answers.values()), Verdict.TOMBSTONED)

    async def _stop(self, node: NodeRef, batch: list[_Item]) -> None:
        attempts = [item.dispatch.attempt for item in batch]
        answers = await self._look(node, attempts, self._nodes.cancel)
        await self._take_looks(node, batch, answers, Verdict.KILLED)

    async def _look(
        self,
        node: NodeRef,
        attempts: Sequence[Attempt],
        call: Callable[[NodeRef, Sequence[Attempt]], Awaitable[Sequence[AttemptLookup]]],
    ) -> Sequence[AttemptLookup]:
        try:
            return await call(node, attempts)
        # As in `_send`: a defect is no crash of the Sender. The order stands, and is given again.
        except Exception as error:
            if not is_passing(error):
                log.error("%d attempts could not be stopped or asked for", len(attempts), exc_info=error)
            return [AttemptLookup(LookupResult.UNKNOWN, reason=f"internal error: {error!r}")] * len(attempts)

    async def _take_looks(
        self, node: NodeRef, batch: list[_Item], answers: Sequence[AttemptLookup], tombstoned: Verdict
    ) -> None:
        results = []
        for item, found in zip(batch, answers, strict=True):
            item.stopping = False
            if self._items.get(item.dispatch.attempt.key) is not item:
                continue
            verdict = _verdict_on_look(found, tombstoned)
            if verdict is None:
                item.later()
            else:
                results.append(
                    DispatchResult(item.dispatch, verdict, found.reason, True, found.view, node=node)
                )
        await self._report(results)
        self._bell.ring()

    async def _report(self, results: Sequence[DispatchResult]) -> None:
        if not results:
            return
        items = [self._items[s.dispatch.attempt.key] for s in results]
        for item in items:
            item.reporting = True
        for item, recorded in zip(items, await self._record_results(results), strict=True):
            item.reporting = False
            if recorded:
                self._items.pop(item.dispatch.attempt.key, None)
                if item.sending is not None and self._is_large(item):
                    item.sending.cancel()
            else:
                item.later()


def _verdict_on_submit(answer: SubmitAnswer, node: NodeRef, earlier_doubt: bool) -> Verdict | None:
    """None: still in doubt (rule 1), or held."""
    match answer.result:
        case SubmitResult.HAS:
            return Verdict.HAS
        case SubmitResult.TOMBSTONED:
            return Verdict.TOMBSTONED
        case SubmitResult.MALFORMED | SubmitResult.UNREADABLE:
            # An input that became unreadable says nothing of what an earlier try has brought over.
            return None if earlier_doubt and answer.result is SubmitResult.UNREADABLE else Verdict.REFUSED
        case SubmitResult.NOT_SENT | SubmitResult.BUSY:
            return None if earlier_doubt else Verdict.NOT_THERE
        case SubmitResult.DOUBT:
            return Verdict.UNKNOWABLE if node.contract_only else None
        case SubmitResult.HELD:
            return None


def _verdict_on_look(found: AttemptLookup, tombstoned: Verdict) -> Verdict | None:
    match found.result:
        case LookupResult.TOMBSTONED:
            return tombstoned
        case LookupResult.FOUND:
            return Verdict.HAS
        case _:
            return None
