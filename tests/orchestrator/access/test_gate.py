"""Who asks: programs of this machine, people whom a proxy has signed on, pages of other origins."""

from __future__ import annotations

import os
import socket
import subprocess
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import closing
from dataclasses import replace
from ipaddress import ip_network
from pathlib import Path

import pytest
import trio
from support.processes.api_server import Server, api_server
from support.processes.processes import PATIENCE

from actors.domain.node import Heartbeat, NodeAddress, StreamPosition
from actors.ports.nodes import Beat, Picture
from actors.process.sock_diag import find_listener_uid, find_uid
from actors.wire.http.app import Refusal
from actors.wire.http.plain_routes import Address, Head
from actors.wire.http.web_pages import OwnNames, may_order
from orchestrator.access import node_hosts
from orchestrator.access.gate import Gate, SignOn, read_bearer
from orchestrator.access.local_peers import is_local
from orchestrator.access.node_hosts import NodeHosts
from orchestrator.access.roles import Role, asking
from orchestrator.access.sessions import Sessions
from orchestrator.access.tokens import TokenRecord, Tokens, hash_of, is_token, make_secret
from orchestrator.nodes.native.link import at_most

Pair = tuple[socket.socket, socket.socket]


@pytest.fixture(params=["127.0.0.1", "::1"])
def pair(request: pytest.FixtureRequest) -> Iterator[Pair]:
    """A connection, from both its ends: the client's, ours."""
    family = socket.AF_INET6 if ":" in request.param else socket.AF_INET
    with closing(socket.socket(family)) as listener:
        listener.bind((request.param, 0))
        listener.listen()
        with closing(socket.create_connection(listener.getsockname()[:2])) as client:
            server, _ = listener.accept()
            with closing(server):
                yield client, server


def head(pair: Pair, *, host: str = "localhost:5000", peer: Address | None = None, **headers: str) -> Head:
    _, server = pair
    given = {"Host": host} | {name.replace("_", "-"): value for name, value in headers.items()}
    return Head(
        "GET",
        "/v1/jobs",
        _getter(given),
        [name.lower() for name in given],
        server.getsockname()[:2],
        peer or server.getpeername()[:2],
        "/v1/jobs",
    )


def _getter(given: dict[str, str]) -> Callable[[str], str | None]:
    lower = {name.lower(): value for name, value in given.items()}
    return lambda name: lower.get(name.lower())


def test_the_kernel_says_whose_a_connection_is(pair: Pair) -> None:
    _, server = pair
    near, far = server.getpeername()[:2], server.getsockname()[:2]
    assert find_uid(near, far) == os.getuid()
    assert find_uid((near[0], 1), far) is None
    assert find_uid(("not an address", 1), far) is None
    assert find_listener_uid(far) == os.getuid()
    assert find_listener_uid((far[0], near[1])) is None


@pytest.mark.skipif(os.getuid() != 0, reason="only root can run something as another user")
def test_another_user_of_the_machine_is_nobody(pair: Pair) -> None:
    _, server = pair
    with closing(socket.socket(server.family)) as listener:
        listener.bind((server.getsockname()[0], 0))
        listener.listen()
        address, port = listener.getsockname()[:2]
        with subprocess.Popen(
            ["bash", "-c", f"exec 3<>/dev/tcp/{address}/{port}; read"],
            stdin=subprocess.PIPE,
            cwd="/",
            user=65534,
        ) as process:
            accepted, _ = listener.accept()
            with closing(accepted):
                assert find_uid(accepted.getpeername()[:2], accepted.getsockname()[:2]) == 65534
                assert not is_local(head((accepted, accepted)))
            process.communicate(b"")


def test_a_program_of_ours_on_this_machine_is_local(pair: Pair) -> None:
    for host in ("localhost", "127.0.0.1:80", "[::1]:5", "x.localhost:5000"):
        assert is_local(head(pair, host=host)), host
    assert not is_local(head(pair), uid=os.getuid() + 1)


def test_the_kernel_is_asked_once_for_a_connection(pair: Pair) -> None:
    first = head(pair)
    assert is_local(first)
    assert first.found_out == {"uid": os.getuid()}
    assert not is_local(replace(first, found_out={"uid": os.getuid() + 1}))
    unknown = head(pair, peer=("127.0.0.1", 1))
    assert not is_local(unknown)
    assert is_local(replace(head(pair), found_out=unknown.found_out)), "what it did not know is asked again"


@pytest.mark.parametrize(
    "name",
    [
        "Via",
        "Forwarded",
        "X-Forwarded-For",
        "X-Forwarded-Host",
        "X-Forwarded-Proto",
        "X-Forwarded-Port",
        "X-Forwarded-Server",
        "X-Forwarded-Prefix",
        "X-Real-IP",
    ],
)
def test_who_asks_for_somebody_else_is_not(pair: Pair, name: str) -> None:
    assert not is_local(head(pair, **{name.replace("-", "_"): "x"}))


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:5000", "127.0.0.1.evil.example", "10.0.0.1", ""]
)
def test_a_page_whose_name_leads_here_is_not(pair: Pair, host: str) -> None:
    assert not is_local(head(pair, host=host))


def test_who_comes_from_elsewhere_is_not(pair: Pair) -> None:
    assert not is_local(head(pair, peer=("192.0.2.1", 5)))
    assert not is_local(Head("GET", "/", lambda name: None, (), None))


# ------------------------------------------------------------------ people whom a proxy has signed on


async def pass_all(head: Head) -> None:
    pass


SIGN_ON = SignOn("X-Remote-User", (ip_network("10.0.0.0/8"), ip_network("127.0.0.1")), frozenset({"ada"}))


def gate(is_local: bool = True) -> Gate:
    tokens = Tokens((), lambda: 0.0)
    sessions = Sessions((), tokens, lambda: 0.0, "0" * 32, ())
    return Gate(tokens, sessions, pass_all, lambda head: is_local, sign_on=SIGN_ON)


@pytest.mark.parametrize(
    ("peer", "name", "role", "user"),
    [
        ("10.1.2.3", "42", Role.USER, 42),
        ("10.1.2.3", "-7", Role.USER, -7),
        ("::ffff:10.1.2.3", "42", Role.USER, 42),
        ("10.1.2.3", "ada", Role.OPERATOR, None),
    ],
)
async def test_a_trusted_proxy_says_who_asks(pair: Pair, peer: str, name: str, role: Role, user: int) -> None:
    await gate().admit(head(pair, peer=(peer, 1), X_Remote_User=name))
    assert (asking.get().role, asking.get().user) == (role, user)


@pytest.mark.parametrize("name", ["eve", "4.2", "٤٢", "99999999999999999999", "42, 43", "ada "])
async def test_a_name_that_says_nothing_is_refused(pair: Pair, name: str) -> None:
    with pytest.raises(Refusal) as refused:
        await gate().admit(head(pair, peer=("10.1.2.3", 1), X_Remote_User=name))
    assert refused.value.status == 403


async def test_nobody_else_says_who_asks(pair: Pair) -> None:
    with pytest.raises(Refusal) as refused:
        await gate(is_local=False).admit(head(pair, peer=("192.0.2.9", 1), X_Remote_User="ada"))
    assert refused.value.code == "no_token"


async def test_a_trusted_proxy_that_says_nobody_is_nobody_itself(pair: Pair) -> None:
    with pytest.raises(Refusal) as refused:
        await gate().admit(head(pair, peer=("127.0.0.1", 1)))
    assert refused.value.code == "no_token"


# ------------------------------------------------------------------ tokens


def test_a_token_tells_by_its_form_that_it_is_one() -> None:
    seen = {make_secret() for _ in range(200)}
    assert len(seen) == 200
    for secret in seen:
        assert is_token(secret)
        assert len(hash_of(secret)) == 64
        for at in (4, 10, len(secret) - 1):
            assert not is_token(secret[:at] + ("0" if secret[at] != "0" else "1") + secret[at + 1 :])


@pytest.mark.parametrize(
    ("header", "token"),
    [
        ("Bearer x", "x"),
        ("bearer  x ", "x"),
        ("Bearer", None),
        ("Bearer ", None),
        ("Basic x", None),
        (None, None),
        ("BEARERx", None),
    ],
)
def test_bearer(header: str | None, token: str | None) -> None:
    assert read_bearer(header) == token


# ------------------------------------------------------------------ pages of other origins


ORIGIN = "https://portal.example.org"


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Server]:
    async with api_server(tmp_path, local=False, origins=[ORIGIN]) as running:
        yield running


async def test_a_browser_may_ask_whether_a_page_may_call(server: Server) -> None:
    asked = {"Origin": ORIGIN, "Access-Control-Request-Method": "POST"}
    answer = await server.client.options("/v1/jobs", headers=asked)
    assert (answer.status_code, answer.content) == (204, b"")
    assert answer.headers["Access-Control-Allow-Origin"] == ORIGIN
    assert {"Authorization", "X-Requested-With"} <= set(
        answer.headers["Access-Control-Allow-Headers"].split(", ")
    )
    assert "Access-Control-Allow-Credentials" not in answer.headers
    other = await server.client.options("/v1/jobs", headers=asked | {"Origin": "https://evil.example"})
    assert other.status_code == 403
    assert "'https://evil.example' is not in ALLOWED_ORIGINS" in other.json()["detail"]
    assert "Access-Control-Allow-Origin" not in other.headers


async def test_a_browser_that_nobody_has_logged_in_is_led_from_swagger_to_the_login(server: Server) -> None:
    browser = {"Accept": "text/html,application/xhtml+xml,*/*;q=0.8"}
    answer = await server.client.get("/swagger", headers=browser)
    assert (answer.status_code, answer.headers["Location"]) == (303, "dashboard")
    assert (await server.client.get("/swagger")).status_code == 401
    assert (await server.client.get("/api-docs/openapi.json", headers=browser)).status_code == 401


async def test_where_no_page_may_call_the_browser_is_told_so_too(tmp_path: Path) -> None:
    asked = {"Origin": ORIGIN, "Access-Control-Request-Method": "POST"}
    async with api_server(tmp_path, local=False) as running:
        answer = await running.client.options("/upload", headers=asked)
    assert (answer.status_code, answer.json()["code"]) == (403, "foreign_origin")
    assert "ALLOWED_ORIGINS" in answer.json()["message"] and "Vary" not in answer.headers


@pytest.mark.parametrize("path", ["/v1/jobs", "/health", "/download/1", "/v1/jobs/1", "/nothing"])
async def test_such_a_page_can_read_answers_and_refusals(server: Server, path: str) -> None:
    allowed = await server.client.get(path, headers={"Origin": ORIGIN})
    assert allowed.headers["Access-Control-Allow-Origin"] == ORIGIN
    assert "Origin" in allowed.headers["Vary"]
    other = await server.client.get(path, headers={"Origin": "https://evil.example"})
    assert "Access-Control-Allow-Origin" not in other.headers
    assert allowed.status_code == other.status_code


# ------------------------------------------------------------------ what was found by attacking it


def test_of_a_connection_that_its_program_has_closed_nobody_is_the_owner() -> None:
    """The kernel tells uid 0 of a socket that no process has: a server of root would take it for its own."""
    with closing(socket.socket()) as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        client = socket.create_connection(listener.getsockname())
        server, _ = listener.accept()
        with closing(server):
            near, far = server.getpeername()[:2], server.getsockname()[:2]
            client.shutdown(socket.SHUT_WR)
            assert find_uid(near, far) == os.getuid(), "it may still read"
            client.close()
            server.recv(1)
            deadline = time.monotonic() + PATIENCE
            while find_uid(near, far) is not None:
                assert time.monotonic() < deadline


async def raw(server: Server, request: bytes) -> bytes:
    port = int(server.url.rpartition(":")[2])
    with trio.fail_after(60):
        async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
            await stream.send_all(request)
            return await stream.receive_some(1 << 16)


@pytest.mark.parametrize("path", ["/upload", "/v1/tokens"])
async def test_nobody_s_body_is_waited_for(server: Server, path: str) -> None:
    head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\nx"
    assert b" 401 " in await raw(server, head.encode())


@pytest.mark.parametrize("path", ["/", "/v1/jobs", "/v1/link", "/nothing"])
async def test_no_websocket_is_spoken_but_with_nodes(
    server: Server, caplog: pytest.LogCaptureFixture, path: str
) -> None:
    head = f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    keys = "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
    assert b" 400 " in (await raw(server, (head + keys).encode())).split(b"\r\n")[0]
    assert not caplog.records


async def test_half_a_character_is_no_token_and_no_path(tmp_path: Path) -> None:
    async with api_server(tmp_path) as server:
        job = await server.upload(**{"run.sh": b"true"})
        body = {"content": b'{"token": "\\ud800"}', "headers": {"Content-Type": "application/json"}}
        assert (await server.client.post("/v1/session", **body)).status_code == 401
        body["content"] = b'{"file": "\\ud800"}'
        assert (await server.client.post(f"/v1/jobs/{job.id}/links", **body)).status_code == 422


async def test_a_reader_finds_nothing_by_names(server: Server) -> None:
    secret = make_secret()
    server.api.tokens.add(TokenRecord("r", hash_of(secret), Role.READER, "r", 0.0))
    headers = {"Authorization": f"Bearer {secret}"}
    for name in ("name", "tag", "search"):
        answer = await server.client.get("/v1/jobs", headers=headers, params={name: "x"})
        assert answer.status_code == 403, name


@pytest.mark.parametrize("path", ["a/../run.sh", "./run.sh", "a//run.sh", "..", "a/."])
async def test_no_path_of_a_file_leads_elsewhere(tmp_path: Path, path: str) -> None:
    async with api_server(tmp_path) as server:
        job = await server.upload(**{"run.sh": b"true"})
        target = f"/v1/jobs/{job.id}/files/{path}".encode()
        answer = await raw(server, b"GET " + target + b" HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert b" 404 " in answer.split(b"\r\n")[0]


@pytest.mark.parametrize("local", ["127.0.0.1", "10.0.0.1"])
def test_a_page_of_this_machine_orders_on_this_machine_alone(local: str) -> None:
    assert may_order("http://localhost:3000", None, OwnNames(), local) is (local == "127.0.0.1")


async def test_where_a_node_is_stays_known_while_its_name_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    known = {"node.example": frozenset({"192.0.2.7"}), "here.example": frozenset({"127.0.0.1"})}

    monkeypatch.setattr(node_hosts, "resolve", lambda host: known.get(host, frozenset()))
    nodes = [NodeAddress("http://node.example:9000", ("example",))]
    hosts = NodeHosts(lambda: nodes)
    await hosts.look()
    assert hosts.has("192.0.2.7") and not hosts.has("192.0.2.8") and not hosts.on_this_machine
    del known["node.example"]
    await hosts.look()
    assert hosts.has("192.0.2.7") and not hosts.has("192.0.2.8")
    nodes.append(NodeAddress("http://never.example:9000", ("example",)))
    hosts.ring()
    await hosts.look()
    assert hosts.has("192.0.2.8") and hosts.on_this_machine, "it may be anywhere"
    nodes[1:] = [NodeAddress("http://here.example:9000", ("example",))]
    hosts.ring()
    await hosts.look()
    assert hosts.seen_here and hosts.has("127.0.0.9") and not hosts.has("192.0.2.8")


@pytest.mark.parametrize(
    ("said", "most", "slots"), [(50, 1, 1), (None, 4, 4), (2, 4, 2), (50, None, 50), (None, None, None)]
)
def test_a_node_has_no_more_slots_than_its_token_allows_whatever_it_says(
    said: int | None, most: int | None, slots: int | None
) -> None:
    beat = at_most(Beat(Heartbeat(slots=said)), most)
    picture = at_most(Picture(StreamPosition("i", 1), {}, Heartbeat(slots=said)), most)
    assert isinstance(beat, Beat) and isinstance(picture, Picture)
    assert beat.heartbeat.slots == picture.heartbeat.slots == slots
