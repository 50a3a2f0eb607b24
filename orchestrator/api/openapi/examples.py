"""Examples of the bodies in the OpenAPI document: what the code that writes them makes of a docking job."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final

from actors.domain.changes import JobDetails
from actors.domain.job import Attempt, End, HistoryEntry, Job
from actors.domain.node import NodeRef, NodeState, NodeView
from actors.domain.progress import BatchStand
from actors.domain.service import ServiceLimits, Waiting, WaitReason
from actors.domain.status import Status
from actors.ports.callbacks import CallbackStatus
from actors.wire.http.app import problem_body
from actors.wire.protocol.contract import rfc3339, status_body
from orchestrator.access.audit import AuditEntry, AuditLine
from orchestrator.api import serializers
from orchestrator.api.http.errors import unknown_job
from orchestrator.ledger.queries import JobChange
from orchestrator.ledger.tables.activity import Minute
from orchestrator.ledger.tables.batches import BatchView
from orchestrator.ledger.tables.callbacks import CallbackView
from orchestrator.ledger.tables.queue_counts import QueueShare
from orchestrator.ledger.tables.usage import Usage
from orchestrator.scheduling.forecast import Estimate, Span
from orchestrator.scheduling.run_history import Accuracy
from orchestrator.scheduling.troubles import Trouble, TroubleKind, tell_nodeless
from orchestrator.storage.result_archive import FileEntry

_AT: Final = 1_780_000_000.0
_NODE: Final = "6f1d0c3a5b7e49d2a8c4e0f1b2d3c4e5"
_NAME: Final = "gpu-3"
_ATTEMPT: Final = Attempt("0" * 32, 7, 1, _NODE)
_DETAILS: Final = JobDetails("2OOB, chains A and B", ("2oob", "paper"))

_QUEUED: Final = Job(
    id=7,
    user_id=42,
    service="docking",
    status=Status.QUEUED,
    message="Job successfully uploaded",
    change_seq=90,
    created_at=_AT,
    updated_at=_AT,
    storage_key="0" * 32,
    size=81_234,
    max_runtime=3600.0,
)
_RUNNING: Final = replace(
    _QUEUED,
    status=Status.RUNNING,
    message=f"runs on node {_NAME}",
    change_seq=93,
    updated_at=_AT + 2.0,
    attempt=_ATTEMPT,
    progress=0.4,
    progress_message="refining",
    batch=BatchStand("slurm", "4711", "RUNNING"),
)
_COMPLETED: Final = replace(
    _RUNNING,
    status=Status.COMPLETED,
    message="",
    change_seq=97,
    updated_at=_AT + 95.0,
    ended_at=_AT + 95.0,
    attempts_used=1,
    progress=1.0,
    end=End(
        Status.COMPLETED,
        "",
        exit_code=0,
        started_at=_AT + 2.0,
        ended_at=_AT + 94.9,
        wall_seconds=92.9,
        cpu_seconds=180.2,
        peak_bytes=412 << 20,
        size=2_345_678,
    ),
)
_CALLED: Final = CallbackView(
    "https://portal.example.org/done", CallbackStatus.DELIVERED, 2, "HTTP 503", None, _AT + 100.4
)
_BATCH: Final = BatchView(
    id="5b1f0c0f6c0f4c0b",
    user_id=42,
    services=("docking",),
    jobs=3,
    left=1,
    completed=1,
    failed=1,
    invalid=0,
    killed=0,
    not_completed=(8,),
    created_at=_AT + 1.0,
    ended_at=None,
    callback=CallbackView("https://portal.example.org/batch-done"),
)
_STARTED: Final = HistoryEntry(
    7, _AT + 2.0, Status.SUBMITTED, Status.RUNNING, f"runs on node {_NAME}", _NODE, 1
)
_VIEW: Final = NodeView(
    NodeRef(_NODE, "http://10.0.0.5:9000"),
    NodeState.READY,
    "",
    ("docking",),
    4,
    1,
    0,
    31.5,
    free_disk=200 << 30,
    free_memory=12 << 30,
    joined=True,
    labels={"gpu": "a100"},
    heard_at=100.0,
    jobs_ended=212,
    jobs_failed=3,
    name=_NAME,
    executor="bubblewrap",
    executor_limits="Each job has a PID namespace of its own, so nothing of it outlives it; it runs as a "
    "user of its own; it sees its own directory and, read-only, what any user of this machine may read, and "
    "has no network unless its service is given it.",
)


_TROUBLES: Final = (
    Trouble(
        TroubleKind.NO_NODE,
        "10 jobs of docking wait for gpu=h100: no ready node has it",
        "docking",
        jobs=10,
    ),
    Trouble(TroubleKind.FAILING, f"docking fails on node {_NAME}: 9 of its last 10", "docking", _NODE, 9),
)


def _name_of(node_id: str) -> str:
    return _NAME


def examples() -> Mapping[str, list[Any]]:
    """By the name of the schema."""
    waits = Waiting(WaitReason.USER_QUOTA, "waits: user 42 already runs 5 of 5 jobs of service docking", 3)
    completed = serializers.render_job(_COMPLETED, None, _DETAILS, (), _CALLED, name_of=_name_of)
    estimate = Estimate(Span(_AT + 600.0, _AT + 900.0), Span(_AT + 690.0, _AT + 1140.0))
    queued = serializers.render_job(_QUEUED, waits, _DETAILS, estimate=estimate, name_of=_name_of)
    by_portal = AuditEntry("the lab's portal", "3f9c12ab04de", "portal", "10.0.0.7", "terminate", job=7)
    ordered = replace(_RUNNING, status=Status.LOCKED, message="being terminated", terminate_requested=True)
    ending = serializers.render_job(
        ordered, None, _DETAILS, cancelled=AuditLine(12, _AT, by_portal), name_of=_name_of
    )
    limits = ServiceLimits("docking", max_runtime=86_400.0)
    counts = {("docking", Status.QUEUED): 12, ("docking", Status.RUNNING): 9}
    views = [replace(_VIEW, held=held) for held in (4, 4, 1)]
    return {
        "Status": [Status.RUNNING.value],
        "StatusBody": [status_body(7, Status.QUEUED, "Job successfully uploaded")],
        "Refused": [{**status_body(7, Status.COMPLETED, "the job is Completed"), "code": "not_terminable"}],
        "Health": [{"status": "ok", "database": "ok"}],
        "Problem": [problem_body(unknown_job(7))],
        "Upload": [
            {
                "user_id": 42,
                "service": "docking",
                "name": _DETAILS.name,
                "tags": "2oob,paper",
                "max_runtime": 3600,
                "callback_url": _CALLED.url,
            }
        ],
        "Job": [
            queued,
            serializers.render_job(_RUNNING, None, _DETAILS, name_of=_name_of),
            completed,
            ending,
        ],
        "BatchJob": [{"system": "slurm", "id": "48151", "state": "PENDING", "reason": "Priority"}],
        "BatchRequest": [{"partition": "short", "account": None, "qos": None, "cpus": 4, "gpus": "a100:2"}],
        "Callback": [completed["callback"]],
        "Batch": [serializers.render_batch(_BATCH, _BATCH.callback)],
        "BatchOrder": [{"jobs": [7, 8, 9], "callback_url": _BATCH.callback.url}],
        "Cancellation": [ending["cancelled"]],
        "Period": [queued["starts_at"]],
        "Event": [serializers.render_event(JobChange(93, _RUNNING, _DETAILS, _STARTED), _name_of)],
        "File": [
            serializers.render_file(
                FileEntry("out/best model.pdb", 81_000, 0o100644, _AT + 94.0, "file"), "new"
            ),
            serializers.render_file(
                FileEntry("latest", 0, 0o120777, _AT + 94.0, "link", "out/best model.pdb"), None
            ),
        ],
        "InputChanges": [
            {"rerun_of": 7, "items": [{"path": "params.json", "change": "changed"}], "more": 0},
        ],
        "LogText": [
            {
                "stream": "stdout",
                "text": "docking chain A to chain B\n",
                "offset": 0,
                "next_offset": 27,
                "closed": False,
            }
        ],
        "LogEnd": [{"status": Status.COMPLETED.value, "next_offset": 4096}],
        "Service": [
            serializers.render_service(limits, counts, views, accuracy=Accuracy(120, 101, 95.0, 310.0))
        ],
        "Usage": [
            serializers.render_usage(
                Usage("2026-11", 42, "docking", 18, 17, 1, 0, 0, 3062.75, 1583.5, 8.2e11, 40_960, 524_288)
            )
        ],
        "Trouble": [serializers.render_trouble(trouble, _name_of) for trouble in _TROUBLES],
        "Holder": [serializers.render_holder(QueueShare("docking", 42, 12, 5))],
        "Minute": [serializers.render_minute(Minute(_AT - _AT % 60, "docking", 4, 3, 2, 1, 0, 7.5, 4.25))],
        "AuditLine": [
            serializers.render_audit_line(AuditLine(12, _AT, entry), _name_of)
            for entry in (
                by_portal,
                AuditEntry("local", None, "operator", "127.0.0.1", "drain", node=_NODE, detail="new disk"),
                AuditEntry(
                    "", None, None, "192.0.2.9", "refused", detail="no_token: GET /v1/jobs (31 times)"
                ),
            )
        ],
        "LogLevel": [{"level": "debug"}],
        "Reloaded": [
            {
                "changed": ["max_queued", "services.docking.max_runs", "services.folding (new)"],
                "after_restart": ["port"],
                "warnings": [tell_nodeless("folding")],
            }
        ],
        "Link": [
            {
                "url": f"https://jobs.example.org/v1/jobs/7/results?link=1780003600.{'0' * 64}.3f9c12ab04de",
                "expires_at": rfc3339(_AT + 3600.0),
            }
        ],
        "LinkOrder": [{"file": "out/best model.pdb", "expires_in": 600, "view": True}],
        "Ready": [{"status": "ready", "checks": {"ledger": "ok", "storage": "ok", "scheduler": "ok"}}],
        "Node": [serializers.render_node(_VIEW, 100.4)],
        "JoiningNode": [
            {
                "id": _NODE,
                "url": _VIEW.node.url,
                "services": ["docking"],
                "slots": 4,
                "labels": {"gpu": "a100"},
                "machine": None,
                "nonce": None,
            }
        ],
        "JoinedNode": [{"id": _NODE, "url": _VIEW.node.url, "services": ["docking"], "unknown_services": []}],
        "Transition": [serializers.render_transition(_STARTED, _name_of)],
    }
