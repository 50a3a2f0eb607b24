"""The promises, in virtual time: some hundred seeds, and broken rules that show that it can fail.

`scripts/simulate_faults.py` runs as many seeds as one likes, and replays and shrinks one that fails.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import replace

import pytest
from simulation.broken_rules import RULES, BrokenRule
from simulation.plan import make
from simulation.run import run
from simulation.shrink import shrink

SEEDS = 200
CHUNK = 25


@pytest.fixture(autouse=True)
def _nothing_logged() -> Iterator[None]:
    """What the actors say of the faults that they are given: pytest would keep each line."""
    logging.disable(logging.ERROR)
    yield
    logging.disable(logging.NOTSET)


@pytest.mark.parametrize("first", range(0, SEEDS, CHUNK))
def test_no_promise_is_broken(first: int) -> None:
    for seed in range(first, first + CHUNK):
        result = run(make(seed))
        if result.violation is not None:
            tail = "\n".join(result.trace[-40:])
            pytest.fail(f"scripts/simulate_faults.py --replay {seed}\n{result.violation}\n{tail}")


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.name.replace(" ", "-"))
def test_a_broken_rule_is_found_within_200_seeds(rule: BrokenRule) -> None:
    for seed in (*rule.seeds, *range(200)):
        if run(make(seed), faulty=rule.faulty, broken=rule.broken).violation is not None:
            return
    pytest.fail(f"nothing noticed: {rule.name}")


def test_a_ledger_that_knows_who_owns_a_state_keeps_others_out() -> None:
    """The same Getter with the ledger's check in its place: it is refused, and no promise is broken."""
    rule = next(r for r in RULES if "owner" in r.name)
    for seed in range(20):
        assert run(make(seed), broken=rule.broken).violation is None


@pytest.mark.parametrize("seed", [3, 11, 42])
def test_the_same_plan_gives_the_same_run_to_the_letter(seed: int) -> None:
    first = run(make(seed))
    other_objects = [object() for _ in range(1000)]  # so that addresses differ
    second = run(make(seed))
    del other_objects
    assert first == second


def test_a_crash_at_every_port_call_breaks_nothing() -> None:
    plan = replace(make(6), crash_at_call=None)
    calls = min(run(plan).port_calls, 160)
    for call in range(1, calls):
        result = run(replace(plan, crash_at_call=call))
        assert result.violation is None, f"crash at call {call}: {result.violation}"


def test_a_failing_plan_is_shrunk_to_few_faults_and_jobs() -> None:
    rule = next(r for r in RULES if "trusts" in r.name)

    def failing(plan):  # type: ignore[no-untyped-def]
        return run(plan, faulty=rule.faulty, broken=rule.broken)

    seed = next(s for s in range(200) if failing(make(s)).violation is not None)
    plan, result = shrink(make(seed), failing)
    assert result.violation is not None
    assert len(plan.jobs) == 1
    assert len(plan.faults) <= 1
