"""A node that knows only the contract, with answers that a test lays out beforehand."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import trio
from support.data.node_jobs import zipped
from support.peers.peer import Hangup, Peer, Request, head, send

from actors.domain.job import Attempt
from actors.domain.node import NodeAddress, NodeRef
from actors.ports.nodes import Beat, NodeEvent
from orchestrator.nodes.addresses import contract_only_ref
from orchestrator.nodes.client import NodeClient
from orchestrator.nodes.contract_only.marker import MARKER

ID = 3


class Foreign(Peer):
    """A foreign node. `retrieve`, `partial` and so on hold the answers to come; the last one stays. An answer
    is the arguments of `send`, or a call of its own."""

    def __init__(self) -> None:
        super().__init__(self._answer)
        self.retrieve: list[Any] = [(404, "")]
        self.partial: list[Any] = [(404, "")]
        self.kill: list[Any] = [(200, "")]
        self.submit: list[Any] = [(500, "")]
        self.load: list[Any] = [(200, 12.5)]
        self.info: list[Any] = [(404, "")]
        self.root: list[Any] = [(404, "")]
        self.at_once = 0
        self.most_at_once = 0

    async def _answer(self, request: Request, stream: trio.SocketStream) -> None:
        routes = {
            "retrieve": self.retrieve,
            "retrieve_partial": self.partial,
            "kill": self.kill,
            "submit": self.submit,
            "load": self.load,
            "v1": self.info,
            "": self.root,
        }
        coming = routes[request.path.split("/")[1]]
        answer = coming.pop(0) if len(coming) > 1 else coming[0]
        self.at_once += request.path.startswith("/retrieve")
        self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            if callable(answer):
                await answer(stream)
            else:
                await send(stream, *answer)
        finally:
            self.at_once -= request.path.startswith("/retrieve")

    def asked(self, route: str) -> int:
        return sum(1 for request in self.requests if request.path.split("/")[1] == route)


def payload(status: str, id: Any = ID) -> tuple[int, dict[str, Any]]:
    return 200, {"id": id, "input": {}, "status": status, "loc": "/x", "pid": 0, "killed": False}


def zip_of(key: str, **files: bytes) -> tuple[int, bytes, str]:
    named = {name.replace("__", "."): data for name, data in files.items()}
    return 200, zipped({MARKER: key.encode(), **named}), "application/zip"


async def short_zip(stream: trio.SocketStream) -> None:
    await stream.send_all(head(200, "application/zip", 1000) + b"PK\x03\x04 and no more")
    raise Hangup


async def torn_json(stream: trio.SocketStream) -> None:
    await stream.send_all(head(200, "application/json", 1000) + b'{"id": 3, "input": {')
    raise Hangup


def ref(node: Foreign) -> NodeRef:
    return contract_only_ref(NodeAddress(node.url))


@asynccontextmanager
async def watching(client: NodeClient, node: Foreign, *attempts: Attempt) -> AsyncIterator[Callable[[], Any]]:
    """Follow the attempts; the call gives the next thing told of them."""
    send_told, told = trio.open_memory_channel[NodeEvent](math.inf)

    def tell(ref: NodeRef, event: NodeEvent) -> None:
        assert ref.contract_only
        if not isinstance(event, Beat):
            send_told.send_nowait(event)

    client.follow(ref(node).node_id, attempts)
    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(client.watch, NodeAddress(node.url), tell)
            yield told.receive
            nursery.cancel_scope.cancel()
    assert told.statistics().current_buffer_used == 0, "more was told than expected"
