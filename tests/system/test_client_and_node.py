"""The client of nodes and a real node, on loopback: the two sides of the wire fit each other."""

from __future__ import annotations

import math
import os
import sys
import zipfile
from collections.abc import AsyncIterator, Mapping
from dataclasses import replace
from pathlib import Path

import pytest
import trio
from support.data.node_jobs import new_dispatch, new_storage, result_file

from actors.domain.node import NodeAddress, NodeRef, PayloadView
from actors.domain.status import ENDED, Status
from actors.ports.nodes import (
    CollectResult,
    Dispatch,
    LookupResult,
    NodeEvent,
    PayloadChanged,
    Picture,
    SubmitResult,
)
from node.confinement.grants import Grants
from node.runs.received import RECEIVED, changes_are_told
from node.server import serve_node
from node.settings import NodeSettings
from orchestrator.http_client import Http
from orchestrator.nodes.addresses import contract_only_ref
from orchestrator.nodes.client import NodeClient
from orchestrator.nodes.contract_only.poller import ContractOnlyPoller
from orchestrator.nodes.contract_only.probe import Asking
from orchestrator.nodes.contract_only.spool import Spool
from orchestrator.nodes.remote_stream import NotOnNode
from orchestrator.storage.result_sink import DiskResultSink
from orchestrator.storage.storage import DiskStorage

OWNER = "0" * 32


class Bench:
    """A node that runs, a client that watches it, and a storage with jobs."""

    def __init__(self, client: NodeClient, storage: DiskStorage, url: str) -> None:
        self.client = client
        self.storage = storage
        self.url = url
        self.told, self.events = trio.open_memory_channel[NodeEvent](math.inf)
        self.ref = NodeRef("", url)

    def tell(self, ref: NodeRef, event: NodeEvent) -> None:
        self.ref = ref
        self.told.send_nowait(event)

    async def job(self, script: bytes | None, **files: bytes) -> Dispatch:
        given = {name.replace("__", "."): data for name, data in files.items()}
        return await new_dispatch(self.storage, given if script is None else {"run.sh": script, **given})

    async def view(self, key: str, *statuses: Status) -> PayloadView:
        """The next word that the payload has one of these statuses."""
        async for event in self.events:
            if isinstance(event, PayloadChanged) and event.view.key == key and event.view.status in statuses:
                return event.view
        raise AssertionError("the node is not followed any more")


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    storage = await new_storage(tmp_path / "data")
    client = NodeClient(OWNER, storage, tmp_path / "spool")
    shutdown = trio.Event()
    settings = NodeSettings(
        port=0,
        data=tmp_path / "node",
        slots=2,
        on_stop="kill",
        grace=1.0,
        servers=("127.0.0.1",),
        grants=Grants(read=(Path(sys.prefix), Path(sys.base_prefix))),
    )
    with trio.fail_after(60):
        async with trio.open_nursery() as running:

            async def node(*, task_status: trio.TaskStatus[list[str]]) -> None:
                await serve_node(settings, shutdown=shutdown, task_status=task_status)

            urls = await running.start(node)
            bench = Bench(client, storage, urls[0])
            async with trio.open_nursery() as watching:
                watching.start_soon(client.watch, NodeAddress(bench.url), bench.tell)
                assert isinstance(await bench.events.receive(), Picture)
                yield bench
                watching.cancel_scope.cancel()
            await client.aclose()
            shutdown.set()


async def test_what_is_raised_by_who_is_told_ends_the_watch_and_keeps_the_link_that_stands(
    bench: Bench,
) -> None:
    """As the Getter does where a second address leads to the same node."""

    def refuse(ref: NodeRef, event: NodeEvent) -> None:
        raise LookupError("it is followed already")

    with pytest.raises(LookupError):
        await bench.client.watch(NodeAddress(bench.url.replace("127.0.0.1", "localhost")), refuse)
    (answer,) = await bench.client.submit(bench.ref, [await bench.job(b"true\n")])
    assert answer.result is SubmitResult.HAS


async def test_a_job_goes_there_runs_and_comes_home(bench: Bench) -> None:
    job = await bench.job(b"cat in.txt; echo oops >&2; echo 42 > result.txt\n", in__txt=b"hello\n")
    key = job.attempt.key
    (answer,) = await bench.client.submit(bench.ref, [job])
    assert answer.result is SubmitResult.HAS
    view = await bench.view(key, *ENDED)
    assert view.end is not None
    assert (view.status, view.end.exit_code) == (Status.COMPLETED, 0)
    (again,) = await bench.client.submit(bench.ref, [job])
    assert (again.result, again.view) == (SubmitResult.HAS, view)
    (collected,) = await bench.client.collect(bench.ref, [job])
    assert (collected.result, collected.end) == (CollectResult.STORED, view.end), collected.reason
    stored = result_file(bench.storage, job.job.storage_key)
    assert stored is not None
    with zipfile.ZipFile(stored) as archive:
        assert archive.read("result.txt") == b"42\n"
        assert archive.read("stdout.log") == b"hello\n"
    assert await bench.client.release(bench.ref, [job.attempt]) == [True]
    (look,) = await bench.client.lookup(bench.ref, [job.attempt])
    assert look.result is LookupResult.TOMBSTONED
    (late,) = await bench.client.submit(bench.ref, [job])
    assert late.result is SubmitResult.TOMBSTONED
    (gone,) = await bench.client.collect(bench.ref, [job])
    assert gone.result is CollectResult.GONE


@pytest.mark.parametrize(
    ("script", "status"),
    [
        (b"true\n", Status.COMPLETED),
        (b"exit 3\n", Status.FAILED),
        (b"rm -rf $PWD/*\n", Status.COMPLETED),
        (b"echo mine > stdout.log\n", Status.COMPLETED),
        (b"mkdir d; ln -s d l; mkfifo f; touch stderr.log; chmod 0 d\n", Status.COMPLETED),
        (None, Status.INVALID),
    ],
)
async def test_whatever_a_job_leaves_is_stored(bench: Bench, script: bytes | None, status: Status) -> None:
    job = await bench.job(script, other=b"x")
    (answer,) = await bench.client.submit(bench.ref, [job])
    assert answer.result is SubmitResult.HAS
    assert (await bench.view(job.attempt.key, *ENDED)).status is status
    (collected,) = await bench.client.collect(bench.ref, [job])
    assert (collected.result, collected.reason) == (CollectResult.STORED, "")


async def test_a_running_job_is_seen_read_and_killed(bench: Bench) -> None:
    job = await bench.job(b"echo begun; sleep 1000 & wait\n")
    await bench.client.submit(bench.ref, [job])
    await bench.view(job.attempt.key, Status.RUNNING)
    (early,) = await bench.client.collect(bench.ref, [job])
    assert early.result is CollectResult.NOT_ENDED
    async with bench.client.open_log(bench.ref, job.attempt, "stdout", follow=True) as opened:
        assert await anext(opened.body) == b"begun\n"
    async with bench.client.open_results(bench.ref, job.attempt) as opened:
        assert (await anext(opened.body)).startswith(b"PK")
    (look,) = await bench.client.cancel(bench.ref, [job.attempt])
    assert look.result is LookupResult.FOUND
    await bench.view(job.attempt.key, Status.KILLED)
    (collected,) = await bench.client.collect(bench.ref, [job])
    assert (collected.result, collected.reason) == (CollectResult.STORED, "")


async def test_what_never_started_is_killed_and_stored(bench: Bench) -> None:
    jobs = [await bench.job(b"sleep 1000\n") for _ in range(3)]
    await bench.client.submit(bench.ref, jobs)
    waiting = jobs[2]
    (look,) = await bench.client.cancel(bench.ref, [waiting.attempt])
    assert look.view is not None
    if look.view.end is None:
        await bench.view(waiting.attempt.key, Status.KILLED)
    (collected,) = await bench.client.collect(bench.ref, [waiting])
    assert (collected.result, collected.reason) == (CollectResult.STORED, "")


async def test_an_order_to_cancel_comes_before_the_submit(bench: Bench) -> None:
    job = await bench.job(b"true\n")
    (unknown,) = await bench.client.lookup(bench.ref, [job.attempt])
    assert unknown.result is LookupResult.GONE
    (look,) = await bench.client.cancel(bench.ref, [job.attempt])
    assert look.result is LookupResult.TOMBSTONED
    (answer,) = await bench.client.submit(bench.ref, [job])
    assert answer.result is SubmitResult.TOMBSTONED
    with pytest.raises(NotOnNode):
        async with bench.client.open_results(bench.ref, job.attempt):
            pass


async def test_our_node_is_also_a_node_that_knows_only_the_contract(bench: Bench) -> None:
    node = contract_only_ref(NodeAddress(bench.url))
    job = await bench.job(b"echo 42 > result.txt; exit 3\n")
    (answer,) = await bench.client.submit(node, [job])
    assert answer.result is SubmitResult.HAS
    job = replace(job, attempt=replace(job.attempt, foreign_id=answer.foreign_id))
    sent, ends = trio.open_memory_channel[PayloadView](math.inf)

    def tell(ref: NodeRef, event: NodeEvent) -> None:
        if isinstance(event, PayloadChanged) and event.view.end is not None:
            sent.send_nowait(event.view)

    http = Http()
    asking = Asking(http, Spool(bench.storage.root / "elsewhere"))
    watch = ContractOnlyPoller(
        http, asking, node, open_attempts=lambda: [job.attempt], tell=tell, poll_seconds=0.05
    )
    async with trio.open_nursery() as nursery:
        nursery.start_soon(watch.run)
        assert (await ends.receive()).status is Status.FAILED
        nursery.cancel_scope.cancel()
    await http.aclose()
    (collected,) = await bench.client.collect(node, [job])
    assert (collected.result, collected.reason) == (CollectResult.STORED, "")
    assert await bench.client.release(node, [job.attempt]) == [True]


BY_MAPPING = """
import mmap, sys
with open(sys.argv[1], "r+b") as file, mmap.mmap(file.fileno(), 0) as mapped:
    mapped[5:6] = b"!"
"""
CHANGES: Mapping[str, str] = {
    "appended": "echo more >>appended",
    "overwritten": "printf '!' | dd of=overwritten conv=notrunc status=none",
    "same": "head -c 5 same >five; dd if=five of=same conv=notrunc status=none",
    "mapped": "$PYTHON map.py mapped",
    "dated": "touch -r run.sh dated",
    "linked": "ln linked link",
    "renamed": "mv renamed away; mv away renamed",
    "swapped": "mv swapped x; mv other swapped; mv x other",
    "copied": "cp -p copied x; mv x copied",
    "cut": "truncate -s 5 cut",
    "back": "cp -p back x; echo more >>back; cp x back; touch -r x back",
    "executable": "chmod +x executable",
}
"""What a script may do to a file, by the file's name."""


@pytest.fixture
def copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the files of which the orchestrator took its own bytes."""
    if not changes_are_told(tmp_path):
        pytest.skip("the file system of temporary files is none that is believed")
    names: list[str] = []
    original = DiskResultSink.copy_to_zip

    async def noted(sink: DiskResultSink, source: Path, size: int, crc: int) -> None:
        names.append(source.name)
        await original(sink, source, size, crc)

    monkeypatch.setattr(DiskResultSink, "copy_to_zip", noted)
    return names


async def test_large_inputs_that_a_script_left_alone_do_not_come_back_over_the_wire(
    bench: Bench, copied: list[str]
) -> None:
    large = {name: os.urandom((1 << 20) + 10) for name in ("untouched", "read", "other", *CHANGES)}
    small = {"small": os.urandom(1 << 20), "map.py": BY_MAPPING.encode()}
    script = "\n".join([f"PYTHON={sys.executable}", "cat read >read.copy", *CHANGES.values()])
    job = await new_dispatch(bench.storage, {"run.sh": script.encode(), **large, **small})
    await bench.client.submit(bench.ref, [job])
    assert (await bench.view(job.attempt.key, *ENDED)).status is Status.COMPLETED
    (answer,) = await bench.client.collect(bench.ref, [job])
    assert answer.result is CollectResult.STORED, answer.reason
    assert sorted(copied) == ["read", "untouched"]
    stored = result_file(bench.storage, job.job.storage_key)
    assert stored is not None
    with zipfile.ZipFile(stored) as archive:
        assert archive.testzip() is None
        left = {name: archive.read(name) for name in archive.namelist()}
    assert left["appended"] == large["appended"] + b"more\n"
    assert left["overwritten"] == b"!" + large["overwritten"][1:]
    assert left["mapped"] == large["mapped"][:5] + b"!" + large["mapped"][6:]
    assert left["swapped"] == large["other"] and left["other"] == large["swapped"]
    assert left["cut"] == large["cut"][:5]
    assert left["read.copy"] == left["read"] == large["read"]
    for name in ("untouched", "same", "dated", "linked", "renamed", "copied", "back", "executable"):
        assert left[name] == large[name], name


@pytest.mark.parametrize("now", ["other", "shorter", "gone"])
async def test_inputs_that_are_not_what_the_node_received_are_asked_for(
    bench: Bench, copied: list[str], now: str
) -> None:
    data = os.urandom(3 << 20)
    job = await bench.job(b"true\n", large=data)
    await bench.client.submit(bench.ref, [job])
    await bench.view(job.attempt.key, *ENDED)
    kept = bench.storage.job(job.job.storage_key) / "input" / "large"
    match now:
        case "other":
            kept.write_bytes(data[:-1] + b"?")
        case "shorter":
            kept.write_bytes(data[:-1])
        case _:
            kept.unlink()
    (answer,) = await bench.client.collect(bench.ref, [job])
    assert answer.result is CollectResult.STORED, answer.reason
    assert copied == (["large"] if now == "other" else [])
    stored = result_file(bench.storage, job.job.storage_key)
    assert stored is not None
    assert zipfile.ZipFile(stored).read("large") == data


@pytest.mark.parametrize("noted", [b"", b"[]", b'{"boot": "another", "files": {}}', None])
async def test_without_a_note_of_how_it_arrived_an_input_is_sent(
    bench: Bench, copied: list[str], tmp_path: Path, noted: bytes | None
) -> None:
    job = await bench.job(b"true\n", large=os.urandom(3 << 20))
    await bench.client.submit(bench.ref, [job])
    await bench.view(job.attempt.key, *ENDED)
    note = tmp_path / "node" / "payloads" / job.attempt.key / RECEIVED
    note.unlink()
    if noted is not None:
        note.write_bytes(noted)
    (answer,) = await bench.client.collect(bench.ref, [job])
    assert answer.result is CollectResult.STORED, answer.reason
    assert copied == []
