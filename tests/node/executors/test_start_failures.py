"""Starts that fail: all that a shepherd or its spawner says is the machine's fault, and nothing that a job
asks for brings it about, or a job could make a node look as if it were to blame."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import trio

from actors.domain.limits import LEAST, LIMITS, JobLimits
from node.executors import shepherd_executor
from node.executors.executor import ExecutorError, NotTaken, RunSpec
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


class Answering:
    """A spawner whose shepherds answer so, or that dies (None)."""

    isolation = "pidns"
    controllers = frozenset[str]()

    def __init__(self, answer: str | None) -> None:
        self._answer = answer
        self.asked = 0

    async def launch(self, key: str, request: bytes, nudge: Callable[[], None]) -> tuple[str | None, None]:
        await trio.lowlevel.checkpoint()
        self.asked += 1
        return self._answer, None


@pytest.mark.parametrize("number", [errno.EPERM, errno.EAGAIN, errno.ENOSPC])
@pytest.mark.parametrize("stage", [*shepherd_executor._STAGES, ""])
async def test_wherever_a_start_fails_the_machine_is_to_blame(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stage: str, number: int
) -> None:
    monkeypatch.setattr(shepherd_executor, "_PATIENCE", 0.0)
    (tmp_path / "work").mkdir()
    executor: Any = ShepherdExecutor(tmp_path)
    spawner = Answering(f"failed {stage} {number} some words" if stage else None)
    executor._spawner = spawner
    with pytest.raises(ExecutorError) as raised:
        await executor.start(RunSpec("k" * 32, tmp_path, {}))
    assert not isinstance(raised.value, NotTaken)
    if stage:
        expected = f"{shepherd_executor._STAGES[stage]}: some words: {os.strerror(number)}"
        assert (str(raised.value), spawner.asked) == (expected, 1)
    else:
        assert (str(raised.value), spawner.asked) == (
            "the spawner of payloads died 5 times amid this start",
            5,
        )
