"""Whether a node that begins on a disk after a cut, in another boot of its machine, keeps what was told."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Final
from unittest.mock import patch

from actors.domain.payload import UNKNOWN, Payload
from actors.domain.status import ENDED, Status
from actors.wire.errors import SourceChanged
from node.errors import NodeError
from node.payloads import recovery
from node.payloads.records import Records
from node.payloads.recovery import recover
from node.payloads.rows import Row
from node.runs.manifest import read_manifest
from node.runs.workspace import Workspace
from testbed.power_cut.controls import OF_STARTS
from testbed.power_cut.node_recording import NODE, result_of
from testbed.power_cut.told import EndedThere, Finished, LetGo, StartedThere, TakenThere, Told

WRITTEN_WITHIN: Final = 8.0
"""Seconds after its end within which what nobody collects is surely there for good."""


def judge_node(place: Path, told: Sequence[Told], at: float, control: str | None = None) -> list[str]:
    """What is wrong on the disk below `place`, which was cut off at a time when all of this was told.
    `control`: how the node is broken that begins there."""
    data = place / NODE
    logging.disable(logging.CRITICAL)
    try:
        workspace = Workspace(data)
        workspace.prepare()
        records = Records(data, boot="another boot")
    except (NodeError, OSError) as error:
        return [f"the start is refused: {error}"]
    try:
        with nullcontext() if control is None else _broken(control):
            rows = {row.payload.key: row for row in recover(records, at, workspace.is_intended).rows}
        return list(_compare(data, rows, told, at))
    finally:
        records.close()


def _broken(control: str) -> AbstractContextManager[object]:
    return patch.object(recovery, "take_up", OF_STARTS[control](recovery.take_up))


def _compare(data: Path, rows: dict[str, Row], told: Sequence[Told], at: float) -> Iterator[str]:
    by_id = {row.payload.id: row for row in rows.values()}
    serials: dict[str, int] = {}
    let_go: set[str] = set()
    for one in told:
        match one:
            case StartedThere(key=key, serial=serial):
                serials[key] = serial
                row = rows.get(key)
                if row is not None and not _never_begins(row.payload):
                    yield f"job {serial} has begun before, and is {row.payload.status}: it would begin again"
            case Finished(key=key, serial=serial) if one.at + WRITTEN_WITHIN < at:
                row = rows.get(key)
                if row is not None and not row.released and row.payload.lost:
                    yield f"job {serial} had ended {at - one.at:.1f} s before, and is lost"
            case TakenThere(number=number, serial=serial) if number not in by_id:
                yield f"job {serial} was taken over as {number}, and is not there"
            case LetGo(key=key):
                let_go.add(key)
            case EndedThere(number=number):
                row = by_id.get(number)
                if row is None or row.payload.lost or row.payload.status not in ENDED:
                    yield f"the results of {number} were handed over, and are there no more"
    for row in rows.values():
        kept = not row.released and row.payload.key not in let_go
        if row.payload.status in ENDED and not row.payload.lost and kept:
            yield from _results(data, row.payload, serials.get(row.payload.key))


def _never_begins(payload: Payload) -> bool:
    """It has ended, or nothing tells whose it is: then what runs of it is ended, and it is lost."""
    return payload.status in ENDED or (payload.status is Status.RUNNING and payload.owner == UNKNOWN)


def _results(data: Path, payload: Payload, serial: int | None) -> Iterator[str]:
    """What is told as ended is there as it was."""
    directory = data / "payloads" / payload.key
    try:
        _, listing = read_manifest(directory, frozen=True)
        names = {entry.path for entry in listing.entries}
        left = (directory / "work" / "left.txt").read_bytes()
    except (SourceChanged, OSError, ValueError) as error:
        yield f"{payload.key} is told as {payload.status}, and what it left is not there: {error}"
        return
    if serial is None:
        yield f"{payload.key} is told as {payload.status}, and has not begun"
    elif left != result_of(serial) or "left.txt" not in names:
        yield f"what job {serial} left is other than it was ({len(left)} bytes, {sorted(names)})"
