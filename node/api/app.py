"""What the node's routes stand on, and how anything that goes wrong in them is told: JSON, never HTML, and a
traceback only in the log."""

from __future__ import annotations

import errno
import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import trio
from quart import Response, json, request
from quart_trio import QuartTrio
from werkzeug.exceptions import HTTPException

from actors.wire.errors import TooLarge, WireError
from actors.wire.http.backpressure import BoundedConnection, BoundedRequest
from actors.wire.http.converters import FilePath
from actors.wire.http.drain_body import drain
from actors.wire.protocol.contract import status_body
from node.api.submit import Receiver
from node.host.inotify import Inotify
from node.host.load import LoadSampler
from node.payloads.records import OutOfIds
from node.payloads.table import PayloadTable
from node.runs.workspace import Workspace

log: Final = logging.getLogger("node.api")

NODE_HEADER: Final = "X-Node-Id"
"""Names the node that a request is meant for: an address may have passed to another one."""


@dataclass(frozen=True, slots=True)
class Services:
    """What the routes use. `grace`: seconds that a kill may take before SIGKILL. `executor` and `limits` are
    what `/v1/info` tells of the executor. `shutdown` ends the streams that follow something."""

    table: PayloadTable
    workspace: Workspace
    receiver: Receiver
    load: LoadSampler
    inotify: Inotify
    grace: float
    executor: str
    limits: str
    version: str
    shutdown: trio.Event


class Problem(Exception):
    """A refusal under `/v1`: `code` is stable, `detail` says what to do."""

    def __init__(self, status: int, code: str, detail: str) -> None:
        super().__init__(detail)
        self.status = status
        self.code = code
        self.detail = detail


class Refusal(Exception):
    """A refusal of a contract route."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.message = message


def json_response(body: Any, status: int = 200) -> Response:
    return Response(json.dumps(body), status, content_type="application/json")


def contract_id(text: str) -> int:
    """The id in a contract route. Raises `Refusal` for what is none."""
    # int() takes blanks, signs, underscores and the digits of other scripts.
    if not re.fullmatch(r"[1-9][0-9]{0,9}", text, re.ASCII) or int(text) >= 1 << 32:
        raise Refusal(400, f"{text[:100]!r} is no id: a whole number from 1 to 4294967295 was expected")
    return int(text)


def query(*known: str) -> Mapping[str, str]:
    """The query parameters. Raises `Problem` for one that is unknown or there twice."""
    given: dict[str, str] = {}
    for name, value in request.args.items(multi=True):
        if name not in known:
            takes = ", ".join(known) or "none"
            raise Problem(400, "unknown_parameter", f"unknown query parameter {name[:100]!r}; known: {takes}")
        if name in given:
            raise Problem(400, "parameter_twice", f"query parameter {name!r} is there twice")
        given[name] = value
    return given


def make_app(name: str, node_id: str) -> QuartTrio:
    """An app without routes that answers every error in the form of its page, and does nothing that was meant
    for another node."""
    app = QuartTrio(name, static_folder=None)
    # A disk that is slower than the network must not fill the memory.
    app.asgi_http_class = BoundedConnection
    app.request_class = BoundedRequest
    # The body is limited where it is read, by what arrives and not by what a header claims.
    app.config["MAX_CONTENT_LENGTH"] = None
    app.config["BODY_TIMEOUT"] = None
    # A path with two slashes is another path, and a redirect would be answered in HTML.
    app.url_map.merge_slashes = False
    app.url_map.converters["file"] = FilePath
    app.register_error_handler(Exception, _answer)
    app.register_error_handler(HTTPException, _answer)

    @app.before_request
    async def is_meant() -> None:
        meant = request.headers.get(NODE_HEADER)
        if meant is not None and meant != node_id:
            await drain(request.body)
            raise Problem(421, "wrong_node", f"this is node {node_id}; ask for where {meant[:100]!r} is now")

    return app


async def _answer(error: Exception) -> Response:
    status, code, detail = _told(error)
    if status == 500:
        log.error("%s %s went wrong", request.method, request.path, exc_info=error)
    if request.path.startswith("/v1/") or isinstance(error, Problem):
        body = {"type": "about:blank", "title": _TITLES.get(status, "Error"), "status": status}
        response = json_response({**body, "code": code, "detail": detail}, status)
        response.content_type = "application/problem+json"
    else:
        response = json_response(status_body(0, "Unknown", detail), status)
    if isinstance(error, HTTPException):
        for header, value in error.get_headers():
            if header.lower() == "allow":
                response.headers[header] = value
    return response


def _told(error: Exception) -> tuple[int, str, str]:
    match error:
        case Problem():
            return error.status, error.code, error.detail
        case Refusal():
            return error.status, "refused", error.message
        case TooLarge():
            return 413, "too_large", error.detail
        case WireError():
            return 400, "malformed", error.detail
        case OutOfIds():
            return 503, "out_of_ids", str(error)
        case OSError() if error.errno in (errno.ENOSPC, errno.EDQUOT):
            return 507, "disk_full", "the node's disk is full"
        case HTTPException() if error.code is not None and error.code < 500:
            code = (error.name or "refused").lower().replace(" ", "_")
            return error.code, code, _DETAILS.get(error.code, error.name or "refused")
        case _:
            return 500, "internal", "the node failed; its log has the traceback"


_TITLES: Final = {
    400: "Bad Request",
    404: "Not Found",
    405: "Method Not Allowed",
    409: "Conflict",
    410: "Gone",
    413: "Content Too Large",
    421: "Misdirected Request",
    500: "Internal Server Error",
    503: "Service Unavailable",
    507: "Insufficient Storage",
}
_DETAILS: Final = {404: "there is no such route", 405: "this route does not know this method"}
