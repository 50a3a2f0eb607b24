"""`POST /v1/jobs/{id}/links`: URLs that need no token, for results or one file."""

from __future__ import annotations

import math
from typing import Final

from quart import Blueprint, Response

from actors.domain.status import ENDED, Status
from actors.wire.http.app import Refusal, json_response, query, read_job_id
from actors.wire.protocol.contract import rfc3339
from orchestrator.access.audit import entry_of
from orchestrator.access.links import LONGEST
from orchestrator.access.roles import asking
from orchestrator.api import job_views
from orchestrator.api.context import ApiContext
from orchestrator.api.http.json_body import read_json_object, refuse_field, refuse_unknown
from orchestrator.api.openapi.describe import OF_A_JOB, describe
from orchestrator.api.routes.job_files import require_file
from orchestrator.contract.links import LinkBody, LinkOrderBody

USUAL: Final = 3600.0
LONGEST_PATH: Final = 4096


def blueprint(api: ApiContext) -> Blueprint:
    page = Blueprint("v1-links", __name__, url_prefix="/v1")

    @page.post("/jobs/<number>/links")
    @describe(
        "Make a link to the job's results or to one file of it, which needs no token until it expires",
        answers={200: ("The link", LinkBody)},
        errors=OF_A_JOB
        | {
            404: "Unknown job, or one that has ended without this file",
            413: "Too large",
            422: "A field is unknown or wrong",
        },
        body=LinkOrderBody,
    )
    async def create_link(number: str) -> Response:
        query()
        body = await read_json_object()
        refuse_unknown(body, "file", "view", "expires_in")
        file, life, view = body.get("file"), body.get("expires_in", USUAL), body.get("view", False)
        if file is not None and (
            not isinstance(file, str) or not 0 < len(file) <= LONGEST_PATH or _is_no_text(file)
        ):
            refuse_field("file", "null, or the path of a file as the list of files has it,")
        if type(life) not in (int, float) or not 0 < life <= LONGEST:
            refuse_field("expires_in", f"seconds above 0, at most {LONGEST},")
        if type(view) is not bool:
            refuse_field("view", "true or false")
        row = await job_views.find(api, read_job_id(number))
        if row.status is Status.CLEANED:
            raise Refusal(404, "nothing_left", f"nothing is left of job {row.id}")
        if file is not None and row.status in ENDED:
            await require_file(api, row, file)
        assert api.links is not None
        expires_at = math.ceil(api.clock.now() + life)
        what = "results" if file is None else f"files/{file}"
        link = api.links.make(
            f"/v1/jobs/{row.id}/{what}", asking.get(), expires_at, view=view and file is not None
        )
        await api.ledger.note_orders([entry_of("link", job=row.id, detail=f"{what} for {life:g} s")])
        answer = {"url": f"{api.public_url.rstrip('/')}{link}", "expires_at": rfc3339(expires_at)}
        return json_response(answer)

    return page


def _is_no_text(path: str) -> bool:
    """Whether it holds halves of characters, which no URL does."""
    try:
        path.encode()
    except UnicodeEncodeError:
        return True
    return False
