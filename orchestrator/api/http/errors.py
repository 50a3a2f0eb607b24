"""What the errors of the server's rooms mean to a client."""

from __future__ import annotations

import trio

from actors.kernel.actor import NoAnswer
from actors.ports.ledger import LedgerError
from actors.ports.nodes import NoMeans
from actors.ports.storage import StorageError
from actors.store.durable import is_full, is_passing
from actors.wire.files.names import printable
from actors.wire.http.app import PASSES, Refusal
from orchestrator.events.waiters import TooManyWaiters
from orchestrator.ledger.errors import CrowdedJob, UnknownJobs
from orchestrator.ledger.ledger import IdempotencyConflict, LedgerFull, LimitReached
from orchestrator.nodes.remote_stream import NodeUnreachable
from orchestrator.storage.disk import NameRefused, StorageFull


def to_refusal(error: Exception) -> Refusal | None:
    match error:
        case NameRefused():
            return Refusal(400, "bad_file_name", str(error))
        case StorageFull() | LedgerFull():
            return Refusal(507, "disk_full", f"{error}; try again when there is room")
        case LimitReached():
            headers = {"Retry-After": str(error.retry_after)}
            return Refusal(429, error.limit, str(error), headers=headers)
        case UnknownJobs():
            return Refusal(404, "unknown_job", str(error))
        case CrowdedJob():
            return Refusal(409, "too_many_batches", str(error), headers=PASSES)
        case IdempotencyConflict():
            return Refusal(422, "idempotency_conflict", str(error))
        case StorageError() | LedgerError() | NodeUnreachable() | NoMeans() | NoAnswer() | TooManyWaiters():
            return Refusal(503, "unavailable", f"{error}; try again")
        case trio.TooSlowError():
            return Refusal(503, "unavailable", "the disk or the ledger did not answer in time; try again")
        case OSError() if is_full(error):
            return Refusal(507, "disk_full", "the disk is full; try again when there is room")
        case _ if is_passing(error):
            return Refusal(
                503, "unavailable", f"there is too little to work with: {str(error) or 'memory'}; try again"
            )
        case _:
            return None


def unknown_job(number: int) -> Refusal:
    return Refusal(404, "unknown_job", f"there is no job {number}")


def unknown_batch(batch_id: str) -> Refusal:
    return Refusal(404, "unknown_batch", f"there is no batch {printable(batch_id)}")
