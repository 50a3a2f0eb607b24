"""A node's end of a link, over a real socket: whom it lets in, whose orders it carries out, what it tells."""

from __future__ import annotations

import io
import math
import os
import zipfile
from collections.abc import AsyncIterator, Generator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import trio
from support.processes.nodes_in_process import KEY, OTHER, SCRIPT, NodeInProcess, node_in_process

from actors.domain.batch_request import NOTHING_REQUESTED, BatchRequest, request_to_json
from actors.domain.limits import UNLIMITED, JobLimits, limits_to_json
from actors.domain.payload import Payload
from actors.wire.files.threaded_iterator import PIECE
from actors.wire.link.link import Link
from actors.wire.link.session import MAX_FRAME, Hello, Lane, Message, Role, Session
from actors.wire.link.websocket import NotUpgraded, ask_for
from actors.wire.protocol.frames import FrameReader
from node.api import link as link_module
from node.api.packing import CollectForm, collect_one
from node.api.small_results import HEADS
from node.payloads.table import PayloadTable

OWNER = "0" * 32
MOST = dict.fromkeys(Lane, 8 << 20)


class Client:
    """An orchestrator, as far as a node knows it."""

    def __init__(self, link: Link) -> None:
        self.link = link
        self.put, self.heard = trio.open_memory_channel[Message](math.inf)
        self.why = ""
        self.over = trio.Event()

    async def run(self) -> None:
        self.why = await self.link.run(self.put.send_nowait)
        self.over.set()

    async def hear(self, kind: str) -> Message:
        """The next message of this kind."""
        async for message in self.heard:
            if message.kind == kind:
                return message
        raise AssertionError("the link has ended")

    async def submit(self, *keys: str, **entry: Any) -> Mapping[str, Any]:
        files = dict(SCRIPT)
        attempts = [
            {"key": key, "job": 1, "n": 1, "service": "s", "user": 1, "max_runtime_seconds": 0}
            | {"files": [[path, len(data)] for path, data in files.items()]}
            | entry
            for key in keys
        ]
        blob = b"".join(files.values()) * len(keys)
        return await self.ask("submit", {"owner": OWNER, "attempts": attempts}, blob)

    async def ask(self, kind: str, body: Mapping[str, Any], blob: bytes = b"") -> Mapping[str, Any]:
        return (await self.link.ask(kind, body, Lane.ORDERS, blob, within=20)).body


@asynccontextmanager
async def linked(node: NodeInProcess, number: int = 1, **hello: Any) -> AsyncIterator[Client]:
    given = {"each": 1 << 20, "window": 4 << 20} | hello
    session = Session(Hello(Role.ORCHESTRATOR, OWNER, number=number, **given), MOST)
    stream = await connect(node)
    client = Client(Link(await ask_for(stream, f"{node.url}/v1/link", {}, MAX_FRAME), session))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(client.run)
        yield client
        nursery.cancel_scope.cancel()


async def connect(node: NodeInProcess) -> trio.SocketStream:
    return await trio.open_tcp_stream("127.0.0.1", urlsplit(node.url).port or 0)


async def test_an_attempt_goes_over_it_and_comes_home_with_what_it_left(tmp_path: Path) -> None:
    async with node_in_process(tmp_path) as node, linked(node) as client:
        picture = (await client.hear("picture")).body
        assert picture["payloads"] == []
        assert picture["executor"] == {"name": node.executor.name, "limits": node.executor.limits}
        answer = await client.submit(KEY, OTHER)
        assert [item["result"] for item in answer["items"]] == ["accepted", "accepted"]
        (again,) = (await client.submit(KEY))["items"]
        assert again["result"] == "known"
        (await node.executor.run_of(KEY)).finish()
        ended = await client.hear("ended")
        assert [payload["key"] for payload in ended.body["payloads"]] == [KEY]
        assert ended.body["sizes"] == [len(ended.blob)] and ended.blob
        answer = await client.ask("release", {"keys": [KEY]})
        assert answer["items"] == [{"key": KEY, "result": "released"}]
        (look,) = (await client.ask("lookup", {"keys": [KEY]}))["items"]
        assert look["result"] == "tombstoned"


async def test_a_release_is_answered_with_what_is_told_next_or_at_once_where_nothing_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(link_module, "HEARTBEAT_EVERY", 3600.0)
    async with node_in_process(tmp_path) as node, linked(node) as client, trio.open_nursery() as nursery:
        await client.submit(KEY, OTHER)
        (await node.executor.run_of(KEY)).finish()
        assert (await client.hear("ended")).body["payloads"][0]["key"] == KEY
        answered = trio.Event()

        async def release() -> None:
            await client.ask("release", {"keys": [KEY]})
            answered.set()

        nursery.start_soon(release)
        (await node.executor.run_of(OTHER)).finish()
        await client.hear("ended")
        await answered.wait()
        await client.ask("release", {"keys": [OTHER]})


async def test_an_order_that_takes_long_holds_up_none_that_comes_after_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    accept, let_go, begun = PayloadTable.accept, trio.Event(), trio.Event()

    async def wait_and_accept(table: PayloadTable, *given: Any) -> Any:
        begun.set()
        await let_go.wait()
        return await accept(table, *given)

    monkeypatch.setattr(PayloadTable, "accept", wait_and_accept)
    async with node_in_process(tmp_path) as node, linked(node) as client, trio.open_nursery() as nursery:
        await client.hear("picture")
        assert (await client.ask("lookup", {"keys": [KEY]}))["items"][0]["result"] == "gone"
        answered = trio.Event()

        async def submit() -> None:
            await client.submit(KEY)
            answered.set()

        nursery.start_soon(submit)
        await begun.wait()
        for _ in range(3):
            assert (await client.ask("lookup", {"keys": [OTHER]}))["items"][0]["result"] == "gone"
        assert not answered.is_set()
        let_go.set()
        await answered.wait()


async def test_what_the_answer_to_an_order_says_is_not_told_once_more(tmp_path: Path) -> None:
    async with node_in_process(tmp_path) as node, linked(node) as client:
        (item,) = (await client.submit(KEY))["items"]
        assert item["payload"]["status"] == "Prepared"
        (await node.executor.run_of(KEY)).finish()
        told = []
        async for message in client.heard:
            told += [payload["status"] for payload in message.body.get("payloads", ())]
            if message.kind == "ended":
                break
        assert told[-1] == "Completed" and "Prepared" not in told


async def test_results_come_unasked_only_where_there_is_room_for_them(tmp_path: Path) -> None:
    third = "f" * 32
    async with node_in_process(tmp_path) as node, linked(node, window=HEADS + 200) as client:

        async def ends(key: str) -> str:
            """By which message its end is told."""
            await client.submit(key)
            (await node.executor.run_of(key)).finish()
            async for message in client.heard:
                for payload in message.body.get("payloads", ()):
                    if payload["key"] == key and payload["end"] is not None:
                        return message.kind
            raise AssertionError("the link has ended")

        assert await ends(KEY) == "ended"
        assert await ends(OTHER) == "payloads"
        await client.ask("release", {"keys": [KEY]})
        assert await ends(third) == "ended"


@pytest.mark.parametrize(("kept", "again"), [(1 << 20, False), (0, True)])
async def test_a_small_result_is_read_where_it_is_looked_through_and_waits_if_there_is_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kept: int, again: bool
) -> None:
    monkeypatch.setattr("node.api.small_results.KEPT", kept)
    read: list[str] = []

    def collect(payload: Payload, directory: Path, form: CollectForm) -> Generator[bytes, None, None]:
        read.append(payload.key)
        return collect_one(payload, directory, form)

    monkeypatch.setattr("node.api.small_results.collect_one", collect)
    async with node_in_process(tmp_path) as node, linked(node) as client:
        await client.hear("picture")
        await client.submit(KEY)
        (await node.executor.run_of(KEY)).finish()
        ended = await client.hear("ended")
        assert ended.body["payloads"][0]["key"] == KEY and ended.body["sizes"] == [len(ended.blob)]
        assert read == ([KEY] if again else [])
        asked = await node.client.post("/v1/collect", json={"keys": [KEY], "sums": "crc32"})
        assert asked.content == ended.blob


@pytest.mark.parametrize(
    ("out", "err"),
    [("", ""), ("said\n", ""), ("", "x" * PIECE), ("said\n" * (PIECE // 2), "x" * (PIECE + 1))],
)
async def test_logs_of_any_size_come_in_frames_and_in_the_zip_read_early_or_later(
    tmp_path: Path, out: str, err: str
) -> None:
    async with node_in_process(tmp_path) as node, linked(node, each=6 << 20, window=32 << 20) as client:
        await client.hear("picture")
        await client.submit(KEY)
        run = await node.executor.run_of(KEY)
        run.print(out)
        run.print(err, "stderr")
        run.finish()
        ended = await client.hear("ended")
        asked = await node.client.post("/v1/collect", json={"keys": [KEY], "sums": "crc32"})

    async def body() -> AsyncIterator[bytes]:
        yield asked.content

    said: dict[bytes, bytes] = {}
    async for kind, data in FrameReader(body()):
        said[kind] = said.get(kind, b"") + data
    assert ended.blob == asked.content
    zipped = zipfile.ZipFile(io.BytesIO(said[b"Z"]))
    assert (said.get(b"O", b""), said.get(b"R", b"")) == (out.encode(), err.encode())
    assert (zipped.read("stdout.log"), zipped.read("stderr.log")) == (out.encode(), err.encode())


@pytest.mark.parametrize("into", ["link", "fifo"])
async def test_of_what_is_no_log_any_more_the_end_is_told_alone(tmp_path: Path, into: str) -> None:
    secret = tmp_path / "secret"
    secret.write_bytes(b"nobody is to read it")
    async with node_in_process(tmp_path / "data") as node, linked(node) as client:
        await client.hear("picture")
        await client.submit(KEY)
        run = await node.executor.run_of(KEY)
        log = run.spec.directory / "stderr.log"
        log.unlink()
        if into == "link":
            log.symlink_to(secret)
        else:
            os.mkfifo(log)
        run.finish()
        ended = await client.hear("ended")
        assert ended.body["payloads"][0]["end"]["status"] == "Completed"
        assert ended.body["sizes"] == [0] and ended.blob == b""


async def test_what_nobody_foresaw_of_a_result_that_is_read_early_ends_no_node(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise ValueError("a script has left it")

    async with node_in_process(tmp_path) as node, linked(node) as client:
        await client.hear("picture")
        monkeypatch.setattr("node.api.small_results.pack_files", fail)
        await client.submit(KEY)
        (await node.executor.run_of(KEY)).finish()
        ended = await client.hear("ended")
        assert ended.body["payloads"][0]["key"] == KEY and ended.body["sizes"] == [len(ended.blob)]


async def test_a_newer_link_ends_the_older_and_an_older_one_is_refused(tmp_path: Path) -> None:
    async with node_in_process(tmp_path) as node, linked(node, 5) as first:
        await first.hear("picture")
        await first.submit(KEY)
        async with linked(node, 6) as second:
            picture = await second.hear("picture")
            assert [payload["key"] for payload in picture.body["payloads"]] == [KEY]
            await first.over.wait()
            async with linked(node, 4) as late:
                assert (await late.hear("refused")).body == {"newest": 6}
                await late.over.wait()
            assert (await second.submit(OTHER))["items"][0]["result"] == "accepted"


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"X-Node-Id": OTHER}, 421),
        ({"Origin": "http://page.example"}, 403),
        ({"Sec-Fetch-Site": "cross-site"}, 403),
    ],
)
async def test_who_means_another_node_and_what_a_page_opens_is_not_let_in(
    tmp_path: Path, headers: Mapping[str, str], status: int
) -> None:
    async with node_in_process(tmp_path) as node:
        async with await connect(node) as stream:
            with pytest.raises(NotUpgraded) as refused:
                await ask_for(stream, f"{node.url}/v1/link", headers, MAX_FRAME)
            assert refused.value.status == status
        assert (await node.client.get("/v1/link")).status_code == 404


async def test_a_run_has_the_limits_that_its_orchestrator_has_told_also_after_a_restart(
    tmp_path: Path,
) -> None:
    told = JobLimits(memory_bytes=4 << 30, cpu_seconds=0.5)
    async with node_in_process(tmp_path) as node, linked(node) as client:
        await client.hear("picture")
        await client.submit(KEY, limits=limits_to_json(told) | {"of_a_later_version": 1})
        await client.submit(OTHER)
        for key, limits in ((KEY, told), (OTHER, UNLIMITED)):
            assert (await node.executor.run_of(key)).spec.limits == limits
    async with node_in_process(tmp_path) as node:
        for key, limits in ((KEY, told), (OTHER, UNLIMITED)):
            assert (await node.executor.run_of(key)).spec.limits == limits


async def test_a_run_knows_what_its_job_asks_of_a_batch_system_also_after_a_restart(tmp_path: Path) -> None:
    told = BatchRequest("long", "bio", "high", 8, "a100:2")
    async with node_in_process(tmp_path) as node, linked(node) as client:
        await client.hear("picture")
        await client.submit(KEY, batch_request=request_to_json(told) | {"of_a_later_version": 1})
        await client.submit(OTHER)
        for key, asked in ((KEY, told), (OTHER, NOTHING_REQUESTED)):
            assert (await node.executor.run_of(key)).spec.batch_request == asked
    async with node_in_process(tmp_path) as node:
        for key, asked in ((KEY, told), (OTHER, NOTHING_REQUESTED)):
            assert (await node.executor.run_of(key)).spec.batch_request == asked


async def test_what_a_job_asks_of_a_batch_system_is_told_to_have_no_effect_where_there_is_none(
    tmp_path: Path,
) -> None:
    async with node_in_process(tmp_path) as node, linked(node) as client:
        await client.hear("picture")
        await client.submit(KEY, batch_request={"partition": "short", "cpus": 4})
        (await node.executor.run_of(KEY)).finish()
        (payload,) = (await client.hear("ended")).body["payloads"]
        assert payload["end"]["message"] == "its node is no cluster: partition and cpus had no effect"


async def test_a_bad_attempt_is_malformed_alone_and_a_bad_message_is_answered_with_why(
    tmp_path: Path,
) -> None:
    async with node_in_process(tmp_path) as node, linked(node) as client:
        await client.hear("picture")
        (item,) = (await client.submit(KEY, n=0))["items"]
        assert item["result"] == "malformed"
        (item,) = (await client.submit(KEY, limits={"memory_bytes": "4G"}))["items"]
        assert (item["result"], "limits" in item["reason"]) == ("malformed", True)
        (item,) = (await client.submit(KEY, slot_wait_seconds=-1))["items"]
        assert (item["result"], "slot_wait_seconds" in item["reason"]) == ("malformed", True)
        (item,) = (await client.submit(KEY, batch_request={"partition": "a b"}))["items"]
        assert (item["result"], "batch_request" in item["reason"]) == ("malformed", True)
        (item,) = (await client.submit(OTHER, files=[["a\nb", len(SCRIPT["run.sh"])]]))["items"]
        assert item["result"] == "malformed"
        for body in ({}, {"owner": OWNER, "attempts": [{"key": KEY}]}):
            assert (await client.ask("submit", body, b"x"))["malformed"] is True
        assert "no key" in (await client.ask("cancel", {"keys": ["x"]}))["error"]
        assert "not known" in (await client.ask("dance", {}))["error"]
        assert (await client.submit(KEY))["items"][0]["result"] == "accepted"


async def test_a_node_that_leaves_gives_back_what_waits_for_a_slot_before_its_last_word(
    tmp_path: Path,
) -> None:
    async with node_in_process(tmp_path, slots=1) as node, linked(node) as client:
        await client.submit(KEY)
        await node.executor.run_of(KEY)
        await client.submit(OTHER, slot_wait_seconds=3600)
        node.shutdown.set()
        told: dict[str, Any] = {}
        async for message in client.heard:
            told |= {payload["key"]: payload for payload in message.body.get("payloads", ())}
            if message.kind == "leaving":
                break
        assert told[OTHER]["lost"] and told[OTHER]["end"]["failure"] == "not_run"
        assert message.body["back"], "for the other one"


async def test_a_node_that_stops_says_so_and_ends_the_link(tmp_path: Path) -> None:
    async with node_in_process(tmp_path) as node, linked(node) as client:
        await client.hear("picture")
        await client.submit(KEY)
        node.shutdown.set()
        assert (await client.hear("leaving")).body == {"held": 1, "back": True}
        await client.over.wait()
