from __future__ import annotations

import json
import logging
import os
import random
import resource
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import Any

import httpx
import pytest
import trio
import trio.testing
from quart import Blueprint, Response, request, websocket
from quart_trio import QuartTrio

from actors.wire.errors import CannotListen, PortInUse
from actors.wire.http.app import admit_all
from actors.wire.http.plain_routes import Answer, Asked, Head, PlainRoutes
from actors.wire.http.polls import PolledConnection
from actors.wire.http.server import serve


@pytest.fixture(params=["by the app", "without it"], autouse=True)
def by_whom(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """By whom plain requests are answered: all that holds of a connection holds for both."""
    monkeypatch.setattr(App, "is_plain", request.param == "without it")


LARGE = random.Random(1).randbytes(16 << 20)


class App(QuartTrio):
    """Routes that show how a server ends. Those of `plain` are answered without the app, if they are."""

    is_plain = False

    def __init__(self) -> None:
        super().__init__(__name__)
        self.plain = PlainRoutes(admit_all, fail)
        self.entered = trio.Event()
        self.waiting = trio.Semaphore(0)
        self.release = trio.Event()
        self.events: list[str] = []
        self.answering: list[trio.lowlevel.Task] = []
        page = Blueprint("plain", __name__)
        self.plain.get(page, "/")(self.ping)
        self.plain.get(page, "/wait")(self.wait)
        self.plain.post(page, "/size")(self.size)
        self.register_blueprint(page)
        self.add_url_rule("/endless", "endless", self.endless)
        self.add_url_rule("/flood", "flood", self.flood)
        self.add_url_rule("/large", "large", self.large)
        self.add_url_rule("/count", "count", self.count, methods=["POST"])
        self.before_serving(partial(self.note, "started"))
        self.after_serving(partial(self.note, "stopped"))

    async def note(self, what: str) -> None:
        self.events.append(what)

    async def ping(self, asked: Asked) -> Answer:
        self.answering.append(trio.lowlevel.current_task())
        return Answer(200, "application/json", b'{"message":"pong"}\n')

    async def wait(self, asked: Asked) -> Answer:
        self.waiting.release()
        self.entered.set()
        await self.release.wait()
        return Answer(200, "text/plain", b"done")

    async def size(self, asked: Asked) -> Answer:
        return Answer(200, "text/plain", str(sum([len(one) async for one in asked.body])).encode())

    async def endless(self) -> Response:
        return self._streamed(b"tick\n", trio.sleep_forever)

    async def flood(self) -> Response:
        return self._streamed(bytes(1 << 20), trio.lowlevel.checkpoint)

    async def large(self) -> bytes:
        self.entered.set()
        return LARGE

    async def count(self) -> str:
        return str(sum([len(chunk) async for chunk in request.body]))

    def _streamed(self, piece: bytes, between: Callable[[], Any]) -> Response:
        async def pieces() -> AsyncIterator[bytes]:
            while True:
                self.entered.set()
                yield piece
                await between()

        response = Response(pieces())
        response.timeout = None
        return response


def fail(head: Head, error: Exception) -> Answer:
    return Answer(500, "text/plain", str(error).encode())


class Server:
    def __init__(self, app: Any, nursery: trio.Nursery, shutdown: trio.Event) -> None:
        self.app = app
        self.nursery = nursery
        self.shutdown = shutdown
        self.url = ""
        self.ended = trio.Event()

    async def run(
        self, graceful_timeout: float, keep_alive: float, task_status: trio.TaskStatus[list[str]]
    ) -> None:
        await serve(
            self.app,
            host="127.0.0.1",
            port=0,
            shutdown=self.shutdown,
            graceful_timeout=graceful_timeout,
            keep_alive_timeout=keep_alive,
            task_status=task_status,
            plain=self.app.plain if App.is_plain and isinstance(self.app, App) else None,
        )
        self.ended.set()


@asynccontextmanager
async def serving(
    app: Any, graceful_timeout: float = 3.0, keep_alive_timeout: float = 75.0
) -> AsyncIterator[Server]:
    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            server = Server(app, nursery, trio.Event())
            [server.url] = await nursery.start(
                lambda task_status: server.run(graceful_timeout, keep_alive_timeout, task_status)
            )
            yield server
            server.shutdown.set()


@asynccontextmanager
async def client(server: Server) -> AsyncIterator[httpx.AsyncClient]:
    # Nothing is encrypted here: what authorities there are need not be read each time.
    async with httpx.AsyncClient(base_url=server.url, trust_env=False, verify=False, timeout=None) as http:
        yield http


async def test_the_address_is_told_once_it_answers_and_startup_has_run() -> None:
    app = App()
    async with serving(app) as server, client(server) as http:
        assert server.url.startswith("http://127.0.0.1:")
        assert app.events == ["started"]
        answer = await http.get("/")
        assert answer.json() == {"message": "pong"}
        assert "server" not in answer.headers
    assert app.events == ["started", "stopped"]


async def test_the_callback_gets_the_address_too() -> None:
    told: list[str] = []
    shutdown = trio.Event()
    shutdown.set()
    await serve(App(), host="localhost", port=0, shutdown=shutdown, on_bound=told.append)
    assert told
    assert told[0].startswith("http://localhost:")


async def test_what_cannot_wait_is_answered_by_the_task_that_reads() -> None:
    """It is what polls cost; whatever has come behind a request is looked at meanwhile."""
    app, several = App(), b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n" * 3
    async with serving(app) as server, client(server) as http:
        for _ in range(2):
            await http.get("/")
        assert len({*map(id, app.answering)}) == (1 if App.is_plain else 2)
        app.answering.clear()
        stream = await trio.open_tcp_stream("127.0.0.1", int(server.url.rpartition(":")[2]))
        async with stream:
            await stream.send_all(several)
            answers = b""
            while answers.count(b"pong") < 3:
                answers += await stream.receive_some()
        assert len({*map(id, app.answering)}) == 3


async def test_a_large_body_streams_through() -> None:
    async def body() -> AsyncIterator[bytes]:
        for _ in range(20):
            yield bytes(1 << 20)

    async with serving(App()) as server, client(server) as http:
        assert (await http.post("/count", content=body())).text == str(20 << 20)


async def test_an_answer_larger_than_the_kernel_takes_at_once_comes_whole_and_holds_up_nobody() -> None:
    app = App()
    async with serving(app) as server, client(server) as http:
        stream = await trio.open_tcp_stream("127.0.0.1", int(server.url.rpartition(":")[2]))
        async with stream:
            await stream.send_all(b"GET /large HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            await app.entered.wait()
            await trio.testing.wait_all_tasks_blocked()
            assert (await http.get("/")).status_code == 200
            came = b"".join([piece async for piece in stream])
        assert came.partition(b"\r\n\r\n")[2] == LARGE


async def test_a_port_in_use_is_one_clear_line() -> None:
    async with serving(App()) as server:
        port = int(server.url.rpartition(":")[2])
        with pytest.raises(PortInUse) as caught:
            await serve(App(), host="127.0.0.1", port=port, shutdown=trio.Event())
        assert caught.value.detail == f"cannot listen on 127.0.0.1:{port}: the port is in use"


@pytest.mark.parametrize(("host", "port"), [("192.0.2.1", 0), ("a..b", 0), ("127.0.0.1", 70000)])
async def test_an_address_that_is_none_of_ours_is_one_clear_line(host: str, port: int) -> None:
    with trio.fail_after(60), pytest.raises(CannotListen) as caught:
        await serve(App(), host=host, port=port, shutdown=trio.Event())
    assert f"cannot listen on {host}:{port}" in caught.value.detail


async def test_an_idle_connection_does_not_hold_the_end() -> None:
    async with serving(App(), graceful_timeout=3600) as server, client(server) as http:
        await http.get("/")
        server.shutdown.set()
        await server.ended.wait()


async def test_an_idle_connection_is_closed_when_its_time_is_over() -> None:
    shutdown = trio.Event()
    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            app = App()
            start = partial(
                serve,
                app,
                host="127.0.0.1",
                port=0,
                shutdown=shutdown,
                keep_alive_timeout=0.1,
                plain=app.plain if App.is_plain else None,
            )
            [url] = await nursery.start(start)
            stream = await trio.open_tcp_stream("127.0.0.1", int(url.rpartition(":")[2]))
            async with stream:
                for _ in range(2):
                    await stream.send_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
                got = b"".join([piece async for piece in stream])
            assert got.count(b"200 ") == 2
            shutdown.set()


async def test_a_request_under_way_is_finished_and_new_ones_are_refused() -> None:
    app = App()
    answers: list[str] = []
    async with (
        serving(app, graceful_timeout=3600) as server,
        client(server) as http,
        trio.open_nursery() as nursery,
    ):

        async def ask() -> None:
            answers.append((await http.get("/wait")).text)

        nursery.start_soon(ask)
        await app.entered.wait()
        server.shutdown.set()
        await trio.testing.wait_all_tasks_blocked()
        with pytest.raises(httpx.ConnectError):
            async with httpx.AsyncClient(base_url=server.url, trust_env=False, verify=False) as other:
                await other.get("/")
        assert not server.ended.is_set()
        app.release.set()
        await server.ended.wait()
    assert answers == ["done"]


async def test_an_endless_stream_is_cut_when_its_time_is_over() -> None:
    app = App()
    async with serving(app, graceful_timeout=0.05) as server, client(server) as http:
        with pytest.raises(httpx.RemoteProtocolError):
            async with http.stream("GET", "/endless") as answer:
                async for _ in answer.aiter_bytes():
                    server.shutdown.set()
        await server.ended.wait()
    assert app.events == ["started", "stopped"]


@pytest.mark.parametrize("how", ["shutdown", "cancel"])
async def test_a_client_that_stopped_reading_does_not_hold_the_end(how: str) -> None:
    app = App()
    async with serving(app, graceful_timeout=0.05) as server:
        stream = await trio.open_tcp_stream("127.0.0.1", int(server.url.rpartition(":")[2]))
        async with stream:
            await stream.send_all(b"GET /flood HTTP/1.1\r\nHost: x\r\n\r\n")
            await app.entered.wait()
            await trio.testing.wait_all_tasks_blocked(0.05)
            if how == "cancel":
                server.nursery.cancel_scope.cancel()
            else:
                server.shutdown.set()
                await server.ended.wait()


async def test_a_connection_that_fails_takes_no_other_along(caplog: pytest.LogCaptureFixture) -> None:
    app = App()

    async def broken(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http" and scope["path"] == "/broken":
            await send({"type": "nonsense"})
        await app(scope, receive, send)

    async with serving(broken) as server, client(server) as http:
        with caplog.at_level(logging.CRITICAL):
            for _ in range(3):
                try:
                    assert (await http.get("/broken")).status_code == 500
                except httpx.RemoteProtocolError:
                    continue
        assert (await http.get("/")).status_code == 200


async def test_garbage_on_a_connection_is_answered_or_dropped_and_others_go_on() -> None:
    async with serving(App()) as server, client(server) as http:
        port = int(server.url.rpartition(":")[2])
        for garbage in (
            b"\x16\x03\x01\r\n\r\n",
            b"hello\r\n\r\n",
            b"GET /" + b"a" * 100_000 + b"\r\n\r\n",
        ):
            stream = await trio.open_tcp_stream("127.0.0.1", port)
            async with stream:
                try:
                    await stream.send_all(garbage)
                    got = b"".join([piece async for piece in stream])
                except trio.BrokenResourceError:
                    continue
                assert not got or got.startswith(b"HTTP/1.1 4")
        assert (await http.get("/")).status_code == 200


async def test_a_failing_startup_ends_the_server_with_its_reason() -> None:
    app = App()

    async def fail() -> None:
        raise RuntimeError("no database")

    app.before_serving(fail)
    with trio.fail_after(60), pytest.raises(BaseExceptionGroup) as caught:
        await serve(app, host="127.0.0.1", port=0, shutdown=trio.Event())
    assert "no database" in str(caught.value.exceptions)


async def test_the_port_is_free_again_at_once() -> None:
    async with serving(App()) as server, client(server) as http:
        await http.get("/")
        port = int(server.url.rpartition(":")[2])
        server.shutdown.set()
        await server.ended.wait()
        with socket.create_server(("127.0.0.1", port)):
            pass


async def connect(server: Server) -> trio.SocketStream:
    return await trio.open_tcp_stream("127.0.0.1", int(server.url.rpartition(":")[2]))


async def exchange(server: Server, request: bytes, *, half_close: bool = False) -> bytes:
    """What comes back for these bytes until the server closes."""
    async with await connect(server) as stream:
        await stream.send_all(request)
        if half_close:
            await stream.send_eof()
        return b"".join([piece async for piece in stream])


@pytest.mark.parametrize("behind", [b"\r\n", b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"])
@pytest.mark.parametrize("path", [b"size", b"count"])
async def test_what_comes_behind_the_last_request_of_a_connection_is_not_heard(
    path: bytes, behind: bytes
) -> None:
    request = b"POST /%s HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 2\r\n\r\nab" % path
    async with serving(App()) as server:
        answer = await exchange(server, request + behind)
    assert answer.startswith(b"HTTP/1.1 200 ") and answer.endswith(b"\r\n\r\n2"), answer


async def test_what_comes_while_the_last_request_is_answered_is_not_heard() -> None:
    app = App()
    async with serving(app) as server, await connect(server) as stream:
        await stream.send_all(b"GET /wait HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        await app.entered.wait()
        await stream.send_all(b"\r\n")
        await trio.testing.wait_all_tasks_blocked(0.01)
        app.release.set()
        answer = b"".join([piece async for piece in stream])
    assert answer.endswith(b"\r\n\r\ndone"), answer


GET = b"GET /%s HTTP/1.1\r\nHost: x\r\n\r\n"


@pytest.mark.parametrize(
    ("request_", "content"),
    [
        (b"GET / HTTP/1.0\r\n\r\n", b"pong"),
        (GET % b"", b"pong"),
        (b"POST /count HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nabcde", b"5"),
    ],
)
async def test_a_client_that_has_closed_its_side_is_answered(request_: bytes, content: bytes) -> None:
    async with serving(App()) as server:
        answer = await exchange(server, request_, half_close=True)
    assert answer.startswith(b"HTTP/1.1 200 ")
    assert content in answer


async def test_its_answer_may_begin_a_little_later() -> None:
    app = App()
    async with serving(app) as server, trio.open_nursery() as nursery:
        answers: list[bytes] = []

        async def ask() -> None:
            answers.append(await exchange(server, GET % b"wait", half_close=True))

        nursery.start_soon(ask)
        await app.entered.wait()
        await trio.testing.wait_all_tasks_blocked(0.05)
        app.release.set()
    assert answers[0].endswith(b"done")


async def test_a_stream_ends_when_its_client_has_gone() -> None:
    app = App()
    async with serving(app, graceful_timeout=3600) as server:
        async with await connect(server) as stream:
            await stream.send_all(GET % b"endless")
            await app.entered.wait()
            await stream.receive_some()
        server.shutdown.set()
        await server.ended.wait()


@pytest.mark.parametrize("request_", [b"", GET % b"", b"GET / HT"])
async def test_a_connection_that_its_client_has_closed_is_closed(request_: bytes) -> None:
    """And not kept for the time of an idle one."""
    async with serving(App(), graceful_timeout=3600) as server:
        await exchange(server, request_, half_close=True)
        server.shutdown.set()
        await server.ended.wait()


WEBSOCKET = b"GET /socket HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
KEY = b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"


@pytest.mark.parametrize("half_close", [True, False])
@pytest.mark.parametrize("request_", [WEBSOCKET + b"\r\n", WEBSOCKET + KEY + b"\r\ntoo early"])
async def test_what_asks_for_a_websocket_and_is_none_is_refused_and_closed(
    request_: bytes, half_close: bool
) -> None:
    app = App()

    async def listen() -> None:
        while True:
            await websocket.receive()

    app.add_websocket("/socket", view_func=listen)
    async with serving(app, graceful_timeout=3600) as server:
        answer = await exchange(server, request_, half_close=half_close)
        assert answer.startswith(b"HTTP/1.1 400 ")
        server.shutdown.set()
        await server.ended.wait()


@pytest.fixture
def few_descriptors(monkeypatch: pytest.MonkeyPatch) -> int:
    """How many connections a server may have that may have twice as many descriptors."""
    monkeypatch.setattr(resource, "getrlimit", lambda _what: (32, 32))
    return 16


async def test_idle_connections_go_before_new_ones_have_to_wait(few_descriptors: int) -> None:
    async with serving(App()) as server:
        streams = []
        for _ in range(3 * few_descriptors):
            streams.append(await connect(server))
            await streams[-1].send_all(GET % b"")
            assert b"200 " in await streams[-1].receive_some()
        for stream in streams[: 2 * few_descriptors]:
            assert b"".join([piece async for piece in stream]) in (b"", b'{"message":"pong"}\n')
            await stream.aclose()
        for stream in streams[2 * few_descriptors :]:
            await stream.send_all(GET % b"")
            answer = b""
            while answer.count(b"200 ") == 0:
                answer += await stream.receive_some()
            await stream.aclose()


async def test_with_all_of_them_busy_a_new_one_waits_for_one_to_end(few_descriptors: int) -> None:
    app = App()
    answers: list[bytes] = []
    async with serving(app) as server, trio.open_nursery() as nursery:

        async def ask(path: bytes) -> None:
            answers.append(await exchange(server, b"GET /%s HTTP/1.0\r\n\r\n" % path))

        for _ in range(few_descriptors):
            nursery.start_soon(ask, b"wait")
            await app.waiting.acquire()
        nursery.start_soon(ask, b"")
        await trio.testing.wait_all_tasks_blocked(0.05)
        assert answers == []
        app.release.set()
    assert len(answers) == few_descriptors + 1
    assert all(b"200 " in answer for answer in answers)


async def trickle(server: Server, head: bytes, every: float) -> bytes:
    """What is answered to who sends a byte at a time, until the server has had enough of it."""
    stream = await trio.open_tcp_stream("127.0.0.1", int(server.url.rpartition(":")[2]))
    async with stream, trio.open_nursery() as nursery:

        async def send() -> None:
            with suppress(trio.BrokenResourceError):
                await stream.send_all(head)
                while True:
                    await trio.sleep(every)
                    await stream.send_all(b"a")

        nursery.start_soon(send)
        got = b""
        with suppress(trio.BrokenResourceError):
            while piece := await stream.receive_some():
                got += piece
        nursery.cancel_scope.cancel()
    return got


@pytest.mark.parametrize("path", [b"/count", b"/size"])
@pytest.mark.parametrize("every", [0.01, 3600.0], ids=["trickles", "is silent"])
async def test_a_body_that_comes_too_slowly_is_not_waited_for(
    path: bytes, every: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("actors.wire.http.server.BODY_SILENCE", 0.2)
    async with serving(App()) as server, client(server) as http:
        head = b"POST %s HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\n" % path
        assert await trickle(server, head, every) == b""
        chunked = b"POST %s HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n5000\r\n" % path
        assert await trickle(server, chunked, every) == b""
        assert (await http.get("/")).status_code == 200


async def test_a_body_that_comes_steadily_is_heard_to_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("actors.wire.http.server.BODY_SILENCE", 0.2)
    monkeypatch.setattr("actors.wire.http.server.BODY_RATE", 1)

    async def pieces() -> AsyncIterator[bytes]:
        for _ in range(10):
            yield b"ab"
            await trio.sleep(0.05)

    async with serving(App()) as server, client(server) as http:
        assert (await http.post("/count", content=pieces())).text == "20"


async def test_a_head_that_trickles_is_not_waited_for() -> None:
    async with serving(App(), keep_alive_timeout=0.2) as server:
        assert await trickle(server, b"GET / HTTP/1.1\r\nHost: x\r\nX: ", 0.01) == b""


async def test_who_takes_nothing_of_an_answer_has_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("actors.wire.http.server.STUCK", 0.2)
    app = App()
    async with serving(app, graceful_timeout=3600) as server:
        stream = await trio.open_tcp_stream("127.0.0.1", int(server.url.rpartition(":")[2]))
        async with stream:
            await stream.send_all(b"GET /flood HTTP/1.1\r\nHost: x\r\n\r\n")
            await app.entered.wait()
            server.shutdown.set()
            await server.ended.wait()


HEAD = b"POST /count HTTP/1.1\r\nHost: x\r\n"


@pytest.mark.parametrize(
    ("request_", "status", "why"),
    [
        (
            HEAD + b"Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + GET % b"",
            400,
            "two lengths",
        ),
        (
            HEAD + b"Transfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n0\r\n\r\n" + GET % b"",
            400,
            "two lengths",
        ),
        (HEAD + b"Content-Length: 4\r\nContent-Length: 5\r\n\r\nabcd" + GET % b"", 400, "HTTP/1.1"),
        (HEAD + b"Transfer-Encoding: gzip\r\n\r\n", 501, "transfer encoding"),
        (b"GET / HTTP/1.1\r\nHost: x\r\nX: " + b"a" * 300_000 + b"\r\n\r\n", 431, "head is larger"),
        (b"GET / HTTP/1.1\r\n\r\n", 400, "HTTP/1.1"),
        (b"hello\r\n\r\n", 400, "HTTP/1.1"),
    ],
)
async def test_what_is_no_request_gets_one_answer_that_says_why_and_is_closed(
    request_: bytes, status: int, why: str
) -> None:
    async with serving(App()) as server:
        answer = await exchange(server, request_)
    head, _, content = answer.partition(b"\r\n\r\n")
    assert answer.count(b"HTTP/1.1 ") - content.count(b"HTTP/1.1") == 1
    assert head.startswith(b"HTTP/1.1 %d " % status)
    assert b"connection: close" in head.lower()
    body = json.loads(content)
    assert (body["id"], body["status"]) == (0, "Unknown")
    assert why in body["message"]


@pytest.mark.parametrize(
    "refused", [b"Content-Length: 0\r\nTransfer-Encoding: chunked", b"Upgrade: websocket"]
)
async def test_a_refused_head_is_answered_without_a_body(
    refused: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    async with serving(App()) as server:
        answer = await exchange(server, b"HEAD / HTTP/1.1\r\nHost: x\r\n" + refused + b"\r\n\r\n")
        # Asked and answered before, it is no head any more that is refused.
        later = await exchange(server, b"HEAD / HTTP/1.1\r\nHost: x\r\n\r\nhello\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 400 ") and answer.endswith(b"\r\n\r\n")
    assert later.count(b"HTTP/1.1 ") >= 2 and json.loads(later.rpartition(b"\r\n\r\n")[2])["id"] == 0
    assert not caplog.records, "whoever asks so could fill the log"


async def test_what_is_no_request_is_refused_behind_the_whole_answer_to_the_one_before_it() -> None:
    async with serving(App()) as server:
        answers = await exchange(server, GET % b"" + b"hello\r\n\r\n")
    assert [one[:4] for one in answers.split(b"HTTP/1.1 ")][:3] == [b"", b"200 ", b"400 "], answers
    assert json.loads(answers.rpartition(b"\r\n\r\n")[2])["status"] == "Unknown"


@pytest.mark.parametrize(
    "before", [b"", b"GET / HTTP/1.1\r\nHost:x\r\n\r\n"], ids=["first", "behind another"]
)
async def test_who_leaves_while_what_should_be_prompt_hangs_is_let_go(
    monkeypatch: pytest.MonkeyPatch, before: bytes
) -> None:
    names = (
        "polls.UNWATCHED",
        "polls.HALF_CLOSED",
        "protocol.PROMPT",
        "protocol.HALF_CLOSED",
        "server.PROMPT",
    )
    for name in names:
        monkeypatch.setattr(f"actors.wire.http.{name}", 0.05)

    async def ask(app: App, stream: trio.SocketStream) -> None:
        """Where another one made a parser necessary it is answered as a poll, and again by the app."""
        answer = b"" if before else b"pong"
        await stream.send_all(before)
        while b"pong" not in answer:
            answer += await stream.receive_some()
        await stream.send_all(GET % b"wait")
        with trio.fail_after(60):
            for _ in range(2 if before and App.is_plain else 1):
                await app.waiting.acquire()

    app = App()
    async with serving(app, graceful_timeout=3600) as server:
        async with await connect(server) as leaving:
            await ask(app, leaving)
        server.shutdown.set()
        with trio.fail_after(60):
            await server.ended.wait()
    app = App()
    async with serving(app) as server, await connect(server) as staying:
        await ask(app, staying)
        app.release.set()
        answer = b""
        while not answer.endswith(b"done"):
            answer += await staying.receive_some()
        assert answer.count(b"HTTP/1.1 200 ") == 1


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0"])  # only this machine asks
async def test_a_plain_request_is_told_to_which_address_it_came(host: str) -> None:
    found: list[tuple[object, object]] = []

    async def admit(head: Head) -> None:
        found.append((head.host, head.peer))

    app, page = App(), Blueprint("told", __name__)
    plain = PlainRoutes(admit, fail)
    plain.get(page, "/told")(app.ping)
    async with trio.open_nursery() as nursery:
        shutdown = trio.Event()
        (url,) = await nursery.start(partial(serve, app, host=host, port=0, shutdown=shutdown, plain=plain))
        port = int(url.rpartition(":")[2])
        for asked in ("127.0.0.1", "127.0.0.2")[: 1 + (host == "0.0.0.0")]:
            stream = await trio.open_tcp_stream(asked, port)
            await stream.send_all(b"GET /told HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            while await stream.receive_some():
                pass
            assert found.pop() == ((asked, port), stream.socket.getsockname())
            await stream.aclose()
        shutdown.set()


@pytest.mark.parametrize("path", ["/size", "/count"])
async def test_a_request_that_meets_the_end_of_an_idle_connection_is_answered_or_was_never_heard(
    path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A kept connection whose time is over, or that leaves as there are too many, while one is on its way."""
    resting: list[PolledConnection] = []

    class Kept(PolledConnection):
        def __init__(self, *args: Any) -> None:
            super().__init__(*args)
            resting.append(self)

    monkeypatch.setattr(App, "is_plain", True)
    monkeypatch.setattr("actors.wire.http.server.PolledConnection", Kept)
    head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 4\r\n\r\n".encode()
    async with serving(App()) as server:
        port = int(server.url.rpartition(":")[2])
        for sent, answered in ((head + b"four", b"HTTP/1.1 200 "), (head + b"fo", b""), (head[:20], b"")):
            async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
                await stream.send_all(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
                while not (await stream.receive_some()).endswith(b"}\n"):
                    pass
                # The server has no turn in between.
                assert os.write(stream.socket.fileno(), sent) == len(sent)
                resting[-1].stop_reading()
                answer = b"".join([piece async for piece in stream])
                assert answer.startswith(answered) and bool(answer) == bool(answered), answer
