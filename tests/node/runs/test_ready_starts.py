"""Payloads that are made ready as they are taken over: what is there before a start, and which are not."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

import pytest
from support.memory.fake_executor import PretendExecutor
from support.processes.nodes_in_process import KEY, OTHER, SCRIPT, NodeInProcess, node_in_process

from actors.domain.payload import Payload
from actors.domain.status import Status
from node.confinement.grants import NOTHING_GRANTED, Grants
from node.executors import mark_files
from node.host.cards import NVIDIA
from node.runs import ready_starts, runs
from node.runs.ready_starts import ReadyStarts
from node.runs.received import LARGE

WAITING = {"run.sh": b"#!/bin/bash -e\ntrue\n"}


async def waiting(node: NodeInProcess, files: dict[str, bytes] | None = None) -> Path:
    """The directory of an attempt that waits behind another one, in a node with one slot."""
    await node.started(OTHER)
    answer = await node.submit({KEY: WAITING if files is None else files})
    assert answer.json()["items"][0]["result"] == "accepted"
    return node.data / "payloads" / KEY


def names(directory: Path) -> set[str]:
    return {path.name for path in directory.iterdir()}


def status_in(path: Path) -> str:
    status = json.loads(path.read_text())["status"]
    assert isinstance(status, str)
    return status


async def test_all_that_a_start_needs_is_there_before_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def make(_: Path) -> NoReturn:
        raise AssertionError("its start makes it ready")

    monkeypatch.setattr(runs, "make_ready", make)
    async with node_in_process(tmp_path, leaves_word=True, slots=1) as node:
        directory = await waiting(node)
        there = {"record.json", "work", "home", "progress", "manifest.json", "ready"}
        assert names(directory) == there
        word = (directory / "ready").read_bytes()
        assert (status_in(directory / "record.json"), status_in(directory / "ready")) == (
            "Prepared",
            "Running",
        )
        for name in ("home", "progress"):
            assert (directory / name).stat().st_mode & 0o777 == 0o700
        node.executor.runs[OTHER].finish()
        run = await node.executor.run_of(KEY)
        assert run.spec.options == ("-e",)
        assert (directory / "running").read_bytes() == word and "ready" not in names(directory)
        run.finish()
        await node.until(KEY, "Completed")


@pytest.mark.parametrize(
    ("files", "settings", "options"),
    [
        ({"run.sh": b"#!/bin/bash -e\r\ntrue\r\n"}, {}, ("-e",)),
        ({"run.sh": b"#!/usr/bin/python3 -u\ntrue\n"}, {}, ()),
        ({**SCRIPT, "large": bytes(LARGE + 1)}, {}, ()),
        (SCRIPT, {"leaves_word": False}, ()),
    ],
)
async def test_what_needs_more_is_made_ready_by_its_start(
    tmp_path: Path, files: dict[str, bytes], settings: dict[str, Any], options: tuple[str, ...]
) -> None:
    async with node_in_process(tmp_path, **{"leaves_word": True, "slots": 1, **settings}) as node:
        directory = await waiting(node, files)
        if "large" in files and "received.json" not in names(directory):
            pytest.skip("this file system does not tell of changes")
        assert names(directory) <= {"record.json", "work", "received.json"}
        node.executor.runs[OTHER].finish()
        run = await node.executor.run_of(KEY)
        assert run.spec.options == options
        assert {"home", "progress", "running"} <= names(directory)
        run.finish()
        view = await node.until(KEY, "Completed")
    assert bool(view["end"]["message"]) is (b"\r" in files["run.sh"] or b"python" in files["run.sh"])


PAYLOAD = Payload(KEY, 1, 7, 1, "haddock", 1, "o", Status.PREPARED, 0, 0.0)
CARD = Grants(devices=(NVIDIA,))


def starts(*grants: Grants, through: bool = False) -> ReadyStarts:
    """`grants`: what the payload's service is given, one after the other, as its settings are read again."""
    executor, found = PretendExecutor(), iter(grants)
    executor.leaves_word = True

    def leave(_: Payload, directory: Path) -> None:
        (directory / "ready").touch()

    return ReadyStarts(executor, grants_of=lambda _: next(found), leave_word=leave, through=through)


@pytest.mark.parametrize(
    ("ready", "made", "options"),
    [
        (starts(NOTHING_GRANTED, NOTHING_GRANTED), True, ("-e",)),
        (starts(NOTHING_GRANTED, CARD), True, None),
        (starts(CARD, CARD), False, None),
        (starts(CARD, NOTHING_GRANTED), False, None),
        (starts(NOTHING_GRANTED, NOTHING_GRANTED, through=True), False, None),
    ],
    ids=["ready", "a card since", "a card", "no card since", "through"],
)
def test_what_a_start_has_to_write_before_it_is_not_ready(
    tmp_path: Path, ready: ReadyStarts, made: bool, options: tuple[str, ...] | None
) -> None:
    (tmp_path / "work").mkdir()
    (tmp_path / "work" / "run.sh").write_bytes(WAITING["run.sh"])
    ready.make_ready(PAYLOAD, tmp_path)
    assert (tmp_path / "ready").exists() is made
    assert ready.take(PAYLOAD) == options


def test_what_is_taken_over_anew_is_not_taken_for_what_was_ready_before(tmp_path: Path) -> None:
    ready = starts(*[NOTHING_GRANTED] * 3)
    for number, script in enumerate((b"true\n", b"true\r\n")):
        work = tmp_path / str(number) / "work"
        work.mkdir(parents=True)
        (work / "run.sh").write_bytes(script)
        ready.make_ready(PAYLOAD, work.parent)
    assert ready.take(PAYLOAD) is None


def test_what_is_to_be_forgotten_may_be_started_at_that_moment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Started(dict[str, tuple[str, ...]]):
        """Whatever is found in it is taken by somebody else."""

        def __iter__(self) -> Iterator[str]:
            found = list(self.keys())
            self.clear()
            return iter(found)

    monkeypatch.setattr(ready_starts, "REMEMBERED", 0)
    ready = starts(NOTHING_GRANTED)
    monkeypatch.setattr(ready, "_options", Started())
    (tmp_path / "work").mkdir()
    (tmp_path / "work" / "run.sh").write_bytes(WAITING["run.sh"])
    ready.make_ready(PAYLOAD, tmp_path)
    assert not vars(ready)["_options"]


async def test_a_script_that_is_not_there_is_invalid_as_ever(tmp_path: Path) -> None:
    async with node_in_process(tmp_path, leaves_word=True) as node:
        await node.submit({KEY: {"run.py": b""}})
        view = await node.until(KEY, "Invalid")
    assert view["end"]["message"] == "run.sh not found, but there is 'run.py'"


async def test_what_cannot_be_done_as_it_is_taken_over_is_done_by_its_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: Path) -> NoReturn:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(ready_starts, "make_places", fail)
    async with node_in_process(tmp_path, leaves_word=True, slots=1) as node:
        directory = await waiting(node)
        assert "ready" not in names(directory)
        node.executor.runs[OTHER].finish()
        (await node.executor.run_of(KEY)).finish()
        await node.until(KEY, "Completed")


async def test_what_is_forgotten_is_done_anew_and_its_word_is_the_newer_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ready_starts, "REMEMBERED", 0)
    async with node_in_process(tmp_path, leaves_word=True, slots=1) as node:
        directory = await waiting(node)
        (directory / "ready").write_bytes(b"torn")
        node.executor.runs[OTHER].finish()
        run = await node.executor.run_of(KEY)
        assert "ready" not in names(directory) and status_in(directory / "running") == "Running"
        run.finish()
        await node.until(KEY, "Completed")


async def test_the_next_node_starts_what_was_ready_and_waited(tmp_path: Path) -> None:
    async with node_in_process(tmp_path, leaves_word=True, slots=1) as node:
        await waiting(node)
    async with node_in_process(tmp_path, leaves_word=True) as node:
        run = await node.executor.run_of(KEY)
        assert node.executor.adopted == [OTHER] and run.spec.options == ("-e",)
        run.finish()
        await node.until(KEY, "Completed")


@pytest.mark.parametrize("came", [False, True])
async def test_whoever_comes_late_to_what_was_ready_has_come_before_the_next_node_or_starts_nothing(
    tmp_path: Path, came: bool
) -> None:
    async with node_in_process(tmp_path, leaves_word=True, slots=1) as node:
        directory = await waiting(node)
    handle = os.open(directory, os.O_RDONLY)
    if came:
        mark_files.leave_word(handle)
    async with node_in_process(tmp_path, leaves_word=True, slots=1) as node:
        await node.client.post("/v1/cancel", json={"keys": [KEY]})
        await node.until(KEY, "Killed")
        # What may run by then was ended; what has not begun by then never does.
        assert (KEY in node.executor.adopted) is came
    if not came:
        with pytest.raises(FileNotFoundError):
            mark_files.leave_word(handle)
    os.close(handle)


async def test_a_start_in_doubt_of_what_was_ready_is_found_out_before_its_end_is_told(tmp_path: Path) -> None:
    async with node_in_process(tmp_path, leaves_word=True) as node:
        node.executor.refusal = OSError(errno.EIO, "as if")
        await node.submit({KEY: WAITING})
        view = await node.until(KEY, "Failed")
        # By that whoever was asked to start it, and comes late, finds it given up.
        assert node.executor.adopted == [KEY]
    assert (view["lost"], view["end"]["message"]) == (True, "could not be started: as if")


async def test_what_is_cancelled_while_it_waits_never_starts(tmp_path: Path) -> None:
    async with node_in_process(tmp_path, leaves_word=True, slots=1) as node:
        directory = await waiting(node)
        await node.client.post("/v1/cancel", json={"keys": [KEY]})
        await node.until(KEY, "Killed")
        assert "running" not in names(directory)
        node.executor.runs[OTHER].finish()
        await node.until(OTHER, "Completed")
        assert KEY not in node.executor.runs
