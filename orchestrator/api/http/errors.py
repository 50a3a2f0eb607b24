"""How anything that goes wrong in a route is told: the contract's routes answer with a StatusBody, those
under `/v1` with a problem. Always JSON, and a traceback only in the log."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from typing import Any, Final

import trio
from quart import Response, json, request
from quart_trio import QuartTrio
from werkzeug.exceptions import HTTPException

from actors.domain.status import Status
from actors.kernel.actor import NoAnswer
from actors.ports.ledger import LedgerError
from actors.ports.storage import StorageError
from actors.wire.errors import TooLarge, WireError
from actors.wire.http.backpressure import BoundedConnection, BoundedRequest
from actors.wire.http.converters import FilePath
from actors.wire.protocol.contract import status_body
from orchestrator.api import serializers
from orchestrator.events.waiters import TooManyWaiters
from orchestrator.ledger.ledger import IdempotencyConflict, LedgerFull
from orchestrator.nodes.remote_stream import Unreachable
from orchestrator.storage.disk import NameRefused, StorageFull

log: Final = logging.getLogger("orchestrator.api")

MAX_ID: Final = (1 << 32) - 1


class Refusal(Exception):
    """A refusal that both dialects can tell. `code` is stable; `message` says what was wrong; `job_id` and
    `status` are the job's where one is meant."""

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        *,
        job_id: int = 0,
        job_status: Status = Status.UNKNOWN,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
        self.job_id = job_id
        self.job_status = job_status
        self.headers = headers or {}


def json_response(body: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    return Response(json.dumps(body), status, headers, content_type="application/json")


def job_id(text: str) -> int:
    """The id in a route. Raises Refusal for what is none."""
    # int() takes blanks, signs, underscores and the digits of other scripts.
    if not re.fullmatch(r"[1-9][0-9]{0,9}", text, re.ASCII) or int(text) > MAX_ID:
        raise Refusal(
            400, "bad_id", f"{text[:100]!r} is no job id: a whole number from 1 to {MAX_ID} was expected"
        )
    return int(text)


def unknown_job(number: int) -> Refusal:
    return Refusal(404, "unknown_job", f"there is no job {number}")


def query(*known: str) -> Mapping[str, str]:
    """The query parameters. Raises Refusal for one that is unknown or there twice."""
    given: dict[str, str] = {}
    for name, value in request.args.items(multi=True):
        if name not in known:
            takes = ", ".join(known) or "none"
            raise Refusal(
                400, "unknown_parameter", f"query parameter {name[:100]!r} is unknown; known: {takes}"
            )
        if name in given:
            raise Refusal(400, "parameter_twice", f"query parameter {name!r} is there twice")
        given[name] = value
    return given


def make_app() -> QuartTrio:
    """An app without routes that answers every error in the form of its page."""
    app = QuartTrio("orchestrator.api", static_folder=None)
    app.asgi_http_class = BoundedConnection
    app.request_class = BoundedRequest
    # The body is limited where it is read, by what arrives and not by what a header claims.
    app.config["MAX_CONTENT_LENGTH"] = None
    app.config["BODY_TIMEOUT"] = None
    # A slow reader gets all of its answer.
    app.config["RESPONSE_TIMEOUT"] = None
    # A redirect would be HTML, and a POST that follows it loses its body.
    app.url_map.merge_slashes = False
    app.url_map.converters["file"] = FilePath
    app.register_error_handler(Exception, answer)
    app.register_error_handler(HTTPException, answer)
    return app


async def answer(error: Exception) -> Response:
    """The refusal in the form of the page that it is about."""
    told = _told(error)
    if told.status == 500:
        log.error("%s %s went wrong", request.method, request.path, exc_info=error)
    elif told.status >= 503:
        log.warning("%s %s: %s", request.method, request.path, told.message)
    if request.path.startswith("/v1/"):
        response = json_response(serializers.problem(told.status, told.code, told.message), told.status)
        response.content_type = "application/problem+json"
    else:
        response = json_response(status_body(told.job_id, told.job_status, told.message), told.status)
    response.headers.update(told.headers)
    if isinstance(error, HTTPException):
        for header, value in error.get_headers():
            if header.lower() == "allow":
                response.headers[header] = value
    return response


def _told(error: Exception) -> Refusal:
    match error:
        case Refusal():
            return error
        case TooLarge():
            return Refusal(413, "too_large", error.detail)
        case WireError():
            return Refusal(400, "malformed", error.detail)
        case NameRefused():
            return Refusal(400, "bad_file_name", str(error))
        case StorageFull() | LedgerFull():
            return Refusal(507, "disk_full", f"{error}; try again when there is room")
        case IdempotencyConflict():
            return Refusal(422, "idempotency_conflict", str(error))
        case StorageError() | LedgerError() | Unreachable() | NoAnswer() | TooManyWaiters():
            return Refusal(503, "unavailable", f"{error}; try again")
        case trio.TooSlowError():
            return Refusal(503, "unavailable", "the disk or the ledger did not answer in time; try again")
        case HTTPException() if error.code is not None and error.code < 500:
            code = (error.name or "refused").lower().replace(" ", "_")
            return Refusal(error.code, code, _DETAILS.get(error.code, error.name or "refused"))
        case _:
            return Refusal(500, "internal", "the server failed; its log has the traceback")


_DETAILS: Final = {404: "there is no such route", 405: "this route does not know this method"}
