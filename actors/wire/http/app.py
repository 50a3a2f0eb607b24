"""The HTTP edge of the server and of the node: an app that answers in JSON, never in HTML, whatever goes
wrong in a route. Under `/v1` an error is a problem (RFC 9457), on the published contract's routes a
StatusBody with a `code`; a traceback is in the log alone."""

from __future__ import annotations

import json
import logging
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from http import HTTPStatus
from typing import Any, Final

from quart import Response, g, request
from quart.routing import QuartRule
from quart_trio import QuartTrio
from werkzeug.exceptions import HTTPException
from werkzeug.routing import PathConverter, Rule

from actors.domain.ids import parse_id
from actors.domain.status import Status
from actors.kernel.complaint import Complaint
from actors.wire.errors import TooLarge, WireError
from actors.wire.http.backpressure import BoundedConnection, BoundedRequest
from actors.wire.http.plain_routes import (
    Admit,
    Answer,
    Head,
    NoteRequest,
    PlainRoutes,
    head_of_request,
)
from actors.wire.http.upgrades import Upgrade
from actors.wire.protocol.contract import status_body

PASSES: Final[Mapping[str, str]] = {"Retry-After": "1"}
"""Headers of a refusal that passes by itself: when to ask again, in seconds. Whatever is answered with 429 or
503 has them without saying so."""
_PASSING: Final = frozenset({429, 503})


class Refusal(WireError):
    """A refusal in both dialects. `code` is stable, `detail` says what was wrong; `job_id` and `job_status`
    are the job's where one is meant."""

    def __init__(
        self,
        status: int,
        code: str,
        detail: str,
        *,
        job_id: int = 0,
        job_status: Status = Status.UNKNOWN,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.code = code
        self.job_id = job_id
        self.job_status = job_status
        self.headers = headers or {}


class FilePath(PathConverter):
    """The rest of a path, as the name of a job's file: it may hold any character, line ends too."""

    regex = "[^/](?s:.*?)"


Translate = Callable[[Exception], Refusal | None]
"""What an error of the app's own rooms means to a client; None for what nobody foresaw."""


class _Rule(QuartRule):
    """Of a route that is found by its path, while no path is made from a route's name: Werkzeug would compile
    two functions a route for that, which took most of the time in which an app is made."""

    def _compile_builder(self, append_unknown: bool = True) -> Callable[..., tuple[str, str]]:
        return _build_no_path


def _build_no_path(rule: Rule, **values: Any) -> tuple[str, str]:
    raise LookupError(f"no path is made from a name: {rule.endpoint}")


class App(QuartTrio):
    """An app whose `plain` routes a server may answer without it, as requests for its `upgrade`, if it has
    one."""

    url_rule_class: type[QuartRule] = _Rule

    def __init__(self, name: str, plain: PlainRoutes) -> None:
        super().__init__(name, static_folder=None)
        self.plain: Final = plain
        self.upgrade: Upgrade | None = None


async def admit_all(head: Head) -> None:
    """Nobody is refused."""


def make_app(
    name: str,
    translate: Translate,
    admit: Admit = admit_all,
    before: Callable[[App], None] = lambda app: None,
    note: NoteRequest = lambda method, rule, status, seconds, length: None,
    *,
    suggest: Callable[[Head], str | None] = lambda head: None,
) -> App:
    """An app without routes. Errors are logged under its name. `before` may add what answers requests before
    they are admitted. `note` is told of each answer. `suggest` says which route is meant by a request that
    there is none for."""

    log = logging.getLogger(name)
    complaints: defaultdict[tuple[int, str], Complaint] = defaultdict(lambda: Complaint(log))

    def explain(head: Head, error: Exception) -> Answer:
        refusal = _to_refusal(error, translate)
        if isinstance(error, HTTPException) and (meant := suggest(head)) is not None:
            detail = f"{refusal.detail}; {meant}"
            refusal = Refusal(refusal.status, refusal.code, detail, headers=refusal.headers)
        if refusal.status == 500:
            log.error("%s %s went wrong", head.method, head.path, exc_info=error)
        elif refusal.status > 500:
            why = complaints[refusal.status, refusal.code]
            why.say("%s %s: %s", head.method, head.path, refusal.detail)
        return answer_error(head, refusal)

    app = App(name, PlainRoutes(admit, explain, note))
    # A disk that is slower than the network must not fill the memory.
    app.asgi_http_class = BoundedConnection
    app.request_class = BoundedRequest
    # The body is limited where it is read, by what arrives and not by what a header claims.
    app.config["MAX_CONTENT_LENGTH"] = None
    app.config["BODY_TIMEOUT"] = None
    # A slow reader gets all of its answer.
    app.config["RESPONSE_TIMEOUT"] = None
    # A path with two slashes is another path: a redirect would be HTML, and a POST that follows it loses its
    # body.
    app.url_map.merge_slashes = False
    app.url_map.converters["file"] = FilePath

    async def begin_request() -> None:
        g.began = time.perf_counter()

    async def note_answer(answer: Response) -> Response:
        rule = None if request.url_rule is None else request.url_rule.rule
        seconds = time.perf_counter() - g.began
        note(request.method, rule, answer.status_code, seconds, answer.content_length)
        return answer

    async def admit_request() -> None:
        await admit(head_of_request())

    async def on_error(error: Exception) -> Response:
        return explain(head_of_request(), error).to_response()

    app.before_request(begin_request)
    app.after_request(note_answer)
    before(app)
    app.before_request(admit_request)
    app.register_error_handler(Exception, on_error)
    app.register_error_handler(HTTPException, on_error)
    return app


def json_answer(
    body: Any, status: int = 200, headers: Mapping[str, str] | None = None, kind: str = "application/json"
) -> Answer:
    # It may be somebody else's next time: caches on the way know of tokens in headers, but not of cookies.
    headers = {"Cache-Control": "no-store", **(headers or {})}
    if status in _PASSING:
        headers = {**PASSES, **headers}
    return Answer(status, kind, write_json(body), headers)


def write_json(body: Any) -> bytes:
    return _encode(body).encode()


_encode: Final = json.JSONEncoder(sort_keys=True).encode


def json_response(body: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    return json_answer(body, status, headers).to_response()


def problem_body(refusal: Refusal) -> dict[str, Any]:
    """As RFC 9457 has it."""
    return {
        "type": "about:blank",
        "title": HTTPStatus(refusal.status).phrase,
        "status": refusal.status,
        "code": refusal.code,
        "detail": refusal.detail,
    }


def problem_answer(refusal: Refusal) -> Answer:
    return json_answer(problem_body(refusal), refusal.status, refusal.headers, "application/problem+json")


def answer_error(head: Head, refusal: Refusal) -> Answer:
    """In the form of the page that it happened on."""
    if head.path.startswith("/v1/"):
        return problem_answer(refusal)
    body = status_body(refusal.job_id, refusal.job_status, refusal.detail)
    # Beside the contract's keys, so that a program need not read the sentence.
    return json_answer({**body, "code": refusal.code}, refusal.status, refusal.headers)


def _to_refusal(error: Exception, translate: Translate) -> Refusal:
    match error:
        case Refusal():
            return error
        case TooLarge():
            return Refusal(413, "too_large", error.detail)
        case WireError():
            return Refusal(400, "malformed", error.detail)
        case HTTPException() if error.code is not None and error.code < 500:
            name = error.name or "refused"
            allow = {key: value for key, value in error.get_headers() if key.lower() == "allow"}
            detail = _DETAILS.get(error.code, name)
            return Refusal(error.code, name.lower().replace(" ", "_"), detail, headers=allow)
        case _:
            unforeseen = Refusal(500, "internal", "the server failed; its log has the traceback")
            return translate(error) or unforeseen


_DETAILS: Final = {404: "there is no such route", 405: "this route does not know this method"}


def query(*known: str) -> Mapping[str, str]:
    """The query parameters of the app's request. Raises Refusal for one that is unknown or there twice."""
    return read_query(tuple(request.args.items(multi=True)), *known)


def read_query(pairs: Sequence[tuple[str, str]], *known: str) -> Mapping[str, str]:
    """As `query`."""
    if not pairs:
        return {}
    given: dict[str, str] = {}
    for name, value in pairs:
        if name not in known:
            takes = ", ".join(known) or "none"
            detail = f"query parameter {name[:100]!r} is unknown; known: {takes}"
            raise Refusal(400, "unknown_parameter", detail)
        if name in given:
            raise Refusal(400, "parameter_twice", f"query parameter {name!r} is there twice")
        given[name] = value
    return given


def read_job_id(text: str) -> int:
    """The id in a route. Raises Refusal for what is none."""
    try:
        return parse_id(text)
    except ValueError as error:
        raise Refusal(400, "bad_id", str(error)) from None
