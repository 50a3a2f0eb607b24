"""Counters and histograms that cost an addition.

Those of the client library take a lock, and look whether they are one of a family, each time that they count;
a job and its requests count a hundred times. All of these are counted in one thread, that of the loop, and a
family tells what they hold when somebody asks.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Callable, Iterable, Sequence
from typing import Final, cast

from prometheus_client import CollectorRegistry
from prometheus_client.metrics_core import CounterMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

Labels = tuple[str, ...]

_write_bound: Final = cast(Callable[[float], str], floatToGoString)


class Count:
    """What only grows: add to its `value`."""

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value = 0.0


class Spread:
    """How many values there were, up to each of some bounds, and their sum."""

    __slots__ = ("_bounds", "counts", "sum")

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        """Of values above the bound before, and not above this one; the last of those above all."""
        self.sum = 0.0

    def add(self, value: float) -> None:
        self.counts[bisect_left(self._bounds, value)] += 1
        self.sum += value


class Counters(Collector):
    """A family of counts, by the values of its labels."""

    def __init__(self, registry: CollectorRegistry, name: str, text: str, *labels: str) -> None:
        self._about = name, text, labels
        self._counts: dict[Labels, Count] = {}
        registry.register(self)

    def of(self, *values: str) -> Count:
        """The one with these; from then on it is told."""
        count = self._counts.get(values)
        if count is None:
            count = self._counts[values] = Count()
        return count

    def collect(self) -> Iterable[Metric]:
        name, text, labels = self._about
        family = CounterMetricFamily(name, text, labels=labels)
        for values, count in self._counts.items():
            family.add_metric(values, count.value)
        yield family


class Spreads(Collector):
    """A family of spreads over the same bounds, in rising order, by the values of its labels."""

    def __init__(
        self, registry: CollectorRegistry, name: str, text: str, bounds: Sequence[float], *labels: str
    ) -> None:
        self._about = name, text, labels
        self._bounds = tuple(bounds)
        self._ends = [_write_bound(bound) for bound in (*self._bounds, math.inf)]
        self._spreads: dict[Labels, Spread] = {}
        registry.register(self)

    def of(self, *values: str) -> Spread:
        """The one with these; from then on it is told."""
        spread = self._spreads.get(values)
        if spread is None:
            spread = self._spreads[values] = Spread(self._bounds)
        return spread

    def collect(self) -> Iterable[Metric]:
        name, text, labels = self._about
        family = HistogramMetricFamily(name, text, labels=labels)
        for values, spread in self._spreads.items():
            buckets, so_far = [], 0
            for end, count in zip(self._ends, spread.counts, strict=True):
                so_far += count
                buckets.append((end, float(so_far)))
            family.add_metric(values, buckets, spread.sum)
        yield family
