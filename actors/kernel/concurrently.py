"""One call for each of many, so many at a time, the answers in the order of the questions."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

import trio

Question = TypeVar("Question")
Answer = TypeVar("Answer")


async def map_concurrently(
    ask: Callable[[Question], Awaitable[Answer]], questions: Sequence[Question], *, at_once: int
) -> list[Answer]:
    """Ask all of `questions`, `at_once` at a time. What one raises ends the others."""
    answers: dict[int, Answer] = {}
    limiter = trio.CapacityLimiter(at_once)

    async def one(index: int, question: Question) -> None:
        async with limiter:
            answers[index] = await ask(question)

    async with trio.open_nursery() as nursery:
        for index, question in enumerate(questions):
            nursery.start_soon(one, index, question)
    return [answers[index] for index in range(len(questions))]
