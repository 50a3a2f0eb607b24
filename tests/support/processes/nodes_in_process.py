"""A node of ours in this process, on a free port, with an executor in memory."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import trio
from support.memory.fake_executor import PretendedRun, PretendExecutor
from support.peers.node_clients import KEY, OTHER, SCRIPT, NodeClient

from node.server import serve_node
from node.settings import NodeSettings

__all__ = ["KEY", "OTHER", "SCRIPT", "NodeInProcess", "node_in_process"]


@dataclass(slots=True)
class NodeInProcess(NodeClient):
    executor: PretendExecutor
    data: Path
    shutdown: trio.Event

    async def started(self, key: str = KEY, **how: Any) -> PretendedRun:
        """An attempt that runs."""
        answer = await self.submit({key: dict(SCRIPT)}, **how)
        assert answer.status_code == 200, answer.text
        return await self.executor.run_of(key)


@asynccontextmanager
async def node_in_process(
    data: Path, *, leaves_word: bool = False, **settings: Any
) -> AsyncIterator[NodeInProcess]:
    executor, shutdown = PretendExecutor(), trio.Event()
    executor.leaves_word = leaves_word
    made = NodeSettings(port=0, data=data, **{"servers": ("127.0.0.1",), **settings})
    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:

            async def serve(*, task_status: trio.TaskStatus[list[str]]) -> None:
                await serve_node(made, shutdown=shutdown, executor=executor, task_status=task_status)

            (url,) = await nursery.start(serve)
            # Nothing is encrypted here: what authorities there are need not be read each time.
            async with httpx.AsyncClient(base_url=url, trust_env=False, verify=False, timeout=60) as client:
                yield NodeInProcess(url, client, executor, data, shutdown)
            shutdown.set()
