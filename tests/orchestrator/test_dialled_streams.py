"""Connections that nodes have opened, kept until somebody asks over one."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import suppress

import pytest
import trio
import trio.testing

from orchestrator.dialled_streams import MOST, DialledStreams

NODE, OTHER = "a" * 32, "b" * 32


class Peers:
    """Nodes, and what they have opened."""

    def __init__(self, nursery: trio.Nursery) -> None:
        self.streams = DialledStreams()
        self._nursery = nursery
        self._ends: list[trio.SocketStream] = []

    async def open(self, node_id: str = NODE) -> trio.SocketStream:
        """One more of a node, from its side."""
        (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
        async with listener:
            far = await trio.open_tcp_stream("127.0.0.1", listener.socket.getsockname()[1])
            near = await listener.accept()
        self._ends += [far, near]
        self._nursery.start_soon(self.streams.keep, node_id, near, "")
        await trio.testing.wait_all_tasks_blocked()
        return far

    def close(self) -> None:
        for end in self._ends:
            end.socket.close()


@pytest.fixture
async def peers() -> AsyncIterator[Peers]:
    async with trio.open_nursery() as nursery:
        found = Peers(nursery)
        try:
            yield found
        finally:
            nursery.cancel_scope.cancel()
            found.close()


async def over(stream: trio.SocketStream) -> bool:
    """Whether it was closed at the other end."""
    with trio.move_on_after(0.01), suppress(trio.BrokenResourceError):
        return await stream.receive_some(1) == b""
    return False


async def test_the_newest_that_lives_is_taken_and_a_node_has_only_its_own(peers: Peers) -> None:
    old, dead, other = await peers.open(), await peers.open(), await peers.open(OTHER)
    await dead.aclose()
    await trio.testing.wait_all_tasks_blocked()
    taken = await peers.streams.take(NODE)
    await taken.send_all(b"asked")
    assert await old.receive_some(100) == b"asked"
    assert peers.streams.address_of(NODE) == "127.0.0.1"
    assert not await over(other)
    peers.streams.close()
    assert await over(other) and not await over(old)


async def test_whoever_wants_one_waits_for_it(peers: Peers) -> None:
    taken: list[object] = []

    async def take() -> None:
        taken.append(await peers.streams.take(NODE))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(take)
        nursery.start_soon(take)
        await trio.testing.wait_all_tasks_blocked()
        await peers.open(OTHER)
        assert len(taken) == 0
        await peers.open()
        assert len(taken) == 1
        await peers.open()
    assert len(taken) == 2


async def test_a_node_does_not_fill_the_server(peers: Peers) -> None:
    ends = [await peers.open() for _ in range(MOST + 2)]
    assert [await over(end) for end in ends] == [True, True] + [False] * MOST
    peers.streams.drop(NODE)
    assert [await over(end) for end in ends] == [True] * (MOST + 2)
