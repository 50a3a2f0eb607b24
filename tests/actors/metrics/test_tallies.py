"""What is counted by an addition is told as the client library tells its own."""

from __future__ import annotations

import math
import random

import pytest
from prometheus_client import CollectorRegistry, Counter, Histogram, disable_created_metrics, generate_latest

from actors.metrics.tallies import Counters, Spreads

BOUNDS = (0.001, 0.5, 1.0, 24 * 3600.0)


@pytest.fixture(autouse=True)
def _without_begins() -> None:
    disable_created_metrics()  # as both sides have it


def test_families_are_told_as_by_the_client_library_to_the_byte() -> None:
    ours, theirs = CollectorRegistry(), CollectorRegistry()
    labels = ("service", "status")
    seconds = Spreads(ours, "run_seconds", "How long.", BOUNDS, *labels)
    their_seconds = Histogram("run_seconds", "How long.", labels, registry=theirs, buckets=BOUNDS)
    moved = Counters(ours, "moved_bytes", "How much.", "direction")
    their_moved = Counter("moved_bytes", "How much.", ("direction",), registry=theirs)
    alone = Spreads(ours, "lag_seconds", "How late.", BOUNDS).of()
    their_alone = Histogram("lag_seconds", "How late.", registry=theirs, buckets=BOUNDS)
    assert generate_latest(ours) == generate_latest(theirs), "nothing was counted yet"
    rng = random.Random(5)
    for _ in range(500):
        told = rng.choice("ab"), rng.choice(('"', "Ended\n"))
        value = rng.choice((0.0, *BOUNDS, math.nextafter(0.5, 1.0), math.inf, rng.expovariate(1.0)))
        seconds.of(*told).add(value)
        their_seconds.labels(*told).observe(value)
        alone.add(value)
        their_alone.observe(value)
        grown = rng.choice((1, 0.25, 1 << 40))
        moved.of(told[0]).value += grown
        their_moved.labels(told[0]).inc(grown)
    assert generate_latest(ours) == generate_latest(theirs)
