"""What a node measures of its machine."""

from __future__ import annotations

import os
from pathlib import Path

import psutil
import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from node.host.load import LoadSampler, usable_cores


def test_no_more_cores_are_told_than_this_process_may_use() -> None:
    allowed = os.sched_getaffinity(0)
    assert 1 <= usable_cores() <= len(allowed)
    try:
        os.sched_setaffinity(0, {min(allowed)})
        assert usable_cores() == 1
    finally:
        os.sched_setaffinity(0, allowed)


async def test_the_load_is_that_of_the_last_second_and_within_bounds(
    tmp_path: Path, mock_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured = [120.0, -1.0, 37.5, 0.0]
    monkeypatch.setattr(psutil, "cpu_percent", lambda _interval: measured.pop())
    sampler = LoadSampler(tmp_path, slots=4, cores=8)
    seen = []
    async with trio.open_nursery() as nursery:
        await nursery.start(sampler.run)
        for _ in range(3):
            before = sampler.now
            await wait_all_tasks_blocked()
            mock_clock.jump(1.0)
            while sampler.now is before:
                await trio.lowlevel.checkpoint()
            seen.append(sampler.now.load)
        nursery.cancel_scope.cancel()
    assert seen == [37.5, 0.0, 100.0]
    assert (sampler.now.slots, sampler.now.cores) == (4, 8)
    assert sampler.now.free_disk is not None and sampler.now.free_memory is not None


async def test_a_data_directory_that_is_gone_has_no_free_space_to_tell_of(tmp_path: Path) -> None:
    sampler = LoadSampler(tmp_path / "gone", slots=None)
    async with trio.open_nursery() as nursery:
        await nursery.start(sampler.run)
        nursery.cancel_scope.cancel()
    assert sampler.now.free_disk is None
