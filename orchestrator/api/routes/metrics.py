"""`GET /metrics`, for Prometheus."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Final

from actors.domain.status import QUOTA, Status
from actors.kernel.actor import NoAnswer
from orchestrator.api.context import ApiContext

EXPOSITION: Final = "text/plain; version=0.0.4; charset=utf-8"


Sample = tuple[Mapping[str, str], float]


async def render_exposition(api: ApiContext) -> list[str]:
    """In the text format of Prometheus. No user and no job is a label: there are too many of them."""
    counts = await api.ledger.queries.job_counts()
    used, _ = await api.ledger.queries.usage(0.0)
    callbacks = await api.ledger.queries.callback_counts()
    ended: Counter[tuple[str, Status]] = Counter()
    cpu: Counter[str] = Counter(dict.fromkeys(api.services, 0))
    for one in used:
        ended[one.service, one.status] += one.jobs
        cpu[one.service] += one.cpu_seconds  # type: ignore[assignment]  # a Counter of floats
    limits = sorted(api.services.items())
    running: Counter[str] = Counter()
    for (service, status), n in counts.items():
        running[service] += n if status in QUOTA else 0
    parts = [
        _render_family("orchestrator_info", "gauge", "This server.", [({"version": api.version}, 1)]),
        _render_family(
            "orchestrator_jobs",
            "gauge",
            "Jobs by their state now.",
            [({"service": s, "status": status.value}, n) for (s, status), n in sorted(counts.items())],
        ),
        _render_family(
            "orchestrator_jobs_ended_total",
            "counter",
            "Jobs that have ended, whether or not their data is kept.",
            [({"service": s, "status": status.value}, n) for (s, status), n in sorted(ended.items())],
        ),
        _render_family(
            "orchestrator_job_cpu_seconds_total",
            "counter",
            "CPU time of jobs that have ended.",
            [({"service": s}, n) for s, n in sorted(cpu.items())],
        ),
        _render_family(
            "orchestrator_service_max_runs",
            "gauge",
            "Jobs of a service that may run at once.",
            [({"service": s}, limit.max_runs) for s, limit in limits],
        ),
        _render_family(
            "orchestrator_service_running",
            "gauge",
            "Jobs of a service that are on their way or running.",
            [({"service": s}, running[s]) for s, _ in limits],
        ),
        _render_family(
            "orchestrator_service_paused",
            "gauge",
            "1 while a service is paused.",
            [({"service": s}, int(s in api.pauses.reasons)) for s, _ in limits],
        ),
        _render_family(
            "orchestrator_callbacks",
            "gauge",
            "Callbacks of ended jobs by how they stand.",
            [({"status": status}, n) for status, n in sorted(callbacks.items())],
        ),
        _render_family(
            "orchestrator_event_listeners",
            "gauge",
            "Clients that follow events.",
            [({}, api.changes.listening)],
        ),
        _render_family(
            "orchestrator_refusals_total",
            "counter",
            "Requests that were not admitted, by why, since the start.",
            [({"kind": kind}, n) for kind, n in sorted(api.refusals.counts.items())],
        ),
        _render_family(
            "orchestrator_data_free_bytes",
            "gauge",
            "Room on the disk of the data directory.",
            [({}, await api.storage.free_bytes())],
        ),
    ]
    return [*parts, *await _node_families(api)]


async def _node_families(api: ApiContext) -> list[str]:
    try:
        views = await api.pool()
    except NoAnswer:
        return []  # the rest is worth telling all the same
    states = Counter(view.state.value for view in views)
    of_each = [({"node": view.node.node_id}, view) for view in views]
    return [
        _render_family(
            "orchestrator_nodes",
            "gauge",
            "Nodes by their state.",
            [({"status": state}, n) for state, n in sorted(states.items())],
        ),
        _render_family(
            "orchestrator_node_slots",
            "gauge",
            "Slots of a node that limits them.",
            [(labels, view.slots) for labels, view in of_each if view.slots is not None],
        ),
        _render_family(
            "orchestrator_node_held",
            "gauge",
            "Slots of a node that jobs hold.",
            [(labels, view.held) for labels, view in of_each],
        ),
        _render_family(
            "orchestrator_node_load_percent",
            "gauge",
            "CPU use of a node.",
            [(labels, view.load) for labels, view in of_each],
        ),
    ]


def _render_family(name: str, kind: str, text: str, samples: Iterable[Sample]) -> str:
    lines = [f"# HELP {name} {text}\n# TYPE {name} {kind}\n"]
    for labels, value in samples:
        pairs = ",".join(f'{label}="{_escape(content)}"' for label, content in labels.items())
        lines.append(f"{name}{{{pairs}}} {value:.17g}\n" if pairs else f"{name} {value:.17g}\n")
    return "".join(lines)


def _escape(content: str) -> str:
    return content.replace("\\", "\\\\").replace("\n", "\\n").replace('"', '\\"')
