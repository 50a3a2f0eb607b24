"""How bodies are written under `/v1`: jobs, changes, files, logs, nodes, services, sums, refusals."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote

from actors.domain.batch_request import NOTHING_REQUESTED, BatchRequest
from actors.domain.changes import JobDetails
from actors.domain.job import HistoryEntry, Job
from actors.domain.limits import limits_to_json
from actors.domain.node import NodeState, NodeView
from actors.domain.progress import BatchStand
from actors.domain.scaling import DecisionRecord, ServiceScaling
from actors.domain.service import ServiceLimits, Waiting
from actors.domain.status import ENDED, OVER, Status
from actors.wire.protocol.contract import rfc3339
from orchestrator.access.audit import AuditLine
from orchestrator.access.tokens import TokenRecord
from orchestrator.contract import bodies
from orchestrator.contract.batches import Batch
from orchestrator.contract.codec import to_json
from orchestrator.ledger.queries import JobChange
from orchestrator.ledger.tables.activity import Minute
from orchestrator.ledger.tables.batches import BatchView
from orchestrator.ledger.tables.callbacks import CallbackView
from orchestrator.ledger.tables.queue_counts import QueueShare
from orchestrator.ledger.tables.usage import Usage
from orchestrator.scheduling.forecast import Estimate, Span
from orchestrator.scheduling.run_history import Accuracy, in_whole_seconds
from orchestrator.scheduling.troubles import Trouble
from orchestrator.storage.result_archive import FileEntry


def render_job(
    row: Job,
    why: Waiting | None,
    details: JobDetails,
    left_out: Sequence[tuple[str, str]] | None = None,
    callback: CallbackView | None = None,
    *,
    estimate: Estimate | None = None,
    cancelled: AuditLine | None = None,
    name_of: Callable[[str], str],
) -> dict[str, Any]:
    """`left_out`: what its results lack, by path and reason; `callback`: how far it is told; `estimate`: when
    it begins and ends; `cancelled`: the order to end it; None where that was not looked up. `name_of` a
    node's id: how it is called."""
    end = row.end
    started_at = row.running_since if end is None or end.started_at is None else end.started_at
    # In their order also where our own clock was set back meanwhile.
    _, started_at, finished_at, ended_at = _in_order(
        row.created_at, started_at, None if end is None else end.ended_at, row.ended_at
    )
    return to_json(
        bodies.Job(
            id=row.id,
            user=row.user_id,
            service=row.service,
            name=details.name,
            tags=details.tags,
            status=row.status.value,
            outcome=_outcome(row),
            message=why.message if why is not None else row.message,
            waiting_for=None if why is None else why.reason.value,
            failure=None if row.failure is None else row.failure.value,
            position=None if why is None else why.position,
            version=row.change_seq,
            terminate_requested=row.terminate_requested,
            created_at=_utc(row.created_at),
            updated_at=_utc(row.updated_at),
            started_at=_utc(started_at),
            finished_at=_utc(finished_at),
            ended_at=_utc(ended_at),
            starts_at=None if estimate is None else _period(estimate.begins),
            ends_at=None if estimate is None else _period(estimate.ends),
            no_estimate=None if estimate is None else estimate.unknown or None,
            node=row.attempt.node_id if row.attempt is not None else None,
            node_name=name_of(row.attempt.node_id) if row.attempt is not None else None,
            attempt=row.attempt.n if row.attempt is not None else None,
            attempts_used=row.attempts_used,
            exit_code=end.exit_code if end is not None else None,
            signal=end.signal if end is not None else None,
            wall_seconds=end.wall_seconds if end is not None else None,
            cpu_seconds=None if end is None or end.cpu_seconds is None else round(end.cpu_seconds, 6),
            peak_bytes=end.peak_bytes if end is not None else None,
            input_bytes=row.size,
            output_bytes=end.size if end is not None else None,
            max_runtime_seconds=row.max_runtime,
            limits=limits_to_json(row.limits),
            requires=row.requires,
            priority=row.priority,
            batch_request=_request(row.batch_request),
            progress=row.progress,
            progress_message=row.progress_message or None,
            batch=None if row.batch is None else _batch(row.batch, row),
            rerun_of=details.rerun_of,
            ignored=details.ignored,
            callback=None if callback is None else _callback(callback),
            cancelled=None if cancelled is None else _cancellation(cancelled),
            files_left_out=None if left_out is None else tuple(bodies.LeftOutFile(*one) for one in left_out),
        )
    )


def _outcome(row: Job) -> str | None:
    if row.status in ENDED:
        return row.status.value
    return row.end.status.value if row.status is Status.CLEANED and row.end is not None else None


def _request(asked: BatchRequest) -> bodies.BatchRequest | None:
    if asked == NOTHING_REQUESTED:
        return None
    return bodies.BatchRequest(
        asked.partition or None,
        asked.account or None,
        asked.qos or None,
        asked.cpus or None,
        asked.gpus or None,
    )


def _batch(stand: BatchStand, row: Job) -> bodies.BatchJob:
    # What it said before the end is not so any more.
    known = stand.ended or (row.end is None and row.status not in OVER)
    return bodies.BatchJob(
        stand.system, stand.id, (known and stand.state) or None, (known and stand.reason) or None
    )


def _period(span: Span | None) -> bodies.Period | None:
    if span is None:
        return None
    told = in_whole_seconds(span)
    return bodies.Period(_utc(told.earliest), _utc(told.latest))


def _cancellation(line: AuditLine) -> bodies.Cancellation:
    """Without names: a user learns of what kind it was."""
    return bodies.Cancellation(datetime.fromtimestamp(line.at, UTC), line.entry.role)


def _callback(view: CallbackView) -> bodies.JobCallback:
    return bodies.JobCallback(
        url=view.url,
        status=view.status.value,
        tries=view.tries,
        last_error=view.last_error,
        next_at=_utc(view.next_at),
        settled_at=_utc(view.settled_at),
    )


def render_batch(view: BatchView, callback: CallbackView | None) -> dict[str, Any]:
    """`callback`: how far it is told, None in what the callback itself tells."""
    return to_json(
        Batch(
            id=view.id,
            jobs=view.jobs,
            left=view.left,
            completed=view.completed,
            failed=view.failed,
            invalid=view.invalid,
            killed=view.killed,
            not_completed=view.not_completed,
            created_at=datetime.fromtimestamp(view.created_at, UTC),
            ended_at=_utc(view.ended_at),
            callback=None if callback is None else _callback(callback),
        )
    )


def render_event(change: JobChange, name_of: Callable[[str], str]) -> bodies.EventBody:
    """A change. `job` is the whole job where this is its newest change, None where a later one follows."""
    row, entry = change.job, change.entry
    node = entry.node_id if entry is not None else None
    is_newest = row.change_seq == change.seq
    return {
        "version": change.seq,
        "job_id": row.id,
        "user_id": row.user_id,
        "service": row.service,
        "name": change.details.name,
        "at": rfc3339(entry.at if entry is not None else row.updated_at),
        "from": row.status.value if entry is None else entry.source and entry.source.value,
        "status": (entry.target if entry is not None else row.status).value,
        "reason": entry.reason if entry is not None else row.message,
        "node": node,
        "node_name": node and name_of(node),
        "attempt": entry.attempt_n if entry is not None else None,
        "job": render_job(row, None, change.details, name_of=name_of) if is_newest else None,
    }


def render_transition(entry: HistoryEntry, name_of: Callable[[str], str]) -> bodies.TransitionBody:
    return {
        "at": rfc3339(entry.at),
        "from": entry.source.value if entry.source is not None else None,
        "to": entry.target.value,
        "reason": entry.reason,
        "node": entry.node_id,
        "node_name": entry.node_id and name_of(entry.node_id),
        "attempt": entry.attempt_n,
    }


def render_node(view: NodeView, now: float) -> dict[str, Any]:
    """`now` is monotonic, as the view's times are."""
    return to_json(
        bodies.Node(
            id=view.node.node_id,
            name=view.name or view.node.node_id,
            url=view.node.url,
            kind="foreign" if view.node.contract_only else "own",
            status=view.state.value,
            message=view.reason,
            source="joined" if view.joined else "static",
            draining=view.draining,
            labels=view.labels,
            machine=view.machine,
            last_contact_seconds=None if view.heard_at is None else round(max(0.0, now - view.heard_at), 3),
            services=view.services,
            slots=view.slots,
            held=view.held,
            jobs_ended=view.jobs_ended,
            jobs_failed=view.jobs_failed,
            others=view.others,
            load=view.load,
            seconds_left=None if view.seconds_left is None else round(view.seconds_left, 1),
            clock_skew_seconds=None if view.skew is None else round(view.skew, 1),
            free_disk_bytes=view.free_disk,
            free_memory_bytes=view.free_memory,
            executor=view.executor or None,
            executor_limits=view.executor_limits or None,
        )
    )


def render_service(
    limits: ServiceLimits,
    counts: Mapping[tuple[str, Status], int],
    views: Iterable[NodeView],
    paused: str | None = None,
    paused_since: float | None = None,
    *,
    accuracy: Accuracy,
) -> dict[str, Any]:
    """`counts`: how many jobs there are by service and status; `views`: all nodes; `paused`: why it is;
    `accuracy`: of what is estimated."""
    nodes = [view for view in views if limits.name in view.services]
    ready = [view for view in nodes if view.state is NodeState.READY]
    slots = [view.slots for view in ready if view.slots is not None]
    return to_json(
        bodies.Service(
            name=limits.name,
            runs_per_user=limits.runs_per_user,
            max_runs=limits.max_runs,
            max_attempts=limits.max_attempts,
            max_runtime_seconds=limits.max_runtime,
            limits=limits_to_json(limits.limits),
            on_node_lost=limits.on_node_lost,
            on_doubt=limits.on_doubt,
            max_priority=limits.max_priority,
            keep_slots=limits.keep_slots,
            batch_allowed=bodies.BatchAllowance(**asdict(limits.batch_allowed)),
            jobs={status.value: n for (name, status), n in counts.items() if name == limits.name},
            pause_reason=paused,
            paused_since=_utc(paused_since),
            nodes=bodies.ServiceNodes(
                known=len(nodes),
                ready=len(ready),
                slots=sum(slots) if len(slots) == len(ready) else None,
                held=sum(view.held for view in nodes),
            ),
            estimates=bodies.EstimateAccuracy(
                judged=accuracy.judged,
                inside=accuracy.inside,
                median_width_seconds=_seconds(accuracy.median_width),
                median_wait_seconds=_seconds(accuracy.median_wait),
            ),
        )
    )


def render_usage(used: Usage) -> bodies.UsageBody:
    return {
        "month": used.month,
        "user_id": used.user_id,
        "service": used.service,
        "jobs": used.jobs,
        "completed": used.completed,
        "failed": used.failed,
        "invalid": used.invalid,
        "killed": used.killed,
        "wall_seconds": round(used.wall_seconds, 6),
        "cpu_seconds": round(used.cpu_seconds, 6),
        "memory_byte_seconds": round(used.memory_byte_seconds, 6),
        "bytes_in": used.bytes_in,
        "bytes_out": used.bytes_out,
    }


def render_holder(share: QueueShare) -> dict[str, Any]:
    return to_json(bodies.Holder(share.service, share.user_id, share.queued, share.under_way))


def render_trouble(trouble: Trouble, name_of: Callable[[str], str]) -> dict[str, Any]:
    return to_json(
        bodies.Trouble(
            kind=trouble.kind.value,
            text=trouble.text,
            service=trouble.service,
            node=trouble.node,
            node_name=trouble.node and name_of(trouble.node),
            jobs=trouble.jobs,
        )
    )


def render_minute(minute: Minute) -> bodies.MinuteBody:
    return {
        "at": rfc3339(minute.at),
        "service": minute.service,
        "submitted": minute.submitted,
        "begun": minute.begun,
        "completed": minute.completed,
        "failed": minute.failed,
        "killed": minute.killed,
        "mean_wait_seconds": round(minute.wait_seconds / minute.begun, 3) if minute.begun else None,
        "longest_wait_seconds": round(minute.longest_wait, 3) if minute.begun else None,
    }


def render_file(entry: FileEntry, origin: bodies.FileOrigin | None) -> dict[str, Any]:
    return to_json(
        bodies.File(
            path=entry.path,
            url=quote(entry.path),
            size=entry.size,
            mode=f"{entry.mode & 0o7777:04o}",
            mtime=_utc(min(max(entry.mtime, -62135596800.0), 253402300799.0)),
            kind=entry.kind,
            target=entry.target,
            origin=origin,
        )
    )


def render_scaling(scaling: ServiceScaling, name_of: Callable[[str], str]) -> bodies.ScalingBody:
    limits = scaling.limits
    return {
        "service": scaling.service,
        "provider": scaling.provider,
        "nodes": scaling.nodes,
        "booting": scaling.booting,
        "ending": scaling.ending,
        "runnable": scaling.runnable,
        "trouble": scaling.trouble,
        "min_nodes": limits.min_nodes,
        "max_nodes": limits.max_nodes,
        "slots_per_node": limits.slots_per_node,
        "machines": [
            {
                "token": machine.token[:8],  # the whole of it is what its node joins with
                "id": machine.machine_id,
                "node": machine.node_id,
                "node_name": machine.node_id and name_of(machine.node_id),
                "status": machine.state,
                "requested_at": rfc3339(machine.requested_at),
                "reason": machine.reason,
            }
            for machine in scaling.machines
        ],
    }


def render_decision(decision: DecisionRecord) -> bodies.DecisionBody:
    return {
        "at": rfc3339(decision.at),
        "service": decision.service,
        "action": decision.action,
        "subject": decision.subject,
        "reason": decision.reason,
    }


def render_audit_line(line: AuditLine, name_of: Callable[[str], str]) -> bodies.AuditBody:
    entry = line.entry
    return {
        "at": rfc3339(line.at),
        "who": entry.who,
        "token": entry.token,
        "role": entry.role,
        "address": entry.address,
        "action": entry.action,
        "job": entry.job,
        "node": entry.node,
        "node_name": entry.node and name_of(entry.node),
        "about": entry.about,
        "detail": entry.detail,
    }


def render_token(token: TokenRecord) -> bodies.TokenBody:
    return {
        "id": token.id,
        "role": token.role.value,
        "name": token.name,
        "services": list(token.services),
        "user": token.user,
        "created_at": rfc3339(token.created_at),
        "expires_at": None if token.expires_at is None else rfc3339(token.expires_at),
        "used_at": None if token.used_at is None else rfc3339(token.used_at),
        "once": token.once,
        "max_slots": token.max_slots,
        "sources": list(token.sources),
    }


def _in_order(*times: float | None) -> list[float | None]:
    """Each raised to the latest before it, where it is known."""
    latest = float("-inf")
    return [at if at is None else (latest := max(latest, at)) for at in times]


def _utc(at: float | None) -> datetime | None:
    return None if at is None else datetime.fromtimestamp(at, UTC)


def _seconds(exact: float | None) -> float | None:
    return None if exact is None else round(exact, 3)
