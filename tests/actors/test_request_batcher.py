"""What a node is asked: how long there is a task for it."""

from __future__ import annotations

import random
from collections.abc import Sequence

import trio
from trio.testing import wait_all_tasks_blocked

from actors.domain.node import NodeRef
from actors.request_batcher import RequestBatcher


async def test_one_task_serves_all_requests_and_ends_when_it_is_told() -> None:
    asked, gate = list[Sequence[str]](), trio.Event()

    async def call(_: NodeRef, items: Sequence[str]) -> Sequence[bool]:
        asked.append(items)
        await gate.wait()
        return [True for _ in items]

    with trio.fail_after(60.0):
        async with trio.open_nursery() as nursery:
            batcher = RequestBatcher[str, bool](
                "some",
                nursery,
                call=call,
                on_answer=lambda key, item, done: done,
                on_defect=lambda key, item, error: None,
                rng=random.Random(1),
            )
            batcher.request("a", "a")
            assert not nursery.child_tasks  # nobody is there to be asked
            batcher.node_up(NodeRef("n", "http://n"))
            await wait_all_tasks_blocked()
            batcher.request("b", "b")
            batcher.request("c", "c")
            gate.set()
            await wait_all_tasks_blocked()
            assert not len(batcher)
            (task,) = nursery.child_tasks
            batcher.request("d", "d")
            await wait_all_tasks_blocked()
            assert nursery.child_tasks == {task}
            batcher.end()
    assert asked == [["a"], ["b", "c"], ["d"]]
