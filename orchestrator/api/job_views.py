"""What several routes do with a job: find it, say why it waits, find its node, send its directory."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from typing import Any, Final

import trio
from quart import Response

from actors.domain.changes import JobDetails
from actors.domain.job import Attempt, Job
from actors.domain.node import NodeRef, NodeState
from actors.domain.service import Waiting, WaitReason
from actors.domain.status import ENDED, ON_NODE, Status
from actors.kernel.actor import NoAnswer
from actors.ports.callbacks import Subject
from actors.wire.files.zip_writer import list_tree, zip_stream
from actors.wire.http.app import Refusal, write_json
from actors.wire.http.plain_routes import Stored
from orchestrator.access.audit import AuditFilter, AuditLine
from orchestrator.access.roles import Role, asking
from orchestrator.api.context import ApiContext
from orchestrator.api.http import file_response
from orchestrator.api.http.errors import unknown_batch, unknown_job
from orchestrator.api.serializers import render_batch, render_job
from orchestrator.ledger.tables.batches import BatchView
from orchestrator.nodes.remote_stream import NodeUnreachable, NotOnNode, RemoteStream, from_bytes
from orchestrator.scheduling.forecast import Estimate
from orchestrator.storage.bundle import Bundle, zip_bundle
from orchestrator.storage.disk import StorageGone
from orchestrator.storage.result_archive import read_left_out

log: Final = logging.getLogger("orchestrator.api")

MOST_WRITTEN: Final = 4096
"""Bytes of a job's JSON that is kept: some have thousands of names in it."""

SILENT_FROM: Final = 5.0
"""Seconds without a word of its node from which on a job says so."""

GIVEN_BACK: Final = "waits: "
"""How the message of a job begins that a node did not take."""


async def find(api: ApiContext, number: int) -> Job:
    """The job. Raises Refusal (404) if there is none, or none of who asks."""
    job = await api.ledger.get(number)
    if job is None or not asking.get().sees(job.user_id, job.service):
        raise unknown_job(number)
    return job


def _only_reads() -> bool:
    return asking.get().role is Role.READER


def _without_what_is_private(item: dict[str, Any]) -> dict[str, Any]:
    """Of a job numbers and states alone: no name, and nothing that its script or its user has said."""
    return item | dict.fromkeys(_PRIVATE) | {"message": "", "tags": [], "ignored": []}


_PRIVATE: Final = ("name", "progress_message", "batch", "callback", "files_left_out")


def _with_silence(api: ApiContext, row: Job) -> Job:
    """The same, unless it is on a node that was not heard for a while: then its message says so."""
    if row.status not in ON_NODE or row.attempt is None or row.attempt.node_id not in api.silent:
        return row
    heard_at = api.silent[row.attempt.node_id]
    if heard_at is None:
        return replace(row, message=f"{row.message}; its node has not been heard since the server started")
    silence = trio.current_time() - heard_at
    if silence < SILENT_FROM:
        return row
    return replace(row, message=f"{row.message}; its node has not been heard for {silence:.0f} s")


async def render_jobs(
    api: ApiContext, rows: Sequence[Job], *, estimated: bool = False
) -> list[dict[str, Any]]:
    """These jobs as they are written in lists; when they begin and end only if `estimated`."""
    rows = [_with_silence(api, row) for row in rows]
    details = await api.ledger.queries.details([row.id for row in rows])
    whys = await explain_waits(api, rows)
    estimates = await api.forecaster.estimate(rows) if estimated else [None] * len(rows)
    items = [
        render_job(
            row,
            why,
            details.get(row.id, JobDetails()),
            estimate=estimate,
            name_of=api.registry.names.of,
        )
        for row, why, estimate in zip(rows, whys, estimates, strict=True)
    ]
    return [_without_what_is_private(item) for item in items] if _only_reads() else items


async def render_in_full(api: ApiContext, row: Job) -> dict[str, Any]:
    """One job with everything but when it begins and ends."""
    return await _render(api, row, await explain_wait(api, row), None)


async def _render(
    api: ApiContext, row: Job, why: Waiting | None, estimate: Estimate | None
) -> dict[str, Any]:
    row = _with_silence(api, row)
    details = (await api.ledger.queries.details((row.id,))).get(row.id, JobDetails())
    callback = await api.ledger.queries.callback(row.id) if details.callback_url is not None else None
    item = render_job(
        row,
        why,
        details,
        await _skipped_files(api, row),
        callback,
        estimate=estimate,
        cancelled=await _cancellation(api, row),
        name_of=api.registry.names.of,
    )
    return _without_what_is_private(item) if _only_reads() else item


async def write_in_full(api: ApiContext, row: Job) -> bytes:
    """One job with everything as JSON. Of one that is asked for again and again nothing changes but its row,
    when it begins and ends, and why it waits: all but how far its receiver is told."""
    (estimate,) = await api.forecaster.estimate((row,))
    why = await explain_wait(api, row)
    so_far = (row.change_seq, estimate, why)
    may_keep = not _only_reads() and _with_silence(api, row) is row
    kept = api.written.get(row.id) if may_keep else None
    if kept is not None and kept[0] == so_far:
        return kept[1]
    body = await _render(api, row, why, estimate)
    written = write_json(body)
    if may_keep and body["callback"] is None and len(written) <= MOST_WRITTEN:
        api.written.put(row.id, (so_far, written))
    return written


async def render_ended_job(api: ApiContext, number: int) -> dict[str, Any]:
    """A job that has ended as it is told to whom it calls back: as it ended, also if it was cleaned since."""
    row = await api.ledger.get(number)
    if row is None:
        raise unknown_job(number)
    details = await api.ledger.queries.details((row.id,))
    left_out = await _skipped_files(api, row)
    if row.status not in ENDED:
        end = [entry for entry in await api.ledger.history(row.id) if entry.target in ENDED][-1]
        row = replace(row, status=end.target, message=end.reason)
    return render_job(
        row,
        None,
        details[row.id],
        left_out,
        cancelled=await _cancellation(api, row),
        name_of=api.registry.names.of,
    )


async def _cancellation(api: ApiContext, row: Job) -> AuditLine | None:
    """The order to end it, of which its audit line is kept."""
    if not row.terminate_requested:
        return None
    wanted = AuditFilter(job=row.id, action="terminate")
    return next(iter(await api.ledger.queries.audit(wanted, None, 1)), None)


async def find_batch(api: ApiContext, batch_id: str) -> BatchView:
    """The batch. Raises Refusal (404) if there is none, or if any of its jobs is not theirs who ask."""
    batch = await api.ledger.queries.batch(batch_id)
    if batch is None or not asking.get().sees_all(batch.user_id, batch.services):
        raise unknown_batch(batch_id)
    return batch


async def render_subject(api: ApiContext, subject: Subject) -> dict[str, Any]:
    """What a callback tells of what has ended."""
    if subject.kind == "job":
        return await render_ended_job(api, int(subject.id))
    batch = await api.ledger.queries.batch(subject.id)
    if batch is None:
        raise unknown_batch(subject.id)
    return render_batch(batch, None)


async def _skipped_files(api: ApiContext, row: Job) -> Sequence[tuple[str, str]] | None:
    if row.status not in ENDED:
        return None
    of_row = (row.id, row.change_seq)
    found = api.left_out.get(of_row)
    if found is None:  # a manifest may be large
        result = await api.storage.result(row.storage_key)
        if isinstance(result, Bundle):
            found = read_left_out(result)
        else:
            found = await api.storage.thread(lambda: read_left_out(result), what=f"job {row.id}")
        api.left_out.put(of_row, found)
    return found


async def explain_wait(api: ApiContext, job: Job) -> Waiting | None:
    """Why this one waits; None as of several."""
    if job.status is not Status.QUEUED:
        return None
    (why,) = await explain_waits(api, (job,))
    return why


async def explain_waits(api: ApiContext, jobs: Sequence[Job]) -> Sequence[Waiting | None]:
    """Why each of these waits: None for one that does not, or when nobody can say it now. The Sender says
    what the queue and the nodes let it see; that a node is being started, or that one did not take the job
    the last time, is added here."""
    whys = await _ask_queue(api, jobs)
    unserved = [row for row, why in zip(jobs, whys, strict=True) if why and why.reason is WaitReason.NO_NODE]
    if not unserved:
        return whys
    booting, shunned = dict[str, int](), set[str]()
    try:
        if scaled := await api.scaling():
            booting.update((one.service, one.booting) for one in scaled if one.booting)
        if [row for row in unserved if row.message.startswith(GIVEN_BACK)]:
            for view in await api.pool():
                if view.state is NodeState.SUSPECT:
                    shunned.update(view.services)
    except NoAnswer as error:
        log.warning("nobody says how the nodes are: %s", error)
        return whys
    if not booting and not shunned:
        return whys
    return [_refine(row, why, booting, shunned) for row, why in zip(jobs, whys, strict=True)]


def _refine(
    row: Job, why: Waiting | None, booting: Mapping[str, int], shunned: AbstractSet[str]
) -> Waiting | None:
    if why is None or why.reason is not WaitReason.NO_NODE:
        return why
    before = why.message.partition("; ")[2]
    if row.message.startswith(GIVEN_BACK) and row.service in shunned:
        return Waiting(WaitReason.BACKOFF, f"{row.message}; it is tried again shortly", why.position)
    if row.service in booting:
        message = f"waits for a node of service {row.service} that is being started"
        return Waiting(WaitReason.NODE_BOOTING, f"{message}; {before}" if before else message, why.position)
    return why


async def _ask_queue(api: ApiContext, jobs: Sequence[Job]) -> Sequence[Waiting | None]:
    queued = tuple([job for job in jobs if job.status is Status.QUEUED])
    if not queued:
        return [None] * len(jobs)
    try:
        whys = await api.why(queued)
        if len(queued) == len(jobs):
            return whys
        answers = {job.id: why for job, why in zip(queued, whys, strict=True)}
    except NoAnswer as error:
        log.warning("nobody says why jobs wait: %s", error)
        answers = {}
    return [answers.get(job.id) for job in jobs]


async def explain(api: ApiContext, job: Job) -> str:
    """Why the job is as it is; of a queued one, what it waits for."""
    why = await explain_wait(api, job)
    return why.message if why is not None else _with_silence(api, job).message


async def find_node(api: ApiContext, job: Job) -> tuple[NodeRef, Attempt] | None:
    """The node that has the job, None if none has. Raises Unreachable if it is not in touch."""
    if job.attempt is None or job.status not in ON_NODE:
        return None
    for view in await api.pool():
        if view.node.node_id == job.attempt.node_id:
            return view.node, job.attempt
    raise NodeUnreachable(f"the node of job {job.id} is not in touch")


def _zip_name(job: Job) -> str:
    """As what it is saved."""
    return f"job-{job.id}.zip"


async def send_results(api: ApiContext, job: Job) -> Response:
    """The stored zip; of a job that ended badly without any, its inputs. Raises Refusal: 404 if nothing is
    left, 503 if the results of a completed job are not where they have to be."""
    name = _zip_name(job)
    response = await file_response.send_stored(
        api.storage, job.storage_key, "result.zip", file_response.ZIP, name
    )
    if response is not None:
        return response
    if job.status is Status.COMPLETED and (await find(api, job.id)).status is Status.COMPLETED:
        log.error("job %d is Completed and has no results in %s", job.id, api.storage.job(job.storage_key))
        message = f"the results of job {job.id} are not on this server's disk; ask its operator"
        raise Refusal(503, "results_missing", message, job_id=job.id, job_status=job.status)
    return await send_inputs(api, job)


def results(api: ApiContext, job: Job) -> Stored:
    """What `send_results` sends."""
    read = partial(file_response.read_small_stored, api.storage, job.storage_key, _zip_name(job))
    return Stored(partial(send_results, api, job), read)


async def send_inputs(api: ApiContext, job: Job) -> Response:
    """A zip of what was uploaded. Raises Refusal (404) if it is not there any more."""
    nothing = Refusal(
        404, "nothing_left", f"nothing is left of job {job.id}", job_id=job.id, job_status=job.status
    )
    if job.status is Status.CLEANED or not await api.storage.exists(job.storage_key):
        raise nothing
    try:
        return await file_response.send_stream(_open_inputs(api, job), file_response.ZIP, _zip_name(job))
    except StorageGone:
        raise nothing from None  # it was deleted at this very moment


async def send_directory(api: ApiContext, job: Job) -> Response:
    """A zip of the job's directory as it is now, wherever it is. Raises Unreachable."""
    if job.status in ENDED:
        return await send_results(api, job)
    found = await find_node(api, job)
    if found is not None:
        try:
            return await file_response.send_stream(
                api.nodes.open_results(*found), file_response.ZIP, _zip_name(job)
            )
        except NotOnNode:
            pass  # it has just ended, or is being given up: what we have is what there is
    job = await find(api, job.id)
    return await (send_results(api, job) if job.status in ENDED else send_inputs(api, job))


@asynccontextmanager
async def _open_inputs(api: ApiContext, job: Job) -> AsyncIterator[RemoteStream]:
    bundle = await api.storage.small_files(job.storage_key, "input")
    if bundle is not None:
        yield from_bytes(zip_bundle(bundle))
        return
    with api.storage.reading(job.storage_key):
        top = api.storage.job(job.storage_key) / "input"
        listing = await api.storage.thread(lambda: list_tree(top), what=f"the input of job {job.id}")
        pulled = zip_stream(top, listing.entries)
        try:
            yield RemoteStream({}, pulled)
        finally:
            await pulled.aclose()
