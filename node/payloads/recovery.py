"""What an earlier process of the node has left on disk, as rows of the table to begin with."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Final

from actors.domain.payload import UNKNOWN, Payload
from actors.domain.status import ENDED, Status
from node.payloads.records import RELEASE, Records, StoredPayload, Tombstone, is_same_machine_life
from node.payloads.rows import Row, lose
from node.runs.progress_file import read

log: Final = logging.getLogger("node.payloads")

UNWRITTEN: Final = "the machine was restarted before what it left had been written through to the disk"


@dataclass(frozen=True, slots=True)
class Recovery:
    rows: Sequence[Row]
    tombstones: Sequence[Tombstone]


def recover(records: Records, now: float, intended: Callable[[str], bool]) -> Recovery:
    """Read the records and tombstones, and write again what has changed by the restart alone. Blocks.

    What an earlier boot of the machine left unended is lost, and what had ended and is not known to have been
    written through. What an earlier process had set out to start (`intended`) counts as running: whether it
    does is for the Runner to find out. So does what has no record any more. `take_up` says which.
    """
    buried = {stone.key: stone for stone in records.load_tombstones()}
    stored = records.load()
    for name in records.strangers():
        log.warning("%s is no payload and is left alone", records.directory(name))
    rows = []
    for item in stored:
        payload = take_up(
            item,
            boot=records.boot,
            is_new=records.is_new,
            written=item.payload.key in records.written,
            outlives=records.outlives,
            now=now,
            intended=intended,
        )
        if payload.lost and payload is not item.payload:
            _write(records, payload)
        stone = buried.get(payload.key)
        progress = read(records.directory(payload.key)).after(None)
        cancelled = stone is not None and payload.status not in ENDED
        payload = replace(payload, cancelled=cancelled, progress=progress)
        rows.append(Row(payload, stone is not None and stone.kind == RELEASE))
    return Recovery(rows, list(buried.values()))


def take_up(
    item: StoredPayload,
    *,
    boot: str,
    is_new: bool,
    written: bool,
    outlives: bool,
    now: float,
    intended: Callable[[str], bool],
) -> Payload:
    """A stored payload as the next process of the node begins with it. `written`: it had ended, and all of it
    is known to have been written through. `outlives`: what runs does not end with the machine."""
    payload = item.payload
    remembered = item.boot == boot or outlives
    if payload.status in ENDED:
        kept = remembered or written or payload.through or payload.lost
        return payload if kept else lose(payload, UNWRITTEN, now)
    if is_new:
        # Who knew this node by its name sends it elsewhere.
        payload = replace(payload, owner=UNKNOWN)
    if not remembered:
        if not is_same_machine_life(item.boot, boot):
            return lose(payload, "machine restarted", now)
        # A disk that failed counts as the machine's end, but what ran may run: nobody's is ended, then lost.
        payload = replace(payload, owner=UNKNOWN)
    if item.running or payload.owner == UNKNOWN or intended(payload.key):
        return replace(payload, status=Status.RUNNING)
    return payload


def _write(records: Records, payload: Payload) -> None:
    try:
        records.reserve.attempt(lambda: records.write(payload))
    except OSError as error:
        # The next process finds the same out again.
        log.error("payload %s: its end is not recorded: %s", payload.key, error, extra=payload.about)
