"""The order of a batch: one transaction, so that a job ends either before it, and is counted, or after it."""

from __future__ import annotations

import sqlite3

from actors.domain.status import Status
from orchestrator.ledger.errors import CrowdedJob, IdempotencyConflict, UnknownJobs
from orchestrator.ledger.tables.batches import (
    MOST_OF_A_JOB,
    BatchView,
    NewBatch,
    find_crowded,
    insert_batch,
    only_user,
    read_batch,
    read_end,
    read_idempotent_batches,
    read_members,
)


def order_batch(db: sqlite3.Connection, new: NewBatch, now: float) -> BatchView:
    """The batch; with an idempotency key that was used for the same jobs and URL the one from then, which has
    another id, as it is now. Raises UnknownJobs, also for jobs that are not theirs who order;
    IdempotencyConflict; CrowdedJob. Then nothing is stored."""
    known = [] if new.idempotency_key is None else read_idempotent_batches(db, new.idempotency_key)
    for batch in known:
        # The same jobs are the same users': and some may be forgotten since.
        if batch.fingerprint == new.fingerprint and new.may_see(batch.user_id, batch.services):
            return batch
    members = [one for one in read_members(db, new.jobs) if new.may_see(one.user_id, (one.service,))]
    if missing := set(new.jobs) - {member.id for member in members}:
        raise UnknownJobs(sorted(missing))
    for batch in known:
        # One that is not theirs is as good as none: it neither tells of itself nor takes their key away.
        if batch.user_id == only_user(members) and new.may_see(batch.user_id, batch.services):
            raise IdempotencyConflict(f"batch {batch.id}")
    if (crowded := find_crowded(db, new.jobs)) is not None:
        raise CrowdedJob(
            f"job {crowded} is in {MOST_OF_A_JOB} batches that have not ended, and no more may have it"
        )
    ends = {
        member.id: read_end(db, member.id) if member.status is Status.CLEANED else member.status
        for member in members
        if member.over
    }
    insert_batch(db, new, members, ends, now)
    stored = read_batch(db, new.id)
    assert stored is not None
    return stored
