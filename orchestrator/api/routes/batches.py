"""`/v1/batches`: one callback for many jobs, named once they are there."""

from __future__ import annotations

import hashlib
import json
import secrets
from collections.abc import Sequence
from typing import Any, Final

import trio
from quart import Blueprint, Response, request

from actors.domain.ids import ID_RANGE, MAX_ID
from actors.wire.errors import BadRequest
from actors.wire.files.names import printable
from actors.wire.http.app import json_response, query
from orchestrator.access.audit import entry_of
from orchestrator.access.roles import asking
from orchestrator.api import job_views
from orchestrator.api.context import ApiContext
from orchestrator.api.http.json_body import read_json_object, refuse_field, refuse_unknown
from orchestrator.api.openapi.describe import BAD_PARAMETER, describe, idempotency_header
from orchestrator.api.serializers import render_batch
from orchestrator.api.upload_form import FINISHING, read_idempotency_key
from orchestrator.callbacks.allowed_hosts import NotAllowed
from orchestrator.contract.batches import MOST_IN_BATCH, Batch, BatchOrderBody
from orchestrator.ledger.tables.batches import NewBatch

BODY_LIMIT: Final = 1 << 18
"""Bytes of an order: so many ids, and an URL."""


def blueprint(api: ApiContext) -> Blueprint:
    page = Blueprint("v1-batches", __name__, url_prefix="/v1")

    @page.post("/batches")
    @describe(
        "Have one callback tell once all of these jobs have ended: at once if they have",
        idempotency_header("The same key gives the same batch"),
        answers={201: ("The batch", Batch)},
        errors=BAD_PARAMETER
        | {
            400: "A bad parameter, or the callback_url is not allowed",
            404: "Unknown jobs",
            409: "A job is in too many batches already",
            413: "Too large",
            422: "A field is unknown or wrong, or the Idempotency-Key belongs to something else",
            507: "No room",
        },
        body=BatchOrderBody,
        body_required=True,
        location=201,
    )
    async def create_batch() -> Response:
        query()
        key = read_idempotency_key(request.headers.getlist("Idempotency-Key"))
        body = await read_json_object(BODY_LIMIT)
        refuse_unknown(body, "jobs", "callback_url")
        jobs, url = _read_jobs(body.get("jobs")), _read_url(api, body.get("callback_url"))
        new = NewBatch(
            id=secrets.token_hex(8),
            jobs=jobs,
            callback_url=url,
            may_see=asking.get().sees_all,
            fingerprint=hashlib.sha256(json.dumps([sorted(jobs), url]).encode()).hexdigest(),
            idempotency_key=key,
        )
        entry = entry_of("batch", about=new.id, detail=f"{len(jobs)} job{'s' * (len(jobs) != 1)}")
        # Done to its end, else nobody would know whether there is a batch.
        with trio.fail_after(FINISHING, shield=True):
            batch = await api.ledger.order_batch(new, entry)
        if batch.left == 0:
            api.ring_callbacks()
        location = {"Location": f"batches/{batch.id}"}
        return json_response(render_batch(batch, batch.callback), 201, location)

    @page.get("/batches/<batch_id>")
    @describe(
        "How it stands with a batch",
        answers={200: ("The batch", Batch)},
        errors=BAD_PARAMETER | {404: "Unknown batch"},
    )
    async def batch(batch_id: str) -> Response:
        query()
        found = await job_views.find_batch(api, batch_id)
        return json_response(render_batch(found, found.callback))

    return page


def _read_jobs(given: Any) -> Sequence[int]:
    if not isinstance(given, list) or not 0 < len(given) <= MOST_IN_BATCH:
        refuse_field("jobs", f"a list of 1 to {MOST_IN_BATCH} ids of jobs")
    if not all(type(one) is int and 0 < one <= MAX_ID for one in given):
        refuse_field("jobs", f"a list of ids, each of them {ID_RANGE},")
    if len(set(given)) < len(given):
        refuse_field("jobs", "each id once")
    return given


def _read_url(api: ApiContext, given: Any) -> str:
    """Raises BadRequest, as an upload does, for an URL that may not be called."""
    if not isinstance(given, str) or not given.strip():
        refuse_field("callback_url", "an URL such as https://portal.example.org/done")
    try:
        return api.callbacks.url(given.strip())
    except NotAllowed as error:
        raise BadRequest(f"callback_url {printable(given)}: {error}") from None
