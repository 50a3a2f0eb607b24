"""The OpenAPI document's part on jobs."""

from __future__ import annotations

from typing import Any, Final

from orchestrator.api.openapi.parts import (
    BYTES,
    CURSOR,
    JOB_ID,
    KEY,
    LINE,
    USER,
    WHOLE,
    ZIP,
    answer,
    json,
    listed,
    operation,
    problems,
    query,
)

_JOB: Final = {"$ref": "#/components/schemas/Job"}
_CURSOR: Final = query("cursor", "The `next` of the page before", CURSOR)
_LAST: Final = {
    "name": "Last-Event-ID",
    "in": "header",
    "description": "The id of the last event that was received: the stream goes on after it",
    "schema": WHOLE,
}
_AFTER: Final = query("after", "As Last-Event-ID, for what cannot set a header", WHOLE)
_KEY: Final = {
    "name": "Idempotency-Key",
    "in": "header",
    "description": "The same key gives the same job",
    "schema": KEY,
}
_FLAG: Final = {"type": "string", "enum": ["0", "1", "", "true", "false"]}


def _stream(*bodies: str) -> dict[str, Any]:
    """Server-sent events whose data is one of these; OpenAPI before 3.2 has the schema tell of one event."""
    data = {"anyOf": [{"$ref": f"#/components/schemas/{body}"} for body in bodies]}
    told = {"type": "string", "contentMediaType": "application/json", "contentSchema": data}
    text = {"type": "string"}
    event = {"type": "object", "properties": {"id": text, "event": text, "data": told}, "required": ["data"]}
    return {"text/event-stream": {"schema": event}}


_EVENTS: Final = _stream("LogText", "LogEnd")
_CHANGES: Final = _stream("Event")
_EVENTS_TOLD: Final = (
    "Events named `job`; their data is an Event, their id the number of the change. Every transition comes "
    "once and in order, over reconnections and restarts too. A comment each 15 s"
)


def paths() -> dict[str, Any]:
    return {**_jobs(), **_results(), **_streams()}


def _common() -> dict[str, Any]:
    return problems(_400="A bad or unknown parameter", _404="Unknown job", _503="Not available now")


def _jobs() -> dict[str, Any]:
    page = listed(_JOB)
    page["properties"]["version"] = {
        "type": "integer",
        "description": "Of the list: /v1/events?after=VERSION tells all that changes from here on",
    }
    return {
        "/v1/jobs": {
            "get": operation(
                "listJobs",
                "Jobs, newest first",
                "v1",
                {
                    "200": answer("A page of jobs", json(page)),
                    **problems(_400="A bad parameter", _503="Not available now"),
                },
                query("user", "Only this user's", USER),
                query("service", "Only this service's", LINE),
                query("status", "Only in this state", {"$ref": "#/components/schemas/Status"}),
                query("name", "Only of this name", LINE),
                query("node", "Only those that are on this node now", LINE),
                query(
                    "search",
                    "A part of the name or of a tag, or the number of the job or of its user. A page may "
                    "have few jobs or none and still be followed by a `next`",
                    LINE,
                ),
                query("tag", "Only with this tag", LINE),
                _CURSOR,
                query(
                    "limit", "Jobs a page", {"type": "integer", "minimum": 1, "maximum": 500, "default": 50}
                ),
            )
        },
        "/v1/jobs/{id}": {
            "get": operation(
                "job",
                "One job; with `wait` as soon as it changes",
                "v1",
                {"200": answer("The job", json(_JOB)), **_common()},
                JOB_ID,
                query("wait", "Seconds to wait at most", {"type": "number", "minimum": 0, "maximum": 300}),
                query("after", "Answer once its version is above this", WHOLE),
                query("until", "Answer once it has ended", {"type": "string", "enum": ["ended"]}),
            ),
            "delete": operation(
                "deleteData",
                "Delete an ended job's data now; the job becomes Cleaned",
                "v1",
                {"200": answer("The job", json(_JOB)), **_common(), **problems(_409="Not ended yet")},
                JOB_ID,
            ),
        },
        "/v1/jobs/{id}/rerun": {
            "post": operation(
                "rerun",
                "A new job from the same files, for the same user and service",
                "v1",
                {
                    "201": answer("The new job", json(_JOB)),
                    **_common(),
                    **problems(
                        _409="The service is not there any more, or the callback_url is not allowed any more",
                        _422="The Idempotency-Key belongs to something else",
                        _507="No room",
                    ),
                },
                JOB_ID,
                _KEY,
            )
        },
        "/v1/jobs/{id}/history": {
            "get": operation(
                "history",
                "Every transition",
                "v1",
                {
                    "200": answer("In order", json(listed({"$ref": "#/components/schemas/Transition"}))),
                    **_common(),
                },
                JOB_ID,
            )
        },
    }


def _results() -> dict[str, Any]:
    path = {"name": "path", "in": "path", "required": True, "schema": {"type": "string"}}
    return {
        "/v1/jobs/{id}/results": {
            "get": operation(
                "results",
                "The results of an ended job, whatever its end",
                "v1",
                {
                    "200": answer("A zip; with a strong ETag and ranges if the job had run", ZIP),
                    "206": answer("The range", ZIP),
                    "304": answer("Unchanged"),
                    **_common(),
                    **problems(_409="Not ended yet", _416="Nothing in this range"),
                },
                JOB_ID,
            )
        },
        "/v1/jobs/{id}/files": {
            "get": operation(
                "files",
                "What is in the job's directory, wherever it is now",
                "v1",
                {
                    "200": answer("By path", json(listed({"$ref": "#/components/schemas/File"}))),
                    **_common(),
                    **problems(_409="It is on a node that cannot list it"),
                },
                JOB_ID,
                _CURSOR,
                query(
                    "limit",
                    "Files a page",
                    {"type": "integer", "minimum": 1, "maximum": 10000, "default": 1000},
                ),
            )
        },
        "/v1/jobs/{id}/files/{path}": {
            "get": operation(
                "file",
                "One file of it",
                "v1",
                {
                    "200": answer("Its bytes; with an ETag if the job has ended", {"*/*": {}}),
                    "206": answer("The range, unless the job is on a node", {"*/*": {}}),
                    "304": answer("Unchanged"),
                    **_common(),
                    **problems(_416="Nothing in this range"),
                },
                JOB_ID,
                path,
            )
        },
    }


def _streams() -> dict[str, Any]:
    stream = {"type": "string", "enum": ["stdout", "stderr"], "default": "stdout"}
    text = json({"$ref": "#/components/schemas/LogText"})
    return {
        "/v1/jobs/{id}/logs": {
            "get": operation(
                "logs",
                "What the job printed",
                "v1",
                {
                    "200": answer(
                        "raw: the bytes of the log from the offset on. json: text, without half characters. "
                        "events: events named `log` with the text, then one named `end`",
                        {**BYTES, **text, **_EVENTS},
                    ),
                    **_common(),
                },
                JOB_ID,
                query("stream", "Which", stream),
                query("offset", "Bytes to leave out", WHOLE),
                query("follow", "1: of a job that has not ended, until it has", _FLAG),
                query(
                    "format",
                    "events also by `Accept: text/event-stream`",
                    {"type": "string", "enum": ["raw", "json", "events"], "default": "raw"},
                ),
                query(
                    "limit",
                    "Bytes that json tells at once",
                    {"type": "integer", "minimum": 1, "maximum": 4194304, "default": 262144},
                ),
                {**_LAST, "description": "With events: the byte offset to go on at"},
            )
        },
        "/v1/jobs/{id}/events": {
            "get": operation(
                "jobEvents",
                "What happens to a job, from how it is now until it is over",
                "v1",
                {
                    "200": answer(_EVENTS_TOLD, _CHANGES),
                    "204": answer("The job is over, and all of it was received"),
                    **_common(),
                },
                JOB_ID,
                _AFTER,
                _LAST,
            )
        },
        "/v1/events": {
            "get": operation(
                "events",
                "What happens to all jobs, from now on",
                "v1",
                {
                    "200": answer(_EVENTS_TOLD, _CHANGES),
                    **problems(_400="A bad or unknown parameter", _503="Too many listen"),
                },
                query("user", "Only this user's", USER),
                query("service", "Only this service's", LINE),
                _AFTER,
                _LAST,
            )
        },
    }
