"""What is measured: a cluster that the benchmark starts, or any server of the contract that runs already."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from testbed.bench.cpu_group import CpuGroup, cpu_group
from testbed.bench.rows import Row, scratch
from testbed.cluster import SERVICE, Cluster, Limits, running_cluster
from testbed.processes import cpu_seconds, own_cpu_seconds


@dataclass(frozen=True, slots=True)
class Cost:
    """CPU seconds that something took, by part of the target; `clients` is this process."""

    parts: dict[str, float] = field(default_factory=dict)
    clients: list[float] = field(default_factory=list)

    def rows(self, count: int, of: str, *, all_beside: float | None = None, beside_is: str = "") -> list[Row]:
        """In milliseconds for each of `count`; `all_beside` is the baseline of the sum, in the same unit."""
        unit = f"ms a {of}"
        rows = [Row(f"CPU of {name}", 1000 * spent / count, unit) for name, spent in self.parts.items()]
        if len(rows) > 1:
            total = sum(row.value for row in rows)
            rows.append(Row("CPU of all of these", total, unit, all_beside, beside_is))
        return [*rows, Row("CPU of the clients", 1000 * sum(self.clients) / count, unit)]


@dataclass(frozen=True, slots=True)
class Target:
    """`parts` tells the CPU seconds so far, by part."""

    url: str
    service: str
    parts: Mapping[str, Callable[[], float]]

    @contextmanager
    def metering(self) -> Iterator[Cost]:
        """The cost of what is done meanwhile; filled when this is left."""
        cost = Cost()
        before = {name: read() for name, read in self.parts.items()}
        own = time.process_time()
        yield cost
        cost.clients.append(time.process_time() - own)
        cost.parts.update({name: read() - before[name] for name, read in self.parts.items()})


def quotas(slots: int) -> Limits:
    """Such as let every slot be used, by one user too, and as many jobs again go ahead, and while the ends of
    others are recorded, until which they count."""
    return Limits(runs_per_user=max(1, 3 * slots), max_runs=max(1, 3 * slots))


@contextmanager
def started(*, nodes: int, slots: int = 1) -> Iterator[Target]:
    """A cluster of its own."""
    with (
        scratch() as directory,
        cpu_group() as group,
        running_cluster(directory, nodes=nodes, slots=slots, limits=quotas(nodes * slots)) as cluster,
    ):
        yield of_cluster(cluster, group)


def of_cluster(cluster: Cluster, group: CpuGroup) -> Target:
    """`group` is for the nodes and is empty yet; where none can be made, what no node waits for is lost."""
    nodes = [member.pid for member in cluster.nodes]
    parts: dict[str, Callable[[], float]] = {"server": lambda: cpu_seconds(cluster.server.pid)}

    def own() -> float:
        return sum(own_cpu_seconds(pid) for pid in nodes)

    if nodes:
        parts["nodes"] = own
        if group.add(nodes):
            parts["shepherds and bash"] = lambda: group.seconds() - own()
        else:
            parts["those that nodes waited for"] = lambda: sum(map(cpu_seconds, nodes)) - own()
    return Target(cluster.url, SERVICE, parts)


def running_already(url: str, service: str, pids: Sequence[int]) -> Target:
    """A server at `url`; the CPU of `pids` is told, each with all that it started."""

    def reader(pid: int) -> Callable[[], float]:
        return lambda: cpu_seconds(pid)

    return Target(url, service, {f"process {pid}": reader(pid) for pid in pids})
