"""A link between two tasks, over streams in memory and over a socket that a reader leaves unread."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest
import trio
import trio.testing
from wsproto import ConnectionType
from wsproto.connection import Connection
from wsproto.events import Ping, Pong

from actors.wire.link import link as links
from actors.wire.link.frames import BINARY, PING, PONG, encode
from actors.wire.link.link import InDoubt, Link, NotSent
from actors.wire.link.session import MAX_FRAME, Hello, Lane, Message, Role, Session
from actors.wire.link.websocket import WebSocket, take_over

MOST = dict.fromkeys(Lane, 8 << 20)


class End:
    """One end: what it has heard, and how its link ended."""

    def __init__(self, role: str, stream: trio.abc.Stream) -> None:
        socket = WebSocket(stream, asked=role == Role.ORCHESTRATOR, most=MAX_FRAME)
        self.stream = stream
        self.link = Link(socket, Session(Hello(role, role, number=1), MOST))
        self.heard: list[Message] = []
        self.answer: Callable[[Message], None] = lambda _: None
        self.why = ""

    async def run(self) -> None:
        self.why = await self.link.run(self._hear)

    def _hear(self, message: Message) -> None:
        self.heard.append(message)
        self.answer(message)


@asynccontextmanager
async def joined(
    streams: tuple[trio.abc.Stream, trio.abc.Stream] | None = None,
) -> AsyncIterator[tuple[End, End]]:
    near, far = streams or trio.testing.memory_stream_pair()
    ours, theirs = End(Role.ORCHESTRATOR, near), End(Role.NODE, far)
    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ours.run)
            nursery.start_soon(theirs.run)
            while not (ours.heard and theirs.heard):
                await trio.lowlevel.checkpoint()
            yield ours, theirs
            nursery.cancel_scope.cancel()


async def test_a_question_is_answered() -> None:
    async with joined() as (ours, theirs):
        theirs.answer = lambda m: theirs.link.tell(m.kind, {"got": len(m.blob)}, Lane.ORDERS, answers=m.asks)
        answer = await ours.link.ask("submit", {}, Lane.ORDERS, bytes(200_000), within=10)
        assert answer.body == {"got": 200_000}


async def test_over_sockets_all_arrives_that_the_kernel_does_not_take_at_once() -> None:
    near, far = trio.socket.socketpair()
    streams = trio.SocketStream(near), trio.SocketStream(far)
    async with joined(streams) as (ours, theirs):
        theirs.answer = lambda m: theirs.link.tell(m.kind, {}, Lane.ORDERS, m.blob[::-1], answers=m.asks)
        data = bytes(range(256)) * 20_000
        answer = await ours.link.ask("submit", {}, Lane.ORDERS, data, within=10)
        assert answer.blob == data[::-1]
        await streams[0].aclose()
        while not (ours.why and theirs.why):
            await trio.lowlevel.checkpoint()
    assert ours.why.startswith("the connection broke")
    assert theirs.why == "the other side closed the connection"


async def test_what_is_left_goes_with_what_is_told_next_or_is_waited_for() -> None:
    async with joined() as (ours, theirs):
        ours.link.leave("first", {}, Lane.ORDERS)
        await trio.testing.wait_all_tasks_blocked()
        assert len(theirs.heard) == 1, "the hello"
        ours.link.tell("second", {}, Lane.URGENT)
        await trio.testing.wait_all_tasks_blocked()
        assert [one.kind for one in theirs.heard[1:]] == ["second", "first"]
        ours.link.leave("third", {}, Lane.ORDERS)
        await ours.link.drained(Lane.ORDERS)
        await trio.testing.wait_all_tasks_blocked()
        assert theirs.heard[-1].kind == "third"


async def test_what_was_heard_and_not_answered_when_the_link_ends_is_in_doubt() -> None:
    async with joined() as (ours, theirs):
        theirs.answer = lambda _: theirs.link.end("enough")
        with pytest.raises(InDoubt):
            await ours.link.ask("submit", {}, Lane.ORDERS, within=1000)
        # Who asks before the link's end was heard of everywhere waits for nothing.
        with pytest.raises(NotSent, match="the link ended: the other side"):
            await ours.link.ask("submit", {}, Lane.ORDERS, within=1000)


async def test_what_waits_behind_a_peer_that_does_not_read_was_not_sent(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(links, "SENDING", 0.2)
    near, far = trio.testing.lockstep_stream_pair()  # a send ends when it was read
    ours = End(Role.ORCHESTRATOR, near)
    raised: list[Exception] = []

    async def ask(size: int) -> None:
        try:
            await ours.link.ask("submit", {}, Lane.ORDERS, bytes(size), within=10)
        except (InDoubt, NotSent) as error:
            raised.append(error)

    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ours.run)
            await far.receive_some()  # the hello
            nursery.start_soon(ask, 4 * MAX_FRAME)
            await trio.testing.wait_all_tasks_blocked()
            nursery.start_soon(ask, 1)
    assert sorted(type(error).__name__ for error in raised) == ["InDoubt", "NotSent"]
    assert "has read nothing" in ours.why


async def test_who_stops_waiting_for_an_answer_holds_up_nobody_and_what_comes_late_is_passed_over() -> None:
    async with joined() as (ours, theirs):
        with pytest.raises(InDoubt):
            await ours.link.ask("submit", {}, Lane.ORDERS, within=0.05)
        (asked,) = theirs.heard[1:]
        theirs.link.tell("submit", {}, Lane.ORDERS, answers=asked.asks)
        theirs.answer = lambda m: theirs.link.tell(m.kind, {"n": 2}, Lane.ORDERS, answers=m.asks)
        assert (await ours.link.ask("lookup", {}, Lane.ORDERS, within=10)).body == {"n": 2}


async def test_two_that_send_without_end_still_read_each_other() -> None:
    async with joined() as (ours, theirs):
        for end in (ours, theirs):
            for _ in range(40):
                end.link.tell("ended", {}, Lane.RESULTS, bytes(100_000))
        while min(len(ours.heard), len(theirs.heard)) < 41:
            await trio.lowlevel.checkpoint()


async def test_nonsense_ends_the_link_and_a_defect_in_hearing_is_raised() -> None:
    async with joined() as (ours, theirs):
        theirs.link.tell("hello", {}, Lane.URGENT)
        while not ours.why:
            await trio.lowlevel.checkpoint()
        assert "wrong time" in ours.why
    near, far = trio.testing.memory_stream_pair()
    ours, theirs = End(Role.ORCHESTRATOR, near), End(Role.NODE, far)

    def stumble(_: Message) -> None:
        raise LookupError("a defect")

    ours.answer = stumble
    async with trio.open_nursery() as nursery:
        nursery.start_soon(theirs.run)
        with pytest.raises(LookupError):
            await ours.run()
        nursery.cancel_scope.cancel()


async def test_pings_are_answered_and_a_flood_of_bytes_that_are_no_websocket_ends_it() -> None:
    near, far = trio.testing.memory_stream_pair()
    socket = take_over(far, b"", MAX_FRAME)
    link = Link(socket, Session(Hello(Role.NODE, "n"), MOST))
    client = Connection(ConnectionType.CLIENT)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(link.run, lambda _: None)
        await near.send_all(client.send(Ping(payload=b"?")))
        with trio.fail_after(60):
            while True:
                client.receive_data(bytes(await near.receive_some()))
                if any(isinstance(event, Pong) for event in client.events()):
                    break
        await near.send_all(b"\xff" * 100)
        await link.drained(Lane.URGENT)


@asynccontextmanager
async def idle_link() -> AsyncIterator[tuple[End, socket.socket]]:
    """One end over a socket of which the other end is read by nobody, once its hello is out."""
    near, far = socket.socketpair()
    near.setblocking(False)
    far.setblocking(False)
    ours = End(Role.NODE, trio.SocketStream(trio.socket.from_stdlib_socket(near)))
    with far:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ours.run)
            await trio.testing.wait_all_tasks_blocked()
            assert b"hello" in far.recv(1 << 20)
            yield ours, far
            nursery.cancel_scope.cancel()


async def test_pings_that_come_together_are_answered_together() -> None:
    near, far = trio.testing.memory_stream_pair()
    pings = encode(PING, b"", masked=True) * 1000
    asked = take_over(near, pings + encode(BINARY, b"first", masked=True), MAX_FRAME)
    sent: list[int] = []
    asked.wants_to_send = lambda: sent.append(len(asked.words))
    assert await asked.receive() == b"first"
    await far.send_all(encode(BINARY, b"second", masked=True))
    assert await asked.receive() == b"second"
    assert sent == [1000 * len(encode(PONG, b"", masked=False))]


async def test_what_is_told_is_on_its_way_at_once_in_its_order_and_nothing_after_the_end() -> None:
    async with idle_link() as (ours, far):
        ours.link.leave("first", {}, Lane.ORDERS)
        with pytest.raises(BlockingIOError):
            far.recv(1)
        ours.link.tell("second", {}, Lane.ORDERS)
        came = far.recv(1 << 20)
        assert 0 < came.index(b"first") < came.index(b"second")
        ours.link.end("enough")
        ours.link.tell("third", {}, Lane.URGENT)
        await trio.testing.wait_all_tasks_blocked()
        assert far.recv(1 << 20) == b"", "it is closed, and nothing came before that"


async def test_what_is_told_while_the_socket_is_full_waits_in_its_order() -> None:
    async with idle_link() as (ours, far):
        ours.link.tell("big", {}, Lane.ORDERS, bytes(4 << 20))
        ours.link.tell("second", {}, Lane.ORDERS)
        ours.link.tell("urgent", {}, Lane.URGENT)
        drained = trio.Event()

        async def wait() -> None:
            await ours.link.drained(Lane.ORDERS)
            drained.set()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(wait)
            await trio.testing.wait_all_tasks_blocked()
            assert not drained.is_set()
            came = bytearray()
            while b"second" not in came:
                await trio.lowlevel.wait_readable(far)
                came += far.recv(1 << 20)
            await drained.wait()
        assert came.index(b"big") < came.index(b"urgent") < came.index(b"second")
        ours.link.tell("third", {}, Lane.ORDERS)
        assert b"third" in far.recv(1 << 20), "sent at once again"


async def test_a_question_that_waits_while_the_socket_is_full_was_not_sent() -> None:
    async with idle_link() as (ours, _), trio.open_nursery() as nursery:
        ours.link.tell("big", {}, Lane.ORDERS, bytes(4 << 20))

        async def ask() -> None:
            with pytest.raises(NotSent):
                await ours.link.ask("submit", {}, Lane.ORDERS, within=1000)

        nursery.start_soon(ask)
        await trio.testing.wait_all_tasks_blocked()
        ours.link.end("enough")


async def test_who_tells_something_hears_nothing_of_a_connection_that_broke() -> None:
    async with idle_link() as (ours, far):
        far.close()
        ours.link.tell("first", {}, Lane.ORDERS)
        ours.link.tell("second", {}, Lane.ORDERS)
        await trio.testing.wait_all_tasks_blocked()
        assert ours.why.startswith("the connection broke")


async def test_each_question_has_a_time_of_its_own(autojump_clock: trio.testing.MockClock) -> None:
    near, _ = trio.testing.memory_stream_pair()
    ours, over = End(Role.ORCHESTRATOR, near), dict[float, float]()

    async def ask(within: float) -> None:
        begun = trio.current_time()
        with pytest.raises(InDoubt, match=f"no answer within {within:g} s"):
            await ours.link.ask("lookup", {}, Lane.ORDERS, within=within)
        over[within] = trio.current_time() - begun

    async with trio.open_nursery() as nursery:
        nursery.start_soon(ours.run)
        await trio.sleep(7)
        async with trio.open_nursery() as questions:
            for within in (45.0, 2.0, 30.0):
                questions.start_soon(ask, within)
                await trio.sleep(1)
        nursery.cancel_scope.cancel()
    assert over == pytest.approx({within: within for within in (2.0, 30.0, 45.0)})
