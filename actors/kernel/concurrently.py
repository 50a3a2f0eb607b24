"""Calls at the same time: one for each of many, the answers in the order of the questions; one with something
else under way."""

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


async def run_beside(
    work: Callable[[], Awaitable[Answer]], background: Callable[[trio.CancelScope], Awaitable[None]]
) -> Answer | None:
    """What `work` returns, with `background` under way until then; None if that has cancelled the scope that
    it is given. What `work` raises is raised as it is, not in a nursery's group."""
    answer: Answer | None = None
    failure: Exception | None = None
    async with trio.open_nursery() as nursery:
        nursery.start_soon(background, nursery.cancel_scope)
        try:
            answer = await work()
        except Exception as error:
            failure = error
        nursery.cancel_scope.cancel()
    if failure is not None:
        raise failure
    return answer
