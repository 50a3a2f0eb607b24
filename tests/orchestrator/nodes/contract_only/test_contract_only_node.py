"""Nodes that know only the contract: what is believed of what they say, and what is not."""

from __future__ import annotations

import zipfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing
from support.data.node_jobs import new_dispatch, new_storage, result_file
from support.peers.foreign_peer import ID, Foreign, payload, ref, short_zip, torn_json, watching, zip_of
from support.peers.peer import Hangup, head, send, serving

from actors.domain.node import NodeAddress, NodeRef, PayloadView
from actors.domain.status import Status
from actors.ports.nodes import (
    Beat,
    CollectResult,
    Dispatch,
    NodeEvent,
    PayloadChanged,
    PayloadGone,
    SubmitResult,
)
from orchestrator.http_client import Http
from orchestrator.nodes.addresses import contract_only_ref, partial_url
from orchestrator.nodes.client import NodeClient
from orchestrator.nodes.contract_only.marker import MARKER
from orchestrator.nodes.contract_only.poller import ContractOnlyPoller
from orchestrator.nodes.contract_only.probe import Asking
from orchestrator.nodes.contract_only.spool import Spool
from orchestrator.nodes.remote_stream import NodeUnreachable
from orchestrator.storage.storage import DiskStorage

GRACE = 0.05


@pytest.fixture
async def storage(tmp_path: Path) -> DiskStorage:
    return await new_storage(tmp_path / "data")


@pytest.fixture
async def client(storage: DiskStorage, tmp_path: Path) -> AsyncIterator[NodeClient]:
    client = NodeClient("0" * 32, storage, tmp_path / "spool", poll_seconds=0.005, grace=GRACE)
    yield client
    await client.aclose()


@pytest.fixture
async def node() -> AsyncIterator[Foreign]:
    async with serving(Foreign()) as peer:
        assert isinstance(peer, Foreign)
        yield peer


@pytest.fixture
async def job(storage: DiskStorage) -> Dispatch:
    return await new_dispatch(storage, {"run.sh": b"true\n"}, foreign_id=ID)


# ------------------------------------------------------------------ addresses


def test_the_upload_url_alone_is_enough() -> None:
    node = contract_only_ref(NodeAddress("", upload_url="http://a:9/x/submit"))
    assert node.node_id == "http://a:9/x/submit"
    assert (node.url, node.download_url) == ("http://a:9/x", "http://a:9/x/retrieve")
    assert node.terminate_url == "http://a:9/x/kill"


def test_the_three_urls_may_differ_in_host_and_prefix() -> None:
    node = contract_only_ref(
        NodeAddress("", (), "http://a:9/up/submit", "http://b:8/down/retrieve/", "http://c:7/stop/kill")
    )
    assert partial_url(node) == "http://b:8/down/retrieve_partial"
    assert (node.url, node.terminate_url) == ("http://a:9/up", "http://c:7/stop/kill")


# ------------------------------------------------------------------ submit


async def test_files_go_out_by_path_and_base_name_with_a_marker(
    client: NodeClient, node: Foreign, storage: DiskStorage
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
    with trio.fail_after(60):
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
    client: NodeClient, node: Foreign, storage: DiskStorage, files: dict[str, bytes]
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
    watch = ContractOnlyPoller(
        http, asking, ref(node), open_attempts=tuple, tell=lambda ref, event: told.append(event),
        poll_seconds=0.01, beat_seconds=0.01,
    )  # fmt: skip
    with trio.fail_after(60):
        assert "no node answers" in await watch.run()
    await http.aclose()
    assert len(told) == 2


async def test_an_attempt_is_followed_to_its_end_and_stored(
    client: NodeClient, node: Foreign, storage: DiskStorage, job: Dispatch
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
    result = result_file(storage, job.job.storage_key)
    log = result_file(storage, job.job.storage_key, "stdout.log")
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
    client: NodeClient, node: Foreign, storage: DiskStorage, job: Dispatch
) -> None:
    node.retrieve = [payload("Failed")]
    async with watching(client, node, job.attempt) as told:
        end = (await told()).view.end
    assert "no files" in end.message
    assert node.asked("retrieve_partial") == 2
    (answer,) = await client.collect(ref(node), [job])
    assert (answer.result, answer.end) == (CollectResult.STORED, end)
    result = result_file(storage, job.job.storage_key)
    assert result is not None
    assert zipfile.ZipFile(result).namelist() == []


async def test_a_bad_end_of_somebody_else_is_not_taken(
    client: NodeClient, node: Foreign, job: Dispatch
) -> None:
    node.retrieve = [payload("Failed")]
    node.partial = [zip_of("f" * 32)]
    async with watching(client, node, job.attempt) as told:
        assert await told() == PayloadGone(job.attempt.key)


@pytest.mark.parametrize("said", ["a zip", "Failed", "Killed"])
async def test_a_zip_that_never_ends_is_an_end_when_it_is_so_twice(
    storage: DiskStorage, tmp_path: Path, node: Foreign, job: Dispatch, said: str
) -> None:
    limit, most = 4 << 20, 0

    async def endless(stream: trio.SocketStream) -> None:
        nonlocal most
        await stream.send_all(head(200, "application/zip", None) + b"PK\x03\x04")
        while True:
            await stream.send_all(bytes(1 << 20))
            most = max(most, *(path.stat().st_size for path in spool.iterdir()), 0)

    spool = tmp_path / "spool"
    node.retrieve, node.partial = [endless if said == "a zip" else payload(said)], [endless]
    client = NodeClient(
        "0" * 32, storage, spool, poll_seconds=0.005, grace=GRACE, contract_result_limit=limit
    )
    async with watching(client, node, job.attempt) as told:
        end = (await told()).view.end
    expected = Status.FAILED if said == "a zip" else Status(said)
    why = f"its results are a zip of more than {limit} bytes, which is the limit (contract_result_limit)"
    assert (end.status, end.message) == (expected, why)
    assert 0 < most <= limit
    assert list(spool.iterdir()) == []
    assert node.asked("retrieve" if said == "a zip" else "retrieve_partial") == 2
    (answer,) = await client.collect(ref(node), [job])
    assert (answer.result, answer.end) == (CollectResult.STORED, end)
    with pytest.raises(NodeUnreachable, match="contract_result_limit"):
        async with client.open_results(ref(node), job.attempt):
            pass
    await client.aclose()


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
            nursery.start_soon(client.lookup, ref(node), [job.attempt])
            await trio.testing.wait_all_tasks_blocked()
            go_on.set()
        assert (await told()).view.status is Status.COMPLETED
    assert node.most_at_once == 1
    assert node.asked("retrieve") == 1
