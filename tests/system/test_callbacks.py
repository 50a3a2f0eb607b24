"""Callbacks with real processes: told once, over the death of the orchestrator."""

from __future__ import annotations

import re
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio
from standardwebhooks.webhooks import Webhook
from support.data.certificates import self_signed
from support.peers.peer import Peer, Request, send, serving
from support.peers.portals import portal
from support.processes.processes import Place


class Receiver:
    """A portal: it keeps what it is sent, and answers `status`."""

    def __init__(self) -> None:
        self.status = 200
        self.peer = Peer(self._answer)
        self.taken: list[Request] = []
        self._put, self._come = trio.open_memory_channel[Request](1000)

    async def _answer(self, request: Request, stream: trio.SocketStream) -> None:
        if self.status == 200:
            self.taken.append(request)
        self._put.send_nowait(request)
        await send(stream, self.status, b"")

    async def next(self) -> Request:
        with trio.fail_after(60):
            return await self._come.receive()

    async def took(self, number: int) -> None:
        """Wait until it has taken that many with a 200."""
        while len(self.taken) < number:
            await self.next()


def verified(request: Request, secret: Path) -> dict[str, Any]:
    """What it tells, by the standard's own library."""
    assert secret.stat().st_mode & 0o777 == 0o600
    told: dict[str, Any] = Webhook(secret.read_text().strip()).verify(request.body, dict(request.headers))
    return told


@asynccontextmanager
async def receiver() -> AsyncIterator[Receiver]:
    found = Receiver()
    async with serving(found.peer):
        yield found


def allowed(received: Receiver) -> dict[str, str]:
    return {
        "CALLBACK_HOSTS": received.peer.url.removeprefix("http://"),
        "CALLBACK_PRIVATE": "127.0.0.1",
    }


async def test_told_over_the_death_of_the_orchestrator_with_the_same_id(here: Place) -> None:
    node = here.node()
    async with receiver() as received:
        received.status = 500
        server = here.server(nodes=[node.url], **allowed(received))
        secret = Path(here.directory, "server", "data", "callback.secret")
        url = f"{received.peer.url}/done"
        async with portal(server.url) as user:
            answer = await user.post('name="file"; filename="run.sh"|exit 3', f'name="callback_url"|{url}')
            job = answer.json()["id"]
            first = await received.next()
        await server.end(signal.SIGKILL)
        received.status = 200
        server = here.server(nodes=[node.url], **allowed(received))
        await received.took(1)
        (second,) = received.taken
        assert first.headers["webhook-id"] == second.headers["webhook-id"]
        for request in (first, second):
            told = verified(request, secret)
            assert told["type"] == "job.ended"
            assert (told["data"]["id"], told["data"]["exit_code"]) == (job, 3)
            assert told["data"]["ended_at"] == told["timestamp"]
        async with portal(server.url) as user:
            with trio.fail_after(60):
                while (await user.job(job))["callback"]["status"] == "pending":
                    await trio.lowlevel.checkpoint()
            shown = await user.job(job)
            assert told["data"] == {**shown, "callback": None}
            assert shown["callback"]["status"] == "delivered" and shown["callback"]["url"] == url
            # The results were there before it was told, and nothing is told twice.
            assert await user.contents(job)
            another = await user.post('name="file"; filename="run.sh"|true', f'name="callback_url"|{url}')
            await received.took(2)
            third = received.taken[-1]
            assert verified(third, secret)["data"]["id"] == another.json()["id"] != job
            assert received.taken == [second, third]


async def test_a_batch_is_told_once_whether_its_jobs_end_before_or_after_it_is_ordered(here: Place) -> None:
    node = here.node()
    async with receiver() as received:
        server = here.server(nodes=[node.url], **allowed(received))
        secret = Path(here.directory, "server", "data", "callback.secret")
        order = {"callback_url": f"{received.peer.url}/done"}
        async with portal(server.url) as user:
            ids = [await user.upload(script) for script in ("true", "exit 3", "exec sleep 600")]
            for job in ids[:2]:
                await user.ended(job)
            late = await user.http.post("/v1/batches", json={"jobs": ids, **order})
            early = await user.http.post("/v1/batches", json={"jobs": ids[:2], **order})
            first = verified(await received.next(), secret)
            await user.http.post(f"/terminate/{ids[2]}")
            second = verified(await received.next(), secret)
            for told, batch, left in ((first, early, 0), (second, late, 1)):
                assert told["type"] == "batch.ended" and batch.json()["left"] == left
                route = f"/v1/batches/{batch.json()['id']}"
                with trio.fail_after(60):
                    while (shown := await user.json(route))["callback"]["status"] == "pending":
                        await trio.lowlevel.checkpoint()
                assert told["data"] == {**shown, "callback": None}
            assert first["data"]["not_completed"] == [ids[1]]
            assert (second["data"]["completed"], second["data"]["jobs"]) == (1, 3)
            assert sorted(second["data"]["not_completed"]) == ids[1:]
            assert len(received.taken) == 2


async def test_a_refused_host_is_400_and_makes_no_job(here: Place) -> None:
    server = here.server(nodes=["http://127.0.0.1:9"], CALLBACK_HOSTS="portal.example.org")
    async with portal(server.url) as user:
        for url in ("http://127.0.0.1:9/", "http://localhost:9/", "http://169.254.169.254/latest/"):
            answer = await user.post('name="file"; filename="run.sh"|true', f'name="callback_url"|{url}')
            assert answer.status_code == 400 and "portal.example.org" in answer.json()["message"]
        assert await user.statuses() == []


async def test_a_host_that_is_private_is_sent_nothing(here: Place) -> None:
    node = here.node()
    async with receiver() as received:
        port = received.peer.url.rpartition(":")[2]
        server = here.server(nodes=[node.url], CALLBACK_HOSTS=f"localhost:{port}")
        async with portal(server.url) as user:
            url = f"http://localhost:{port}/"
            (here.directory / "run.sh").write_text("true")
            given = ("submit", "run.sh", "--callback-url", url, "--user", "1", "--wait")
            asked = {"ORCHESTRATOR_URL": server.url, "XDG_CONFIG_HOME": "/nowhere"}
            done = await trio.to_thread.run_sync(lambda: here.refused(*given, environment=asked))
            assert done.status == 0, done
            job = await user.job(int(done.out.split()[0]))
            with trio.fail_after(60):
                while not job["callback"]["tries"]:
                    job = await user.job(job["id"])
            number = str(job["id"])
            shown = await trio.to_thread.run_sync(
                lambda: here.refused("status", number, environment=asked).out
            )
        assert "private address" in job["callback"]["last_error"]
        (line,) = (line for line in shown.splitlines() if line.startswith("callback"))
        # It may have been tried again meanwhile.
        told = rf"{re.escape(url)} pending after (1 try|\d+ tries): localhost is at a private address"
        assert re.search(told, line), line
        assert received.peer.connections == 0


async def test_a_receiver_of_a_private_authority_is_told_once_that_one_is_trusted(here: Place) -> None:
    node, received = here.node(), Receiver()
    shown, authority = self_signed(here.directory, "localhost")

    async def serve(stream: trio.SocketStream) -> None:
        await received.peer.serve(trio.SSLStream(stream, shown, server_side=True, https_compatible=True))

    async with trio.open_nursery() as nursery:
        (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
        nursery.start_soon(trio.serve_listeners, serve, [listener])
        place = f"localhost:{listener.socket.getsockname()[1]}"
        server = here.server(
            nodes=[node.url],
            CALLBACK_HOSTS=place,
            CALLBACK_PRIVATE="127.0.0.1,::1",
            CALLBACK_CA_FILE=str(authority),
        )
        async with portal(server.url) as user:
            fields = ('name="file"; filename="run.sh"|true', f'name="callback_url"|https://{place}/done')
            job = (await user.post(*fields)).json()["id"]
            told = await received.next()
        nursery.cancel_scope.cancel()
    assert told.json()["data"]["id"] == job


@pytest.mark.parametrize(
    ("setting", "says"), [("CALLBACK_SECRET_FILE", "whsec_"), ("CALLBACK_CA_FILE", "PEM")]
)
def test_a_bad_file_ends_the_start_with_one_line(here: Place, setting: str, says: str) -> None:
    (here.directory / "bad").write_text("hunter2")
    refused = here.refused(
        "server",
        environment={
            "CALLBACK_HOSTS": "portal.example.org",
            setting: str(here.directory / "bad"),
            "SERVICE_EXAMPLE_NODES": "http://127.0.0.1:9",
            "PORT": "0",
        },
    )
    assert refused.status == 1
    (line,) = refused.lines
    assert says in line and "hunter2" not in line
