"""`/v1/jobs/{id}/input-changes`: how the inputs of a job differ from those of the job that it repeats."""

from __future__ import annotations

from quart import Blueprint, Response

from actors.domain.changes import JobDetails
from actors.domain.job import Job
from actors.domain.status import Status
from actors.wire.files.names import spell
from actors.wire.http.app import Refusal, json_response, query, read_job_id
from orchestrator.api import job_views
from orchestrator.api.context import ApiContext
from orchestrator.api.openapi.describe import OF_A_JOB, describe
from orchestrator.api.routes.job_files import COMPARED
from orchestrator.contract.codec import to_json
from orchestrator.contract.inputs import MOST_CHANGES, InputChange, InputChanges
from orchestrator.storage.disk import StorageGone
from orchestrator.storage.input_changes import compare_inputs
from orchestrator.storage.upload import StoredInput


def blueprint(api: ApiContext) -> Blueprint:
    page = Blueprint("v1-input-changes", __name__, url_prefix="/v1")

    @page.get("/jobs/<number>/input-changes")
    @describe(
        "How its inputs differ from those of the job that it repeats",
        answers={200: ("The files that differ", InputChanges)},
        errors=OF_A_JOB | {404: "Unknown job, one that repeats none, or the files of one of both are gone"},
    )
    async def input_changes(number: str) -> Response:
        query()
        row = await job_views.find(api, read_job_id(number))
        details = (await api.ledger.queries.details((row.id,))).get(row.id, JobDetails())
        if details.rerun_of is None:
            raise Refusal(404, "no_rerun", f"job {row.id} repeats no other job")
        earlier = await job_views.find(api, details.rerun_of)
        with api.storage.reading(earlier.storage_key), api.storage.reading(row.storage_key):
            before, after = [await _read_inputs(api, one) for one in (earlier, row)]
            found = await api.storage.thread(
                lambda: compare_inputs(before, after, COMPARED),
                what=f"the inputs of jobs {earlier.id} and {row.id}",
            )
        items = tuple(InputChange(spell(path.encode()), change) for path, change in found[:MOST_CHANGES])
        return json_response(to_json(InputChanges(earlier.id, items, len(found) - len(items))))

    return page


async def _read_inputs(api: ApiContext, row: Job) -> list[StoredInput]:
    """What a job was given. Raises Refusal (404) where it was deleted."""
    gone = Refusal(404, "nothing_left", f"the files of job {row.id} were deleted")
    if row.status is Status.CLEANED:
        raise gone
    try:
        return await api.storage.input_files(row.storage_key)
    except StorageGone:
        raise gone from None
