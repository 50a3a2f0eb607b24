"""How bodies are written under `/v1`: jobs, changes, files, logs, nodes, services, sums, refusals."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any
from urllib.parse import quote

from actors.domain.changes import JobDetails
from actors.domain.job import HistoryEntry, Job
from actors.domain.node import NodeView
from actors.domain.service import ServiceLimits, Waiting
from actors.domain.status import Status
from actors.wire.protocol.contract import rfc3339
from orchestrator.ledger.queries import JobChange
from orchestrator.ledger.tables.activity import Minute
from orchestrator.ledger.tables.callbacks import CallbackView
from orchestrator.ledger.tables.queue_counts import QueueShare
from orchestrator.ledger.tables.usage import Used
from orchestrator.storage.result_archive import FileEntry


def time(at: float | None) -> str | None:
    return None if at is None else rfc3339(at)


def job(
    row: Job,
    why: Waiting | None,
    details: JobDetails,
    left_out: Sequence[tuple[str, str]] | None = None,
    called: CallbackView | None = None,
) -> dict[str, Any]:
    """`left_out`: what its results lack, by path and reason; `called`: how it stands with its callback; None
    where that was not looked up."""
    end = row.end
    return {
        "id": row.id,
        "user_id": row.user_id,
        "service": row.service,
        "name": details.name,
        "tags": list(details.tags),
        "status": row.status.value,
        "message": why.message if why is not None else row.message,
        "waiting_for": None if why is None else why.reason.value,
        "position": None if why is None else why.position,
        "version": row.change_seq,
        "terminate_requested": row.terminate_requested,
        "created_at": time(row.created_at),
        "updated_at": time(row.updated_at),
        "started_at": time(end.started_at if end is not None else row.running_since),
        "ended_at": time(row.ended_at),
        "node": row.attempt.node_id if row.attempt is not None else None,
        "attempt": row.attempt.n if row.attempt is not None else None,
        "attempts_used": row.attempts_used,
        "exit_code": end.exit_code if end is not None else None,
        "signal": end.signal if end is not None else None,
        "wall_seconds": end.wall_seconds if end is not None else None,
        "cpu_seconds": end.cpu_seconds if end is not None else None,
        "peak_bytes": end.peak_bytes if end is not None else None,
        "input_bytes": row.size,
        "output_bytes": end.size if end is not None else None,
        "max_runtime_seconds": row.max_runtime,
        "requires": row.requires,
        "progress": row.progress,
        "progress_message": row.progress_message or None,
        "rerun_of": details.rerun_of,
        "callback": None if called is None else callback(called),
        "files_left_out": None if left_out is None else [{"path": p, "reason": why} for p, why in left_out],
    }


def callback(called: CallbackView) -> dict[str, Any]:
    return {
        "url": called.url,
        "status": called.status.value,
        "tries": called.tries,
        "last_error": called.last_error,
        "next_at": time(called.next_at),
        "settled_at": time(called.settled_at),
    }


def event(told: JobChange) -> dict[str, Any]:
    """A change. `job` is the whole job where this is its newest change, None where a later one follows."""
    row, entry = told.job, told.entry
    is_newest = row.change_seq == told.seq
    return {
        "version": told.seq,
        "job_id": row.id,
        "user_id": row.user_id,
        "service": row.service,
        "name": told.details.name,
        "at": time(entry.at if entry is not None else row.updated_at),
        "from": row.status.value if entry is None else entry.source and entry.source.value,
        "status": (entry.target if entry is not None else row.status).value,
        "reason": entry.reason if entry is not None else row.message,
        "node": entry.node_id if entry is not None else None,
        "attempt": entry.attempt_n if entry is not None else None,
        "job": job(row, None, told.details) if is_newest else None,
    }


def history(entry: HistoryEntry) -> dict[str, Any]:
    return {
        "at": time(entry.at),
        "from": entry.source.value if entry.source is not None else None,
        "to": entry.target.value,
        "reason": entry.reason,
        "node": entry.node_id,
        "attempt": entry.attempt_n,
    }


def node(view: NodeView, now: float) -> dict[str, Any]:
    """`now` is monotonic, as the view's times are."""
    silent = None if view.heard_at is None else round(max(0.0, now - view.heard_at), 3)
    return {
        "id": view.node.node_id,
        "url": view.node.url,
        "kind": "foreign" if view.node.foreign else "own",
        "status": view.state.value,
        "message": view.reason,
        "source": "joined" if view.joined else "static",
        "draining": view.draining,
        "labels": dict(view.labels),
        "machine": view.machine,
        "last_contact_seconds": silent,
        "services": list(view.services),
        "slots": view.slots,
        "held": view.held,
        "jobs_ended": view.jobs_ended,
        "jobs_failed": view.jobs_failed,
        "others": view.others,
        "load": view.load,
        "free_disk_bytes": view.free_disk,
        "free_memory_bytes": view.free_memory,
    }


def service(limits: ServiceLimits, counts: Mapping[tuple[str, Status], int]) -> dict[str, Any]:
    return {
        "name": limits.name,
        "runs_per_user": limits.runs_per_user,
        "max_runs": limits.max_runs,
        "max_attempts": limits.max_attempts,
        "max_runtime_seconds": limits.max_runtime,
        "on_node_lost": limits.on_node_lost,
        "on_doubt": limits.on_doubt,
        "jobs": {status.value: n for (name, status), n in counts.items() if name == limits.name},
    }


def usage(used: Iterable[Used]) -> list[dict[str, Any]]:
    """Sums by service and user."""
    items: dict[tuple[str, int], dict[str, Any]] = {}
    for one in used:
        item = items.setdefault(
            (one.service, one.user_id),
            {
                "service": one.service,
                "user_id": one.user_id,
                "jobs": 0,
                "ended": {},
                "cpu_seconds": 0.0,
                "wall_seconds": 0.0,
            },
        )
        item["jobs"] += one.jobs
        item["ended"][one.status.value] = one.jobs
        item["cpu_seconds"] = round(item["cpu_seconds"] + one.cpu_seconds, 6)
        item["wall_seconds"] = round(item["wall_seconds"] + one.wall_seconds, 6)
    return list(items.values())


def holder(one: QueueShare) -> dict[str, Any]:
    return {
        "service": one.service,
        "user_id": one.user_id,
        "queued": one.queued,
        "under_way": one.under_way,
    }


def minute(one: Minute) -> dict[str, Any]:
    return {
        "at": time(one.at),
        "service": one.service,
        "submitted": one.submitted,
        "begun": one.begun,
        "completed": one.completed,
        "failed": one.failed,
        "killed": one.killed,
        "mean_wait_seconds": round(one.wait_seconds / one.begun, 3) if one.begun else None,
        "longest_wait_seconds": round(one.longest_wait, 3) if one.begun else None,
    }


def file(one: FileEntry) -> dict[str, Any]:
    return {
        "path": one.path,
        "url": quote(one.path),
        "size": one.size,
        "mode": f"{one.mode & 0o7777:04o}",
        "mtime": time(min(max(one.mtime, -62135596800.0), 253402300799.0)),
        "kind": one.kind,
        "target": one.target,
    }


def log_text(stream: str, text: str, offset: int, next_offset: int, *, closed: bool) -> dict[str, Any]:
    return {
        "stream": stream,
        "text": text,
        "offset": offset,
        "next_offset": next_offset,
        "closed": closed,
    }
