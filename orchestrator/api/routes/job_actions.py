"""What is done with a job that was handed in: run it again, let go of its data."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

import trio
from quart import Blueprint, Response, request

from actors.domain.changes import NewJob
from actors.domain.job import Job
from actors.domain.status import ENDED, Status
from actors.process.log_lines import request_id
from actors.wire.http.app import PASSES, Refusal, json_response, query, read_job_id
from actors.wire.http.patience import SILENCE
from orchestrator.access.audit import entry_of
from orchestrator.api import job_views
from orchestrator.api.context import ApiContext
from orchestrator.api.openapi.describe import OF_A_JOB, describe, idempotency_header
from orchestrator.api.upload_form import insert, read_idempotency_key
from orchestrator.callbacks.allowed_hosts import NotAllowed
from orchestrator.contract import bodies
from orchestrator.storage.disk import StorageGone

FINISHING: Final = SILENCE
"""Seconds that an order may take once it has begun, whether or not the client waits for it."""


def blueprint(api: ApiContext) -> Blueprint:
    page = Blueprint("v1-orders", __name__, url_prefix="/v1")

    @page.post("/jobs/<number>/rerun")
    @describe(
        "A new job from the same files, for the same user and service",
        idempotency_header("The same key gives the same job"),
        answers={201: ("The new job", bodies.Job)},
        errors={
            **OF_A_JOB,
            409: "The service is not there any more, or the callback_url is not allowed any more",
            422: "The Idempotency-Key belongs to something else",
            429: "Over a limit of jobs, bytes or requests: `code` names its setting",
            507: "No room",
        },
    )
    async def rerun(number: str) -> Response:
        query()
        key = read_idempotency_key(request.headers.getlist("Idempotency-Key"))
        row = await job_views.find(api, read_job_id(number))
        # Done to its end, else nobody would know whether there is a job.
        with trio.CancelScope(shield=True), trio.fail_after(FINISHING):
            new = await _repeat(api, row, key)
        body = await job_views.render_in_full(api, new)
        return json_response(body, 201, {"Location": f"../{new.id}"})

    @page.delete("/jobs/<number>")
    @describe(
        "Delete an ended job's data now; the job becomes Cleaned",
        answers={200: ("The job", bodies.Job)},
        errors=OF_A_JOB | {409: "Not ended yet"},
    )
    async def delete_data(number: str) -> Response:
        query()
        row = await job_views.find(api, read_job_id(number))
        if row.status in ENDED:
            # Before it is done: what is deleted for nobody would be the worse.
            await api.ledger.note_orders([entry_of("delete", job=row.id)])
        while row.status in ENDED:
            with trio.CancelScope(shield=True), trio.fail_after(FINISHING):
                cleaned = await api.clean(row)
            row = cleaned or await job_views.find(api, row.id)
        if row.status is not Status.CLEANED:
            raise Refusal(
                409,
                "not_ended",
                f"job {row.id} is {row.status}: only an ended job's data can be deleted; terminate it first",
                headers=PASSES,
            )
        return json_response(await job_views.render_in_full(api, row))

    return page


async def _repeat(api: ApiContext, row: Job, key: str | None) -> Job:
    """The new job. Raises Refusal: 404 when the inputs are gone, 409 when its service is, or when its
    callback is not allowed any more: without it, somebody might wait in vain."""
    if row.service not in api.services:
        raise Refusal(409, "unknown_service", f"service {row.service} is not configured any more")
    details = (await api.ledger.queries.details((row.id,)))[row.id]
    if details.callback_url is not None:
        try:
            api.callbacks.url(details.callback_url)
        except NotAllowed as error:
            raise Refusal(
                409,
                "callback_refused",
                f"the callback_url of job {row.id} is not allowed any more, see the setting callback_hosts: "
                f"{error}",
            ) from None
    async with api.storage.receive() as upload:
        with api.storage.reading(row.storage_key):
            try:
                await upload.repeat(await api.storage.input_files(row.storage_key, row.size))
            except StorageGone:
                raise Refusal(
                    404, "nothing_left", f"the files of job {row.id} were deleted; hand it in anew"
                ) from None
        files = await upload.commit(row.user_id, row.service)
        new = NewJob(
            user_id=row.user_id,
            service=row.service,
            storage_key=upload.key,
            size=upload.size,
            max_runtime=row.max_runtime,
            limits=row.limits,
            priority=row.priority,
            batch_request=row.batch_request,
            idempotency_key=key,
            fingerprint=None if key is None else f"rerun of {row.id}",
            details=replace(details, rerun_of=row.id, ignored=()),
            request_id=request_id.get(),
            files=files,
        )
        return await insert(api, new, entry_of("rerun", detail=f"of {row.id}"))
