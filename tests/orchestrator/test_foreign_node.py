"""Nodes that know only the contract: what is believed of what they say, and what is not."""

from __future__ import annotations

import json
import math
import zipfile
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing
from fakes.node_jobs import new_dispatch, new_storage, zipped
from fakes.peer import Hangup, Peer, Request, head, send, serving

from actors.lifecycle import Status
from actors.model import Attempt, AttemptState, NodeRef, PayloadView
from actors.ports import (
    Beat,
    CollectResult,
    Dispatch,
    LookResult,
    NodeAddress,
    NodeEvent,
    PayloadChanged,
    PayloadGone,
    SubmitResult,
)
from orchestrator.addresses import foreign_ref, partial_url
from orchestrator.foreign_asking import Asking
from orchestrator.foreign_spool import MARKER, Spool
from orchestrator.foreign_watch import ForeignWatch
from orchestrator.http import Http
from orchestrator.node_client import NodeClient, NotThere
from orchestrator.storage import Storage

ID = 3
GRACE = 0.05


class Foreign(Peer):
    """A foreign node. `retrieve`, `partial` and so on hold the answers to come; the last one stays. An answer
    is the arguments of `send`, or a call of its own."""

    def __init__(self) -> None:
        super().__init__(self._answer)
        self.retrieve: list[Any] = [(404, "")]
        self.partial: list[Any] = [(404, "")]
        self.kill: list[Any] = [(200, "")]
        self.submit: list[Any] = [(500, "")]
        self.load: list[Any] = [(200, 12.5)]
        self.info: list[Any] = [(404, "")]
        self.root: list[Any] = [(404, "")]
        self.at_once = 0
        self.most_at_once = 0

    async def _answer(self, request: Request, stream: trio.SocketStream) -> None:
        routes = {
            "retrieve": self.retrieve,
            "retrieve_partial": self.partial,
            "kill": self.kill,
            "submit": self.submit,
            "load": self.load,
            "v1": self.info,
            "": self.root,
        }
        coming = routes[request.path.split("/")[1]]
        answer = coming.pop(0) if len(coming) > 1 else coming[0]
        self.at_once += request.path.startswith("/retrieve")
        self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            if callable(answer):
                await answer(stream)
            else:
                await send(stream, *answer)
        finally:
            self.at_once -= request.path.startswith("/retrieve")

    def asked(self, route: str) -> int:
        return sum(1 for request in self.requests if request.path.split("/")[1] == route)


def payload(status: str, id: Any = ID) -> tuple[int, dict[str, Any]]:
    return 200, {"id": id, "input": {}, "status": status, "loc": "/x", "pid": 0, "killed": False}


def zip_of(key: str, **files: bytes) -> tuple[int, bytes, str]:
    named = {name.replace("__", "."): data for name, data in files.items()}
    return 200, zipped({MARKER: key.encode(), **named}), "application/zip"


async def short_zip(stream: trio.SocketStream) -> None:
    await stream.send_all(head(200, "application/zip", 1000) + b"PK\x03\x04 and no more")
    raise Hangup


async def torn_json(stream: trio.SocketStream) -> None:
    await stream.send_all(head(200, "application/json", 1000) + b'{"id": 3, "input": {')
    raise Hangup


@pytest.fixture
async def storage(tmp_path: Path) -> Storage:
    return await new_storage(tmp_path / "data")


@pytest.fixture
async def client(storage: Storage, tmp_path: Path) -> AsyncIterator[NodeClient]:
    client = NodeClient("0" * 32, storage, tmp_path / "spool", poll_seconds=0.005, grace=GRACE)
    yield client
    await client.aclose()


@pytest.fixture
async def node() -> AsyncIterator[Foreign]:
    async with serving(Foreign()) as peer:
        assert isinstance(peer, Foreign)
        yield peer


@pytest.fixture
async def job(storage: Storage) -> Dispatch:
    return await new_dispatch(storage, {"run.sh": b"true\n"}, foreign_id=ID)


def ref(node: Foreign) -> NodeRef:
    return foreign_ref(NodeAddress(node.url))


@asynccontextmanager
async def watching(client: NodeClient, node: Foreign, *attempts: Attempt) -> AsyncIterator[Callable[[], Any]]:
    """Follow the attempts; the call gives the next thing told of them."""
    send_told, told = trio.open_memory_channel[NodeEvent](math.inf)

    def tell(ref: NodeRef, event: NodeEvent) -> None:
        assert ref.foreign
        if not isinstance(event, Beat):
            send_told.send_nowait(event)

    client.follow(ref(node).node_id, attempts)
    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(client.watch, NodeAddress(node.url), tell)
            yield told.receive
            nursery.cancel_scope.cancel()
    assert told.statistics().current_buffer_used == 0, "more was told than expected"


# ------------------------------------------------------------------ addresses


def test_the_upload_url_alone_is_enough() -> None:
    node = foreign_ref(NodeAddress("", upload_url="http://a:9/x/submit"))
    assert node.node_id == "http://a:9/x/submit"
    assert (node.url, node.download_url) == ("http://a:9/x", "http://a:9/x/retrieve")
    assert node.terminate_url == "http://a:9/x/kill"


def test_the_three_urls_may_differ_in_host_and_prefix() -> None:
    node = foreign_ref(
        NodeAddress("", (), "http://a:9/up/submit", "http://b:8/down/retrieve/", "http://c:7/stop/kill")
    )
    assert partial_url(node) == "http://b:8/down/retrieve_partial"
    assert (node.url, node.terminate_url) == ("http://a:9/up", "http://c:7/stop/kill")


# ------------------------------------------------------------------ submit


async def test_files_go_out_by_path_and_base_name_with_a_marker(
    client: NodeClient, node: Foreign, storage: Storage
) -> None:
    job = await new_dispatch(storage, {"run.sh": b"true\n", "sub/in.pdb": b"ATOM"})
    node.submit = [payload("Prepared")]
    (answer,) = await client.submit(ref(node), [job])
    assert (answer.result, answer.foreign_id) == (SubmitResult.HAS, ID)
    assert answer.view == PayloadView(job.attempt.key, Status.PREPARED)
    body = node.requests[0].body
    assert b'name="sub/in.pdb"; filename="in.pdb"' in body
    assert f'name="{MARKER}"; filename="{MARKER}"'.encode() in body
    assert job.attempt.key.encode() in body


async def test_an_answer_with_every_byte_of_the_files_is_read_for_its_id_alone(
    client: NodeClient, node: Foreign, job: Dispatch
) -> None:
    async def huge(stream: trio.SocketStream) -> None:
        numbers = b"1,20,255," * 30_000
        await stream.send_all(head(200, "application/json", None) + b'{"id":3,"input":{"run.sh":[')
        for _ in range(40):
            await stream.send_all(numbers)
        await stream.send_all(b'0]},"status":"Prepared","loc":"/x","pid":0,"killed":false}')
        raise Hangup

    node.submit = [huge]
    with trio.fail_after(10):
        (answer,) = await client.submit(ref(node), [job])
    assert (answer.result, answer.foreign_id) == (SubmitResult.HAS, ID)


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        ((200, {}), SubmitResult.DOUBT),
        (payload("Prepared", 2**32), SubmitResult.DOUBT),
        (payload("Prepared", "3"), SubmitResult.DOUBT),
        (payload("Prepared", True), SubmitResult.DOUBT),
        ((200, "<html>hello</html>", "text/html"), SubmitResult.DOUBT),
        ((500, "oops"), SubmitResult.DOUBT),
        ((502, "<html>bad gateway</html>"), SubmitResult.DOUBT),
        (Hangup, SubmitResult.DOUBT),
        ((400, "no files"), SubmitResult.MALFORMED),
        ((503, "later"), SubmitResult.BUSY),
        ((404, "no such route"), SubmitResult.BUSY),
    ],
)
async def test_a_submit_is_believed_only_with_an_id(
    client: NodeClient, node: Foreign, job: Dispatch, reply: Any, expected: SubmitResult
) -> None:
    async def hang_up(stream: trio.SocketStream) -> None:
        raise Hangup

    node.submit = [hang_up if reply is Hangup else reply]
    (answer,) = await client.submit(ref(node), [job])
    assert answer.result is expected
    assert node.asked("submit") == 1


@pytest.mark.parametrize("files", [{"a/in": b"1", "b/in": b"2"}, {"run.sh": b"", MARKER: b"x"}])
async def test_names_that_would_be_one_file_are_refused(
    client: NodeClient, node: Foreign, storage: Storage, files: dict[str, bytes]
) -> None:
    (answer,) = await client.submit(ref(node), [await new_dispatch(storage, files)])
    assert answer.result is SubmitResult.MALFORMED
    assert "one file" in answer.reason
    assert node.requests == []


# ------------------------------------------------------------------ watch


async def test_its_load_is_its_heartbeat(client: NodeClient, node: Foreign) -> None:
    told: list[NodeEvent] = []
    with trio.CancelScope() as scope:

        def tell(ref: NodeRef, event: NodeEvent) -> None:
            told.append(event)
            scope.cancel()

        await client.watch(NodeAddress(node.url), tell)
    (beat,) = told
    assert isinstance(beat, Beat)
    assert (beat.heartbeat.load, beat.heartbeat.slots) == (12.5, None)


async def test_a_node_without_a_load_is_there_if_it_says_pong(client: NodeClient, node: Foreign) -> None:
    node.load = [(404, "")]
    assert await client.watch(NodeAddress(node.url), lambda ref, event: None)
    node.root = [(200, {"message": "pong"})]
    async with watching(client, node):
        pass


async def test_a_node_that_stops_answering_is_left(tmp_path: Path, node: Foreign) -> None:
    node.load = [(200, 1), (200, 99), (502, "<html>")]
    http = Http()
    asking = Asking(http, Spool(tmp_path / "spool"))
    told: list[NodeEvent] = []
    watch = ForeignWatch(
        http, asking, ref(node), open_attempts=tuple, tell=lambda ref, event: told.append(event),
        poll_seconds=0.01, beat_seconds=0.01,
    )  # fmt: skip
    with trio.fail_after(5):
        assert "no node answers" in await watch.run()
    await http.aclose()
    assert len(told) == 2


async def test_an_attempt_is_followed_to_its_end_and_stored(
    client: NodeClient, node: Foreign, storage: Storage, job: Dispatch
) -> None:
    key = job.attempt.key
    done = zip_of(key, result__txt=b"42", stdout__log=b"said", __orchestrator__exit=b"0\n")
    node.retrieve = [payload("Prepared"), payload("Running"), payload("Running"), done]
    async with watching(client, node, job.attempt) as told:
        assert await told() == PayloadChanged(PayloadView(key, Status.PREPARED))
        assert await told() == PayloadChanged(PayloadView(key, Status.RUNNING))
        event = await told()
        assert (event.view.status, event.view.end.exit_code) == (Status.COMPLETED, 0)
        (answer,) = await client.collect(ref(node), [job])
    assert answer.result is CollectResult.STORED
    assert answer.end == event.view.end
    assert node.asked("retrieve") == 4, "what was fetched is not fetched again"
    result = await storage.result(job.job.storage_key)
    log = await storage.result(job.job.storage_key, "stdout.log")
    assert result is not None
    assert log is not None
    assert (zipfile.ZipFile(result).read("result.txt"), log.read_bytes()) == (b"42", b"said")


async def test_no_answer_that_makes_no_sense_is_an_end(
    client: NodeClient, node: Foreign, job: Dispatch
) -> None:
    key = job.attempt.key
    node.retrieve = [
        payload("Running"),
        (500, "oops"),
        (502, "<html>bad gateway</html>", "text/html"),
        (200, {}),
        torn_json,
        short_zip,
        (200, b"PK\x03\x04 no zip at all", "application/zip"),
        (200, "<html>welcome</html>", "text/html"),
        payload("Running", ID + 1),
        payload("Resting"),
        payload("Completed"),
        (404, ""),
        zip_of(key),
    ]
    async with watching(client, node, job.attempt) as told:
        assert (await told()).view.status is Status.RUNNING
        assert (await told()).view.status is Status.COMPLETED


async def test_gone_is_what_is_unknown_twice_and_by_another_question(
    client: NodeClient, node: Foreign, job: Dispatch
) -> None:
    node.retrieve = [payload("Running"), (404, "")]
    async with watching(client, node, job.attempt) as told:
        assert (await told()).view.status is Status.RUNNING
        assert await told() == PayloadGone(job.attempt.key)
    assert node.asked("retrieve") >= 3
    assert node.asked("retrieve_partial") == 1


async def test_not_gone_as_long_as_its_files_are_there(
    client: NodeClient, node: Foreign, job: Dispatch
) -> None:
    node.retrieve = [(404, "")]
    asked = trio.Event()

    async def files(stream: trio.SocketStream) -> None:
        await send(stream, *zip_of(job.attempt.key))
        node.retrieve = [payload("Running")]
        asked.set()

    node.partial = [files]
    async with watching(client, node, job.attempt) as told:
        await asked.wait()
        assert (await told()).view.status is Status.RUNNING


async def test_somebody_elses_zip_is_not_taken(client: NodeClient, node: Foreign, job: Dispatch) -> None:
    node.retrieve = [zip_of("f" * 32, result__txt=b"not yours")]
    async with watching(client, node, job.attempt) as told:
        assert await told() == PayloadGone(job.attempt.key)
    assert node.asked("retrieve") == 2, "large files are not fetched more often than needed"
    (answer,) = await client.collect(ref(node), [job])
    assert answer.result is CollectResult.GONE


@pytest.mark.parametrize(
    "case",
    [
        ("Failed", {"__orchestrator__exit": b"3\n"}, "exit code 3", 3),
        ("Failed", {}, "failed on a node that does not say why", None),
        ("Failed", {"__orchestrator__exit": b"what\n"}, "failed on a node that does not say why", None),
        ("Invalid", {}, "found invalid by a node that does not say why", None),
        ("Killed", {}, "killed on a node that cannot prove that nothing of it is left", None),
    ],
)
async def test_a_bad_end_is_proved_by_its_files(
    client: NodeClient,
    node: Foreign,
    job: Dispatch,
    case: tuple[str, dict[str, bytes], str, int | None],
) -> None:
    status, files, message, exit_code = case
    node.retrieve = [payload(status)]
    node.partial = [(500, ""), zip_of(job.attempt.key, **files)]
    async with watching(client, node, job.attempt) as told:
        end = (await told()).view.end
    assert (end.status, end.message, end.exit_code) == (Status(status), message, exit_code)
    (answer,) = await client.collect(ref(node), [job])
    assert (answer.result, answer.end) == (CollectResult.STORED, end)


async def test_a_bad_end_without_any_files_is_believed_after_a_grace(
    client: NodeClient, node: Foreign, storage: Storage, job: Dispatch
) -> None:
    node.retrieve = [payload("Failed")]
    async with watching(client, node, job.attempt) as told:
        end = (await told()).view.end
    assert "no files" in end.message
    assert node.asked("retrieve_partial") == 2
    (answer,) = await client.collect(ref(node), [job])
    assert (answer.result, answer.end) == (CollectResult.STORED, end)
    result = await storage.result(job.job.storage_key)
    assert result is not None
    assert zipfile.ZipFile(result).namelist() == []


async def test_a_bad_end_of_somebody_else_is_not_taken(
    client: NodeClient, node: Foreign, job: Dispatch
) -> None:
    node.retrieve = [payload("Failed")]
    node.partial = [zip_of("f" * 32)]
    async with watching(client, node, job.attempt) as told:
        assert await told() == PayloadGone(job.attempt.key)


async def test_one_question_at_a_time_for_a_job(client: NodeClient, node: Foreign, job: Dispatch) -> None:
    begun, go_on = trio.Event(), trio.Event()

    async def slow(stream: trio.SocketStream) -> None:
        begun.set()
        await go_on.wait()
        await send(stream, *zip_of(job.attempt.key))

    node.retrieve = [slow]
    async with watching(client, node, job.attempt) as told:
        await begun.wait()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(client.collect, ref(node), [job])
            nursery.start_soon(client.look, ref(node), [job.attempt])
            await trio.testing.wait_all_tasks_blocked()
            go_on.set()
        assert (await told()).view.status is Status.COMPLETED
    assert node.most_at_once == 1
    assert node.asked("retrieve") == 1


# ------------------------------------------------------------------ look, cancel, release, reading


async def test_a_look_tells_what_one_question_can_tell(
    client: NodeClient, node: Foreign, job: Dispatch
) -> None:
    node.retrieve = [payload("Running"), (404, ""), payload("Locked")]
    looks = [(await client.look(ref(node), [job.attempt]))[0] for _ in range(3)]
    running = PayloadView(job.attempt.key, Status.RUNNING)
    assert [look.result for look in looks] == [LookResult.FOUND, LookResult.UNKNOWN, LookResult.FOUND]
    assert (looks[0].view, looks[2].view) == (running, running)
    (nameless,) = await client.look(ref(node), [replace(job.attempt, foreign_id=None)])
    assert nameless.result is LookResult.UNKNOWN


@pytest.mark.parametrize(
    ("kill", "expected"),
    [((200, ""), LookResult.FOUND), ((404, ""), LookResult.UNKNOWN), ((500, ""), LookResult.UNKNOWN)],
)
async def test_an_order_to_kill_goes_to_its_number(
    client: NodeClient, node: Foreign, job: Dispatch, kill: Any, expected: LookResult
) -> None:
    node.kill = [kill]
    node.partial = [zip_of(job.attempt.key)]
    (look,) = await client.cancel(ref(node), [job.attempt])
    assert look.result is expected
    assert node.seen("POST", f"/kill/{ID}") == 1


async def test_one_404_to_an_order_to_kill_is_not_believed(
    client: NodeClient, node: Foreign, job: Dispatch
) -> None:
    node.kill = [(404, "")]
    node.retrieve = [payload("Running"), (404, "")]
    results = []
    for _ in range(3):
        results.append((await client.cancel(ref(node), [job.attempt]))[0].result)
        await trio.sleep(GRACE)
    assert results == [LookResult.UNKNOWN, LookResult.UNKNOWN, LookResult.GONE]


async def test_somebody_elses_job_is_not_killed(client: NodeClient, node: Foreign, job: Dispatch) -> None:
    node.retrieve = [zip_of("f" * 32)]
    node.partial = [zip_of("f" * 32)]
    (look,) = await client.cancel(ref(node), [job.attempt])
    assert look.result is LookResult.UNKNOWN
    await trio.sleep(GRACE)
    (look,) = await client.cancel(ref(node), [job.attempt])
    assert look.result is LookResult.GONE
    assert node.asked("kill") == 0


async def test_release_lets_go_of_the_spooled_zip_and_tells_the_node_nothing(
    client: NodeClient, node: Foreign, job: Dispatch, tmp_path: Path
) -> None:
    node.retrieve = [zip_of(job.attempt.key)]
    await client.look(ref(node), [job.attempt])
    assert len(list((tmp_path / "spool").iterdir())) == 1
    asked = len(node.requests)
    assert await client.release(ref(node), [job.attempt]) == [True]
    assert list((tmp_path / "spool").iterdir()) == []
    assert len(node.requests) == asked


async def test_what_was_given_up_is_killed_when_it_is_released(
    client: NodeClient, node: Foreign, job: Dispatch
) -> None:
    given_up = replace(job.attempt, state=AttemptState.GIVEN_UP)
    node.kill = [(500, ""), (200, "")]
    assert await client.release(ref(node), [given_up]) == [False]
    assert await client.release(ref(node), [given_up]) == [True]


async def test_what_still_runs_is_not_collected(client: NodeClient, node: Foreign, job: Dispatch) -> None:
    node.retrieve = [payload("Running"), (502, "")]
    results = [(await client.collect(ref(node), [job]))[0].result for _ in range(2)]
    assert results == [CollectResult.NOT_ENDED, CollectResult.FAILED]


async def test_partial_results_are_shown_only_if_they_are_its_own(
    client: NodeClient, node: Foreign, job: Dispatch, tmp_path: Path
) -> None:
    mine = zip_of(job.attempt.key, half=b"done")
    node.partial = [mine, zip_of("f" * 32)]
    async with client.open_results(ref(node), job.attempt) as opened:
        assert b"".join([piece async for piece in opened.body]) == mine[1]
        assert opened.headers["content-length"] == str(len(mine[1]))
    with pytest.raises(NotThere):
        async with client.open_results(ref(node), job.attempt):
            pass
    with pytest.raises(NotThere):
        async with client.open_log(ref(node), job.attempt, "stdout"):
            pass
    assert list((tmp_path / "spool").iterdir()) == []


async def test_unsafe_names_in_a_zip_are_not_stored(client: NodeClient, node: Foreign, job: Dispatch) -> None:
    archive = zipped({MARKER: job.attempt.key.encode(), "../escape": b"x"})
    node.retrieve = [(200, archive, "application/zip")]
    (answer,) = await client.collect(ref(node), [job])
    assert answer.result is CollectResult.FAILED
    assert "escape" in answer.reason
    assert json.dumps(answer.reason)
