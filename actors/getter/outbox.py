"""What the Getter has decided about jobs and not committed yet.

What scripts say of their progress goes in commits of its own, after all else: on a full disk it is dropped,
and takes no room from what must not be lost.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Final

import trio

from actors.domain.changes import Change, ChangeAnswer, ChangeResult, SetProgress, Transition
from actors.getter.reconcile import TrackedAttempt
from actors.ports.ledger import Ledger, LedgerError

log: Final = logging.getLogger("orchestrator.getter")

AT_ONCE: Final = 512
"""Changes in one commit."""

Answered = tuple[TrackedAttempt | None, Change, ChangeAnswer]


class Outbox:
    """Changes in the order in which they were decided; None stands for one that concerns no job."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._changes: list[tuple[TrackedAttempt | None, Change]] = []
        self._results: list[tuple[TrackedAttempt | None, Change]] = []
        self._words: list[tuple[TrackedAttempt, SetProgress]] = []

    def __bool__(self) -> bool:
        return bool(self._changes or self._results or self._words)

    def put(self, tracked: TrackedAttempt | None, change: Change) -> None:
        """Until it is committed, nothing else is to be decided of that job."""
        if tracked is not None:
            tracked.recording = True
        if tracked is not None and isinstance(change, SetProgress):
            self._words.append((tracked, change))
        elif isinstance(change, Transition) and change.results is not None:
            self._results.append((tracked, change))
        else:
            self._changes.append((tracked, change))

    async def commit(self) -> Sequence[Answered]:
        """Some of them, and the ledger's answers. Raises LedgerError; what cannot be committed now stays
        decided: each change compares what it leaves."""
        if not self._changes and not self._results:
            return await self._commit_words()
        answered: list[Answered] = []
        errors: list[LedgerError] = []

        async def commit(changes: list[tuple[TrackedAttempt | None, Change]]) -> None:
            try:
                answered.extend(await self._commit(changes))
            except LedgerError as error:
                errors.append(error)

        # Results need room. Asked for at once, they share a commit with the rest; where there is no room, the
        # rest goes without them.
        async with trio.open_nursery() as nursery:
            for changes in (self._changes, self._results):
                if changes:
                    nursery.start_soon(commit, changes)
        if errors and not answered:
            raise errors[0]
        return answered

    async def _commit(self, changes: list[tuple[TrackedAttempt | None, Change]]) -> Sequence[Answered]:
        batch = changes[:AT_ONCE]
        answers = await self._ledger.record([change for _, change in batch])
        del changes[: len(batch)]
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
