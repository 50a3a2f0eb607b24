"""What was used, how it stands in numbers, and whether the server does its work: `/v1/usage`, `/metrics`,
`/ready`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Final

import trio
from quart import Blueprint, Response

from actors.kernel import NoAnswer
from actors.ledger_port import LedgerError
from actors.lifecycle import QUOTA, Status
from actors.ports import StorageError
from actors.wire.forms import rfc3339
from orchestrator.api import params, shapes
from orchestrator.api.problems import json_response, query
from orchestrator.api.services import Api
from orchestrator.ledger_callbacks import read_tallies
from orchestrator.ledger_usage import read_usage

DEADLINE: Final = 5.0
EXPOSITION: Final = "text/plain; version=0.0.4; charset=utf-8"

Sample = tuple[Mapping[str, str], float]


def blueprint(api: Api) -> Blueprint:
    page = Blueprint("usage", __name__)

    @page.get("/v1/usage")
    async def usage() -> Response:
        given = query("since", "user", "service")
        user, service = params.signed(given, "user"), params.known_text(given, "service")
        since = params.since(given, 0.0)
        used, begin = await api.archive.read(lambda db: read_usage(db, since, user, service))
        return json_response({"items": shapes.usage(used), "next": None, "since": rfc3339(begin)})

    @page.get("/metrics")
    async def metrics() -> Response:
        return Response("".join(await _exposition(api)), content_type=EXPOSITION)

    @page.get("/ready")
    async def ready() -> Response:
        checks = {"server": "it stops"} if api.feed.closed else await _checks(api)
        is_ready = all(answer == "ok" for answer in checks.values())
        body = {"status": "ready" if is_ready else "not ready", "checks": checks}
        return json_response(body, 200 if is_ready else 503)

    return page


async def _checks(api: Api) -> dict[str, str]:
    """What has to work for jobs to be taken in and to run; "ok" or the trouble."""
    checks = dict.fromkeys(("ledger", "storage", "scheduler"), f"no answer within {DEADLINE:g} s")

    async def check(name: str, work: Callable[[], Awaitable[object]]) -> None:
        try:
            await work()
            checks[name] = "ok"
        except (LedgerError, StorageError, NoAnswer) as error:
            checks[name] = str(error)

    with trio.move_on_after(DEADLINE):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(check, "ledger", api.archive.check)
            nursery.start_soon(check, "storage", lambda: api.storage.require(0))
            nursery.start_soon(check, "scheduler", api.pool)
    return checks


# ---------------------------------------------------------------------- metrics


async def _exposition(api: Api) -> list[str]:
    """In the text format of Prometheus. No user and no job is a label: there are too many of them."""
    counts = await api.archive.counts()
    used, _ = await api.archive.read(lambda db: read_usage(db, 0.0, None, None))
    callbacks = await api.archive.read(read_tallies)
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
        _family("orchestrator_info", "gauge", "This server.", [({"version": api.version}, 1)]),
        _family(
            "orchestrator_jobs",
            "gauge",
            "Jobs by their state now.",
            [({"service": s, "status": status.value}, n) for (s, status), n in sorted(counts.items())],
        ),
        _family(
            "orchestrator_jobs_ended_total",
            "counter",
            "Jobs that have ended, whether or not their data is kept.",
            [({"service": s, "status": status.value}, n) for (s, status), n in sorted(ended.items())],
        ),
        _family(
            "orchestrator_job_cpu_seconds_total",
            "counter",
            "CPU time of jobs that have ended.",
            [({"service": s}, n) for s, n in sorted(cpu.items())],
        ),
        _family(
            "orchestrator_service_max_runs",
            "gauge",
            "Jobs of a service that may run at once.",
            [({"service": s}, limit.max_runs) for s, limit in limits],
        ),
        _family(
            "orchestrator_service_running",
            "gauge",
            "Jobs of a service that are on their way or running.",
            [({"service": s}, running[s]) for s, _ in limits],
        ),
        _family(
            "orchestrator_service_paused",
            "gauge",
            "1 while a service is paused.",
            [({"service": s}, int(s in api.pauses.reasons)) for s, _ in limits],
        ),
        _family(
            "orchestrator_callbacks",
            "gauge",
            "Callbacks of ended jobs by how they stand.",
            [({"status": status}, n) for status, n in sorted(callbacks.items())],
        ),
        _family(
            "orchestrator_event_listeners",
            "gauge",
            "Clients that follow events.",
            [({}, api.changes.listening)],
        ),
        _family(
            "orchestrator_data_free_bytes",
            "gauge",
            "Room on the disk of the data directory.",
            [({}, await api.storage.free_bytes())],
        ),
    ]
    return [*parts, *await _of_nodes(api)]


async def _of_nodes(api: Api) -> list[str]:
    try:
        views = await api.pool()
    except NoAnswer:
        return []  # the rest is worth telling all the same
    states = Counter(view.state.value for view in views)
    of_each = [({"node": view.node.node_id}, view) for view in views]
    return [
        _family(
            "orchestrator_nodes",
            "gauge",
            "Nodes by their state.",
            [({"status": state}, n) for state, n in sorted(states.items())],
        ),
        _family(
            "orchestrator_node_slots",
            "gauge",
            "Slots of a node that limits them.",
            [(labels, view.slots) for labels, view in of_each if view.slots is not None],
        ),
        _family(
            "orchestrator_node_held",
            "gauge",
            "Slots of a node that jobs hold.",
            [(labels, view.held) for labels, view in of_each],
        ),
        _family(
            "orchestrator_node_load_percent",
            "gauge",
            "CPU use of a node.",
            [(labels, view.load) for labels, view in of_each],
        ),
    ]


def _family(name: str, kind: str, text: str, samples: Iterable[Sample]) -> str:
    lines = [f"# HELP {name} {text}\n# TYPE {name} {kind}\n"]
    for labels, value in samples:
        told = ",".join(f'{label}="{_escaped(content)}"' for label, content in labels.items())
        lines.append(f"{name}{{{told}}} {value:.17g}\n" if told else f"{name} {value:.17g}\n")
    return "".join(lines)


def _escaped(content: str) -> str:
    return content.replace("\\", "\\\\").replace("\n", "\\n").replace('"', '\\"')
