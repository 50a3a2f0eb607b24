"""The states of a job and of a payload, and every move between them.

`JOB` is the one table for the orchestrator, `PAYLOAD` the one for the node. A move that is not in its
table does not exist: the ledger refuses it, the documentation's picture is drawn from it, and tests walk
all of it.

A job has one owner at a time, and only its owner moves it. Who owns which state is `OWNER`: a transition
says by whom it is made, and the ledger refuses whoever does not own the state that it leaves.

Two rules stand beside the tables. A job whose termination was requested never becomes Queued or Processing
again (`may_move`). And a state is left only under the attempt that is current: what an older attempt has to
say changes nothing (the ledger compares the key).
"""

from __future__ import annotations

from enum import StrEnum
from typing import Final


class Status(StrEnum):
    """The names that stand on the wire, capitalised exactly so."""

    QUEUED = "Queued"
    PROCESSING = "Processing"
    SUBMITTED = "Submitted"
    PREPARED = "Prepared"
    RUNNING = "Running"
    COMPLETED = "Completed"
    FAILED = "Failed"
    INVALID = "Invalid"
    UNKNOWN = "Unknown"
    LOCKED = "Locked"
    KILLED = "Killed"
    CLEANED = "Cleaned"


class Owner(StrEnum):
    """The actor that alone may move a job out of a state."""

    SENDER = "sender"
    GETTER = "getter"
    CLEANER = "cleaner"


_S = Status

ON_NODE: Final = frozenset({_S.SUBMITTED, _S.PREPARED, _S.RUNNING, _S.LOCKED})
"""States in which an attempt is known to be on its node."""

ENDED: Final = frozenset({_S.COMPLETED, _S.FAILED, _S.INVALID, _S.KILLED})
"""States in which a job has its final outcome and its data is still there."""

OVER: Final = ENDED | {_S.CLEANED}

SEVERAL: Final = {"active": frozenset(Status) - OVER, "ended": OVER}
"""Words by which jobs may be asked for instead of naming each status."""

QUOTA: Final = frozenset({_S.PROCESSING}) | ON_NODE
"""States that count against the quotas, until an end is recorded."""

OWNER: Final[dict[Status, Owner]] = {
    _S.QUEUED: Owner.SENDER,
    _S.PROCESSING: Owner.SENDER,
    _S.SUBMITTED: Owner.GETTER,
    _S.PREPARED: Owner.GETTER,
    _S.RUNNING: Owner.GETTER,
    _S.LOCKED: Owner.GETTER,
    _S.COMPLETED: Owner.CLEANER,
    _S.FAILED: Owner.CLEANER,
    _S.INVALID: Owner.CLEANER,
    _S.KILLED: Owner.CLEANER,
}

JOB: Final[dict[Status, frozenset[Status]]] = {
    # Failed: it can never run (input unreadable, refused as malformed). Killed: terminate.
    _S.QUEUED: frozenset({_S.PROCESSING, _S.FAILED, _S.KILLED}),
    # Queued: certain that the node does not have it, or the node is lost.
    _S.PROCESSING: frozenset({_S.SUBMITTED, _S.QUEUED, _S.FAILED, _S.KILLED}),
    # Queued: the attempt is gone or given up, and attempts are left.
    _S.SUBMITTED: frozenset({_S.PREPARED, _S.RUNNING, _S.QUEUED, _S.LOCKED}) | ENDED,
    _S.PREPARED: frozenset({_S.RUNNING, _S.QUEUED, _S.LOCKED}) | ENDED,
    _S.RUNNING: frozenset({_S.QUEUED, _S.LOCKED}) | ENDED,
    _S.LOCKED: ENDED,
    _S.COMPLETED: frozenset({_S.CLEANED}),
    _S.FAILED: frozenset({_S.CLEANED}),
    _S.INVALID: frozenset({_S.CLEANED}),
    _S.KILLED: frozenset({_S.CLEANED}),
    _S.CLEANED: frozenset(),
}

PAYLOAD: Final[dict[Status, frozenset[Status]]] = {
    # Completed: its script was over before anybody was told that it runs.
    _S.PREPARED: frozenset({_S.RUNNING}) | ENDED,
    _S.RUNNING: frozenset({_S.COMPLETED, _S.FAILED, _S.INVALID, _S.KILLED}),
    _S.COMPLETED: frozenset(),
    _S.FAILED: frozenset(),
    _S.INVALID: frozenset(),
    _S.KILLED: frozenset(),
}
"""The node's own table. An ended payload stays as it is until it is released."""


def may_move(source: Status, target: Status, *, terminate_requested: bool = False) -> bool:
    """Whether a job may go from `source` to `target`."""
    if terminate_requested and target in (_S.QUEUED, _S.PROCESSING):
        return False
    return target in JOB.get(source, frozenset())
