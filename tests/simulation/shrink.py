"""A failing plan made small: fewer faults, jobs and nodes, as long as the same kind of promise breaks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import TypeVar

from simulation.plan import Plan
from simulation.run import Result

T = TypeVar("T")


def shrink(plan: Plan, failing: Callable[[Plan], Result], *, most_runs: int = 400) -> tuple[Plan, Result]:
    """The smallest plan found within `most_runs` runs, and its result. `plan` must fail."""
    result = failing(plan)
    kind = result.kind
    runs = 1
    smaller = True
    while smaller and runs < most_runs:
        smaller = False
        for candidate in _smaller(plan):
            if runs >= most_runs:
                break
            runs += 1
            tried = failing(candidate)
            if tried.kind == kind:
                plan, result, smaller = candidate, tried, True
                break
    return plan, result


def _smaller(plan: Plan) -> Iterator[Plan]:
    for faults in _without_parts(plan.faults):
        yield replace(plan, faults=faults)
    for jobs in _without_parts(plan.jobs):
        yield replace(plan, jobs=jobs)
    if plan.crash_at_call is not None:
        yield replace(plan, crash_at_call=None)
    if plan.drop_messages:
        yield replace(plan, drop_messages=0.0)
    if len(plan.slots) > 1:
        yield replace(plan, slots=plan.slots[:-1])
    for index, job in enumerate(plan.jobs):
        if job.terminate_after is not None:
            calmer = (*plan.jobs[:index], replace(job, terminate_after=None), *plan.jobs[index + 1 :])
            yield replace(plan, jobs=calmer)


def _without_parts(items: tuple[T, ...]) -> Iterator[tuple[T, ...]]:
    """Halves first, then quarters, down to single items."""
    size = len(items)
    while size:
        for start in range(0, len(items), size):
            yield items[:start] + items[start + size :]
        size //= 2
