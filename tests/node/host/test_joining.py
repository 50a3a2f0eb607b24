"""A node that joins: what it says and how often, to a real server that answers as the test wants."""

from __future__ import annotations

import json
import random
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
from quart import Response, request
from quart_trio import QuartTrio

from actors.config.tables import SettingsError
from actors.wire.http.server import serve
from node.host.joining import Invitation, Joining, reachable_url
from node.settings import load_settings

ID = "a" * 32


class Orchestrator:
    """Answers with `status`; what it is told comes out of `told`."""

    def __init__(self) -> None:
        self.status = 201
        self.url = ""
        self.unknown: list[str] = []
        self._put, self.told = trio.open_memory_channel[tuple[str, Any]](100)

    def app(self) -> QuartTrio:
        app = QuartTrio("orchestrator")

        @app.post("/v1/nodes")
        async def join() -> Response:
            self._put.send_nowait(("POST", json.loads(await request.get_data())))
            said = {"detail": "not now", "unknown_services": self.unknown}
            return Response(json.dumps(said), self.status)

        @app.delete("/v1/nodes/<node_id>")
        async def leave(node_id: str) -> Response:
            # Without it an orchestrator keeps a node whose jobs run: this one goes with them.
            assert request.args.to_dict() == {"force": "true"}
            self._put.send_nowait(("DELETE", node_id))
            return Response(status=204)

        return app


@pytest.fixture
async def orchestrator() -> AsyncIterator[Orchestrator]:
    found, shutdown = Orchestrator(), trio.Event()
    async with trio.open_nursery() as nursery:

        async def listen(*, task_status: trio.TaskStatus[list[str]]) -> None:
            await serve(found.app(), host="127.0.0.1", port=0, shutdown=shutdown, task_status=task_status)

        (found.url,) = await nursery.start(listen)
        yield found
        shutdown.set()


@asynccontextmanager
async def joining(url: str, again: float = 0.01) -> AsyncIterator[Joining]:
    invitation = Invitation(url, ID, "http://10.0.0.7:9000", ("a", "b"), 2, {"gpu": ""}, None)
    node = Joining(invitation, random.Random(1), again=again)
    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(node.run)
            yield node
            nursery.cancel_scope.cancel()


async def test_it_says_who_and_where_it_is_again_and_again(orchestrator: Orchestrator) -> None:
    async with joining(orchestrator.url):
        said = [await orchestrator.told.receive() for _ in range(3)]
    body = {"id": ID, "url": "http://10.0.0.7:9000", "services": ["a", "b"], "slots": 2}
    assert said == [("POST", {**body, "labels": {"gpu": ""}, "machine": None})] * 3


async def test_services_that_the_orchestrator_does_not_have_are_told_once(
    orchestrator: Orchestrator, caplog: pytest.LogCaptureFixture
) -> None:
    orchestrator.unknown = ["b"]
    async with joining(orchestrator.url):
        for _ in range(3):
            await orchestrator.told.receive()
    said = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert said == [f"{orchestrator.url} has no service b, so no job of it comes here"]


async def test_a_refusal_is_told_once_and_tried_again(
    orchestrator: Orchestrator, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "node.joining")
    orchestrator.status = 422
    async with joining(orchestrator.url):
        for _ in range(3):
            await orchestrator.told.receive()
        orchestrator.status = 200
        for _ in range(3):
            await orchestrator.told.receive()
    said = [record.getMessage() for record in caplog.records]
    assert len(said) == 2, said
    assert "HTTP 422: not now" in said[0] and said[1].startswith("joined")


async def test_it_joins_once_somebody_listens(caplog: pytest.LogCaptureFixture) -> None:
    found, shutdown = Orchestrator(), trio.Event()
    with trio.socket.socket() as held:
        # Nobody else gets the port meanwhile, not even who tries to connect to it.
        held.setsockopt(trio.socket.SOL_SOCKET, trio.socket.SO_REUSEADDR, 1)
        await held.bind(("127.0.0.1", 0))
        port = held.getsockname()[1]
        async with joining(f"http://127.0.0.1:{port}"), trio.open_nursery() as nursery:
            while not caplog.records:
                await trio.lowlevel.checkpoint()

            async def listen(*, task_status: trio.TaskStatus[list[str]]) -> None:
                await serve(
                    found.app(), host="127.0.0.1", port=port, shutdown=shutdown, task_status=task_status
                )

            await nursery.start(listen)
            assert (await found.told.receive())[0] == "POST"
            shutdown.set()


async def test_it_leaves_and_goes_though_nobody_hears(orchestrator: Orchestrator) -> None:
    async with joining(orchestrator.url) as node:
        await orchestrator.told.receive()
    await node.leave()
    while (said := await orchestrator.told.receive())[0] == "POST":
        pass
    assert said == ("DELETE", ID)
    invitation = Invitation("http://127.0.0.1:9", ID, "http://n:1", ("a",), None, {}, None)
    await Joining(invitation, random.Random(1)).leave()


async def test_a_name_that_the_resolver_takes_for_none_is_like_one_that_it_does_not_know(
    caplog: pytest.LogCaptureFixture,
) -> None:
    assert reachable_url("http://0.0.0.0:9001", "http://o..de:5000") == f"http://{socket.gethostname()}:9001"
    async with joining("http://o..de:5000") as node:
        while not caplog.records:
            await trio.lowlevel.checkpoint()
    assert "not joined to http://o..de:5000" in caplog.text
    await node.leave()
    assert "was not told that this node leaves" in caplog.text


async def test_proxies_of_the_environment_are_not_used(
    orchestrator: Orchestrator, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
        monkeypatch.setenv(name.lower(), "http://127.0.0.1:9")
    monkeypatch.setenv("NO_PROXY", "10.0.0.0/8")
    async with joining(orchestrator.url):
        assert (await orchestrator.told.receive())[0] == "POST"


def test_the_url_told_is_one_that_can_be_reached() -> None:
    assert reachable_url("http://127.0.0.1:9000", "http://10.0.0.1:5000") == "http://127.0.0.1:9000"
    assert reachable_url("http://0.0.0.0:9001", "http://127.0.0.1:5000") == "http://127.0.0.1:9001"


def test_what_is_needed_to_join_is_asked_for() -> None:
    found = load_settings(
        {},
        {"join": "http://o:5000/", "join_services": "a, b", "labels": "gpu=a100,ssd", "machine": "c" * 32},
    )
    assert (found.join, found.join_services) == ("http://o:5000", ("a", "b"))
    assert dict(found.labels) == {"gpu": "a100", "ssd": ""}


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        ({"join": "http://o:5000"}, "--join"),
        ({"join_services": "a"}, "--join-services"),
        ({"labels": "a=b"}, "--labels"),
        ({"join": "o:5000", "join_services": "a"}, "--join"),
        ({"join": "http://o..de:5000", "join_services": "a"}, "--join"),
        ({"join": "http://xn--:5000", "join_services": "a"}, "--join"),
        ({"join": f"http://{'o' * 64}:5000", "join_services": "a"}, "--join"),
        ({"join": "http://o:5000", "join_services": ","}, "--join-services"),
        ({"join": "http://o:5000", "join_services": "a", "labels": "a b=c"}, "--labels"),
        ({"join": "http://o:5000", "join_services": "a", "machine": "x"}, "--machine"),
        ({"join": "http://o:5000", "join_services": "a", "advertise": "h:1"}, "--advertise"),
    ],
)
def test_a_wrong_or_lonely_flag_is_named(flags: dict[str, str], named: str) -> None:
    with pytest.raises(SettingsError) as refused:
        load_settings({}, flags)
    assert refused.value.mistakes[0].startswith(f"{named}: ")
