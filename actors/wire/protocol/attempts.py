"""The JSON forms of the attempts protocol, the node's routes under `/v1`: ends, views of payloads,
heartbeats, and the line kinds of the event stream. Encoding and decoding stand side by side, so that the
two ends of the wire cannot drift apart.

A decoder raises `Garbled` for anything that is not the form: a peer may be old, foreign, or lying.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import astuple, replace
from datetime import UTC, datetime
from typing import Any, Final

from actors.domain.failure import Failure
from actors.domain.ids import is_node_name
from actors.domain.job import End
from actors.domain.node import Heartbeat, PayloadView, StreamPosition, Tally
from actors.domain.progress import Progress, batch_from_json, batch_to_json, normalize_progress
from actors.domain.status import ENDED, PAYLOAD, Status
from actors.wire.errors import WireError

PROTOCOL = 1
"""The number in `/v1/info` that says a peer speaks this page."""


_STATUSES: Final[Mapping[str, Status]] = {one.value: one for one in Status}
_FAILURES: Final[Mapping[str, Failure]] = {one.value: one for one in Failure}
_WHOLE: Final = 1 << 63
"""What any number is less than."""


class Garbled(WireError):
    """What a peer sent is not the form that was expected; the message names the field."""


def end_to_json(end: End) -> dict[str, Any]:
    return {
        "status": end.status,
        "message": end.message,
        "exit_code": end.exit_code,
        "signal": end.signal,
        "started_at": _time_out(end.started_at),
        "ended_at": _time_out(end.ended_at),
        "wall_seconds": end.wall_seconds,
        "cpu_seconds": end.cpu_seconds,
        "peak_bytes": end.peak_bytes,
        "size": end.size,
        "failure": end.failure,
    }


def end_from_json(data: Any) -> End:
    form = _mapping(data, "end")
    status = _status(form.get("status"), "end.status")
    if status not in ENDED:
        raise Garbled(f"end.status: {status} is no end")
    return End(
        status=status,
        message=_text(form, "message"),
        exit_code=_whole(form, "exit_code"),
        signal=_whole(form, "signal"),
        started_at=_time_in(form, "started_at"),
        ended_at=_time_in(form, "ended_at"),
        wall_seconds=_real(form, "wall_seconds"),
        cpu_seconds=_real(form, "cpu_seconds"),
        peak_bytes=_whole(form, "peak_bytes"),
        size=_whole(form, "size") or 0,
        failure=_failure(form.get("failure")),
    )


def _failure(value: Any) -> Failure | None:
    if value is None:
        return None
    # A newer node may have more words for it.
    return _FAILURES.get(value) if isinstance(value, str) else None


def view_to_json(view: PayloadView) -> dict[str, Any]:
    return {
        "key": view.key,
        "status": view.status,
        "lost": view.lost,
        "end": None if view.end is None else end_to_json(view.end),
        "progress": None if view.progress is None else progress_to_json(view.progress),
    }


def view_from_json(data: Any) -> PayloadView:
    form = _mapping(data, "payload")
    key = _text(form, "key")
    status = _status(form.get("status"), "payload.status")
    if status not in PAYLOAD:
        raise Garbled(f"payload.status: {status} is no state of a payload")
    end = None if form.get("end") is None else end_from_json(form["end"])
    if (end is not None) != (status in ENDED) or (end is not None and end.status is not status):
        raise Garbled(f"payload {key}: status {status} and its end do not agree")
    progress = progress_from_json(form.get("progress"))
    return PayloadView(key=key, status=status, end=end, lost=form.get("lost") is True, progress=progress)


def progress_to_json(progress: Progress) -> dict[str, Any]:
    batch = {} if progress.batch is None else {"batch": batch_to_json(progress.batch)}
    return {"fraction": progress.fraction, "message": progress.message, **batch}


def progress_from_json(data: Any) -> Progress | None:
    """None for what is nothing of the kind: nothing hangs on it, and a peer may have its own idea of it."""
    if not isinstance(data, dict):
        return None
    fraction, message = data.get("fraction"), data.get("message")
    known = isinstance(fraction, int | float) and not isinstance(fraction, bool)
    said = normalize_progress(fraction if known else None, message if isinstance(message, str) else "")
    said = replace(said, batch=batch_from_json(data.get("batch")))
    return None if said == Progress() else said


def heartbeat_to_json(beat: Heartbeat, held: Mapping[str, int], clock: float) -> dict[str, Any]:
    """`held` says for each owner how many of its payloads hold or wait for a slot; `clock` is what the node's
    clock shows as this is said."""
    return {
        "load": round(beat.load, 1),
        "slots": beat.slots,
        "ahead": beat.ahead,
        "cores": beat.cores,
        "held": dict(held),
        "free_disk": beat.free_disk,
        "free_memory": beat.free_memory,
        "unhealthy": beat.unhealthy,
        "stopping": beat.stopping,
        "clock": clock,
        **({} if beat.seconds_left is None else {"seconds_left": round(beat.seconds_left, 1)}),
        "tally": None if beat.tally is None else astuple(beat.tally),
        "name": beat.name,
    }


def heartbeat_from_json(data: Any, owner: str, now: float) -> Heartbeat:
    """The heartbeat as `owner` reads it at `now` by its own clock: what the others hold is summed."""
    form = _mapping(data, "heartbeat")
    held = _mapping(form.get("held", {}), "heartbeat.held")
    others = sum(n for name, n in held.items() if name != owner and isinstance(n, int) and n > 0)
    clock = _real(form, "clock")
    return Heartbeat(
        load=min(100.0, max(0.0, _real(form, "load") or 0.0)),
        slots=(slots := _whole(form, "slots")),
        ahead=min(max(0, _whole(form, "ahead") or 0), slots or 0),
        cores=max(1, _whole(form, "cores") or 1),
        others=others,
        free_disk=_whole(form, "free_disk"),
        free_memory=_whole(form, "free_memory"),
        unhealthy=str(form.get("unhealthy") or "")[:500],
        stopping=form.get("stopping") is True,
        skew=None if clock is None else clock - now,
        seconds_left=_real(form, "seconds_left"),
        tally=_tally(form.get("tally")),
        name=name if is_node_name(name := form.get("name")) else "",
    )


def _tally(said: Any) -> Tally | None:
    if not isinstance(said, list) or [type(count) for count in said] != [int] * 3 or min(said) < 0:
        return None
    return Tally(*said)


def mark_to_json(mark: StreamPosition) -> dict[str, Any]:
    return {"incarnation": mark.incarnation, "sequence": mark.sequence}


def mark_from_json(data: Any) -> StreamPosition:
    form = _mapping(data, "mark")
    sequence = _whole(form, "sequence")
    if sequence is None:
        raise Garbled("sequence: missing")
    return StreamPosition(incarnation=_text(form, "incarnation"), sequence=sequence)


def items(data: Any) -> Sequence[Mapping[str, Any]]:
    """The `items` of an answer with one entry for each key."""
    listed = _mapping(data, "answer").get("items")
    if not isinstance(listed, list):
        raise Garbled("items: a list was expected")
    return [_mapping(item, "items[]") for item in listed]


def _mapping(data: Any, what: str) -> Mapping[str, Any]:
    if type(data) is not dict:
        raise Garbled(f"{what}: an object was expected")
    return data


def _status(value: Any, what: str) -> Status:
    status = _STATUSES.get(value) if isinstance(value, str) else None
    if status is None:
        raise Garbled(f"{what}: unknown status {value!r}")
    return status


def _text(form: Mapping[str, Any], name: str) -> str:
    value = form.get(name)
    if type(value) is not str:
        raise Garbled(f"{name}: text was expected")
    return value


def _whole(form: Mapping[str, Any], name: str) -> int | None:
    value = form.get(name)
    if value is None:
        return None
    if type(value) is not int or not -_WHOLE < value < _WHOLE:
        raise Garbled(f"{name}: a whole number was expected")
    return value


def _real(form: Mapping[str, Any], name: str) -> float | None:
    value = form.get(name)
    if value is None:
        return None
    try:
        if (type(value) is float or type(value) is int) and math.isfinite(value):
            return float(value)
    except OverflowError:  # a whole number that is larger than any real one
        pass
    raise Garbled(f"{name}: a number was expected")


def _time_out(at: float | None) -> str | None:
    return None if at is None else datetime.fromtimestamp(at, UTC).isoformat(timespec="microseconds")


def _time_in(form: Mapping[str, Any], name: str) -> float | None:
    value = form.get(name)
    if value is None:
        return None
    try:
        return datetime.fromisoformat(value).timestamp()
    except (TypeError, ValueError, OverflowError):
        raise Garbled(f"{name}: an RFC 3339 time was expected") from None
