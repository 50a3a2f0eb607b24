"""Callbacks over real connections: what is sent, what is believed, and where nothing is sent to."""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing
from standardwebhooks.webhooks import Webhook, WebhookVerificationError
from support.data.certificates import self_signed
from support.peers.peer import Hangup, Peer, Request, head, serving

from actors.kernel.clock import WallClock
from actors.ports.callbacks import Callback, PostAnswer, PostResult, Subject, subject_of
from orchestrator.callbacks.allowed_hosts import CallbackHosts, parse_rule
from orchestrator.callbacks.client import LOOKUPS, CallbackClient, Limits, SystemNames
from orchestrator.callbacks.keys import load_trust
from orchestrator.http_client import Http

OLD, NEW = "whsec_" + "A" * 43 + "=", "whsec_" + "B" * 43 + "="
LOOPBACK = (ip_network("127.0.0.0/8"), ip_network("::1"))
SHORT = Limits(connect=5.0, whole=5.0)
JOB = {"id": 7, "status": "Completed", "name": "caf\u00e9"}
BATCH = {"id": "0" * 16, "jobs": 3, "left": 0}


class Names:
    """What each name is at; the next look-up of a name gets the next answer, the last one stays."""

    def __init__(self, **names: list[list[str]]) -> None:
        self.names = {name.replace("_", "."): answers for name, answers in names.items()}
        self.asked: list[str] = []

    async def look_up(self, host: str, port: int) -> Sequence[str]:
        await trio.lowlevel.checkpoint()
        self.asked.append(host)
        answers = self.names.get(host)
        if answers is None:
            raise OSError("Name or service not known")
        return answers.pop(0) if len(answers) > 1 else answers[0]


@asynccontextmanager
async def client(
    *rules: str,
    private: Any = LOOPBACK,
    names: Names | None = None,
    secrets: Sequence[str] = (NEW,),
    trust: ssl.SSLContext | None = None,
    limits: Limits = SHORT,
) -> AsyncIterator[CallbackClient]:
    async def tell(subject: Subject) -> dict[str, Any]:
        await trio.lowlevel.checkpoint()
        return {**JOB, "id": int(subject.id)} if subject.kind == "job" else {**BATCH, "id": subject.id}

    http = Http(trust=trust)
    try:
        yield CallbackClient(
            http=http,
            hosts=CallbackHosts(tuple(map(parse_rule, rules or ("127.0.0.1:*", "portal.test:*"))), private),
            secrets=secrets,
            owner="ab" * 16,
            clock=WallClock(),
            tell=tell,
            version="1.2.3",
            lookup=(names or Names(portal_test=[["127.0.0.1"]])).look_up,
            limits=limits,
        )
    finally:
        await http.aclose()


def callback(url: str, subject: Subject = subject_of(7)) -> Callback:  # noqa: B008  # it is frozen
    return Callback(1, subject, url, 1_700_000_000.0, 1_700_000_000.0)


def answering(status: int, *lines: str, body: bytes = b"") -> Peer:
    async def answer(request: Request, stream: trio.SocketStream) -> None:
        told = "".join(f"{line}\r\n" for line in (*lines, f"content-length: {len(body)}"))
        await stream.send_all(f"HTTP/1.1 {status} Some\r\n{told}\r\n".encode() + body)

    return Peer(answer)


def named(peer: Peer, host: str = "portal.test") -> str:
    return peer.url.replace("127.0.0.1", host)


async def test_what_is_sent_is_verified_by_the_standards_own_library() -> None:
    async with serving(answering(204)) as peer, client(secrets=(OLD, NEW)) as ours:
        for _ in range(2):
            answer = await ours.post(callback(f"{named(peer)}/done?a=%20b"))
            assert answer == PostAnswer(PostResult.DELIVERED)
        await ours.post(callback(f"{named(peer)}/done", subject_of(8)))
        await ours.post(callback(f"{named(peer)}/done", Subject("batch", "0" * 16)))
    first, second, other, batch = peer.requests
    assert (first.method, first.path) == ("POST", "/done?a=%20b")
    assert first.headers["host"] == named(peer).removeprefix("http://")
    assert first.headers["content-type"] == "application/json"
    assert first.headers["user-agent"] == "job-orchestrator/1.2.3"
    for secret in (OLD, NEW):
        told = Webhook(secret).verify(first.body, dict(first.headers))
        assert told == {"type": "job.ended", "timestamp": "2023-11-14T22:13:20.000Z", "data": JOB}
    with pytest.raises(WebhookVerificationError):
        Webhook(NEW).verify(first.body.replace(b"Completed", b"Failed"), dict(first.headers))
    assert Webhook(NEW).verify(batch.body, dict(batch.headers)) == {
        "type": "batch.ended",
        "timestamp": "2023-11-14T22:13:20.000Z",
        "data": BATCH,
    }
    ids = [request.headers["webhook-id"] for request in (first, second, other, batch)]
    assert ids[0] == ids[1] and len(set(ids)) == 3
    assert peer.connections == 4


@pytest.mark.parametrize(
    ("status", "lines", "expected"),
    [
        (200, (), PostAnswer(PostResult.DELIVERED)),
        (299, (), PostAnswer(PostResult.DELIVERED)),
        (200, ("content-encoding: gzip",), PostAnswer(PostResult.DELIVERED)),
        (410, (), PostAnswer(PostResult.GONE, "HTTP 410: the receiver wants no more")),
        (404, (), PostAnswer(PostResult.FAILED, "HTTP 404")),
        (500, ("retry-after: 9",), PostAnswer(PostResult.FAILED, "HTTP 500")),
        (503, ("retry-after: 9",), PostAnswer(PostResult.FAILED, "HTTP 503", 9.0)),
        (429, ("Retry-After: 999999999999999",), PostAnswer(PostResult.FAILED, "HTTP 429", 999999999.0)),
        (429, ("retry-after: soon",), PostAnswer(PostResult.FAILED, "HTTP 429")),
        (
            429,
            ("retry-after: Thu, 01 Jan 1970 00:00:00 GMT",),
            PostAnswer(PostResult.FAILED, "HTTP 429", 0.0),
        ),
    ],
)
async def test_the_status_is_the_answer(status: int, lines: tuple[str, ...], expected: PostAnswer) -> None:
    async with serving(answering(status, *lines, body=b"secret")) as peer, client() as ours:
        assert await ours.post(callback(f"{peer.url}/")) == expected


async def test_a_time_to_retry_after_may_be_a_date() -> None:
    at = format_datetime(datetime.now(UTC) + timedelta(seconds=100), usegmt=True)
    async with serving(answering(503, f"retry-after: {at}")) as peer, client() as ours:
        answer = await ours.post(callback(f"{peer.url}/"))
    assert answer.retry_after is not None and 90 < answer.retry_after <= 100


async def test_a_redirect_is_not_followed() -> None:
    async with serving(answering(200)) as other:
        async with serving(answering(307, f"location: {other.url}/")) as peer, client() as ours:
            answer = await ours.post(callback(f"{peer.url}/"))
        assert answer.result is PostResult.FAILED and "redirects" in answer.reason
        assert other.requests == []


async def test_an_endless_answer_is_left_once_its_status_is_known() -> None:
    left = trio.Event()

    async def answer(request: Request, stream: trio.SocketStream) -> None:
        await stream.send_all(head(200, "text/plain", None))
        try:
            while True:
                await stream.send_all(b"x" * 65536)
        except trio.BrokenResourceError:
            left.set()
            raise Hangup from None

    with trio.fail_after(60):
        async with serving(Peer(answer)) as peer, client() as ours:
            assert (await ours.post(callback(f"{peer.url}/"))).result is PostResult.DELIVERED
            await left.wait()


async def test_an_answer_that_dribbles_or_never_comes_ends_in_time() -> None:
    async def dribble(request: Request, stream: trio.SocketStream) -> None:
        for byte in b"HTTP/1.1 200 OK\r\n" + b"x" * 1000:
            await stream.send_all(bytes([byte]))
            await trio.sleep(0.05)

    async def silent(request: Request, stream: trio.SocketStream) -> None:
        await trio.sleep_forever()

    async def garbage(request: Request, stream: trio.SocketStream) -> None:
        await stream.send_all(b"220 mail.example ESMTP\r\n")
        raise Hangup

    for answer in (dribble, silent, garbage):
        with trio.fail_after(60):
            async with serving(Peer(answer)) as peer, client(limits=Limits(0.3, 0.3)) as ours:
                assert (await ours.post(callback(f"{peer.url}/"))).result is PostResult.FAILED


async def test_what_comes_after_the_head_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("orchestrator.callbacks.client.READING", 1.2)

    async def endless(request: Request, stream: trio.SocketStream) -> None:
        await stream.send_all(head(200, "text/plain", 10))
        await trio.sleep_forever()

    with trio.fail_after(60):
        async with serving(Peer(endless)) as peer, client(limits=Limits(1.0, 1.0)) as ours:
            assert await ours.post(callback(f"{peer.url}/")) == PostAnswer(PostResult.DELIVERED)


async def test_an_answer_that_is_here_is_told_although_the_server_stops(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stop, told = trio.CancelScope(), []

    async def stopped_while_it_reads(_: Any) -> None:
        stop.cancel()
        await trio.lowlevel.checkpoint()

    monkeypatch.setattr("orchestrator.callbacks.client._drain", stopped_while_it_reads)
    async with serving(answering(200)) as peer, client() as ours:
        with stop:
            told.append(await ours.post(callback(f"{peer.url}/")))
    assert told == [PostAnswer(PostResult.DELIVERED)]


async def test_what_failed_is_told_in_kinds_and_shows_nothing_of_what_is_there() -> None:
    """Users read it: it must not tell them what answers on a port, nor which address a name has."""
    async with client() as ours:
        for says, reason in (
            (b"220 mail.example ESMTP secret\r\n\r\n", "its answer was no HTTP"),
            (b"HTTP/1.1 2\x1b[31m00 secret\r\n\r\n", "its answer was no HTTP"),
            (b"HTTP/1.1 200 OK\r\nsecret", "the connection broke"),
            (b"", "the connection broke"),
        ):

            async def answer(request: Request, stream: trio.SocketStream, says: bytes = says) -> None:
                await stream.send_all(says)
                raise Hangup

            async with serving(Peer(answer)) as peer:
                told = await ours.post(callback(f"{named(peer)}/"))
            assert told == PostAnswer(PostResult.FAILED, reason), says
        dead = PostAnswer(PostResult.FAILED, "no connection", connected=False)
        assert await ours.post(callback(f"{named(peer)}/")) == dead


async def test_a_name_that_is_at_a_private_address_is_sent_nothing() -> None:
    for names in ([["127.0.0.1"]], [["::1"]], [["::ffff:127.0.0.1", "10.0.0.1"]], [["fe80::1%eth0"]]):
        async with (
            serving(answering(200)) as peer,
            client("portal.test:*", private=(), names=Names(portal_test=names)) as ours,
        ):
            answer = await ours.post(callback(f"{named(peer)}/"))
        assert answer.result is PostResult.FAILED and "callback_private" in answer.reason
        assert not any(address in answer.reason for address in names[0])
        assert peer.connections == 0


async def test_localhost_as_this_machine_looks_it_up_is_private() -> None:
    names = Names()
    names.look_up = SystemNames().look_up  # type: ignore[method-assign]
    assert set(await names.look_up("localhost", 80)) & {"127.0.0.1", "::1"}
    async with serving(answering(200)) as peer, client("localhost:*", private=(), names=names) as ours:
        answer = await ours.post(callback(f"{named(peer, 'localhost')}/"))
    assert answer.result is PostResult.FAILED and peer.connections == 0


async def test_slow_look_ups_take_no_thread_from_anybody_else(monkeypatch: pytest.MonkeyPatch) -> None:
    answered, threads = threading.Event(), trio.to_thread.current_default_thread_limiter()

    def slow(*_: Any, **__: Any) -> list[Any]:
        answered.wait()
        return []

    monkeypatch.setattr(socket, "getaddrinfo", slow)
    names = SystemNames()
    try:
        async with trio.open_nursery() as nursery:
            for number in range(LOOKUPS + 1):
                nursery.start_soon(names.look_up, f"host{number}.test", 443)
            await trio.testing.wait_all_tasks_blocked()
            assert threads.borrowed_tokens == 0
            with trio.fail_after(60):
                assert await trio.to_thread.run_sync(lambda: 7) == 7
            # Nor does one that is given up wait for its thread.
            nursery.cancel_scope.cancel()
        assert not answered.is_set()
    finally:
        answered.set()


async def test_the_connection_goes_to_the_address_that_was_looked_at() -> None:
    """A second look-up would tell a name of another address (DNS rebinding)."""
    names = Names(portal_test=[["127.0.0.1"], ["10.9.9.9"]])
    async with serving(answering(200)) as peer, client(names=names) as ours:
        assert (await ours.post(callback(f"{named(peer)}/"))).result is PostResult.DELIVERED
    assert names.asked == ["portal.test"]


async def test_of_several_addresses_those_are_tried_that_are_allowed() -> None:
    async with serving(answering(200)) as peer:
        # Nobody listens at 127.0.0.2 here.
        names = Names(portal_test=[["127.0.0.2", "127.0.0.1"]])
        async with client(names=names) as ours:
            assert (await ours.post(callback(f"{named(peer)}/"))).result is PostResult.DELIVERED
        async with client(names=names, private=(ip_network("127.0.0.2"),)) as ours:
            assert (await ours.post(callback(f"{named(peer)}/"))).result is PostResult.FAILED
        assert peer.connections == 1


async def test_an_url_that_the_settings_no_longer_allow_is_sent_nothing() -> None:
    for rules in (("other.test",), ()):
        async with serving(answering(200)) as peer:
            async with client(*rules) if rules else client("other.test", private=()) as ours:
                answer = await ours.post(callback(f"{peer.url}/"))
            assert answer.result is PostResult.FAILED and "not allowed" in answer.reason
            assert peer.connections == 0


async def test_an_unknown_name_is_a_failure() -> None:
    async with client("nowhere.test") as ours:
        answer = await ours.post(callback("http://nowhere.test/"))
    assert answer.result is PostResult.FAILED and "no address" in answer.reason


async def test_nothing_of_the_environment_is_obeyed(monkeypatch: pytest.MonkeyPatch) -> None:
    async with serving(answering(502)) as proxy:
        for name in ("http_proxy", "HTTP_PROXY", "ALL_PROXY"):
            monkeypatch.setenv(name, proxy.url)
        async with serving(answering(200)) as peer, client() as ours:
            assert (await ours.post(callback(f"{named(peer)}/"))).result is PostResult.DELIVERED
        assert proxy.connections == 0


# ---------------------------------------------------------------------- TLS


async def test_a_certificate_has_to_be_for_the_name_and_trusted(tmp_path: Path) -> None:
    shown, pem = self_signed(tmp_path, "portal.test")
    trust = load_trust(pem)
    names = Names(portal_test=[["127.0.0.1"]], other_test=[["127.0.0.1"]])
    asked: list[str | None] = []
    shown.sni_callback = lambda _, name, __: asked.append(name)
    served = 0

    async def serve(stream: trio.SocketStream) -> None:
        nonlocal served
        try:
            async with trio.SSLStream(stream, shown, server_side=True, https_compatible=True) as secure:
                while b"\r\n\r\n" not in await secure.receive_some():
                    pass
                served += 1
                await secure.send_all(b"HTTP/1.1 204 Some\r\nconnection: close\r\n\r\n")
        except trio.BrokenResourceError:
            pass

    async with trio.open_nursery() as nursery:
        (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
        port = listener.socket.getsockname()[1]
        nursery.start_soon(trio.serve_listeners, serve, [listener])
        untrusted = PostAnswer(PostResult.FAILED, "its certificate is not trusted", connected=False)
        for host, trusts, expected in (
            ("portal.test", trust, PostAnswer(PostResult.DELIVERED)),
            ("other.test", trust, untrusted),
            ("portal.test", None, untrusted),
        ):
            async with client("*.test:*", names=names, trust=trusts) as ours:
                assert await ours.post(callback(f"https://{host}:{port}/")) == expected, host
        nursery.cancel_scope.cancel()
    assert served == 1 and asked[:2] == ["portal.test", "other.test"]
