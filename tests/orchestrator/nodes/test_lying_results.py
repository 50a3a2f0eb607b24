"""A node that lies about what a job has left: what it sends costs no more than what it has told of."""

from __future__ import annotations

import json
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from isal import isal_zlib

from actors.domain.job import Attempt, End, Job
from actors.domain.node import PayloadView
from actors.domain.status import Status
from actors.kernel.clock import WallClock
from actors.ports.nodes import CollectAnswer, CollectResult, Dispatch
from actors.wire.protocol import frames
from actors.wire.protocol.attempts import view_to_json
from orchestrator.nodes.native import results
from orchestrator.nodes.native.results import receive
from orchestrator.storage.storage import DiskStorage
from tests.actors.wire.files.test_zip_check import zipped

KEY, OTHER = "a" * 32, "b" * 32
MIB = 1 << 20


@pytest.fixture
async def storage(tmp_path: Path) -> DiskStorage:
    made = DiskStorage(tmp_path / "data", WallClock())
    await made.open()
    return made


def part(key: str, archive: bytes, *entries: dict[str, Any], size: int = 0) -> bytes:
    """What comes of an attempt."""
    view = PayloadView(key, Status.COMPLETED, End(Status.COMPLETED, "", size=size))
    head = {"key": key, "payload": view_to_json(view), "manifest": {"entries": entries}, "logs": []}
    finish = {"zip_crc32": isal_zlib.crc32(archive), "zip_size": len(archive), "stdout_size": 0}
    return b"".join(
        (
            frames.encode(frames.END, json.dumps(head).encode()),
            *(
                frames.encode(frames.ZIP, archive[at : at + frames.MAX_FRAME])
                for at in range(0, len(archive), frames.MAX_FRAME)
            ),
            frames.encode(frames.FINISH, json.dumps(finish | {"stderr_size": 0}).encode()),
        )
    )


def told(path: str, size: int) -> dict[str, Any]:
    return {"path": path, "kind": "file", "size": size}


async def store(storage: DiskStorage, *parts: bytes, **how: Any) -> dict[str, CollectAnswer]:
    async def body() -> AsyncIterator[bytes]:
        for each in parts:
            yield each

    job = Job(1, 1, "x", Status.RUNNING, "", 1, 0.0, 0.0, "5" * 32)
    items = [Dispatch(Attempt(key, 1, 1, "n"), job) for key in (KEY, OTHER)]
    return await receive(body(), items, storage, **how)


def stored(storage: DiskStorage) -> list[str]:
    return [name for _, _, names in os.walk(storage.root / "jobs") for name in names]


async def test_a_bomb_is_refused_with_what_is_wrong_and_what_comes_after_it_counts(
    storage: DiskStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(results, "UNTOLD", MIB)
    bomb = part(KEY, zipped(bytes(64 * MIB)), told("0", 3))
    sound = part(OTHER, zipped(b"abc"), told("0", 3))
    answers = await store(storage, bomb, sound)
    assert answers[KEY].result is CollectResult.FAILED and not answers[KEY].ours
    assert "the zip unpacks to more than" in answers[KEY].reason
    assert answers[OTHER].result is CollectResult.STORED
    assert os.listdir(storage.root / "incoming") == []


async def test_more_files_than_were_told_are_refused(storage: DiskStorage) -> None:
    answers = await store(storage, part(KEY, zipped(*[b""] * 50), told("0", 0)))
    assert answers[KEY].reason.endswith("the zip holds more than 3 files, which are all there may be")
    assert stored(storage) == []


@pytest.mark.parametrize("where", ["in the manifest", "at its end"])
async def test_of_one_that_says_more_than_may_be_nothing_is_stored_or_unpacked(
    storage: DiskStorage, where: str
) -> None:
    entries, size = ([told("0", 101)], 0) if where == "in the manifest" else ([told("0", 5)], 101)
    sound = part(OTHER, zipped(b"x" * 100), told("0", 100), size=100)
    answers = await store(storage, part(KEY, b"no zip at all", *entries, size=size), sound, limit=100)
    assert answers[KEY].result is CollectResult.IMPOSSIBLE
    assert answers[KEY].reason == "its files have 101 bytes, and 100 are the limit (result_limit)"
    assert answers[OTHER].result is CollectResult.STORED
