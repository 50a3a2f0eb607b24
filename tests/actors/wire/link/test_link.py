"""A link between two tasks, over streams in memory and over a socket that a reader leaves unread."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest
import trio
import trio.testing
from wsproto import ConnectionType
from wsproto.connection import Connection
from wsproto.events import Ping, Pong

from actors.wire.link import link as links
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
