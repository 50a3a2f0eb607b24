"""What the Getter has decided about jobs and not committed yet.

Results need room. They go with the rest as long as there is some; where there is none, the rest goes without
them. What scripts say of their progress goes in commits of its own, after all else: on a full disk it is
dropped, and takes no room from what must not be lost. That a node has let go of an attempt is news to nobody:
it goes along with whatever is committed next, or by itself after a tick.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Sequence
from typing import Final

import trio

from actors.domain.changes import Change, ChangeAnswer, ChangeResult, MoveAttempt, SetProgress, Transition
from actors.getter.reconcile import TrackedAttempt
from actors.ports.ledger import Ledger, LedgerError

log: Final = logging.getLogger("orchestrator.getter")

AT_ONCE: Final = 512
"""Changes in one commit."""

Decided = tuple[TrackedAttempt | None, Change]
Answered = tuple[TrackedAttempt | None, Change, ChangeAnswer]


class Outbox:
    """Changes in the order in which they were decided; None stands for one that concerns no job. `tick` in
    seconds."""

    def __init__(self, ledger: Ledger, tick: float) -> None:
        self._ledger = ledger
        self._tick = tick
        self._changes: list[Decided] = []
        self._results: list[Decided] = []
        self._released: list[Decided] = []
        self._released_since = 0.0
        self._words: list[tuple[TrackedAttempt, SetProgress]] = []

    def is_due(self, now: float) -> bool:
        """Whether anything is to be committed, `now` being monotonic."""
        if self._changes or self._results or self._words:
            return True
        return bool(self._released) and now >= self._released_since + self._tick

    @property
    def released(self) -> Collection[str]:
        """Attempts that were let go of, which the ledger does not know yet."""
        return {change.key for _, change in self._released if isinstance(change, MoveAttempt)}

    def put(self, tracked: TrackedAttempt | None, change: Change) -> None:
        """Until it is committed, nothing else is to be decided of that job."""
        if tracked is not None:
            tracked.recording = True
        if tracked is not None and isinstance(change, SetProgress):
            self._words.append((tracked, change))
        elif isinstance(change, Transition) and change.results is not None:
            self._results.append((tracked, change))
        elif isinstance(change, MoveAttempt):
            if not self._released:
                self._released_since = trio.current_time()
            self._released.append((tracked, change))
        else:
            self._changes.append((tracked, change))

    async def commit(self) -> Sequence[Answered]:
        """Some of them, and the ledger's answers. Raises LedgerError; what cannot be committed now stays
        decided: each change compares what it leaves."""
        if self._words and not self._changes and not self._results:
            return await self._commit_words()
        rest = (self._changes, self._released)
        if not self._results:
            return await self._commit(*rest)
        try:
            return await self._commit(*rest, self._results)
        except LedgerError:
            if not any(rest):
                raise
            return await self._commit(*rest)

    async def _commit(self, *lists: list[Decided]) -> Sequence[Answered]:
        taken = [changes[:AT_ONCE] for changes in lists]
        batch = [decided for part in taken for decided in part]
        answers = await self._ledger.record([change for _, change in batch])
        for changes, part in zip(lists, taken, strict=True):
            del changes[: len(part)]
        for tracked, _ in batch:
            if tracked is not None:
                tracked.recording = False
        return [(tracked, change, answer) for (tracked, change), answer in zip(batch, answers, strict=True)]

    async def _commit_words(self) -> Sequence[Answered]:
        batch = self._words[:AT_ONCE]
        try:
            answers = await self._ledger.record([word for _, word in batch])
        except LedgerError as error:
            log.debug("what %d scripts say of their progress is not kept: %s", len(batch), error)
            answers = [ChangeAnswer(ChangeResult.STALE, tracked.job) for tracked, _ in batch]
        del self._words[: len(batch)]
        answered: list[Answered] = []
        for (tracked, word), answer in zip(batch, answers, strict=True):
            tracked.recording = False
            tracked.unheard = None if answer.outcome is ChangeResult.DONE else word
            answered.append((tracked, word, answer))
        return answered
