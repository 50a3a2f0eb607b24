"""The client of our own nodes, against peers that are honest, slow, torn and lying."""

from __future__ import annotations

import errno
import json
import os
import pkgutil
import resource
import socket
import time
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
import trio
import trio.testing
from support.data.node_jobs import new_dispatch, new_storage, result_file, zipped
from support.peers.peer import Hangup, Peer, Request, head, problem, send, serving
from support.processes.processes import limited

from actors.domain.job import End
from actors.domain.node import NodeAddress, NodeRef, PayloadView, StreamPosition
from actors.domain.status import Status
from actors.ports.nodes import (
    Beat,
    CollectResult,
    LookupResult,
    NodeEvent,
    PayloadChanged,
    Picture,
    SubmitResult,
)
from actors.wire.files.last_lines import Tail
from actors.wire.protocol import frames, ndjson
from actors.wire.protocol.attempts import view_to_json
from orchestrator.http_client import Deadlines, Http
from orchestrator.nodes.client import NodeClient
from orchestrator.nodes.native.events import Listening
from orchestrator.nodes.remote_stream import NodeUnreachable, NotOnNode
from orchestrator.storage.disk import StorageFull
from orchestrator.storage.result_sink import DiskResultSink
from orchestrator.storage.storage import DiskStorage

OWNER = "0" * 32
MARK = {"incarnation": "i1", "sequence": 4}
DONE = End(Status.COMPLETED, "exit code 0", exit_code=0, started_at=1.0, ended_at=2.0, size=3)


@pytest.fixture
async def storage(tmp_path: Path) -> DiskStorage:
    return await new_storage(tmp_path / "data")


@pytest.fixture
async def client(storage: DiskStorage, tmp_path: Path) -> AsyncIterator[NodeClient]:
    client = NodeClient(OWNER, storage, tmp_path / "spool")
    yield client
    await client.aclose()


@pytest.fixture
async def hasty(storage: DiskStorage, tmp_path: Path) -> AsyncIterator[NodeClient]:
    """A client whose deadlines are over at once."""
    http = Http(Deadlines(connect=5.0, head=0.05, stall=0.05))
    client = NodeClient(OWNER, storage, tmp_path / "hasty", http=http, silence=0.05)
    yield client
    await client.aclose()


def ref(peer: Peer) -> NodeRef:
    return NodeRef("node-a", peer.url)


def prepared(key: str) -> dict[str, Any]:
    return view_to_json(PayloadView(key, Status.PREPARED))


def ended(key: str) -> dict[str, Any]:
    return view_to_json(PayloadView(key, DONE.status, DONE))


def items(*listed: dict[str, Any]) -> dict[str, Any]:
    return {**MARK, "items": list(listed)}


def always(*reply: Any) -> Callable[[Request, trio.SocketStream], Awaitable[None]]:
    async def answer(request: Request, stream: trio.SocketStream) -> None:
        await send(stream, *reply)

    return answer


# ------------------------------------------------------------------ submit


async def test_several_attempts_go_in_one_request_and_are_answered_by_key(
    client: NodeClient, storage: DiskStorage
) -> None:
    one = await new_dispatch(storage, {"run.sh": b"true\n", "sub/in.pdb": b"ATOM"})
    two = await new_dispatch(storage, {"run.sh": b"false\n"}, job_id=8)

    async def answer(request: Request, stream: trio.SocketStream) -> None:
        listed = [
            {"key": two.attempt.key, "result": "malformed", "reason": "no", "payload": None},
            {"key": one.attempt.key, "result": "accepted", "payload": prepared(one.attempt.key)},
        ]
        await send(stream, 200, items(*listed))

    async with serving(Peer(answer)) as peer:
        first, second = await client.submit(ref(peer), [one, two])
    assert (first.result, second.result, second.reason) == (SubmitResult.HAS, SubmitResult.MALFORMED, "no")
    assert first.view == PayloadView(one.attempt.key, Status.PREPARED)
    (request,) = peer.requests
    assert (request.method, request.path) == ("POST", "/v1/attempts")
    assert request.headers["x-node-id"] == "node-a"
    assert int(request.headers["content-length"]) == len(request.body)
    assert f'filename="{one.attempt.key}/sub/in.pdb"'.encode() in request.body
    assert OWNER.encode() in request.body


async def test_a_node_is_told_which_request_handed_the_job_in(
    client: NodeClient, storage: DiskStorage
) -> None:
    one, two = [await new_dispatch(storage, {"run.sh": b"true\n"}, job_id=number) for number in (7, 8)]
    asked = replace(one, job=replace(one.job, request_id="r-1"))
    async with serving(Peer(always(503, {}))) as peer:
        await client.submit(ref(peer), [asked])
        await client.submit(ref(peer), [two])
    first, *_, last = peer.requests
    assert b'"request_id": "r-1"' in first.body and b'"request_id"' not in last.body


@pytest.mark.parametrize(
    ("status", "result", "expected"),
    [
        (200, "known", SubmitResult.HAS),
        (410, "tombstoned", SubmitResult.TOMBSTONED),
        (400, "malformed", SubmitResult.MALFORMED),
        (503, "busy", SubmitResult.BUSY),
        (507, "busy", SubmitResult.BUSY),
        (200, "something new", SubmitResult.DOUBT),
    ],
)
async def test_one_attempt_is_answered_by_its_item(
    client: NodeClient, storage: DiskStorage, status: int, result: str, expected: SubmitResult
) -> None:
    one = await new_dispatch(storage, {"run.sh": b"true\n"})
    payload = prepared(one.attempt.key) if result == "known" else None
    reply = items({"key": one.attempt.key, "result": result, "reason": "why", "payload": payload})
    async with serving(Peer(always(status, reply))) as peer:
        (answer,) = await client.submit(ref(peer), [one])
    assert answer.result is expected


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        ((200, {}), SubmitResult.DOUBT),
        ((200, "not json"), SubmitResult.DOUBT),
        ((200, {**MARK, "items": []}), SubmitResult.DOUBT),
        ((500, "<html>oops</html>", "text/html"), SubmitResult.DOUBT),
        ((502, "<html>bad gateway</html>", "text/html"), SubmitResult.DOUBT),
        ((503, "<html>later</html>", "text/html"), SubmitResult.BUSY),
        ((429, "slow down", "text/plain"), SubmitResult.BUSY),
        ((507, {"detail": "disk full"}), SubmitResult.BUSY),
        ((421, {"detail": "another node"}), SubmitResult.BUSY),
        ((302, ""), SubmitResult.BUSY),
        ((400, {"detail": "the first part is missing"}), SubmitResult.MALFORMED),
        ((413, "too large", "text/plain"), SubmitResult.MALFORMED),
    ],
)
async def test_an_answer_without_items_is_judged_by_its_status(
    client: NodeClient, storage: DiskStorage, reply: tuple[Any, ...], expected: SubmitResult
) -> None:
    one = await new_dispatch(storage, {"run.sh": b"true\n"})
    async with serving(Peer(always(*reply))) as peer:
        (answer,) = await client.submit(ref(peer), [one])
    assert answer.result is expected
    assert answer.reason


async def test_an_accepted_attempt_without_its_payload_is_in_doubt(
    client: NodeClient, storage: DiskStorage
) -> None:
    one = await new_dispatch(storage, {"run.sh": b"true\n"})
    for payload in (None, prepared("f" * 32), {"key": one.attempt.key, "status": "Strange"}):
        reply = items({"key": one.attempt.key, "result": "accepted", "payload": payload})
        async with serving(Peer(always(200, reply))) as peer:
            (answer,) = await client.submit(ref(peer), [one])
        assert answer.result is SubmitResult.DOUBT


async def test_what_could_not_connect_was_certainly_not_sent(
    client: NodeClient, storage: DiskStorage
) -> None:
    one = await new_dispatch(storage, {"run.sh": b"true\n"})
    with socket.socket() as taken:  # bound, but nobody listens
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
        (answer,) = await client.submit(NodeRef("node-a", url), [one])
    assert answer.result is SubmitResult.NOT_SENT
    (answer,) = await client.submit(NodeRef("node-a", "nonsense://x"), [one])
    assert answer.result is SubmitResult.NOT_SENT


async def test_a_connection_closed_before_reading_leaves_doubt(
    client: NodeClient, storage: DiskStorage
) -> None:
    one = await new_dispatch(storage, {"run.sh": b"true\n" * 100_000})
    peer = Peer()

    async def hang_up(stream: trio.SocketStream) -> None:
        raise Hangup

    peer.accept = hang_up
    async with serving(peer):
        (answer,) = await client.submit(ref(peer), [one])
    assert answer.result is SubmitResult.DOUBT


@pytest.mark.parametrize("sent", [b"", b"HTTP/1.1 2", head(200, "application/json", 50), b"nonsense\r\n\r\n"])
async def test_a_connection_closed_after_the_request_leaves_doubt(
    client: NodeClient, storage: DiskStorage, sent: bytes
) -> None:
    one = await new_dispatch(storage, {"run.sh": b"true\n"})

    async def answer(request: Request, stream: trio.SocketStream) -> None:
        await stream.send_all(sent)
        raise Hangup

    async with serving(Peer(answer)) as peer:
        (got,) = await client.submit(ref(peer), [one])
    assert got.result is SubmitResult.DOUBT


async def test_a_kept_connection_closed_in_the_instant_of_sending_is_not_sent_on_twice(
    client: NodeClient, storage: DiskStorage
) -> None:
    one = await new_dispatch(storage, {"run.sh": b"true\n"})
    reply = items({"key": one.attempt.key, "result": "accepted", "payload": prepared(one.attempt.key)})
    peer = Peer()

    async def answer(request: Request, stream: trio.SocketStream) -> None:
        if len(peer.requests) == 2:
            raise Hangup
        await send(stream, 200, reply)

    peer.answer = answer
    async with serving(peer):
        results = [(await client.submit(ref(peer), [one]))[0].result for _ in range(3)]
    assert results == [SubmitResult.HAS, SubmitResult.DOUBT, SubmitResult.HAS]
    assert peer.connections == 2
    assert len(peer.requests) == 3


async def test_a_node_that_never_answers_leaves_doubt(hasty: NodeClient, storage: DiskStorage) -> None:
    one = await new_dispatch(storage, {"run.sh": b"true\n"})

    async def answer(request: Request, stream: trio.SocketStream) -> None:
        await trio.sleep_forever()

    async with serving(Peer(answer)) as peer:
        with trio.fail_after(30):
            (got,) = await hasty.submit(ref(peer), [one])
    assert got.result is SubmitResult.DOUBT
    assert "no answer" in got.reason


async def test_a_transfer_that_moves_has_no_deadline(storage: DiskStorage, tmp_path: Path) -> None:
    one = await new_dispatch(storage, {"run.sh": b"true\n", "big": bytes(3 << 20)})
    reply = items({"key": one.attempt.key, "result": "accepted", "payload": prepared(one.attempt.key)})
    client = NodeClient(OWNER, storage, tmp_path / "slow", http=Http(Deadlines(5.0, head=5.0, stall=0.3)))
    peer = Peer()

    async def slowly(stream: trio.SocketStream) -> None:
        got = 0
        while got < 3 << 20:
            got += len(await stream.receive_some(1 << 18))
            await trio.sleep(0.05)  # slow, and longer in all than any deadline
        await send(stream, 200, reply)

    peer.accept = slowly
    async with serving(peer):
        (answer,) = await client.submit(ref(peer), [one])
    await client.aclose()
    assert answer.result is SubmitResult.HAS


async def test_an_unreadable_input_is_its_own_attempts_alone(
    client: NodeClient, storage: DiskStorage
) -> None:
    lost = await new_dispatch(storage, {"run.sh": b"true\n"})
    fine = await new_dispatch(storage, {"run.sh": b"true\n"}, job_id=8)
    await storage.discard(lost.job.storage_key)
    reply = items({"key": fine.attempt.key, "result": "accepted", "payload": prepared(fine.attempt.key)})
    async with serving(Peer(always(200, reply))) as peer:
        first, second = await client.submit(ref(peer), [lost, fine])
    assert (first.result, second.result) == (SubmitResult.UNREADABLE, SubmitResult.HAS)
    assert lost.attempt.key.encode() not in peer.requests[0].body


@pytest.mark.parametrize("contract_only", [False, True])
async def test_an_input_that_finds_no_descriptor_is_held_and_not_refused(
    client: NodeClient, storage: DiskStorage, contract_only: bool
) -> None:
    one = await new_dispatch(storage, {"run.sh": b"true\n"})
    node = NodeRef("n", "http://127.0.0.1:9", contract_only=contract_only)
    with limited(os.getpid(), resource.RLIMIT_NOFILE, 3):
        (answer,) = await client.submit(node, [one])
    assert answer.result is SubmitResult.HELD and "Too many open files" in answer.reason


class Shrinking:
    """A storage whose file of one job is not what it says when its turn comes."""

    def __init__(self, storage: DiskStorage, storage_key: str) -> None:
        self._storage = storage
        self._storage_key = storage_key

    async def input_files(self, storage_key: str, size: int | None = None) -> Sequence[tuple[str, Path, int]]:
        files = await self._storage.input_files(storage_key)
        extra = 1 if storage_key == self._storage_key else 0
        return [(path, source, size + extra) for path, source, size in files]

    def receive_result(self, storage_key: str, attempt_key: str) -> DiskResultSink:
        return self._storage.receive_result(storage_key, attempt_key)


async def test_an_input_that_fails_while_it_is_sent_does_not_take_the_others_along(
    storage: DiskStorage, tmp_path: Path
) -> None:
    bad = await new_dispatch(storage, {"run.sh": b"true\n"})
    fine = await new_dispatch(storage, {"run.sh": b"true\n"}, job_id=8)
    client = NodeClient(OWNER, Shrinking(storage, bad.job.storage_key), tmp_path / "s")
    reply = items({"key": fine.attempt.key, "result": "accepted", "payload": prepared(fine.attempt.key)})
    async with serving(Peer(always(200, reply))) as peer:
        first, second = await client.submit(ref(peer), [bad, fine])
    await client.aclose()
    assert (first.result, second.result) == (SubmitResult.UNREADABLE, SubmitResult.HAS)


@pytest.mark.parametrize(
    "place", ["actors.wire.multipart.writer.open_regular", "orchestrator.storage.storage._files_below"]
)
async def test_an_input_for_which_there_is_no_descriptor_now_is_sent_later(
    client: NodeClient, storage: DiskStorage, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    waits = await new_dispatch(storage, {"run.sh": b"true\n"})
    fine = await new_dispatch(storage, {"run.sh": b"true\n"}, job_id=8)
    opened = cast("Callable[..., object]", pkgutil.resolve_name(place))

    def open_few(path: Path, *more: object) -> object:
        if waits.job.storage_key in path.parts:
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        return opened(path, *more)

    monkeypatch.setattr(place, open_few)
    reply = items({"key": fine.attempt.key, "result": "accepted", "payload": prepared(fine.attempt.key)})
    async with serving(Peer(always(200, reply))) as peer:
        first, second = await client.submit(ref(peer), [waits, fine])
    assert (first.result, second.result) == (SubmitResult.HELD, SubmitResult.HAS)
    assert "Too many open files" in first.reason


async def test_a_batch_refused_as_a_whole_is_sent_one_by_one(
    client: NodeClient, storage: DiskStorage
) -> None:
    bad = await new_dispatch(storage, {"run.sh": b"true\n"})
    fine = await new_dispatch(storage, {"run.sh": b"true\n"}, job_id=8)

    async def answer(request: Request, stream: trio.SocketStream) -> None:
        if bad.attempt.key.encode() in request.body:
            await problem(stream, 400, "malformed")
        else:
            view = prepared(fine.attempt.key)
            await send(stream, 200, items({"key": fine.attempt.key, "result": "accepted", "payload": view}))

    async with serving(Peer(answer)) as peer:
        first, second = await client.submit(ref(peer), [bad, fine])
    assert (first.result, second.result) == (SubmitResult.MALFORMED, SubmitResult.HAS)


async def test_streams_that_stay_take_no_connection_from_the_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("orchestrator.http_client._CONNECTIONS", 1)
    monkeypatch.setattr("orchestrator.http_client._POOL", 0.05)

    async def answer(request: Request, stream: trio.SocketStream) -> None:
        if request.path == "/events":
            await stream.send_all(head(200, "application/x-ndjson", None))
            await trio.sleep_forever()
        await send(stream, 200, {"message": "pong"})

    http = Http()
    async with serving(Peer(answer)) as peer, AsyncExitStack() as streams:
        for _ in range(3):
            await streams.enter_async_context(
                http.exchange("GET", f"{peer.url}/events", patience=Deadlines(stall=None))
            )
        async with http.exchange("GET", f"{peer.url}/") as reply:
            assert await reply.json() == {"message": "pong"}
    await http.aclose()


async def test_the_environments_proxies_are_not_obeyed(
    storage: DiskStorage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    monkeypatch.setenv("NO_PROXY", "10.0.0.0/8")
    client = NodeClient(OWNER, storage, tmp_path / "s")
    one = await new_dispatch(storage, {"run.sh": b"true\n"})
    async with serving(Peer(always(404, {"code": "not_found"}))) as peer:
        (look,) = await client.lookup(ref(peer), [one.attempt])
    await client.aclose()
    assert look.result is LookupResult.GONE


# ------------------------------------------------------------------ look, cancel, release


@pytest.mark.parametrize(
    ("status", "code", "expected"),
    [
        (404, "not_found", LookupResult.GONE),
        (409, "receiving", LookupResult.RECEIVING),
        (410, "tombstoned", LookupResult.TOMBSTONED),
        (404, "no_such_route", LookupResult.UNKNOWN),
        (500, "not_found", LookupResult.UNKNOWN),
    ],
)
async def test_a_look_believes_only_our_own_codes(
    client: NodeClient, storage: DiskStorage, status: int, code: str, expected: LookupResult
) -> None:
    one = await new_dispatch(storage, {})

    async def answer(request: Request, stream: trio.SocketStream) -> None:
        await problem(stream, status, code)

    async with serving(Peer(answer)) as peer:
        (look,) = await client.lookup(ref(peer), [one.attempt])
    assert look.result is expected


@pytest.mark.parametrize(
    "reply",
    [
        (200, {}),
        (200, {**MARK, "payload": None}),
        (404, "<html>nginx</html>", "text/html"),
        (502, "<html>nginx</html>", "text/html"),
        (200, "[1]"),
        (200, "[" * 100_000),
    ],
)
async def test_a_look_that_makes_no_sense_tells_nothing(
    client: NodeClient, storage: DiskStorage, reply: tuple[Any, ...]
) -> None:
    one = await new_dispatch(storage, {})
    async with serving(Peer(always(*reply))) as peer:
        (look,) = await client.lookup(ref(peer), [one.attempt])
    assert look.result is LookupResult.UNKNOWN


async def test_looks_are_answered_in_order(client: NodeClient, storage: DiskStorage) -> None:
    attempts = [(await new_dispatch(storage, {}, job_id=n)).attempt for n in range(1, 21)]

    async def answer(request: Request, stream: trio.SocketStream) -> None:
        key = request.path.rpartition("/")[2]
        await send(stream, 200, {**MARK, "payload": prepared(key)})

    async with serving(Peer(answer)) as peer:
        looks = await client.lookup(ref(peer), attempts)
    assert [look.view and look.view.key for look in looks] == [attempt.key for attempt in attempts]
    assert peer.connections <= 8


async def test_an_order_to_cancel_is_answered_for_each(client: NodeClient, storage: DiskStorage) -> None:
    attempts = [(await new_dispatch(storage, {}, job_id=n)).attempt for n in range(1, 5)]
    a, b, c, _ = (attempt.key for attempt in attempts)
    reply = items(
        {"key": a, "result": "found", "payload": ended(a)},
        {"key": b, "result": "tombstoned", "payload": None},
        {"key": c, "result": "found", "payload": None},
    )
    async with serving(Peer(always(200, reply))) as peer:
        looks = await client.cancel(ref(peer), attempts)
    found, unknown = LookupResult.FOUND, LookupResult.UNKNOWN
    assert [look.result for look in looks] == [found, LookupResult.TOMBSTONED, unknown, unknown]
    assert looks[0].view == PayloadView(a, DONE.status, DONE)
    assert peer.requests[0].json() == {"keys": [attempt.key for attempt in attempts]}


async def test_one_answer_to_a_cancel_that_makes_no_sense_spoils_no_other(
    client: NodeClient, storage: DiskStorage
) -> None:
    attempts = [(await new_dispatch(storage, {}, job_id=n)).attempt for n in (1, 2, 3)]
    a, b, c = (attempt.key for attempt in attempts)
    reply = items(
        {"key": a, "result": "found", "payload": {"key": a, "status": "Dancing"}},
        {"key": b, "result": "found", "payload": ended(a)},
        {"key": c, "result": "found", "payload": ended(c)},
    )
    async with serving(Peer(always(200, reply))) as peer:
        looks = await client.cancel(ref(peer), attempts)
    assert [look.result for look in looks] == [LookupResult.UNKNOWN, LookupResult.UNKNOWN, LookupResult.FOUND]
    assert looks[0].reason and "another attempt" in looks[1].reason


async def test_only_a_confirmed_release_counts(client: NodeClient, storage: DiskStorage) -> None:
    attempts = [(await new_dispatch(storage, {}, job_id=n)).attempt for n in (1, 2)]
    reply = items({"key": attempts[0].key, "result": "released"})
    async with serving(Peer(always(200, reply))) as peer:
        assert await client.release(ref(peer), attempts) == [True, False]
    async with serving(Peer(always(500, "oops"))) as peer:
        assert await client.release(ref(peer), attempts) == [False, False]


# ------------------------------------------------------------------ collect


def part(key: str, files: dict[str, bytes], *, out: bytes = b"out", **finish: Any) -> bytes:
    """One attempt's frames, as a node sends them; `finish` tells its finish record's lies."""
    archive = zipped({**files, "stdout.log": out, "stderr.log": b""})
    entries = [{"path": p, "size": len(d), "mode": 420, "mtime": 1.0, "kind": "file", "target": None}
               for p, d in files.items()]  # fmt: skip
    record = {"key": key, "payload": ended(key), "manifest": {"entries": entries, "left_out": []}}
    done = {
        "zip_crc32": zlib.crc32(archive),
        "zip_size": len(archive),
        "stdout_size": len(out),
        "stderr_size": 0,
        **finish,
    }
    return b"".join(
        (
            frames.encode(frames.END, json.dumps(record).encode()),
            frames.encode(frames.STDOUT, out),
            frames.encode(frames.ZIP, archive[:20]),
            frames.encode(frames.ZIP, archive[20:]),
            frames.encode(frames.FINISH, json.dumps(done).encode()),
        )
    )


def error(key: str, text: str) -> bytes:
    return frames.encode(frames.ERROR, json.dumps({"key": key, "error": text}).encode())


async def test_results_are_stored_and_answered_for_each(client: NodeClient, storage: DiskStorage) -> None:
    jobs = [await new_dispatch(storage, {"run.sh": b"x"}, job_id=n) for n in range(1, 5)]
    keys = [job.attempt.key for job in jobs]
    body = part(keys[0], {"result.txt": b"42"}) + error(keys[1], "gone") + error(keys[2], "not_ended")
    body += error(keys[3], "cannot be read: Input/output error")
    async with serving(Peer(always(200, body, "application/octet-stream"))) as peer:
        answers = await client.collect(ref(peer), jobs)
    assert [answer.result for answer in answers] == [
        CollectResult.STORED, CollectResult.GONE, CollectResult.NOT_ENDED, CollectResult.FAILED,
    ]  # fmt: skip
    assert answers[0].end == DONE
    assert "Input/output error" in answers[3].reason
    log = result_file(storage, jobs[0].job.storage_key, "stdout.log")
    assert log is not None
    assert log.read_bytes() == b"out"
    assert result_file(storage, jobs[1].job.storage_key) is None


@pytest.mark.parametrize("cut", [1, 30, -1, -40])
async def test_a_torn_stream_keeps_what_was_stored_and_nothing_else(
    client: NodeClient, storage: DiskStorage, cut: int
) -> None:
    jobs = [await new_dispatch(storage, {}, job_id=n) for n in range(1, 4)]
    first, second, _ = (job.attempt.key for job in jobs)
    body = part(first, {"a": b"1"}) + part(second, {"b": b"2"})[:cut]

    async def answer(request: Request, stream: trio.SocketStream) -> None:
        await stream.send_all(head(200, "application/octet-stream", None) + body)
        raise Hangup

    async with serving(Peer(answer)) as peer:
        answers = await client.collect(ref(peer), jobs)
    stored, failed = CollectResult.STORED, CollectResult.FAILED
    assert [answer.result for answer in answers] == [stored, failed, failed]
    assert not list((storage.root / "incoming").iterdir())


@pytest.mark.parametrize("lie", [{"zip_crc32": 1}, {"zip_size": 1}, {"stdout_size": 0}])
async def test_what_the_finish_record_does_not_confirm_is_not_stored(
    client: NodeClient, storage: DiskStorage, lie: dict[str, Any]
) -> None:
    jobs = [await new_dispatch(storage, {}, job_id=n) for n in (1, 2)]
    first, second = (job.attempt.key for job in jobs)
    body = part(first, {"a": b"1"}, **lie) + part(second, {"b": b"2"})
    async with serving(Peer(always(200, body, "application/octet-stream"))) as peer:
        answers = await client.collect(ref(peer), jobs)
    assert [answer.result for answer in answers] == [CollectResult.FAILED, CollectResult.STORED]
    assert result_file(storage, jobs[0].job.storage_key) is None


async def test_a_node_of_one_version_back_tells_another_sum_and_is_understood(
    client: NodeClient, storage: DiskStorage
) -> None:
    job = await new_dispatch(storage, {})
    body = part(job.attempt.key, {"a": b"1"}, zip_crc32=None, zip_sha256="0" * 64)
    async with serving(Peer(always(200, body, "application/octet-stream"))) as peer:
        (answer,) = await client.collect(ref(peer), [job])
    assert answer.result is CollectResult.STORED


@pytest.mark.parametrize(
    "body", [b"", frames.encode(frames.ZIP, b"x"), b"Q\0\0\0\0", error("f" * 32, "gone")]
)
async def test_a_stream_that_makes_no_sense_is_tried_again_later(
    client: NodeClient, storage: DiskStorage, body: bytes
) -> None:
    job = await new_dispatch(storage, {})
    async with serving(Peer(always(200, body, "application/octet-stream"))) as peer:
        (answer,) = await client.collect(ref(peer), [job])
    assert answer.result is CollectResult.FAILED
    assert answer.reason


class Full(Shrinking):
    """A storage whose disk is full when one job's results come."""

    def receive_result(self, storage_key: str, attempt_key: str) -> DiskResultSink:
        if storage_key == self._storage_key:
            raise StorageFull("no space left")
        return super().receive_result(storage_key, attempt_key)


async def test_a_full_disk_ends_the_transfer_and_says_so(storage: DiskStorage, tmp_path: Path) -> None:
    jobs = [await new_dispatch(storage, {}, job_id=n) for n in (1, 2)]
    first, second = (job.attempt.key for job in jobs)
    client = NodeClient(OWNER, Full(storage, jobs[0].job.storage_key), tmp_path / "s")
    body = part(first, {"a": b"1"}) + part(second, {"b": b"2"})
    async with serving(Peer(always(200, body, "application/octet-stream"))) as peer:
        answers = await client.collect(ref(peer), jobs)
    await client.aclose()
    assert {answer.result for answer in answers} == {CollectResult.FAILED}
    assert all("no space left" in answer.reason for answer in answers)


# ------------------------------------------------------------------ watch


INFO = {"protocol": 1, "node_id": "node-a", "incarnation": "i1"}
BEAT = {"load": 12.5, "slots": 4, "cores": 8, "held": {OWNER: 1, "other": 2, "": 1}}


def picture(*views: dict[str, Any]) -> bytes:
    return ndjson.encode({"event": "picture", **MARK, "payloads": list(views), "heartbeat": BEAT})


def streaming(*sent: bytes, hold: bool = False) -> Callable[[Request, trio.SocketStream], Awaitable[None]]:
    async def answer(request: Request, stream: trio.SocketStream) -> None:
        if request.path == "/v1/info":
            await send(stream, 200, INFO)
            return
        await stream.send_all(head(200, "application/x-ndjson", None) + b"".join(sent))
        if hold:
            await trio.sleep_forever()
        raise Hangup

    return answer


async def test_a_node_of_ours_is_followed_from_its_picture_on(client: NodeClient) -> None:
    told: list[tuple[NodeRef, NodeEvent]] = []
    key = "a" * 32
    sent = (
        picture(prepared("b" * 32)),
        ndjson.encode({"event": "payload", "sequence": 5, "payload": ended(key)}),
        ndjson.encode({"event": "something newer"}),
        ndjson.encode({"event": "heartbeat", "sequence": 5, "heartbeat": BEAT}),
    )
    async with serving(Peer(streaming(*sent))) as peer:
        why = await client.watch(NodeAddress(peer.url), lambda ref, event: told.append((ref, event)))
    assert why == "the node closed its stream of events"
    assert {node for node, _ in told} == {NodeRef("node-a", peer.url)}
    first, second, third = (event for _, event in told)
    assert isinstance(first, Picture)
    assert (first.mark, set(first.payloads), first.heartbeat.others) == (
        StreamPosition("i1", 4),
        {"b" * 32},
        3,
    )
    assert second == PayloadChanged(PayloadView(key, DONE.status, DONE))
    assert isinstance(third, Beat)
    assert peer.requests[-1].path == f"/v1/events?owner={OWNER}"


async def test_of_a_node_s_clock_the_least_late_word_counts(client: NodeClient) -> None:
    """As after the orchestrator was stopped: what it reads then was said a while ago."""
    told: list[float | None] = []
    beats = [{**BEAT, "clock": time.time() + late} for late in (600.0, 540.0, 590.0)]
    sent = [ndjson.encode({"event": "heartbeat", "sequence": 4, "heartbeat": beat}) for beat in beats]

    def tell(ref: NodeRef, event: NodeEvent) -> None:
        assert isinstance(event, Picture | Beat)
        told.append(event.heartbeat.skew)

    async with serving(Peer(streaming(picture(), *sent))) as peer:
        await client.watch(NodeAddress(peer.url), tell)
    assert told[0] is None, "it does not say what its clock shows"
    assert all(skew is not None and 590 < skew <= 600 for skew in told[1:])


async def test_a_silent_stream_is_left(hasty: NodeClient) -> None:
    told: list[NodeEvent] = []
    async with serving(Peer(streaming(picture(), hold=True))) as peer:
        with trio.fail_after(30):
            why = await hasty.watch(NodeAddress(peer.url), lambda ref, event: told.append(event))
    assert "nothing heard" in why
    assert len(told) == 1


async def test_a_stream_is_not_judged_by_the_time_that_we_were_stopped_ourselves(
    mock_clock: trio.testing.MockClock,
) -> None:
    async with trio.open_nursery() as nursery:
        listening = Listening(3.0)
        nursery.start_soon(listening.watch_silence, nursery.cancel_scope)
        await trio.testing.wait_all_tasks_blocked()
        mock_clock.jump(3600)
        await trio.testing.wait_all_tasks_blocked()
        assert not nursery.cancel_scope.cancel_called
        mock_clock.jump(3)
        await trio.sleep_forever()


@pytest.mark.parametrize(
    "sent", [b"{}\n", b"nonsense\n", b'{"event":"picture"}\n', picture()[:-5], picture() + b"[]\n"]
)
async def test_a_garbled_stream_ends_the_watch_with_the_reason(client: NodeClient, sent: bytes) -> None:
    async with serving(Peer(streaming(sent))) as peer:
        assert await client.watch(NodeAddress(peer.url), lambda ref, event: None)


@pytest.mark.parametrize("reply", [(503, "<html>"), (502, "x"), (200, {**INFO, "protocol": 2}), (429, "x")])
async def test_who_does_not_say_who_it_is_is_not_taken_for_a_foreign_node(
    client: NodeClient, reply: tuple[Any, ...]
) -> None:
    told: list[NodeEvent] = []
    async with serving(Peer(always(*reply))) as peer:
        assert await client.watch(NodeAddress(peer.url), lambda ref, event: told.append(event))
    assert told == []
    assert {request.path for request in peer.requests} == {"/v1/info"}


# ------------------------------------------------------------------ reading from a node


async def test_results_and_logs_are_read_as_they_come(client: NodeClient, storage: DiskStorage) -> None:
    one = await new_dispatch(storage, {})

    async def answer(request: Request, stream: trio.SocketStream) -> None:
        await send(stream, 200, request.path, "application/zip")

    async with serving(Peer(answer)) as peer:
        async with client.open_results(ref(peer), one.attempt) as opened:
            assert opened.headers["content-type"] == "application/zip"
            body = b"".join([piece async for piece in opened.body])
            assert body == f"/v1/attempts/{one.attempt.key}/results".encode()
        async with client.open_log(ref(peer), one.attempt, "stderr", 17, follow=True) as opened:
            body = b"".join([piece async for piece in opened.body])
            assert body.endswith(b"/logs?stream=stderr&offset=17&follow=1")


async def test_where_the_last_lines_of_a_log_begin_is_asked_without_reading_it(
    client: NodeClient, storage: DiskStorage
) -> None:
    one = await new_dispatch(storage, {})
    tells = True

    async def answer(request: Request, stream: trio.SocketStream) -> None:
        assert request.path.endswith("/logs?stream=stdout&tail=100")
        headers = "Log-Offset: 7\r\nLog-Size: 30\r\n" if tells else ""
        await stream.send_all(f"HTTP/1.1 200 OK\r\n{headers}Content-Length: 0\r\n\r\n".encode())

    async with serving(Peer(answer)) as peer:
        assert await client.find_last_lines(ref(peer), one.attempt, "stdout", 100) == Tail(7, 30)
        tells = False
        with pytest.raises(NodeUnreachable):
            await client.find_last_lines(ref(peer), one.attempt, "stdout", 100)


async def test_a_reader_may_leave_in_the_middle(client: NodeClient, storage: DiskStorage) -> None:
    one = await new_dispatch(storage, {})

    async def answer(request: Request, stream: trio.SocketStream) -> None:
        await stream.send_all(head(200, "application/zip", 1 << 30) + bytes(1 << 16))
        await trio.sleep_forever()

    async with serving(Peer(answer)) as peer:
        with trio.fail_after(30):
            async with client.open_results(ref(peer), one.attempt) as opened:
                await anext(opened.body)


async def test_what_is_not_there_and_what_breaks_off_are_told_apart(
    client: NodeClient, storage: DiskStorage
) -> None:
    one = await new_dispatch(storage, {})

    async def answer(request: Request, stream: trio.SocketStream) -> None:
        if "logs" in request.path:
            await problem(stream, 404, "not_found")
            return
        await stream.send_all(head(200, "application/zip", 100) + b"half")
        raise Hangup

    async with serving(Peer(answer)) as peer:
        with pytest.raises(NotOnNode):
            async with client.open_log(ref(peer), one.attempt, "stdout"):
                pass
        async with client.open_results(ref(peer), one.attempt) as opened:
            assert await anext(opened.body) == b"half"
            with pytest.raises(NodeUnreachable):
                await anext(opened.body)
    with pytest.raises(NodeUnreachable):
        async with client.open_results(ref(peer), one.attempt):
            pass
