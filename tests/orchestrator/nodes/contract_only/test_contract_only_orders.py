"""Orders to nodes that know only the contract, and whose files are believed to be whose."""

from __future__ import annotations

import io
import json
import os
import threading
import zipfile
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import trio
from support.data.node_jobs import new_dispatch, new_storage, result_file, zipped
from support.peers.foreign_peer import ID, Foreign, payload, ref, watching, zip_of
from support.peers.peer import head, serving
from support.processes.processes import promised

from actors.domain.job import AttemptState
from actors.domain.node import PayloadView
from actors.domain.status import Status
from actors.ports.nodes import CollectResult, Dispatch, LookupResult
from orchestrator.nodes.client import NodeClient
from orchestrator.nodes.contract_only.marker import MARKER
from orchestrator.nodes.remote_stream import NodeUnreachable, NotOnNode
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


# ------------------------------------------------------------------ look, cancel, release, reading


async def test_a_look_tells_what_one_question_can_tell(
    client: NodeClient, node: Foreign, job: Dispatch
) -> None:
    node.retrieve = [payload("Running"), (404, ""), payload("Locked")]
    looks = [(await client.lookup(ref(node), [job.attempt]))[0] for _ in range(3)]
    running = PayloadView(job.attempt.key, Status.RUNNING)
    assert [look.result for look in looks] == [LookupResult.FOUND, LookupResult.UNKNOWN, LookupResult.FOUND]
    assert (looks[0].view, looks[2].view) == (running, running)
    (nameless,) = await client.lookup(ref(node), [replace(job.attempt, foreign_id=None)])
    assert nameless.result is LookupResult.UNKNOWN


@pytest.mark.parametrize(
    ("kill", "expected"),
    [((200, ""), LookupResult.FOUND), ((404, ""), LookupResult.UNKNOWN), ((500, ""), LookupResult.UNKNOWN)],
)
async def test_an_order_to_kill_goes_to_its_number(
    client: NodeClient, node: Foreign, job: Dispatch, kill: Any, expected: LookupResult
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
    assert results == [LookupResult.UNKNOWN, LookupResult.UNKNOWN, LookupResult.GONE]


async def test_somebody_elses_job_is_not_killed(client: NodeClient, node: Foreign, job: Dispatch) -> None:
    node.retrieve = [zip_of("f" * 32)]
    node.partial = [zip_of("f" * 32)]
    (look,) = await client.cancel(ref(node), [job.attempt])
    assert look.result is LookupResult.UNKNOWN
    await trio.sleep(GRACE)
    (look,) = await client.cancel(ref(node), [job.attempt])
    assert look.result is LookupResult.GONE
    assert node.asked("kill") == 0


async def test_release_lets_go_of_the_spooled_zip_and_tells_the_node_nothing(
    client: NodeClient, node: Foreign, job: Dispatch, tmp_path: Path
) -> None:
    node.retrieve = [zip_of(job.attempt.key)]
    await client.lookup(ref(node), [job.attempt])
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
    with pytest.raises(NotOnNode):
        async with client.open_results(ref(node), job.attempt):
            pass
    with pytest.raises(NotOnNode):
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


# ------------------------------------------------------------------ whose files they are


def unmarked(**files: bytes) -> tuple[int, bytes, str]:
    return 200, zipped({name.replace("__", "."): data for name, data in files.items()}), "application/zip"


async def test_results_without_a_marker_are_taken_with_all_inputs_among_them(
    client: NodeClient, node: Foreign, storage: DiskStorage, job: Dispatch
) -> None:
    node.retrieve = [unmarked(run__sh=b"true\n", result__txt=b"42")]
    async with watching(client, node, job.attempt) as told:
        assert (await told()).view.status is Status.COMPLETED
    (answer,) = await client.collect(ref(node), [job])
    assert answer.result is CollectResult.STORED
    result = result_file(storage, job.job.storage_key)
    assert result is not None and "result.txt" in zipfile.ZipFile(result).namelist()


@pytest.mark.parametrize("way", ["missing", "half", "zeros", "a directory"])
async def test_a_zip_that_is_damaged_here_is_asked_for_again(
    client: NodeClient, node: Foreign, storage: DiskStorage, tmp_path: Path, way: str
) -> None:
    job = await new_dispatch(storage, {"run.sh": b"true\n"}, foreign_id=ID)
    node.retrieve = [zip_of(job.attempt.key, out=b"whole"), zip_of(job.attempt.key, out=b"whole")]
    async with watching(client, node, job.attempt) as told:
        assert (await told()).view.end is not None
    (path,) = spooled(tmp_path)
    size = path.stat().st_size
    path.unlink()
    if way == "a directory":
        path.mkdir()
    elif way != "missing":
        path.write_bytes(bytes(size if way == "zeros" else size // 2))
    (answer,) = await client.collect(ref(node), [job])
    assert answer.result is CollectResult.FAILED and "asked for again" in answer.reason
    (answer,) = await client.collect(ref(node), [job])
    assert answer.result is CollectResult.STORED
    assert await storage.result(job.job.storage_key) is not None


@pytest.mark.parametrize("files", [{"result__txt": b"42"}, {"run__sh": b"false\n"}])
async def test_results_without_a_marker_and_without_any_input_are_somebody_elses(
    client: NodeClient, node: Foreign, job: Dispatch, files: dict[str, bytes]
) -> None:
    node.retrieve = [unmarked(**files)]
    async with watching(client, node, job.attempt) as told:
        await told()
    (answer,) = await client.collect(ref(node), [job])
    assert answer.result is CollectResult.GONE


def spooled(top: Path) -> list[Path]:
    return list(top.glob("spool/*"))


async def test_a_node_that_packs_for_long_does_not_keep_who_looks_waiting(
    client: NodeClient, node: Foreign, job: Dispatch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def pack(stream: trio.SocketStream) -> None:
        await trio.sleep_forever()

    node.partial = [pack]
    monkeypatch.setattr("orchestrator.nodes.contract_only.client.SILENCE", 0.05)
    with trio.fail_after(60), pytest.raises(NodeUnreachable, match="once the job has ended"):
        async with client.open_results(ref(node), job.attempt):
            pass
    assert spooled(tmp_path) == []


async def test_results_without_a_marker_and_with_some_inputs_are_no_reason_to_try_again(
    client: NodeClient, node: Foreign, storage: DiskStorage
) -> None:
    job = await new_dispatch(storage, {"run.sh": b"true\n", "in": b"ATOM"}, foreign_id=ID)
    node.retrieve = [unmarked(run__sh=b"true\n")]
    async with watching(client, node, job.attempt) as told:
        assert (await told()).view.end is not None
    (answer,) = await client.collect(ref(node), [job])
    assert answer.result is CollectResult.IMPOSSIBLE
    assert MARKER in answer.reason
    assert result_file(storage, job.job.storage_key) is None
    with pytest.raises(NotOnNode):
        async with client.open_results(ref(node), job.attempt):
            pass


async def test_what_may_be_somebody_elses_is_not_killed(
    client: NodeClient, node: Foreign, job: Dispatch, tmp_path: Path
) -> None:
    node.retrieve = [payload("Running")]
    node.partial = [unmarked(run__sh=b"true\n")]
    (look,) = await client.cancel(ref(node), [job.attempt])
    assert look.result is LookupResult.UNKNOWN
    assert node.asked("kill") == 0
    assert list((tmp_path / "spool").iterdir()) == []


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
async def test_an_order_to_kill_reads_no_further_than_to_the_marker(
    client: NodeClient, node: Foreign, job: Dispatch, compression: int
) -> None:
    written = io.BytesIO()
    with zipfile.ZipFile(written, "w", compression) as archive:
        archive.writestr("inner.zip", zip_of("f" * 32)[1])
        archive.writestr(MARKER, job.attempt.key)
        archive.writestr("large", bytes(100_000))
    whole = written.getvalue()
    end = whole.index(b"large")

    async def begun(stream: trio.SocketStream) -> None:
        await stream.send_all(head(200, "application/zip", len(whole)))
        for at in range(0, end, 7):
            await stream.send_all(whole[at : min(at + 7, end)])
        await trio.sleep_forever()

    node.partial = [begun]
    with trio.fail_after(promised(2)):
        (look,) = await client.cancel(ref(node), [job.attempt])
    assert look.result is LookupResult.FOUND
    assert node.asked("kill") == 1


async def test_an_order_to_kill_does_not_wait_long_for_a_proof(
    client: NodeClient, node: Foreign, job: Dispatch, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    async def silent(stream: trio.SocketStream) -> None:
        await stream.send_all(head(200, "application/zip", 1000) + b"PK\x03\x04")
        await trio.sleep_forever()

    monkeypatch.setattr("orchestrator.nodes.contract_only.probe.PROOF", 0.05)
    node.partial = [silent]
    with trio.fail_after(60):
        for _ in range(2):
            (look,) = await client.cancel(ref(node), [job.attempt])
            assert look.result is LookupResult.FOUND
    assert node.asked("kill") == 2
    assert list((tmp_path / "spool").iterdir()) == []


async def test_the_disk_is_waited_for_in_threads_alone(
    client: NodeClient, node: Foreign, job: Dispatch, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, used = threading.get_ident(), []

    def told(name: str, call: Any) -> Any:
        def wrapped(*arguments: Any, **options: Any) -> Any:
            used.append((name, threading.get_ident() == here))
            return call(*arguments, **options)

        return wrapped

    for where, name in ((Path, "unlink"), (Path, "glob"), (Path, "mkdir"), (os, "unlink"), (os, "fstat")):
        monkeypatch.setattr(where, name, told(name, getattr(where, name)))
    node.partial = [zip_of(job.attempt.key)]
    node.retrieve = [zip_of(job.attempt.key)]
    async with client.open_results(ref(node), job.attempt):
        pass
    await client.lookup(ref(node), [job.attempt])
    await client.release(ref(node), [job.attempt])
    assert {name for name, _ in used} == {"unlink", "glob", "mkdir", "fstat"}
    assert not [name for name, on_the_loop in used if on_the_loop]
