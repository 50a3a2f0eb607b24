"""What a process tells of itself."""

from __future__ import annotations

import trio
from trio.testing import MockClock

from actors.kernel.actor import Mailbox
from actors.kernel.supervisor import Supervisor
from actors.metrics.process import ProcessMetrics


class Rng:
    def random(self) -> float:
        return 0.5

    def uniform(self, a: float, b: float) -> float:
        return b


async def test_mailboxes_and_restarts_are_told(autojump_clock: MockClock) -> None:
    metrics, supervisor, mailbox = ProcessMetrics("node"), Supervisor(Rng()), Mailbox("runner", size=2)
    metrics.watch_actors([mailbox], supervisor)
    for n in range(5):
        mailbox.tell(n)
    lives = 0

    async def life(*, task_status: trio.TaskStatus[None]) -> None:
        nonlocal lives
        lives += 1
        task_status.started()
        if lives < 3:
            raise ValueError("crash")

    await supervisor.keep("runner", life)
    value = metrics.registry.get_sample_value
    assert value("node_mailbox_messages", {"actor": "runner"}) == 2
    assert value("node_mailbox_dropped_total", {"actor": "runner"}) == 3
    assert value("node_actor_restarts_total", {"actor": "runner"}) == 2


async def test_a_loop_that_is_late_is_told_so(autojump_clock: MockClock) -> None:
    metrics = ProcessMetrics("node")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(metrics.watch_loop)
        await trio.sleep(0.5)
        autojump_clock.jump(3.0)  # as if something had held the loop until 2.5 s after the look was due
        await trio.sleep(0.1)
        nursery.cancel_scope.cancel()
    value = metrics.registry.get_sample_value
    assert value("node_loop_lag_seconds_count") == 1
    assert value("node_loop_lag_seconds_sum") == 2.5


def test_requests_are_told_by_rule() -> None:
    metrics = ProcessMetrics("node")
    metrics.note_request("GET", "/v1/jobs/<number>", 200, 0.02, 100)
    metrics.note_request("GET", "/v1/jobs/<number>", 200, 0.02, None)
    metrics.note_request("BREW", None, 404, 0.02, 7)
    value = metrics.registry.get_sample_value
    of_rule = {"method": "GET", "route": "/v1/jobs/<number>", "status": "200"}
    assert value("node_http_request_seconds_count", of_rule) == 2
    assert value("node_http_answer_bytes_total", {"route": "/v1/jobs/<number>"}) == 100
    unknown = {"method": "other", "route": "none", "status": "404"}
    assert value("node_http_request_seconds_count", unknown) == 1
