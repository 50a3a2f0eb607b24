"""The proxies of a chaos run do to connections what they say."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import trio
import trio.testing
from testbed.chaos import wires
from testbed.chaos.wires import Wires


class Line:
    """A wire to a server that answers each byte with the same, and the means to connect to it."""

    def __init__(self, network: Wires, server: str) -> None:
        self.network = network
        self.server = server
        self.port = int(network.url(1).rpartition(":")[2])
        self.got = trio.Event()

    async def connect(self) -> trio.SocketStream:
        """Retries a refusal: the listener begins in a task of its own."""
        while True:
            try:
                return await trio.open_tcp_stream("127.0.0.1", self.port)
            except OSError:
                await trio.lowlevel.checkpoint()


@pytest.fixture
async def line(nursery: trio.Nursery) -> AsyncIterator[Line]:
    network = Wires(1)

    async def echo(stream: trio.SocketStream) -> None:
        try:
            async for data in stream:
                made.got.set()
                await stream.send_all(data)
        except trio.BrokenResourceError:
            return

    listeners = await nursery.start(trio.serve_tcp, echo, 0)
    port = listeners[0].socket.getsockname()[1]
    made = Line(network, f"http://127.0.0.1:{port}")
    nursery.start_soon(network.run)
    network.node_up(1, made.server)
    with trio.fail_after(60):
        yield made


async def test_bytes_and_ends_go_through(line: Line) -> None:
    async with await line.connect() as stream:
        await stream.send_all(b"x")
        assert await stream.receive_some() == b"x"
        await stream.send_eof()
        assert await stream.receive_some() == b""


async def test_reset_breaks_what_is_connected_and_nothing_else(line: Line) -> None:
    async with await line.connect() as stream:
        await stream.send_all(b"x")
        assert await stream.receive_some() == b"x"
        await line.network.fail(1, wires.RESET, 1)
        with pytest.raises(trio.BrokenResourceError):
            await stream.receive_some()
    await test_bytes_and_ends_go_through(line)


async def test_nobody_listens_while_the_node_is_down(line: Line) -> None:
    stream = await line.connect()
    await stream.aclose()
    line.network.node_down(1)
    await trio.testing.wait_all_tasks_blocked()
    with pytest.raises(OSError, match=r"refused|all attempts"):
        await trio.open_tcp_stream("127.0.0.1", line.port)
    line.network.node_up(1, line.server)
    await test_bytes_and_ends_go_through(line)


async def test_lost_answer_belongs_to_a_request_that_arrived(line: Line, nursery: trio.Nursery) -> None:
    async with await line.connect() as stream:
        failing = trio.CancelScope()

        async def fail() -> None:
            with failing:
                await line.network.fail(1, wires.LOSE_ANSWERS, 60)

        nursery.start_soon(fail)
        await trio.testing.wait_all_tasks_blocked()
        await stream.send_all(b"x")
        await line.got.wait()
        failing.cancel()
        with pytest.raises(trio.BrokenResourceError):
            await stream.receive_some()


async def test_hung_bytes_arrive_when_it_is_over(line: Line, nursery: trio.Nursery) -> None:
    async with await line.connect() as stream:
        hanging = trio.CancelScope()

        async def fail() -> None:
            with hanging:
                await line.network.fail(1, wires.HANG, 60)

        nursery.start_soon(fail)
        await trio.testing.wait_all_tasks_blocked()
        await stream.send_all(b"x")
        await trio.testing.wait_all_tasks_blocked()
        assert not line.got.is_set()
        hanging.cancel()
        assert await stream.receive_some() == b"x"
