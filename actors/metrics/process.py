"""What a process of either side tells of itself: requests, the loop, the actors, and what the kernel knows.

No label is made of what somebody sends: a route is told by its rule, which this program wrote, and whatever
matches none is one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final, cast

import trio
from prometheus_client import CollectorRegistry, ProcessCollector, disable_created_metrics
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from actors.kernel.actor import Mailbox
from actors.kernel.supervisor import Supervisor
from actors.metrics.tallies import Count, Counters, Labels, Spread, Spreads

# When a series was begun, beside each of them: nobody asks, and it doubles what is written.
cast(Callable[[], None], disable_created_metrics)()

LAG_EVERY: Final = 1.0
"""Seconds between two looks at how late the loop is."""

_METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})


class ProcessMetrics:
    """`side` begins each name: `orchestrator` or `node`. What else is told registers with `registry`."""

    def __init__(self, side: str) -> None:
        self.side: Final = side
        self.registry: Final = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self._seconds = Spreads(
            self.registry,
            f"{side}_http_request_seconds",
            "Time until an answer began, by route and status; its count is that of the requests.",
            (0.001, 0.01, 0.1, 1.0, 10.0),
            *("method", "route", "status"),
        )
        self._answered = Counters(
            self.registry,
            f"{side}_http_answer_bytes",
            "Bytes of the bodies of answers whose length was told.",
            "route",
        )
        self._lag = Spreads(
            self.registry,
            f"{side}_loop_lag_seconds",
            "By how much the event loop was late, each second.",
            (0.001, 0.005, 0.02, 0.1, 0.5, 2.0),
        ).of()
        self._requests: dict[tuple[str, str | None, int], Spread] = {}
        self._lengths: dict[str | None, Count] = {}

    def note_request(
        self, method: str, rule: str | None, status: int, seconds: float, length: int | None
    ) -> None:
        """An answer. `rule` is the route's, None where there is none; `length` is its body's, if known."""
        spread = self._requests.get((method, rule, status))
        if spread is None:
            told = method if method in _METHODS else "other"
            spread = self._seconds.of(told, rule or "none", str(status))
            if told == method:  # there may be any number of others
                self._requests[method, rule, status] = spread
        spread.add(seconds)
        if length:
            count = self._lengths.get(rule)
            if count is None:
                count = self._lengths[rule] = self._answered.of(rule or "none")
            count.value += length

    async def watch_loop(self) -> None:
        """Measure how late the loop is, until cancelled."""
        while True:
            due = trio.current_time() + LAG_EVERY
            await trio.sleep_until(due)
            self._lag.add(max(0.0, trio.current_time() - due))

    def watch_actors(self, mailboxes: Iterable[Mailbox], supervisor: Supervisor) -> None:
        """Tell of these from here on."""
        self.registry.register(_Actors(self.side, tuple(mailboxes), supervisor))


class _Actors(Collector):
    def __init__(self, side: str, mailboxes: Sequence[Mailbox], supervisor: Supervisor) -> None:
        self._side = side
        self._mailboxes = mailboxes
        self._supervisor = supervisor

    def collect(self) -> Iterable[Metric]:
        side, boxes = self._side, self._mailboxes
        yield gauge(
            f"{side}_mailbox_messages",
            "Messages that wait for an actor.",
            {(box.name,): box.waiting for box in boxes},
            "actor",
        )
        yield counter(
            f"{side}_mailbox_dropped",
            "Messages that found a mailbox full.",
            {(box.name,): box.dropped for box in boxes},
            "actor",
        )
        yield counter(
            f"{side}_actor_restarts",
            "Lives of an actor that ended in an error.",
            {(name,): n for name, n in self._supervisor.restarts.items()},
            "actor",
        )


def gauge(name: str, text: str, samples: Mapping[Labels, float], *labels: str) -> Metric:
    """A family of what is so now, by the values of its labels."""
    family = GaugeMetricFamily(name, text, labels=labels)
    for values, value in samples.items():
        family.add_metric(values, value)
    return family


def counter(name: str, text: str, samples: Mapping[Labels, float], *labels: str) -> Metric:
    """A family of what only grows, by the values of its labels; `_total` is added to its name."""
    family = CounterMetricFamily(name, text, labels=labels)
    for values, value in samples.items():
        family.add_metric(values, value)
    return family
