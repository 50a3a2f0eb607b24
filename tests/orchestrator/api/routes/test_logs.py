"""Logs as bytes, as text and as they come: no character is cut, no byte is lost, no stream ends early."""

from __future__ import annotations

import codecs
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st
from support.data.ledgers import walk
from support.peers.event_streams import events
from support.processes.api_server import Server, api_server

from actors.domain.job import Attempt, Job
from actors.domain.node import NodeRef, NodeState, NodeView
from actors.domain.status import Status
from actors.wire.files.last_lines import Tail
from actors.wire.files.zip_writer import zip_stream
from orchestrator.api.routes.logs import whole_characters
from orchestrator.nodes.remote_stream import NodeUnreachable, RemoteStream

S = Status
LOG = b"caf\xe9 \xff\x00 \xf0\x9f\xa7\xac end\n\x1b[31m" + "€".encode() * 50 + b"\xe2\x82"
TEXT = LOG.decode("utf-8", "replace")


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Server]:
    async with api_server(tmp_path) as running:
        yield running


async def store(server: Server, job: Job, data: bytes) -> None:
    empty = server.storage.root.parent / "empty"
    empty.mkdir(exist_ok=True)
    sink = server.storage.receive_result(job.storage_key, "a" * 32)
    async for piece in zip_stream(empty, []):
        await sink.write_zip(piece)
    await sink.write_log("stdout", data)
    await sink.commit({"entries": []}, [])


async def ended(server: Server, data: bytes = LOG) -> Job:
    job = await server.upload(**{"run.sh": b"true"})
    await store(server, job, data)
    return await walk(server.ledger, job, S.PROCESSING, S.SUBMITTED, S.COMPLETED)


@dataclass
class LiveNode:
    """A node whose log grows as the test says. `opened` is told of each stream and where it begins."""

    server: Server
    data: dict[str, bytes] = field(default_factory=dict)
    opened: list[tuple[str, int]] = field(default_factory=list)
    grown: trio.Event = field(default_factory=trio.Event)
    broken: bool = False
    over: bool = False

    def print(self, key: str, data: bytes) -> None:
        self.data[key] = self.data.get(key, b"") + data
        self.ring()

    def ring(self) -> None:
        self.grown.set()
        self.grown = trio.Event()

    @asynccontextmanager
    async def open_log(
        self, node: NodeRef, attempt: Attempt, stream: str, offset: int = 0, *, follow: bool = False
    ) -> AsyncIterator[RemoteStream]:
        self.opened.append((attempt.key, offset))
        async with aclosing(self._pieces(attempt.key, offset, follow)) as pieces:
            yield RemoteStream({}, pieces)

    async def find_last_lines(self, node: NodeRef, attempt: Attempt, stream: str, lines: int) -> Tail:
        data = self.data.get(attempt.key, b"")
        return Tail(len(data) - len(b"".join(data.splitlines(keepends=True)[-lines:])), len(data))

    async def _pieces(self, key: str, offset: int, follow: bool) -> AsyncGenerator[bytes, None]:
        while True:
            if self.broken:
                self.broken = False
                raise NodeUnreachable("the connection broke")
            if piece := self.data.get(key, b"")[offset : offset + 7]:
                offset += len(piece)
                yield piece
            elif self.over or not follow:
                return
            else:
                await self.grown.wait()


@pytest.fixture
def node(server: Server, monkeypatch: pytest.MonkeyPatch) -> LiveNode:
    live = LiveNode(server)
    monkeypatch.setattr(server.nodes, "open_log", live.open_log)
    monkeypatch.setattr(server.nodes, "find_last_lines", live.find_last_lines)
    view = NodeView(NodeRef("node-a", "http://node-a:9000"), NodeState.READY, "", ("example",), 2, 1, 0, 1.0)
    server.views[:] = [view]
    return live


async def running(server: Server) -> Job:
    return await walk(server.ledger, await server.upload(a=b""), S.PROCESSING, S.SUBMITTED, S.RUNNING)


def key_of(job: Job) -> str:
    assert job.attempt is not None
    return job.attempt.key


# ---------------------------------------------------------------------- as text


@given(st.binary(max_size=60) | st.text(max_size=20).map(str.encode), st.integers(1, 9))
def test_joined_pieces_are_the_text_of_the_whole(data: bytes, limit: int) -> None:
    text, offset = "", 0
    while offset < len(data):
        piece, used = whole_characters(
            data[offset : offset + limit + 4], limit, closed=offset + limit + 4 > len(data)
        )
        if not used:
            break
        text, offset = text + piece, offset + used
    assert text == data.decode("utf-8", "replace") and offset == len(data)


@pytest.mark.parametrize("limit", [1, 2, 3, 4096])
async def test_text_in_pieces_equals_one_reading(server: Server, limit: int) -> None:
    job = await ended(server)
    text, offset = "", 0
    while True:
        answer = await server.client.get(f"/v1/jobs/{job.id}/logs?format=json&offset={offset}&limit={limit}")
        body = answer.json()
        assert body["offset"] == offset and "\ufffd\ufffd\ufffd" not in body["text"]
        text, offset = text + body["text"], body["next_offset"]
        if body["closed"]:
            break
    assert (text, offset) == (TEXT, len(LOG))


async def test_bytes_from_any_offset_are_those_of_the_file(server: Server) -> None:
    job = await ended(server)
    for offset in (*range(len(LOG) + 1), 4096):
        answer = await server.client.get(f"/v1/jobs/{job.id}/logs?offset={offset}")
        assert answer.content == LOG[offset:]


async def test_a_piece_of_a_log_is_given_wherever_it_is(server: Server, node: LiveNode) -> None:
    job = await running(server)
    node.print(key_of(job), LOG)
    url = f"/v1/jobs/{job.id}/logs"
    for where in ("node", "storage"):
        if where == "storage":
            await store(server, job, LOG)
            await walk(server.ledger, job, S.COMPLETED)
        for offset, limit in ((0, 1), (3, 20), (len(LOG) - 2, 9), (len(LOG) + 5, 1)):
            answer = await server.client.get(f"{url}?offset={offset}&limit={limit}")
            assert answer.content == LOG[offset : offset + limit]
    refused = await server.client.get(f"{url}?follow=1&limit=3")
    assert (refused.status_code, refused.json()["code"]) == (400, "bad_parameter")


async def test_half_a_character_is_told_only_when_nothing_follows(server: Server, node: LiveNode) -> None:
    job = await running(server)
    node.print(key_of(job), b"ab\xe2\x82")
    url = f"/v1/jobs/{job.id}/logs?format=json"
    body = (await server.client.get(url)).json()
    assert (body["text"], body["next_offset"], body["closed"]) == ("ab", 2, False)
    await store(server, job, b"ab\xe2\x82")
    await walk(server.ledger, job, S.COMPLETED)
    body = (await server.client.get(f"{url}&offset=2")).json()
    assert (body["text"], body["next_offset"], body["closed"]) == ("\ufffd", 4, True)


# ---------------------------------------------------------------------- followed


async def raw(server: Server, job: Job, got: list[httpx.Response], query: str = "follow=1") -> None:
    got.append(await server.client.get(f"/v1/jobs/{job.id}/logs?{query}"))


async def test_a_log_is_followed_from_the_queue_to_the_end(server: Server, node: LiveNode) -> None:
    job = await server.upload(a=b"")
    got: list[httpx.Response] = []
    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(raw, server, job, got)
            job = await walk(server.ledger, job, S.PROCESSING, S.SUBMITTED, S.RUNNING)
            node.print(key_of(job), LOG[:20])
            while not node.opened:
                await trio.testing.wait_all_tasks_blocked(0.01)
            # The connection to the node breaks in the middle, and the rest comes with the stored results.
            node.broken = True
            node.ring()
            await store(server, job, LOG)
            await walk(server.ledger, job, S.COMPLETED)
    assert got[0].content == LOG


async def test_another_attempt_begins_the_log_anew(server: Server, node: LiveNode) -> None:
    job = await running(server)
    first = key_of(job)
    node.print(first, b"lost\n")
    found: list[dict[str, Any]] = []
    with trio.fail_after(60):
        async with events(server.url, f"/v1/jobs/{job.id}/logs?format=events") as stream:
            event = await stream.next()
            assert event is not None and event.data["text"] == "lost\n"
            node.broken = True
            job = await walk(server.ledger, job, S.QUEUED, S.PROCESSING, S.SUBMITTED, S.RUNNING)
            node.print(key_of(job), b"again\n")
            await store(server, job, b"again\n")
            await walk(server.ledger, job, S.COMPLETED)
            node.over = True
            node.ring()
            found = [event.data for event in await stream.rest()]
    assert [(one["offset"], one["text"]) for one in found[:-1]] == [(0, "again\n")]
    assert found[-1] == {"status": "Completed", "next_offset": 6}


async def test_events_of_a_log_hold_whole_characters_and_are_resumable(
    server: Server, node: LiveNode
) -> None:
    job = await running(server)
    key = key_of(job)
    text, last = "", None
    with trio.fail_after(60):
        path = f"/v1/jobs/{job.id}/logs"
        async with events(server.url, f"{path}?format=events") as stream:
            node.print(key, LOG[:15])
            while len(text.encode()) < 5:
                event = await stream.next()
                assert event is not None and event.kind == "log"
                text, last = text + event.data["text"], event.id
        node.print(key, LOG[15:])
        await store(server, job, LOG)
        async with events(server.url, f"{path}?format=events", last) as stream:
            await walk(server.ledger, job, S.COMPLETED)
            node.over = True
            node.ring()
            rest = await stream.rest()
    assert [event.kind for event in rest[-1:]] == ["end"] and rest[-1].data["next_offset"] == len(LOG)
    pieces = [event.data["text"] for event in rest[:-1]]
    assert text + "".join(pieces) == TEXT
    assert rest[-2].data["text"].endswith("\ufffd") and rest[-2].id == len(LOG)


async def test_the_text_of_a_stream_does_not_depend_on_how_it_is_cut(server: Server) -> None:
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    text = "".join(decoder.decode(LOG[n : n + 1]) for n in range(len(LOG))) + decoder.decode(b"", True)
    assert text == TEXT
    job = await ended(server)
    with trio.fail_after(60):
        async with events(server.url, f"/v1/jobs/{job.id}/logs?format=events") as stream:
            found = await stream.rest()
    assert "".join(event.data["text"] for event in found[:-1]) == TEXT


async def test_followers_are_let_go_when_the_server_stops(server: Server, node: LiveNode) -> None:
    job = await running(server)
    got: list[httpx.Response] = []
    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(raw, server, job, got)
            node.print(key_of(job), b"x")
            while not node.opened:
                await trio.testing.wait_all_tasks_blocked(0.01)
            server.waiters.close()
    assert got[0].status_code == 200


async def test_the_logs_of_a_cleaned_job_are_gone(server: Server) -> None:
    job = await walk(server.ledger, await ended(server), S.CLEANED)
    for query in ("", "?format=json", "?format=events", "?follow"):
        answer = await server.client.get(f"/v1/jobs/{job.id}/logs{query}")
        assert (answer.status_code, answer.json()["code"]) == (404, "nothing_left")


# ---------------------------------------------------------------------- the last lines


def told(answer: httpx.Response) -> tuple[int, int]:
    return int(answer.headers["log-offset"]), int(answer.headers["log-size"])


async def test_the_last_lines_of_a_log_in_every_form(server: Server) -> None:
    job = await ended(server, b"one\ntwo\nthree\nfour")
    url = f"/v1/jobs/{job.id}/logs"
    for tail, offset in ((0, 18), (1, 14), (2, 8), (4, 0), (500, 0)):
        for query in ("", "&follow=1"):
            answer = await server.client.get(f"{url}?tail={tail}{query}")
            assert answer.content == b"one\ntwo\nthree\nfour"[offset:]
            assert told(answer) == (offset, 18)
    head = await server.client.head(f"{url}?tail=1")
    assert (head.content, told(head)) == (b"", (14, 18))
    body = (await server.client.get(f"{url}?tail=2&format=json")).json()
    assert (body["text"], body["offset"], body["closed"]) == ("three\nfour", 8, True)
    with trio.fail_after(60):
        async with events(server.url, f"{url}?tail=2&format=events") as stream:
            first = await stream.next()
        # Who comes back goes on where it was.
        async with events(server.url, f"{url}?tail=2&format=events", 14) as stream:
            resumed = await stream.next()
    assert first is not None and (first.data["offset"], first.data["text"]) == (8, "three\nfour")
    assert resumed is not None and (resumed.data["offset"], resumed.data["text"]) == (14, "four")
    assert told(await server.client.get(f"{url}?tail=3&stream=stderr")) == (0, 0)
    for wrong in ("tail=1&offset=1", "tail=-1", "tail=x", "tail="):
        answer = await server.client.get(f"{url}?{wrong}")
        assert (answer.status_code, answer.json()["code"]) == (400, "bad_parameter"), wrong


async def test_the_last_lines_are_followed_into_the_next_attempt(server: Server, node: LiveNode) -> None:
    queued = await server.upload(a=b"")
    answer = await server.client.get(f"/v1/jobs/{queued.id}/logs?tail=5")
    assert (answer.content, told(answer)) == (b"", (0, 0))
    job = await running(server)
    node.print(key_of(job), b"one\ntwo\nthree\n")
    assert (await server.client.get(f"/v1/jobs/{job.id}/logs?tail=2")).content == b"two\nthree\n"
    got: list[httpx.Response] = []
    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            asked = len(node.opened)
            nursery.start_soon(raw, server, job, got, "follow=1&tail=1")
            while len(node.opened) == asked:
                await trio.testing.wait_all_tasks_blocked(0.01)
            job = await walk(server.ledger, job, S.QUEUED, S.PROCESSING, S.SUBMITTED, S.RUNNING)
            node.print(key_of(job), b"again\n")
            await store(server, job, b"again\n")
            await walk(server.ledger, job, S.COMPLETED)
    assert got[0].content == b"three\nagain\n"
    assert told(got[0]) == (8, 14)


# ---------------------------------------------------------------------- odd bytes, cut anywhere

ODD = {
    "characters of 1, 2, 3 and 4 bytes": "aé€🧬".encode() * 3,
    "half surrogates": b"x\xed\xa0\xbd\xed\xb6\x80y",
    "longer than needed": b"\xc0\x80\xe0\x80\x80\xf0\x80\x80\x80",
    "beyond the last": b"\xf4\x90\x80\x80\xf8\xff",
    "a half of each length at the end": b"\xf0\x9f\xa7",
    "controls": b"\x00\r\n\r\x0b\x1b]0;x\x07\x85\x1b[2J\n\n: x\nid: 7\n\ndata: y\n\n",
    "ends of lines of other kinds": "a\u2028b\u2029c\x85d\ufeff".encode() + b"\xef\xbb",
    "nothing": b"",
}


@pytest.mark.parametrize("what", ODD)
async def test_all_forms_tell_the_same_from_any_byte_on(server: Server, what: str) -> None:
    data = ODD[what]
    job = await ended(server, data)
    root = f"/v1/jobs/{job.id}/logs"
    with trio.fail_after(60):
        for begin in range(len(data) + 2):
            rest = data[begin:]
            text = rest.decode("utf-8", "replace")
            assert (await server.client.get(f"{root}?offset={begin}")).content == rest
            # By offset and by the header of who comes back, which wins.
            for query, last in ((f"offset={begin}", None), ("offset=1", begin)):
                async with events(server.url, f"{root}?format=events&{query}", last) as stream:
                    found = await stream.rest()
                told, end = [event.data for event in found[:-1]], found[-1]
                assert "".join(one["text"] for one in told) == text
                places = [begin, *(one["next_offset"] for one in told)]
                assert [one["offset"] for one in told] == places[:-1]
                assert (end.kind, end.data["next_offset"]) == ("end", begin + len(rest))
        for limit in (1, 2, 3, 4, 5, 1000):
            text, offset = "", 0
            while True:
                body = (await server.client.get(f"{root}?format=json&offset={offset}&limit={limit}")).json()
                assert body["offset"] == offset and body["next_offset"] - offset <= limit + 3
                text, offset = text + body["text"], body["next_offset"]
                if body["closed"]:
                    break
            assert (text, offset) == (data.decode("utf-8", "replace"), len(data))


@pytest.mark.parametrize("what", ODD)
async def test_who_joins_anywhere_while_it_is_written_sees_the_rest(
    server: Server, node: LiveNode, what: str
) -> None:
    """Byte by byte, so that each character is cut at each of its bytes, and over the end of the job."""
    data = ODD[what]
    job = await running(server)
    joined = range(0, len(data) + 1, max(1, len(data) // 6))
    texts: dict[int, str] = {}
    raws: dict[int, bytes] = {}

    async def follow(begin: int) -> None:
        path = f"/v1/jobs/{job.id}/logs?format=events"
        async with events(server.url, path, begin) as stream:
            found = await stream.rest()
        assert [event.id for event in found] == sorted(event.id for event in found)
        texts[begin] = "".join(event.data["text"] for event in found[:-1])

    async def follow_raw(begin: int) -> None:
        answer = await server.client.get(f"/v1/jobs/{job.id}/logs?follow=1&offset={begin}")
        raws[begin] = answer.content

    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            for begin in joined:
                nursery.start_soon(follow, begin)
                nursery.start_soon(follow_raw, begin)
            while len(node.opened) < 2 * len(joined):
                await trio.testing.wait_all_tasks_blocked(0.01)
            for at in range(len(data)):
                node.print(key_of(job), data[at : at + 1])
                await trio.testing.wait_all_tasks_blocked()
            await store(server, job, data)
            await walk(server.ledger, job, S.COMPLETED)
            node.over = True
            node.ring()
    assert texts == {begin: data[begin:].decode("utf-8", "replace") for begin in joined}
    assert raws == {begin: data[begin:] for begin in joined}
