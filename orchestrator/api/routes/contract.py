"""The published contract's routes. What they answer is fixed: portals depend on it to the letter."""

from __future__ import annotations

from contextlib import suppress
from typing import Final

import trio
from quart import Blueprint, Response

from actors.domain.ids import ID_RANGE
from actors.domain.job import End, Job
from actors.domain.status import OVER, Status
from actors.ports.ledger import LedgerError
from actors.wire.http.app import Refusal, json_answer, json_response, read_job_id
from actors.wire.http.plain_routes import Answer, Asked, PlainRoutes, Stored
from actors.wire.protocol.contract import status_body
from orchestrator.access.audit import entry_of
from orchestrator.api import job_views
from orchestrator.api.context import ApiContext
from orchestrator.api.http.errors import unknown_job
from orchestrator.api.openapi.describe import UNAVAILABLE, ZIP, describe, idempotency_header, json_of
from orchestrator.api.openapi.schemas import schema_of
from orchestrator.api.upload_form import Uploads, read_idempotency_key
from orchestrator.contract.bodies import AcceptedBody, HealthBody, JobStatusBody, PingBody, UploadBody
from orchestrator.events.waiters import TooManyWaiters, WaitersClosed
from orchestrator.ledger.transitions import UPLOADED
from orchestrator.nodes.remote_stream import NodeUnreachable

HEALTH_DEADLINE: Final = 5.0
TERMINATED: Final = "job terminated"

CONTRACT: Final = "contract"
_HEALTHY: Final = json_answer(HealthBody(status="ok", database="ok"))
_BAD_ID: Final = {400: f"No id: {ID_RANGE}"}


def blueprint(api: ApiContext, plain: PlainRoutes) -> Blueprint:  # a route is a closure over what it uses
    page = Blueprint("contract", __name__)
    uploads = Uploads(api)

    @plain.get(page, "/")
    @describe(
        "Whether the server answers",
        answers={200: ("pong", PingBody), 303: "To a browser, which asks for `text/html`: the dashboard"},
        location=303,
        tag=CONTRACT,
    )
    async def ping(asked: Asked) -> Answer:
        if any("text/html" in value for value in asked.headers("accept")):
            # Relative: a proxy may have the server below a path.
            return Answer(303, "text/html; charset=utf-8", b"", {"Location": "dashboard", "Vary": "Accept"})
        return json_answer(PingBody(message="pong"))

    @plain.get(page, "/health")
    @describe(
        "Whether the database answers",
        answers={200: ("It does", HealthBody), 503: ("It does not", HealthBody)},
        tag=CONTRACT,
    )
    async def health(asked: Asked) -> Answer:
        if api.ledger.is_well():
            return _HEALTHY
        trouble = f"no answer within {HEALTH_DEADLINE:g} s"
        with trio.move_on_after(HEALTH_DEADLINE):
            try:
                await api.ledger.check()
                return _HEALTHY
            except LedgerError as error:
                trouble = str(error)
        return json_answer(HealthBody(status="error", database=trouble), 503)

    @plain.post(page, "/upload")
    @describe(
        "Hand in a job",
        idempotency_header("The same key of the same user, with the same content, gives the same job"),
        answers={201: ("The job is durable and queued", AcceptedBody)},
        location=201,
        errors={
            400: "A bad field, service, file name or multipart body; or one twice",
            409: "An upload with this Idempotency-Key is under way",
            413: "Larger than allowed",
            422: "The user has sent this Idempotency-Key with other content",
            429: "Over a limit of jobs, bytes, uploads or requests: `code` names its setting",
            503: "The ledger cannot be written now",
            507: "No room",
        },
        body={"multipart/form-data": {"schema": schema_of(UploadBody)}},
        body_required=True,
        tag=CONTRACT,
    )
    async def upload(asked: Asked) -> Answer:
        kinds = asked.headers("Content-Type")
        job, ignored = await uploads.take(
            kinds[0] if kinds else "",
            asked.length,
            asked.body,
            read_idempotency_key(asked.headers("Idempotency-Key")),
        )
        headers = {"Location": f"/v1/jobs/{job.id}"}
        body = AcceptedBody(id=job.id, status=Status.QUEUED, message=UPLOADED)
        if ignored:
            body["ignored"] = list(ignored)
        return json_answer(body, 201, headers)

    @plain.get(page, "/download/<number>")
    @describe(
        "The results of a completed job",
        answers={
            200: ("Completed: the results. Any other state: a StatusBody", {**ZIP, **json_of(JobStatusBody)})
        },
        errors=_BAD_ID | {404: "Unknown job", **UNAVAILABLE},
        tag=CONTRACT,
    )
    async def download(asked: Asked) -> Answer | Stored:
        job = await job_views.find(api, read_job_id(asked.part))
        if job.status is not Status.COMPLETED:
            return json_answer(status_body(job.id, job.status, await job_views.explain(api, job)))
        return job_views.results(api, job)

    @page.get("/download_partial/<number>")
    @describe(
        "The job's directory as it is now",
        answers={200: ("A zip", ZIP)},
        errors=_BAD_ID | {404: "Unknown job, or nothing left of it", 503: "The node is unreachable"},
        tag=CONTRACT,
    )
    async def download_partial(number: str) -> Response:
        job = await job_views.find(api, read_job_id(number))
        try:
            return await job_views.send_directory(api, job)
        except NodeUnreachable as error:
            message = f"the job's node cannot be reached: {error}"
            raise Refusal(503, "node_unreachable", message, job_id=job.id, job_status=job.status) from error

    @page.post("/terminate/<number>")
    @describe(
        "Kill a job",
        answers={200: ("Killed: job terminated. Locked: being killed, ask again", JobStatusBody)},
        errors=_BAD_ID | {404: "Unknown job", 409: "It ended otherwise, or its script has", **UNAVAILABLE},
        tag=CONTRACT,
    )
    async def terminate(number: str) -> Response:
        wanted = read_job_id(number)
        await job_views.find(api, wanted)
        job = await _terminate(api, wanted)
        if job is None:
            raise unknown_job(wanted)
        if job.status is Status.KILLED:
            return json_response(status_body(job.id, Status.KILLED, TERMINATED))
        if job.status in OVER:
            told = f": {job.message}" if job.message else ""
            message = f"the job is {job.status} and cannot be terminated{told}"
            raise Refusal(409, "not_terminable", message, job_id=job.id, job_status=job.status)
        if (end := _end_of_itself(job)) is not None:
            told = f" ({end.message})" if end.message else ""
            message = f"the job's script has ended{told} and its results are being fetched"
            raise Refusal(409, "not_terminable", message, job_id=job.id, job_status=end.status)
        return json_response(status_body(job.id, Status.LOCKED, "the job is being terminated"))

    return page


async def _terminate(api: ApiContext, number: int) -> Job | None:
    """The job after the order to terminate: as it ended, or as it is when it takes too long."""
    entry = entry_of("terminate", job=number)
    try:
        with api.waiters.watch(number) as watch:
            job = await api.ledger.request_terminate(number, entry)
            with trio.move_on_after(api.kill_patience), suppress(WaitersClosed):
                while job is not None and job.status not in OVER and _end_of_itself(job) is None:
                    job = await watch.newer(job.change_seq)
            return job
    except TooManyWaiters:
        # The order counts, not the wait.
        return await api.ledger.request_terminate(number, entry)


def _end_of_itself(job: Job) -> End | None:
    """How a job ended that no order can end any more, though not all of it is here yet."""
    killed_by_order = job.terminate_requested and job.end is not None and job.end.status is Status.KILLED
    return None if killed_by_order else job.end
