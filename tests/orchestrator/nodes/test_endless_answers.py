"""A node that never comes to an end of what it says: its answer is cut, and what came whole before counts."""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from actors.domain.job import Attempt, End, Job
from actors.domain.node import PayloadView
from actors.domain.status import Status
from actors.ports.nodes import CollectResult, Dispatch
from actors.wire.protocol import frames
from actors.wire.protocol.attempts import view_to_json
from orchestrator.http_client import PACE, Broken, Reply
from orchestrator.nodes.native import results
from orchestrator.nodes.native.results import receive
from orchestrator.storage.disk import StorageFull

KEY = "a" * 32
ENTRY = {"path": "a", "kind": "file", "size": 10}
HEAD = 5
"""Bytes of a frame that are none of its data."""


class Pieces:
    """`first`, then `more` for ever, one each `every` seconds."""

    def __init__(self, more: bytes, every: float, first: bytes = b"") -> None:
        self._more = more
        self._every = every
        self._first = first

    def __aiter__(self) -> Pieces:
        return self

    async def __anext__(self) -> bytes:
        await trio.sleep(self._every)
        piece, self._first = self._first or self._more, b""
        return piece


class Answer:
    def __init__(self, pieces: Pieces) -> None:
        self.status_code = 200
        self.headers: dict[str, str] = {}
        self._pieces = pieces

    def aiter_raw(self) -> Pieces:
        return self._pieces


def reply(pieces: Pieces, stall: float | None = 30.0) -> Reply:
    response: Any = Answer(pieces)
    return Reply(response, stall)


@pytest.mark.parametrize("size", [1, PACE // 12 - 1])
async def test_an_answer_that_trickles_is_cut_within_some_minutes(
    autojump_clock: MockClock, size: int
) -> None:
    began = trio.current_time()
    with trio.fail_after(200), pytest.raises(Broken, match="trickle"):
        async for _ in reply(Pieces(bytes(size), 5.0)):
            pass
    assert trio.current_time() - began <= 65.0


async def test_a_slow_answer_that_moves_a_slow_reader_and_a_stream_of_events_are_not_cut(
    autojump_clock: MockClock,
) -> None:
    for answer, rest in (
        (reply(Pieces(bytes(PACE // 12 + 1), 5.0)), 0.0),
        (reply(Pieces(b".", 0.1)), 100.0),
        (reply(Pieces(b".", 20.0), stall=None), 0.0),
    ):
        for _ in range(100):
            await anext(answer)
            await trio.sleep(rest)


class Sink:
    def __init__(self) -> None:
        self.bytes = 0

    def expect(self, most: object) -> None:
        pass

    async def write_zip(self, data: bytes) -> None:
        self.bytes += len(data)

    async def write_log(self, stream: str, data: bytes) -> None:
        self.bytes += len(data)

    async def commit(self, manifest: object, expected: object, crc: int | None) -> None:
        await trio.lowlevel.checkpoint()

    async def abort(self) -> None:
        await trio.lowlevel.checkpoint()


class Files:
    def __init__(self, error: Exception | None = None) -> None:
        self.sinks: list[Sink] = []
        self._error = error

    def receive_result(self, storage_key: str, attempt_key: str) -> Sink:
        if self._error is not None:
            raise self._error
        self.sinks.append(Sink())
        return self.sinks[-1]


def dispatch(key: str) -> Dispatch:
    job = Job(1, 1, "x", Status.RUNNING, "", 1, 0.0, 0.0, "s")
    return Dispatch(Attempt(key, 1, 1, "n"), job)


def whole(key: str) -> bytes:
    view = PayloadView(key, Status.COMPLETED, End(Status.COMPLETED, "", size=10))
    head = {"key": key, "payload": view_to_json(view), "manifest": {"entries": [ENTRY]}, "logs": []}
    finish = {
        "zip_crc32": zlib.crc32(b"zip"),
        "zip_size": 3,
        "stdout_size": 0,
        "stderr_size": 0,
    }
    return b"".join(
        (
            frames.encode(frames.END, json.dumps(head).encode()),
            frames.encode(frames.ZIP, b"zip"),
            frames.encode(frames.FINISH, json.dumps(finish).encode()),
        )
    )


def refused(key: str) -> bytes:
    return frames.encode(frames.ERROR, json.dumps({"key": key, "error": "gone"}).encode())


@pytest.mark.parametrize(
    "more",
    [
        lambda: whole(KEY),
        lambda: refused(KEY),
        lambda: whole("b" * 32)[:-1],
        lambda: frames.encode(frames.END, b"{}"),
        lambda: b"\0",
    ],
    ids=["the same again", "a refusal of it", "torn", "nobody's", "noise"],
)
async def test_what_came_whole_counts_whatever_comes_after_it(
    autojump_clock: MockClock, more: Callable[[], bytes]
) -> None:
    with trio.fail_after(100):
        answers = await receive(Pieces(more(), 0.01, whole(KEY)), [dispatch(KEY)], Files())  # type: ignore[arg-type]
    assert answers[KEY].result is CollectResult.STORED


@pytest.mark.parametrize("kind", [frames.STDOUT, frames.STDERR, frames.ZIP])
async def test_results_without_an_end_are_cut_when_they_are_more_than_was_told(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch, kind: bytes
) -> None:
    monkeypatch.setattr(results, "UNTOLD", 1000)
    head = whole(KEY)
    begun = head[: HEAD + int.from_bytes(head[1:HEAD], "big")]
    files = Files()
    endless = Pieces(frames.encode(kind, bytes(100)), 0.01, begun)
    with trio.fail_after(100):
        answers = await receive(endless, [dispatch(KEY)], files)  # type: ignore[arg-type]
    assert answers[KEY].result is CollectResult.FAILED and not answers[KEY].ours
    assert "has left less" in answers[KEY].reason
    assert files.sinks[0].bytes <= 1000 + 2 * len(begun) + 100


async def test_trouble_of_our_own_is_told_from_the_nodes() -> None:
    answers = await receive(Pieces(b"", 0.0, whole(KEY)), [dispatch(KEY)], Files(StorageFull("no room")))  # type: ignore[arg-type]
    assert answers[KEY].result is CollectResult.FAILED and answers[KEY].ours
