"""Downloads that break off, and streams that outlast the server."""

from __future__ import annotations

import os
import signal
from contextlib import aclosing
from pathlib import Path

import pytest
import trio
from support.peers.wires import Hold, Rule, wire
from support.processes.processes import PATIENCE, Place, Started

from orchestrator.client import AsyncClient, BadInput, Client, NotFound, Refused, Retries, Unreachable

SIZE = 3_000_000
RANDOM = f"head -c {SIZE} /dev/urandom > data".encode()
PATIENT = Retries(first=0.05, longest=0.2, patience=PATIENCE)


@pytest.fixture(scope="module")
def ended(shared: Started, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, int, bytes]:
    """An orchestrator, a job that has ended there, and its results."""
    with Client(shared.url) as client:
        job = client.wait(client.submit({"run.sh": RANDOM}, user=1).id)
        path = client.download(job.id, tmp_path_factory.mktemp("whole") / "r.zip")
        return shared.url, job.id, path.read_bytes()


async def test_a_download_and_a_log_go_on_where_they_were_when_the_server_was_killed(
    here: Place, tmp_path: Path
) -> None:
    node = here.node()
    server = here.server(nodes=[node.url])
    holds = {"results": Hold(down=1_000_000), "logs": Hold(down=1)}

    def rule(line: str) -> Rule:
        return holds.pop(line.rpartition("/")[2].partition("?")[0], None)

    (tmp_path / "gate").mkdir()
    gate = tmp_path / "gate" / "open"
    os.mkfifo(gate)
    script = RANDOM + f"; echo begun; read x < {gate}; echo done".encode()
    result, log = holds["results"], holds["logs"]
    seen = bytearray()
    told: list[str] = []
    async with wire(server.url, rule) as between, AsyncClient(between.url, retries=PATIENT) as client:

        async def follow() -> None:
            async with aclosing(client.logs(job.id, follow=True)) as pieces:
                async for piece in pieces:
                    seen.extend(piece)

        async def listen() -> None:
            async with aclosing(client.iter_events(job.id)) as events:
                async for event in events:
                    told.append(event.data["status"])

        async def again() -> Started:
            server.send(signal.SIGKILL)
            await server.ended()
            return await trio.to_thread.run_sync(lambda: here.server(nodes=[node.url], port=server.port))

        job = await client.submit({"run.sh": script}, user=1)
        with trio.fail_after(PATIENCE):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(follow)
                nursery.start_soon(listen)
                await log.reached.wait()
                server = await again()
                log.go_on.set()
                await trio.to_thread.run_sync(gate.write_text, "\n")
            assert bytes(seen) == b"begun\ndone\n"
            assert told[-1] == "Completed" and told.count("Completed") == 1
            async with trio.open_nursery() as nursery:
                nursery.start_soon(client.download, job.id, tmp_path / "r.zip")
                await result.reached.wait()
                await again()
                result.go_on.set()
            await client.download(job.id, tmp_path / "whole.zip")
    assert (tmp_path / "r.zip").read_bytes() == (tmp_path / "whole.zip").read_bytes()


@pytest.mark.parametrize(
    ("tag", "kept", "first"),
    [("right", 1000, 1000), ("right", None, None), ("old", 1000, 0), (None, 1000, 0)],
)
def test_what_an_earlier_process_left_is_gone_on_with_only_if_it_is_of_the_same_version(
    ended: tuple[str, int, bytes], tmp_path: Path, tag: str | None, kept: int | None, first: int | None
) -> None:
    url, number, whole = ended
    target = tmp_path / "r.zip"
    done: list[int] = []
    with Client(url) as client:
        if tag == "right":
            with pytest.raises(RuntimeError):
                client.download(number, target, progress=_stop_after_some)
            part = target.with_name("r.zip.part")
            assert target.with_name("r.zip.part.etag").read_text()
            part.write_bytes(whole[: len(whole) if kept is None else kept])
        else:
            target.with_name("r.zip.part").write_bytes(b"x" * (kept or 0))
            if tag is not None:
                target.with_name("r.zip.part.etag").write_text('"old"')
        client.download(number, target, progress=lambda at, of: done.append(at))
    assert target.read_bytes() == whole
    assert done[0] == (len(whole) if first is None else first)
    assert os.listdir(tmp_path) == ["r.zip"]


def _stop_after_some(at: int, of: int | None) -> None:
    if at:
        raise RuntimeError("enough")


def test_without_resume_a_download_begins_anew(ended: tuple[str, int, bytes], tmp_path: Path) -> None:
    url, number, whole = ended
    with Client(url) as client:
        with pytest.raises(RuntimeError):
            client.download(number, tmp_path / "r.zip", progress=_stop_after_some)
        done: list[int] = []
        client.download(number, tmp_path / "r.zip", resume=False, progress=lambda at, of: done.append(at))
    assert done[0] == 0
    assert (tmp_path / "r.zip").read_bytes() == whole


async def test_two_downloads_to_one_place_do_not_mix(ended: tuple[str, int, bytes], tmp_path: Path) -> None:
    url, number, whole = ended
    hold = Hold(down=100_000)
    held = [hold]

    def rule(line: str) -> Rule:
        return held.pop() if held else None

    async with (
        wire(url, rule) as between,
        AsyncClient(between.url) as client,
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(client.download, number, tmp_path / "r.zip")
        await hold.reached.wait()
        with pytest.raises(BadInput, match="by another process"):
            await client.download(number, tmp_path / "r.zip")
        hold.go_on.set()
    assert (tmp_path / "r.zip").read_bytes() == whole


def test_a_place_that_cannot_be_written_and_results_that_are_not_there_are_told(
    ended: tuple[str, int, bytes], tmp_path: Path
) -> None:
    url, number, _ = ended
    with Client(url) as client:
        (tmp_path / "file").touch()
        for wrong in (
            tmp_path / "file" / "r.zip",
            tmp_path / "file" / "in" / "r.zip",
            Path("/proc/no/r.zip"),
        ):
            with pytest.raises(BadInput, match="cannot be written"):
                client.download(number, wrong)
        job = client.submit({"run.sh": b"sleep 60"}, user=3)
        with pytest.raises(Refused, match="download_partial"):
            client.download(job.id, tmp_path / "r.zip")
        assert client.download_partial(job.id, tmp_path / "now.zip").stat().st_size > 0
        client.cancel(job.id)


def test_a_refusal_leaves_nothing_behind_and_what_came_before_it_stays(
    ended: tuple[str, int, bytes], tmp_path: Path
) -> None:
    url, number, whole = ended
    with Client(url) as client:
        for refused in (
            lambda: client.download(number + 1000, tmp_path / "new" / "r.zip"),
            lambda: client.download_partial(number + 1000, tmp_path / "r.zip"),
            lambda: client.download_file(number, "nope", tmp_path / "a" / "b" / "nope"),
        ):
            with pytest.raises(NotFound):
                refused()
        assert os.listdir(tmp_path) == []
        with pytest.raises(RuntimeError):
            client.download(number, tmp_path / "new" / "r.zip", progress=_stop_after_some)
        left = {path.name: path.read_bytes() for path in (tmp_path / "new").iterdir()}
        assert set(left) == {"r.zip.part", "r.zip.part.etag"}
        with pytest.raises(NotFound):
            client.download(number + 1000, tmp_path / "new" / "r.zip", resume=False)
        assert {path.name: path.read_bytes() for path in (tmp_path / "new").iterdir()} == left
        client.download(number, tmp_path / "new" / "r.zip")
    assert (tmp_path / "new" / "r.zip").read_bytes() == whole


async def test_a_stream_that_never_works_ends_patience() -> None:
    listener = (await trio.open_tcp_listeners(0, host="127.0.0.1"))[0]
    port = listener.socket.getsockname()[1]
    await listener.aclose()
    url = f"http://127.0.0.1:{port}"
    async with AsyncClient(url, retries=Retries(tries=2, first=0.01, longest=0.01, patience=0.05)) as client:
        with pytest.raises(Unreachable, match="nothing answers at"):
            async with aclosing(client.iter_events()) as events:
                await anext(events)
