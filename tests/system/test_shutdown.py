"""SIGTERM: what is on its way comes through if it can in time, everything else waits for the next start."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path
from typing import BinaryIO

import httpx
import pytest
import trio
import trio.testing
from support.peers.portals import portal
from support.processes.api_server import form
from support.processes.gates import gate
from support.processes.processes import COMMAND, Place, Started, promised

MIB = 1 << 20
GRACEFUL = 3.0
"""Seconds that a request under way has, from SIGTERM on."""
LARGE = 8 * MIB
"""More than the sender's socket buffers, where the reader has hardly any."""


async def refuses(server: Started) -> None:
    """Return once nobody can connect any more: the server has begun to end."""
    with trio.fail_after(promised()):
        while True:
            try:
                stream = await trio.open_tcp_stream("127.0.0.1", int(server.port))
            except OSError:
                return
            # Taken into the backlog just before it ended: it is reset, or closed.
            async with stream:
                try:
                    await stream.receive_some()
                except trio.BrokenResourceError:
                    return


async def test_an_upload_on_its_way_is_finished_and_answered(here: Place) -> None:
    server = here.server(nodes=["http://127.0.0.1:9"])
    body, kind = form(
        'name="file"; filename="run.sh"|echo > ran',
        b'name="file"; filename="big"|' + bytes(8 * MIB),
        'name="user_id"|1',
        'name="service"|example',
    )
    half = trio.Event()

    async def pieces() -> AsyncIterator[bytes]:
        yield body[: 6 * MIB]
        half.set()
        await ending.wait()
        yield body[6 * MIB :]

    ending = trio.Event()
    answers: list[httpx.Response] = []
    async with (
        httpx.AsyncClient(base_url=server.url, trust_env=False, timeout=60) as http,
        trio.open_nursery() as nursery,
    ):

        async def post() -> None:
            headers = {"Content-Type": kind, "Content-Length": str(len(body))}
            answers.append(await http.post("/upload", content=pieces(), headers=headers))

        nursery.start_soon(post)
        await half.wait()
        server.send(signal.SIGTERM)
        await refuses(server)
        ending.set()
    assert answers[0].status_code == 201
    assert await server.ended() == 0
    node = here.node("node")
    server = here.server(nodes=[node.url])
    async with portal(server.url) as user:
        end = await user.ended(answers[0].json()["id"])
        assert end["status"] == "Completed"
        assert len((await user.contents(end["id"]))["big"]) == 8 * MIB


@pytest.mark.parametrize("reads", ["on", "never"])
async def test_a_download_on_its_way_is_finished_if_the_client_reads(here: Place, reads: str) -> None:
    node = here.node("node")
    server = here.server(nodes=[node.url])
    async with portal(server.url) as user:
        job = await user.run(f"head -c {LARGE} /dev/urandom > big")
        whole = await user.get(f"/download/{job['id']}")
    hardly_any = trio.socket.socket()
    hardly_any.setsockopt(trio.socket.SOL_SOCKET, trio.socket.SO_RCVBUF, 1 << 16)
    async with trio.SocketStream(hardly_any) as stream:
        await hardly_any.connect(("127.0.0.1", int(server.port)))
        await stream.send_all(
            f"GET /download/{job['id']} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode()
        )
        got = await stream.receive_some(1000)
        told = trio.current_time()
        server.send(signal.SIGTERM)
        await refuses(server)
        if reads == "on":
            hardly_any.setsockopt(trio.socket.SOL_SOCKET, trio.socket.SO_RCVBUF, LARGE)
            async for piece in stream:
                got += piece
            # On a machine that is busy it may take longer than it is given.
            assert got.partition(b"\r\n\r\n")[2] == whole.content or trio.current_time() - told > GRACEFUL
        assert await server.ended() == 0
    assert "Traceback" not in server.errors()


async def test_jobs_run_on_while_the_orchestrator_is_away_and_are_fetched_when_it_is_back(
    here: Place,
) -> None:
    node = here.node("node", "--slots", "2")
    server = here.server(nodes=[node.url])
    fifo = here.directory / "done"
    os.mkfifo(fifo)
    with gate(here.directory / "gate") as late, gate(here.directory / "soon") as soon:
        async with portal(server.url) as user:
            meanwhile = await user.upload(f"{soon.wait}; echo 1 > result.txt; echo > {fifo}; exit 3")
            longer = await user.upload(f"{late.wait}; echo 2 > result.txt")
            waiting = await user.upload("echo 3 > result.txt")
            for job in (meanwhile, longer):
                await user.until(job, "Running")
        assert await server.end(signal.SIGTERM) == 0
        soon.open()
        with trio.fail_after(60):
            await trio.to_thread.run_sync(fifo.read_text, abandon_on_cancel=True)
        server = here.server(nodes=[node.url])
        async with portal(server.url) as user:
            end = await user.ended(meanwhile)
            assert (end["status"], end["message"], end["attempt"]) == ("Failed", "exit code 3", 1)
            assert (await user.job(longer))["status"] == "Running"
            late.open()
            for job, content in ((meanwhile, b"1\n"), (longer, b"2\n"), (waiting, b"3\n")):
                assert (await user.ended(job))["attempt"] == 1
                assert (await user.contents(job))["result.txt"] == content


@pytest.mark.parametrize("program", ["server", "node"])
def test_a_terminal_that_is_closed_ends_a_program_and_else_it_reads_its_settings_again(
    tmp_path: Path, program: str
) -> None:
    ours, terminal = os.openpty()
    places = {"DB_PATH": str(tmp_path / "db"), "DATA_PATH": str(tmp_path / "data"), "PORT": "0"}
    # What the first process of a session opens becomes its terminal.
    opens = ["sh", "-c", 'exec "$@" < "$0" > "$0" 2>&1', os.ttyname(terminal)]
    with open(ours, "rb") as screen:
        started = subprocess.Popen(
            [*opens, *COMMAND, program], env={**os.environ, **places}, start_new_session=True
        )
        try:
            read_until(screen, b"listening on")
            os.close(terminal)
            started.send_signal(signal.SIGHUP)  # from somebody else
            read_until(screen, b"settings were read again")
            screen.close()
            assert started.wait(60) == 0
        finally:
            started.kill()
            started.wait()


def read_until(screen: BinaryIO, text: bytes) -> None:
    while text not in (line := screen.readline()):
        assert line


async def test_one_that_was_started_to_outlive_its_terminal_does(here: Place) -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup starts it
    try:
        server = here.server(nodes=["http://127.0.0.1:9"])
    finally:
        signal.signal(signal.SIGHUP, before)
    server.send(signal.SIGHUP)
    async with portal(server.url) as user:
        await user.upload("true")
    assert await server.end(signal.SIGTERM) == 0
