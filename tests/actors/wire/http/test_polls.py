"""What is read and written without a parser of HTTP is what h11 makes of it, to the byte."""

from __future__ import annotations

import random
import socket
from typing import Final

import h11
import pytest
import trio
import trio.testing
from quart import Blueprint

from actors.wire.http.app import admit_all
from actors.wire.http.plain_routes import Answer, Asked, Ends, Head, PlainRequest, PlainRoutes
from actors.wire.http.polls import (
    HALF_CLOSED,
    UNWATCHED,
    Other,
    PolledConnection,
    Polls,
    Resting,
    Turns,
    write_answer,
)

ENDS: Final = Ends(("127.0.0.1", 80), ("127.0.0.1", 4242))
COMMON: Final = ((b"date", b"Thu, 01 Jan 1970 00:00:00 GMT"),)


def make_routes() -> PlainRoutes:
    async def answer(asked: Asked) -> Answer:
        return Answer(200, "text/plain", b"")

    def fail(head: Head, error: Exception) -> Answer:
        raise error

    plain, page = PlainRoutes(admit_all, fail), Blueprint("page", __name__)
    plain.get(page, "/health")(answer)
    plain.get(page, "/jobs/<number>", takes_query=True)(answer)
    plain.post(page, "/upload")(answer)
    return plain


PLAIN: Final = make_routes()


def by_h11(read: bytes) -> tuple[PlainRequest, bytes, bool] | None:
    """What is a plain request by h11, with nothing before it or behind; what has come of its body, and
    whether that is all."""
    connection = h11.Connection(h11.SERVER)
    connection.receive_data(read)
    body = b""
    try:
        request = connection.next_event()
        if not isinstance(request, h11.Request):
            return None
        while isinstance(event := connection.next_event(), h11.Data):
            body += event.data
        if event is not h11.NEED_DATA and not isinstance(event, h11.EndOfMessage):
            return None
        if event is not h11.NEED_DATA and connection.trailing_data[0]:
            return None
    except h11.RemoteProtocolError:
        return None
    asked = PLAIN.match(request, ENDS)
    return None if asked is None else (asked, body, event is not h11.NEED_DATA)


NAMES: Final = (
    *(b"Accept", b"accept", b"X", b"Cookie", b"Connection", b"Authorization", b"X-Forwarded-For") * 2,
    *(b"Host", b"Content-Length", b"Transfer-Encoding", b"Expect", b"Upgrade", b"Range", b"a_b", b"a b", b""),
)
VALUES: Final = (
    *(b"*/*", b"close", b"Close", b"keep-alive", b"", b" ", b"a: b", b" x  y ", b"localhost") * 2,
    *(b"close, x", b"\tx", b"\xff", b"0", b"3", b"chunked", b"a/b", b"x\r\n folded"),
)
TARGETS: Final = (
    *(b"/health", b"/jobs/7", b"/jobs/7?wait=1") * 4,
    *(b"/jobs/x", b"/jobs/", b"/health?", b"/health#x", b"/%68ealth", b"/health /", b"*", b"/jobs/7?a"),
)


def make_request(rng: random.Random) -> bytes:
    """Mostly one that is a poll but for one thing."""

    def mostly(usual: bytes, *others: bytes) -> bytes:
        return usual if rng.random() < 0.95 else rng.choice(others)

    posts = rng.random() < 0.3
    body = rng.choice((b"", b"a", b"abc", b"abc\r\n\r\n")) if posts else b""
    lines = [
        b"%s %s %s"
        % (
            mostly(b"POST" if posts else b"GET", b"GET", b"POST", b"HEAD", b"get"),
            mostly(b"/upload", b"/health", b"/upload?x=1") if posts else rng.choice(TARGETS),
            mostly(b"HTTP/1.1", b"HTTP/1.0", b"HTTP/2.0", b"http/1.1"),
        ),
        mostly(b"Host: localhost:5000", b"X: y", b"Host: a\r\nhost: b", b"Host: a/b"),
    ]
    if posts:
        told = rng.choice((b"0", b"1", b"3", b"7", b"007", b"131073", b"x", b"3, 3", b"-1"))
        lines.append(mostly(b"Content-Length: " + told, b"Transfer-Encoding: chunked"))
    for _ in range(rng.randrange(3)):
        lines.append(rng.choice(NAMES) + mostly(b": ", b":", b" : ", b":\t") + rng.choice(VALUES))
    between = mostly(b"\r\n", b"\n", b"\r")
    raw = bytearray(between.join([*lines, mostly(b"\r\n", b"", b"\r\nx", b"\n", b"\r\n" + GET)]))
    raw += body
    if rng.random() < 0.3:
        at, inserted = rng.randrange(len(raw)), rng.random() < 0.5
        raw[at : at + (not inserted)] = bytes([rng.randrange(256)])
    return bytes(raw)


GET: Final = b"GET /health HTTP/1.1\r\nHost: a\r\n\r\n"


async def test_what_is_read_as_a_plain_request_is_what_h11_reads() -> None:
    rng, taken, posted, left = random.Random(12), 0, 0, 0
    for _ in range(10_000):
        raw = make_request(rng)
        mine, found = PLAIN.match_plainest(raw, ENDS), by_h11(raw)
        if mine is None:
            left += found is not None
            continue
        taken += 1
        assert found is not None, raw
        other, body, is_whole = found
        for name in ("method", "path", "rule", "query", "host", "peer"):
            assert getattr(mine.head, name) == getattr(other.head, name), raw
        assert sorted(mine.head.names) == sorted(other.head.names), raw
        for name in (*mine.head.names, "absent"):
            assert mine.head.header(name) == other.head.header(name), raw
            assert list(mine.asked.headers(name)) == list(other.asked.headers(name)), raw
        assert (mine.asked.part, mine.asked.query) == (other.asked.part, other.asked.query), raw
        assert mine.asked.length == other.asked.length and mine.handler is other.handler, raw
        come = b"".join([piece async for piece in mine.asked.body])
        assert (come, mine.missing == 0) == (body, is_whole), raw
        posted += mine.head.method == "POST"
        assert not is_whole or mine.closes is h11_closes(raw), raw
    assert taken > 1500 and posted > 100 and left > 100, "of some kind there was too little"


async def test_requests_of_the_same_bytes_have_their_own_ends_and_bodies() -> None:
    others = Ends(("127.0.0.1", 80), ("10.0.0.7", 4711))
    mine, other = PLAIN.match_plainest(GET, ENDS), PLAIN.match_plainest(GET, others)
    assert mine is not None and other is not None
    assert (mine.head.peer, other.head.peer) == (ENDS.peer, others.peer)
    assert mine.head.found_out is ENDS.found_out and other.head.found_out is others.found_out
    post = b"POST /upload HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\n"
    first, second = (PLAIN.match_plainest(post + body, ENDS) for body in (b"", b"ab"))
    assert first is not None and second is not None
    assert (first.missing, second.missing) == (3, 1)
    second.put_body([b"c"])
    assert (first.missing, second.missing) == (3, 0)
    assert [b"".join([piece async for piece in one.asked.body]) for one in (first, second)] == [b"", b"abc"]


def h11_closes(read: bytes) -> bool:
    connection = h11.Connection(h11.SERVER)
    connection.receive_data(read)
    while connection.their_state in (h11.IDLE, h11.SEND_BODY):
        connection.next_event()
    return connection.their_state is h11.MUST_CLOSE


@pytest.mark.parametrize("closes", [False, True])
@pytest.mark.parametrize(
    "answer",
    [
        Answer(200, "application/json", b"{}", {"Cache-Control": "no-store"}),
        Answer(503, "text/plain; charset=utf-8", b"x" * 70_000, {"Retry-After": "1", "X": ""}),
        Answer(303, "text/html", b"", {"Location": "dashboard", "Vary": "Accept"}),
        Answer(201, "application/json", b"{}", {"Cache-Control": "no-store", "Location": "/v1/jobs/7"}),
        Answer(201, "application/json", b"{}", {"Cache-Control": "no-store", "Location": "/v1/jobs/80"}),
    ],
)
def test_an_answer_is_written_as_by_h11(answer: Answer, *, closes: bool) -> None:
    connection = h11.Connection(h11.SERVER)
    connection.receive_data(b"GET / HTTP/1.1\r\nHost: x\r\n%s\r\n" % (b"Connection: close\r\n" * closes))
    connection.next_event()
    told = [(name.lower(), value) for name, value in answer.headers.items()]
    length = ("content-length", str(len(answer.body)))
    headers = [("content-type", answer.content_type), length, *told]
    response = h11.Response(
        status_code=answer.status,
        headers=[*((name.encode(), value.encode()) for name, value in headers), *COMMON],
    )
    events: list[h11.Event] = [response, h11.Data(data=answer.body), h11.EndOfMessage()]
    wanted = b"".join(connection.send(event) or b"" for event in events)
    assert write_answer(answer, COMMON, closes=closes) == wanted


@pytest.mark.parametrize("value", ["a\r\nSet-Cookie: x", "\0", " a"])
def test_a_header_that_is_none_is_not_written(value: str) -> None:
    with pytest.raises(h11.LocalProtocolError):
        write_answer(Answer(200, "text/plain", b"", {"X": value}), COMMON, closes=False)


class Connection:
    ended = False

    def stop_reading(self) -> None:
        self.ended = True


async def test_each_idle_connection_ends_at_its_time(autojump_clock: trio.testing.MockClock) -> None:
    idle = Turns[Connection](10.0, Connection.stop_reading)
    first, second, third = Connection(), Connection(), Connection()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(idle.run)
        idle.put(first)
        await trio.sleep(4)
        idle.put(second)
        idle.put(third)
        idle.drop(third)
        await trio.sleep(5)
        idle.put(first)  # it was asked something meanwhile
        await trio.sleep(6)
        assert (first.ended, second.ended, third.ended) == (False, True, False)
        await trio.sleep(5)
        assert first.ended and not third.ended
        idle.put(third)  # after a time in which there was none
        await trio.sleep(11)
        assert third.ended
        nursery.cancel_scope.cancel()


async def test_the_longest_idle_one_goes_first_and_a_fresh_one_is_spared(
    autojump_clock: trio.testing.MockClock,
) -> None:
    idle = Turns[Connection](10.0, Connection.stop_reading)
    fresh, old, new = Connection(), Connection(), Connection()
    idle.put(old)
    idle.put(fresh, 1.0)
    idle.put(new)
    assert idle.end_first() and old.ended
    assert idle.end_first() and new.ended
    assert not idle.end_first() and not fresh.ended
    await trio.sleep(1)
    assert idle.end_first() and fresh.ended
    assert not idle.end_first()


async def test_a_head_has_to_be_whole_in_the_time_that_began_before_its_first_byte(
    autojump_clock: trio.testing.MockClock,
) -> None:
    idle = Turns[Resting](10.0, lambda one: one.stop_reading())
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    successor = Connection()
    with ours, theirs:
        polled = PolledConnection(ours, Polls(PLAIN, idle, lambda: [*COMMON]), ENDS)
        await trio.sleep(8)
        theirs.send(b"GET /hea")
        assert await polled.run() == Other(b"GET /hea")
        polled.taken_over_by = successor
        async with trio.open_nursery() as nursery:
            nursery.start_soon(idle.run)
            await trio.sleep(1)
            assert not successor.ended
            await trio.sleep(2)
            assert successor.ended
            nursery.cancel_scope.cancel()


LENGTH: Final = b"Content-Length: 4\r\n"


@pytest.mark.parametrize(
    ("request_", "after"),
    [
        (b"GET /hang HTTP/1.1\r\nHost: a\r\n\r\n", UNWATCHED + HALF_CLOSED),
        (b"POST /hang HTTP/1.1\r\nHost: a\r\n" + LENGTH + b"\r\nbody", UNWATCHED + HALF_CLOSED),
        (b"GET /hang?wait=600 HTTP/1.1\r\nHost: a\r\n\r\n", UNWATCHED + HALF_CLOSED),
    ],
    ids=["a poll", "an upload", "a long poll"],
)
@pytest.mark.parametrize("leaves", [True, False])
async def test_who_leaves_while_a_request_hangs_is_let_go_and_who_stays_is_answered(
    request_: bytes, after: float, autojump_clock: trio.testing.MockClock, *, leaves: bool
) -> None:
    async def hang(asked: Asked) -> Answer:
        await trio.sleep(100)
        return Answer(200, "text/plain", b"done at last")

    plain, page = (
        PlainRoutes(admit_all, lambda head, error: Answer(500, "text/plain", b"")),
        Blueprint("b", "b"),
    )
    plain.get(page, "/hang", takes_query=True)(hang)
    plain.post(page, "/hang")(hang)
    idle = Turns[Resting](1000.0, lambda one: one.stop_reading())
    polls = Polls(plain, idle, lambda: [*COMMON])
    ours, theirs = socket.socketpair()
    ours.setblocking(False)

    async def leave() -> None:
        await trio.sleep(0 if leaves else 150)
        theirs.shutdown(socket.SHUT_WR)

    with ours, theirs, trio.fail_after(900):
        theirs.send(request_)
        async with trio.open_nursery() as nursery:
            await nursery.start(polls.run)
            nursery.start_soon(leave)
            began = trio.current_time()
            assert await PolledConnection(ours, polls, ENDS).run() is None
            assert trio.current_time() - began == pytest.approx(after if leaves else 150)
            nursery.cancel_scope.cancel()
        ours.close()
        assert theirs.recv(1000).endswith(b"" if leaves else b"done at last")
