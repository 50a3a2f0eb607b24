"""`GET /metrics`, for Prometheus: what the server has counted, and what is so at the moment.

What is read for it are sums that the ledger keeps, and the heads of queues: no queue is walked through. No
user and no job is a label, for there are too many of them; a service is one only if the settings have it, and
a node is called by its name.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from contextlib import suppress

import trio
from prometheus_client import generate_latest
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from actors.domain.job import Job
from actors.domain.status import QUOTA
from actors.kernel.actor import NoAnswer
from actors.metrics.process import counter, gauge
from actors.metrics.tallies import Labels
from orchestrator.api.context import ApiContext


async def render_exposition(api: ApiContext) -> bytes:
    """In the text format of Prometheus."""
    families = [*await _ledger_families(api), *_service_families(api), *_server_families(api)]
    families.append(
        gauge(
            "orchestrator_data_free_bytes",
            "Room on the disk of the data directory.",
            {(): await api.storage.free_bytes()},
        )
    )
    for ask in (_node_families, _scaling_families):
        with suppress(NoAnswer):  # the rest is worth telling all the same
            families += await ask(api)
    return generate_latest(_Read(families)) + generate_latest(api.metrics.registry)


class _Read(Collector):
    def __init__(self, families: Collection[Metric]) -> None:
        self._families = families

    def collect(self) -> Iterable[Metric]:
        return self._families


async def _ledger_families(api: ApiContext) -> list[Metric]:
    label, queries = api.metrics.jobs.label, api.ledger.queries
    counts: Counter[Labels] = Counter()
    running: Counter[str] = Counter()
    for (service, status), n in (await queries.job_counts()).items():
        counts[label(service), status.value] += n
        if status in QUOTA:
            running[service] += n
    oldest = {job.service: job for job in await queries.oldest_queued()}
    callbacks = await queries.callback_counts()
    database, log = api.ledger.file_sizes()
    return [
        gauge("orchestrator_jobs", "Jobs by their state now.", counts, "service", "status"),
        gauge(
            "orchestrator_service_running",
            "Jobs of a service that are on their way or running.",
            {(service,): running[service] for service in api.services},
            "service",
        ),
        gauge(
            "orchestrator_queue_oldest_seconds",
            "For how long the first job of a queue has been there; 0 where nothing waits.",
            {(service,): _age(oldest.get(service), api.clock.now()) for service in api.services},
            "service",
        ),
        *await _wait_families(api, [job for job in oldest.values() if job.service in api.services]),
        gauge(
            "orchestrator_callbacks",
            "Callbacks of ended jobs and batches by how they stand.",
            {(status,): n for status, n in callbacks.items()},
            "status",
        ),
        gauge("orchestrator_ledger_bytes", "Size of the ledger's database.", {(): database}),
        gauge("orchestrator_ledger_wal_bytes", "Size of the ledger's write-ahead log.", {(): log}),
    ]


def _age(job: Job | None, now: float) -> float:
    return 0.0 if job is None else max(0.0, now - job.created_at)


async def _wait_families(api: ApiContext, first: list[Job]) -> list[Metric]:
    try:
        why = await api.why(tuple(first)) if first else ()
    except NoAnswer:
        return []
    reasons: dict[Labels, float] = {
        (job.service, waiting.reason.value): 1
        for job, waiting in zip(first, why, strict=True)
        if waiting is not None
    }
    text = "1 for why the first job of a queue waits."
    return [gauge("orchestrator_queue_waits", text, reasons, "service", "reason")]


def _service_families(api: ApiContext) -> list[Metric]:
    judged = api.forecaster.history.judged()
    return [
        counter(
            "orchestrator_estimates",
            "Jobs that waited and of which it was estimated when they begin, since the start.",
            {(service,): judged.get(service, (0, 0))[0] for service in api.services},
            "service",
        ),
        counter(
            "orchestrator_estimates_inside",
            "Those of them that began within what was estimated; of 10, 8 should.",
            {(service,): judged.get(service, (0, 0))[1] for service in api.services},
            "service",
        ),
        gauge(
            "orchestrator_service_max_runs",
            "Jobs of a service that may run at once.",
            {(service,): limits.max_runs for service, limits in api.services.items()},
            "service",
        ),
        gauge(
            "orchestrator_service_paused",
            "1 while a service is paused.",
            {(service,): int(service in api.pauses.reasons) for service in api.services},
            "service",
        ),
    ]


def _server_families(api: ApiContext) -> list[Metric]:
    return [
        gauge("orchestrator_info", "This server.", {(api.version,): 1}, "version"),
        gauge("orchestrator_event_listeners", "Clients that follow events.", {(): api.changes.listening}),
        counter(
            "orchestrator_refusals",
            "Requests that were not admitted, by why, since the start.",
            {(kind,): n for kind, n in api.refusals.counts.items()},
            "kind",
        ),
    ]


async def _node_families(api: ApiContext) -> list[Metric]:
    views = await api.pool()
    states = Counter(view.state.value for view in views)

    def of_each(name: str, text: str, values: Mapping[str, float | None]) -> Metric:
        told: dict[Labels, float] = {(node,): value for node, value in values.items() if value is not None}
        return gauge(f"orchestrator_node_{name}", text, told, "node")

    # Of nodes that are there no two have one name, and it stays a node's over restarts.
    nodes = {api.registry.names.of(view.node.node_id): view for view in views}
    return [
        gauge(
            "orchestrator_nodes",
            "Nodes by their state.",
            {(state,): n for state, n in states.items()},
            "status",
        ),
        of_each("slots", "Slots of a node that limits them.", {n: view.slots for n, view in nodes.items()}),
        of_each("held", "Slots of a node that jobs hold.", {n: view.held for n, view in nodes.items()}),
        of_each("load_percent", "CPU use of a node.", {n: view.load for n, view in nodes.items()}),
        of_each("free_disk_bytes", "Room on a node's disk.", {n: v.free_disk for n, v in nodes.items()}),
        of_each(
            "silent_seconds",
            "For how long a node was not heard.",
            {n: view.heard_at and trio.current_time() - view.heard_at for n, view in nodes.items()},
        ),
        counter(
            "orchestrator_node_jobs_ended",
            "Jobs that ended on a node since the server started.",
            {(n,): view.jobs_ended for n, view in nodes.items()},
            "node",
        ),
        counter(
            "orchestrator_node_jobs_failed",
            "Those of them that failed.",
            {(n,): view.jobs_failed for n, view in nodes.items()},
            "node",
        ),
    ]


async def _scaling_families(api: ApiContext) -> list[Metric]:
    scaled = await api.scaling()
    if not scaled:
        return []
    machines: dict[Labels, float] = {}
    for one in scaled:
        machines[one.service, "ready"] = one.nodes
        machines[one.service, "booting"] = one.booting
        machines[one.service, "ending"] = one.ending
    text = "Machines of scaling, and nodes of a service that are not scaling's, by what they do."
    return [
        gauge("orchestrator_scaling_nodes", text, machines, "service", "state"),
        gauge(
            "orchestrator_scaling_max_nodes",
            "Machines that scaling may make for a service.",
            {(one.service,): one.limits.max_nodes for one in scaled},
            "service",
        ),
        gauge(
            "orchestrator_scaling_runnable",
            "Jobs of a service that would go at once, were there slots.",
            {(one.service,): one.runnable for one in scaled},
            "service",
        ),
        gauge(
            "orchestrator_scaling_trouble",
            "1 while boots fail, or the provider cannot be asked.",
            {(one.service,): int(bool(one.trouble)) for one in scaled},
            "service",
        ),
    ]
