"""`GET /metrics`, for Prometheus: what this node has counted, and how it stands.

It is for who shows the token of `--metrics-token-file`, and for nobody where there is none. No owner, no
attempt and no service is a label: all of them are somebody else's words.
"""

from __future__ import annotations

from collections.abc import Iterable

from prometheus_client import generate_latest
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector
from quart import Blueprint, Response

from actors.domain.status import ENDED
from actors.metrics.process import ProcessMetrics, gauge
from actors.metrics.tallies import Counters, Spreads
from node.access.gate import METRICS
from node.host.load import LoadSampler
from node.payloads.rows import Row
from node.payloads.table import PayloadTable


class NodeMetrics(ProcessMetrics):
    """What a node counts."""

    def __init__(self) -> None:
        super().__init__("node")
        self._ended = Counters(self.registry, "node_jobs_ended", "Jobs that ended here, by how.", "status")
        self._ran = Spreads(
            self.registry,
            "node_job_run_seconds",
            "Wall time of jobs that ended here.",
            (0.1, 1.0, 10.0, 60.0, 300.0, 1800.0, 3600.0, 4 * 3600.0, 24 * 3600.0),
        ).of()
        self._cpu = Counters(self.registry, "node_job_cpu_seconds", "CPU time of jobs that ended here.").of()
        self._unended: set[str] = set()

    def watch(self, table: PayloadTable, load: LoadSampler) -> None:
        """Count what changes in `table`, and tell of both, from here on."""
        table.subscriptions.add_listener(self._hear)
        self.registry.register(_Now(table, load))

    def _hear(self, rows: Iterable[Row]) -> None:
        for row in rows:
            payload = row.payload
            if payload.status not in ENDED:
                self._unended.add(payload.key)
            elif payload.key in self._unended:
                self._unended.remove(payload.key)
                self._ended.of(payload.status).value += 1
                if payload.end is not None and payload.end.wall_seconds is not None:
                    self._ran.add(payload.end.wall_seconds)
                    self._cpu.value += payload.end.cpu_seconds or 0.0


class _Now(Collector):
    def __init__(self, table: PayloadTable, load: LoadSampler) -> None:
        self._table = table
        self._load = load

    def collect(self) -> Iterable[Metric]:
        now = self._load.now
        held = sum(self._table.count_held().values())
        yield gauge("node_jobs_held", "Jobs that hold a slot, or wait for one.", {(): held})
        wanted = self._table.count_wanted()
        yield gauge("node_jobs_wanted", "Jobs that run, or whose results were not fetched.", {(): wanted})
        if now.slots is not None:
            yield gauge("node_slots", "Jobs that may run at once.", {(): now.slots})
        yield gauge("node_load_percent", "CPU use of the machine.", {(): now.load})
        if now.free_disk is not None:
            yield gauge("node_free_disk_bytes", "Room on the disk of the data.", {(): now.free_disk})
        if now.free_memory is not None:
            yield gauge("node_free_memory_bytes", "Memory that is free.", {(): now.free_memory})
        yield gauge("node_unhealthy", "1 while the health command fails.", {(): int(bool(now.unhealthy))})
        yield gauge("node_stopping", "1 once it takes no more jobs.", {(): int(now.stopping)})


def metrics_route(metrics: NodeMetrics) -> Blueprint:
    routes = Blueprint("metrics", __name__)

    @routes.get(METRICS)
    async def tell() -> Response:
        return Response(generate_latest(metrics.registry), content_type=CONTENT_TYPE_PLAIN_0_0_4)

    return routes
