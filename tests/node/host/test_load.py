"""What a node measures of its machine."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import psutil
import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from actors.wire.protocol.attempts import heartbeat_from_json, heartbeat_to_json
from node.host.load import LoadSampler, host_name, usable_cores


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


@pytest.mark.parametrize(
    ("host", "name"),
    [
        ("gpu-3", "gpu-3"),
        ("gpu-3.cluster.example.org", "gpu-3"),
        ("10.0.0.5", "10.0.0.5"),
        ("_my host_", "my-host"),
        ("", "node"),
        ("ü", "node"),
        ("a" * 70, "a" * 63),
        ("0" * 32, "node"),
    ],
)
def test_a_node_is_called_as_its_host(monkeypatch: pytest.MonkeyPatch, host: str, name: str) -> None:
    monkeypatch.setattr(socket, "gethostname", lambda: host)
    assert host_name() == name


@pytest.mark.parametrize(
    ("said", "taken"),
    [({}, 0), ({"slots": 4, "ahead": 9}, 4), ({"slots": 4, "ahead": -1}, 0), ({"ahead": 3}, 0)],
)
def test_a_node_takes_no_more_ahead_than_it_has_slots(said: dict[str, int], taken: int) -> None:
    assert heartbeat_from_json(said, "o", 0.0).ahead == taken


async def test_a_node_says_its_name_in_every_heartbeat(tmp_path: Path) -> None:
    sampler = LoadSampler(tmp_path, slots=2, name="gpu-3", ahead=2)
    said = [sampler.now]
    async with trio.open_nursery() as nursery:
        await nursery.start(sampler.run)
        said.append(sampler.now)
        nursery.cancel_scope.cancel()
    for beat in said:
        heard = heartbeat_from_json(heartbeat_to_json(beat, {}, 0.0), "o", 0.0)
        assert (heard.name, heard.ahead) == ("gpu-3", 2)
    assert heartbeat_from_json({"name": "no name"}, "o", 0.0).name == ""
