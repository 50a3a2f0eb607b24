"""What a job asks for keeps no script from being started: else a job could make a node look as if it were to
blame."""

from __future__ import annotations

from dataclasses import replace

import pytest
import trio

from actors.domain.limits import LEAST, LIMITS, JobLimits
from node.executors.shepherd_executor import ShepherdExecutor
from tests.node.executors.conftest import Payloads

OF_ALL = {field: LEAST.get(field, 1) for field in LIMITS.values()}


@pytest.mark.parametrize("groups", [True, False], ids=["groups", "without"])
async def test_the_least_limits_that_a_job_may_have_let_it_start(
    payloads: Payloads, nursery: trio.Nursery, way: tuple[str, str], groups: bool
) -> None:
    isolation, tier = way
    executor = ShepherdExecutor(payloads.directory, isolation, tier=tier, control_groups=groups)
    await nursery.start(executor.serve)
    with trio.fail_after(120):
        for name, least in OF_ALL.items():
            limits = JobLimits(**{name: least})
            run = await executor.start(replace(payloads.make("exit 3"), limits=limits))
            end = await run.wait()
            assert end.exit_code == 3 or end.exceeded == name, (name, end)
    nursery.cancel_scope.cancel()
