"""The bodies that the OpenAPI document speaks of."""

from __future__ import annotations

from typing import Any

from actors.domain.node import NodeState
from actors.domain.service import WaitReason
from actors.domain.status import Status
from actors.ports.callbacks import CallbackStatus
from orchestrator.api.openapi.examples import examples
from orchestrator.api.openapi.parts import LINE


def schemas() -> dict[str, Any]:
    """The components by name, with examples."""
    bodies = _bodies()
    for name, some in examples().items():
        bodies[name]["examples"] = some
    return bodies


def _bodies() -> dict[str, Any]:
    text, whole, real = {"type": "string"}, {"type": "integer"}, {"type": "number"}
    maybe_whole, maybe_real = {"type": ["integer", "null"]}, {"type": ["number", "null"]}
    maybe_text = {"type": ["string", "null"]}
    time, maybe_time = (
        {"type": "string", "format": "date-time"},
        {"type": ["string", "null"], "format": "date-time"},
    )
    status = {"$ref": "#/components/schemas/Status"}
    return {
        "Status": {"type": "string", "enum": [status.value for status in Status]},
        "StatusBody": _object(id=whole, status=status, message=text),
        "Health": _object(status=text, database=text),
        "Problem": _object(type=text, title=text, status=whole, code=text, detail=text),
        "Upload": _object(
            ("user_id", "service"),
            file={"type": "array", "items": {"type": "string", "format": "binary"}},
            user_id={"type": "string", "pattern": "^(0|-?[1-9][0-9]*)$"},
            service=text,
            name={**LINE, "maxLength": 200, "description": "What the job is called in lists"},
            tags={
                "description": "Words to find it by: a field for each, or several with commas between",
                "anyOf": [text, {"type": "array", "items": text, "maxItems": 32}],
            },
            max_runtime={
                "type": "string",
                "pattern": "^(?=.*[1-9])[0-9]{1,9}(\\.[0-9]{1,6})?$",
                "description": "Seconds that the job may run, at most what the service allows",
            },
            requires={
                "type": "string",
                "description": "Labels that its node has to have, as gpu or gpu=a100,ssd",
            },
            callback_url={
                "type": "string",
                "anyOf": [{"format": "uri"}, {"const": ""}],
                "maxLength": 2000,
                "description": "Whom to tell of its end, at one of the hosts that the server allows",
            },
        ),
        "Job": _object(
            id=whole,
            user_id=whole,
            service=text,
            name=maybe_text,
            tags={"type": "array", "items": text},
            status=status,
            message=text,
            waiting_for={"type": ["string", "null"], "enum": [*(why.value for why in WaitReason), None]},
            position={
                "type": ["integer", "null"],
                "description": "How many jobs of its service go before it; 0: it is the next",
            },
            version=whole,
            terminate_requested={"type": "boolean"},
            created_at=time,
            updated_at=time,
            started_at={
                **maybe_time,
                "description": "Of its attempt. While it runs: when that was first seen",
            },
            ended_at=maybe_time,
            node=maybe_text,
            attempt=maybe_whole,
            attempts_used=whole,
            exit_code=maybe_whole,
            signal=maybe_whole,
            wall_seconds=maybe_real,
            cpu_seconds=maybe_real,
            peak_bytes=maybe_whole,
            input_bytes=whole,
            output_bytes=maybe_whole,
            max_runtime_seconds=real,
            requires=text,
            progress={"type": ["number", "null"], "minimum": 0, "maximum": 1},
            progress_message=maybe_text,
            rerun_of=maybe_whole,
            callback={
                "description": "Who is told of its end, and how that stands. Null in lists, and if nobody is",
                "anyOf": [{"$ref": "#/components/schemas/Callback"}, {"type": "null"}],
            },
            files_left_out={
                "type": ["array", "null"],
                "description": "What its results lack, and why. Null in lists and until it has ended",
                "items": _object(path=text, reason=text),
            },
        ),
        "Callback": _object(
            url={"type": "string", "format": "uri"},
            status={"type": "string", "enum": [status.value for status in CallbackStatus]},
            tries=whole,
            last_error=maybe_text,
            next_at=maybe_time,
            settled_at=maybe_time,
        ),
        "Event": _object(
            (),
            **{"from": maybe_text},
            version=whole,
            job_id=whole,
            user_id=whole,
            service=text,
            name=maybe_text,
            at=time,
            status=status,
            reason=text,
            node=maybe_text,
            attempt=maybe_whole,
            job={"anyOf": [{"$ref": "#/components/schemas/Job"}, {"type": "null"}]},
        ),
        "File": _object(
            path=text,
            url={"type": "string", "description": "The path as it has to stand in an URL"},
            size=whole,
            mode={"type": "string", "examples": ["0644"]},
            mtime=time,
            kind={"type": "string", "enum": ["file", "directory", "link"]},
            target=maybe_text,
        ),
        "LogText": _object(
            ("stream", "text", "offset", "next_offset"),
            stream=text,
            text=text,
            offset=whole,
            next_offset={"type": "integer", "description": "In bytes of the log: where to go on"},
            closed={"type": "boolean", "description": "Nothing follows any more; not in events"},
        ),
        "LogEnd": _object(status=status, next_offset=whole),
        "Service": _object(
            name=text,
            runs_per_user=whole,
            max_runs=whole,
            max_attempts=whole,
            max_runtime_seconds=real,
            on_node_lost=text,
            on_doubt=text,
            jobs={"type": "object", "additionalProperties": whole},
            paused={"type": ["string", "null"], "description": "Why; null if it is not"},
            paused_since=maybe_time,
            nodes=_object(known=whole, ready=whole, slots=maybe_whole, held=whole),
        ),
        "Usage": _object(
            service=text,
            user_id=whole,
            jobs=whole,
            ended={"type": "object", "additionalProperties": whole},
            cpu_seconds=real,
            wall_seconds=real,
        ),
        "Holder": _object(service=text, user_id={"type": "integer"}, queued=whole, under_way=whole),
        "Minute": _object(
            at=time,
            service=text,
            submitted=whole,
            begun={**whole, "description": "Jobs that left the queue for the first time"},
            completed=whole,
            failed={**whole, "description": "Failed or Invalid"},
            killed=whole,
            mean_wait_seconds={**maybe_real, "description": "In the queue, of those that left it"},
            longest_wait_seconds=maybe_real,
        ),
        "Ready": _object(
            status={"type": "string", "enum": ["ready", "not ready"]},
            checks={"type": "object", "additionalProperties": text},
        ),
        "Node": _object(
            id=text,
            url=text,
            kind={"type": "string", "enum": ["own", "foreign"]},
            status={"type": "string", "enum": [state.value for state in NodeState]},
            message=text,
            source={"type": "string", "enum": ["static", "joined"]},
            draining=maybe_text,
            labels={"type": "object", "additionalProperties": text},
            machine=maybe_text,
            last_contact_seconds=maybe_real,
            services={"type": "array", "items": text},
            slots=maybe_whole,
            held=whole,
            jobs_ended={**whole, "description": "There, since the server started"},
            jobs_failed=whole,
            others=whole,
            load=real,
            free_disk_bytes=maybe_whole,
            free_memory_bytes=maybe_whole,
        ),
        "JoiningNode": _object(
            ("id", "url", "services"),
            id={"type": "string", "pattern": "^[0-9a-f]{32}$"},
            url={"type": "string", "format": "uri", "description": "Where it is reached from the server"},
            services={"type": "array", "items": text, "minItems": 1},
            slots={"type": ["integer", "null"], "minimum": 1},
            labels={"type": ["object", "null"], "additionalProperties": text},
            machine={"type": ["string", "null"], "pattern": "^[0-9a-f]{32}$"},
        ),
        "JoinedNode": _object(
            id=text,
            url=text,
            services={"type": "array", "items": text},
            unknown_services={"type": "array", "items": text},
        ),
        "Transition": _object(
            (),
            **{"at": time, "from": maybe_text, "to": status, "reason": text},
            node=maybe_text,
            attempt=maybe_whole,
        ),
    }


def _object(required: tuple[str, ...] = (), **properties: Any) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": list(required or properties)}
