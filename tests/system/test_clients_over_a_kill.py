"""The orchestrator is killed while clients follow all events and a log: each goes on where it was."""

from __future__ import annotations

import os
import signal
from contextlib import aclosing
from pathlib import Path
from typing import Any

import trio
from support.peers.event_streams import events
from support.processes.gates import gate
from support.processes.processes import PATIENCE, Place, Started

from orchestrator.client import AsyncClient, Event, Retries

SOON = Retries(first=0.05, longest=0.2)


class Seen:
    """What grows, and can be waited on."""

    def __init__(self) -> None:
        self.log = b""
        self.printed = b""
        self.events: list[Event] = []
        self._grown = trio.Event()

    def ring(self) -> None:
        self._grown.set()
        self._grown = trio.Event()

    async def until(self, holds: Any) -> None:
        while not holds(self):
            await self._grown.wait()

    def ended(self, number: int) -> bool:
        return any((e.data["job_id"], e.data["status"]) == (number, "Completed") for e in self.events)


async def read_log(client: AsyncClient, number: int, seen: Seen) -> None:
    async with aclosing(client.logs(number, follow=True)) as pieces:
        async for piece in pieces:
            seen.log += piece
            seen.ring()


async def read_events(client: AsyncClient, seen: Seen) -> None:
    async with aclosing(client.iter_events()) as stream:
        async for event in stream:
            seen.events.append(event)
            seen.ring()


async def read_command(command: Started, seen: Seen) -> None:
    assert command.process.stdout is not None
    fd = command.process.stdout.fileno()
    while True:
        await trio.lowlevel.wait_readable(fd)
        piece = os.read(fd, 65536)
        if not piece:
            return
        seen.printed += piece
        seen.ring()


async def test_nothing_is_missing_and_nothing_comes_twice(here: Place, tmp_path: Path) -> None:
    node = here.node()
    server = here.server(nodes=[node.url])
    port = server.port
    seen = Seen()
    with gate(tmp_path / "one") as first, gate(tmp_path / "two") as second, trio.fail_after(3 * PATIENCE):
        async with AsyncClient(server.url, retries=SOON) as client, trio.open_nursery() as nursery:
            nursery.start_soon(read_events, client, seen)
            script = f"echo one; {first.wait}; printf 'tw'; {second.wait}; echo o; echo three"
            job = await client.submit({"run.sh": script.encode()}, user=1)
            nursery.start_soon(read_log, client, job.id, seen)
            environment = {"ORCHESTRATOR_URL": server.url, "XDG_CONFIG_HOME": "/nowhere"}
            command = here.begin("logs", "-f", str(job.id), name="logs", environment=environment)
            nursery.start_soon(read_command, command, seen)
            await seen.until(lambda now: now.log == now.printed == b"one\n")
            for opened in (first, second):
                await server.end(signal.SIGKILL)
                # It prints while nobody is there to take it.
                opened.open()
                server = here.server(nodes=[node.url], port=port)
                await seen.until(lambda now: len(now.log) > 4 and len(now.printed) > 4)
            await seen.until(lambda now: now.ended(job.id))
            assert await trio.to_thread.run_sync(command.process.wait) == 0
            later = await client.submit({"run.sh": b"true"}, user=2)
            await seen.until(lambda now: now.ended(later.id))
            steps = [step["to"] for step in await client.history(later.id)]
            nursery.cancel_scope.cancel()
        assert seen.log == seen.printed == b"one\ntwo\nthree\n"
        assert command.errors() == ""
        async with events(server.url, "/v1/events?after=0") as stream:
            told = []
            while not told or (told[-1][1], told[-1][2]) != (later.id, "Completed"):
                event = await stream.next()
                assert event is not None
                told.append((str(event.id), event.data["job_id"], event.data["status"]))
    mine = [(event.id, event.data["job_id"], event.data["status"]) for event in seen.events]
    assert mine == told[-len(mine) :]
    of_later = [event.data for event in seen.events if event.data["job_id"] == later.id and event.data["at"]]
    assert [data["status"] for data in of_later] == steps
