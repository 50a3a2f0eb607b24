"""What several routes do with a job: find it, say why it waits, find its node, send its directory."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Final

from quart import Response

from actors.kernel import NoAnswer
from actors.lifecycle import ENDED, ON_NODE, Status
from actors.model import Attempt, Job, NodeRef
from actors.ports import Waiting
from actors.wire.zip_out import list_tree, zip_stream
from orchestrator.api import files
from orchestrator.api.problems import Refusal, unknown_job
from orchestrator.api.services import Api
from orchestrator.opened import NotThere, Opened, Unreachable

log: Final = logging.getLogger("orchestrator.api")


async def find(api: Api, number: int) -> Job:
    """The job. Raises Refusal (404) if there is none."""
    job = await api.ledger.get(number)
    if job is None:
        raise unknown_job(number)
    return job


async def waiting(api: Api, jobs: Sequence[Job]) -> Sequence[Waiting | None]:
    """Why each of these waits: None for one that does not, or when nobody can say it now."""
    queued = tuple(job.id for job in jobs if job.status is Status.QUEUED)
    if not queued:
        return [None] * len(jobs)
    try:
        answers = dict(zip(queued, await api.why(queued), strict=True))
    except NoAnswer as error:
        log.warning("nobody says why jobs wait: %s", error)
        answers = {}
    return [answers.get(job.id) for job in jobs]


async def message(api: Api, job: Job) -> str:
    """Why the job is as it is; of a queued one, what it waits for."""
    (why,) = await waiting(api, [job])
    return why.message if why is not None else job.message


async def place(api: Api, job: Job) -> tuple[NodeRef, Attempt] | None:
    """The node that has the job, None if none has. Raises Unreachable if it is not in touch."""
    if job.attempt is None or job.status not in ON_NODE:
        return None
    for view in await api.pool():
        if view.node.node_id == job.attempt.node_id:
            return view.node, job.attempt
    raise Unreachable(f"the node of job {job.id} is not in touch")


async def results(api: Api, job: Job) -> Response:
    """The stored zip; of a job that ended badly without any, its inputs. Raises Refusal: 404 if nothing is
    left, 503 if the results of a completed job are not where they have to be."""
    name = f"{job.id}.zip"
    response = await files.stored(api.storage, job.storage_key, "result.zip", files.ZIP, name)
    if response is not None:
        return response
    if job.status is Status.COMPLETED and (await find(api, job.id)).status is Status.COMPLETED:
        log.error("job %d is Completed and has no results in %s", job.id, api.storage.job(job.storage_key))
        message = f"the results of job {job.id} are not on this server's disk; ask its operator"
        raise Refusal(503, "results_missing", message, job_id=job.id, job_status=job.status)
    return await inputs(api, job)


async def inputs(api: Api, job: Job) -> Response:
    """A zip of what was uploaded. Raises Refusal (404) if it is not there any more."""
    if job.status is Status.CLEANED or not await api.storage.exists(job.storage_key):
        raise Refusal(
            404, "nothing_left", f"nothing is left of job {job.id}", job_id=job.id, job_status=job.status
        )
    return await files.stream(_zipped_inputs(api, job), files.ZIP, f"{job.id}.zip")


async def directory_now(api: Api, job: Job) -> Response:
    """A zip of the job's directory as it is now, wherever it is. Raises Unreachable."""
    if job.status in ENDED:
        return await results(api, job)
    found = await place(api, job)
    if found is not None:
        try:
            return await files.stream(api.nodes.open_results(*found), files.ZIP, f"{job.id}.zip")
        except NotThere:
            pass  # it has just ended, or is being given up: what we have is what there is
    job = await find(api, job.id)
    return await (results(api, job) if job.status in ENDED else inputs(api, job))


@asynccontextmanager
async def _zipped_inputs(api: Api, job: Job) -> AsyncIterator[Opened]:
    with api.storage.reading(job.storage_key) as directory:
        top = directory / "input"
        listing = await api.storage.thread(lambda: list_tree(top), what=f"the input of job {job.id}")
        pulled = zip_stream(top, listing.entries)
        try:
            yield Opened({}, pulled)
        finally:
            await pulled.aclose()
