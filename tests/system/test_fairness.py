"""Quotas and turns with real processes, read from what the history says happened."""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import dataclass

import trio
from support.peers.portals import OVER, Portal, portal, seconds
from support.processes.processes import Place

EACH = 10
PER_USER = 2
ALL = 3
SECONDS = 0.4
FIRST, SECOND = 1, 2
BLOCKERS = (3, 3, 4)
"""Users of jobs that fill the quota until all others are queued."""


@dataclass(frozen=True)
class Span:
    """When a job held a slot."""

    user: int
    began: float
    ended: float


async def test_two_users_share_the_slots_in_turn_and_within_their_quotas(here: Place) -> None:
    # No tick comes to the rescue: whatever waited for one would be too late.
    nodes = [here.node(name, "--slots", "2", "--tick", "600") for name in ("first", "second")]
    limits = f"[services.example]\nruns_per_user = {PER_USER}\nmax_runs = {ALL}\n"
    running = here.server(nodes=[node.url for node in nodes], config=f"tick_seconds = 600\n{limits}")
    fifos = [here.directory / f"fifo-{number}" for number in range(len(BLOCKERS))]
    async with portal(running.url) as portals:
        blockers = []
        for fifo, user in zip(fifos, BLOCKERS, strict=True):
            os.mkfifo(fifo)
            blockers.append(await portals.upload(f"read x < {fifo}", user=user))
        for job in blockers:
            await portals.until(job, "Running")
        users = [FIRST] * EACH + [SECOND] * EACH
        jobs = [(await portals.upload(f"sleep {SECONDS}", user=user), user) for user in users]
        waiting = await portals.job(jobs[-1][0])
        assert waiting["status"] == "Queued" and waiting["waiting_for"] and waiting["message"]
        for fifo in fifos:
            await trio.to_thread.run_sync(fifo.write_text, "go\n")
        for job, _ in jobs:
            assert (await portals.ended(job))["status"] == "Completed"
        spans = [await _span(portals, job, user) for job, user in jobs]
        held = [await _span(portals, job, user) for job, user in zip(blockers, BLOCKERS, strict=True)]
    everything = spans + held
    assert _most_at_once(everything) == ALL
    for user in {span.user for span in everything}:
        assert _most_at_once([span for span in everything if span.user == user]) <= PER_USER
    _shared_in_turn(spans)
    ideal = EACH * 2 * SECONDS / ALL
    took = max(span.ended for span in spans) - min(span.began for span in spans)
    assert ideal <= took


async def _span(portals: Portal, job: int, user: int) -> Span:
    """The slot is free when the job has ended on its node; that its results are fetched comes after."""
    history = await portals.history(job)
    (began,) = (seconds(entry["at"]) for entry in history if entry["to"] == "Processing")
    (over,) = (seconds(entry["at"]) for entry in history if entry["to"] in OVER)
    end = await portals.job(job)
    return Span(user, began, min(over, seconds(end["started_at"]) + end["wall_seconds"]))


def _most_at_once(spans: list[Span]) -> int:
    # What ends in the same millisecond has ended before.
    steps = sorted([(span.began, 1) for span in spans] + [(span.ended, -1) for span in spans])
    most = now = 0
    for _, step in steps:
        now += step
        most = max(most, now)
    return most


def _shared_in_turn(spans: list[Span]) -> None:
    """While both have jobs that wait, neither is served more than two jobs ahead of the other."""
    served: Counter[int] = Counter({FIRST: 0, SECOND: 0})
    for span in sorted(spans, key=lambda span: span.began):
        if max(served.values()) == EACH:
            break
        served[span.user] += 1
        assert abs(served[FIRST] - served[SECOND]) <= PER_USER, served
