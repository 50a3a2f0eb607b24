"""What a route says of itself in the OpenAPI document, beside its function: `@describe(...)`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Annotated, Any, Final, TypeVar

from orchestrator.api.http.query_params import MOST
from orchestrator.api.openapi.schemas import schema_of
from orchestrator.contract.bodies import LINE, Also, ProblemBody, ReasonBody, RefusedBody, Time

Route = TypeVar("Route", bound=Callable[..., Any])
Content = Mapping[str, Any]
"""Schemas by media type."""
Answers = Mapping[int, str | tuple[str, Any]]
"""By status: when it is given, and the type of its JSON or its Content; the text alone where no body is."""

UNAVAILABLE: Final = {503: "Not available now"}
BAD_PARAMETER: Final = {400: "A bad or unknown parameter", **UNAVAILABLE}
OF_A_JOB: Final = {**BAD_PARAMETER, 404: "Unknown job"}

Line = Annotated[str, LINE]
Whole = Annotated[int, Also(minimum=0, maximum=MOST)]
User = Annotated[int, Also(minimum=-(1 << 63), maximum=(1 << 63) - 1)]
Since = Time | Annotated[float, Also(minimum=0, maximum=99_999_999_999)]

_BINARY: Final = {"schema": {"type": "string", "format": "binary"}}
# Generators take the first media type that they know, and of those of bytes many know this one alone. So it
# stands before the one that is sent: else a zip would be read as the JSON beside it, or not at all.
BYTES: Final = {"application/octet-stream": _BINARY}
ZIP: Final = {**BYTES, "application/zip": _BINARY}
ANY_FILE: Final[Content] = {**BYTES, "*/*": {}}
TEXT: Final = {"text/plain": {"schema": {"type": "string"}}}
HTML: Final = {"text/html": {"schema": {"type": "string"}}}
ORDER: Final = Annotated[ReasonBody, Also(additionalProperties=False)]


def describe(
    summary: str,
    *parameters: dict[str, Any],
    answers: Answers,
    errors: Mapping[int, str] | None = None,
    body: Any = None,
    body_required: bool = False,
    location: int | None = None,
    tag: str = "v1",
) -> Callable[[Route], Route]:
    """Describe a route whose operation is called as its function is. `errors` are refusals by status; `body`
    is a type, or Content, of the request's; `location` the status that comes with one. What is in the path is
    described by the document."""
    refused = refusal_content(tag)
    operation: dict[str, Any] = {
        "summary": summary,
        "tags": [tag],
        "responses": {
            **{str(status): _answer(one) for status, one in answers.items()},
            **{str(status): _answer((text, refused)) for status, text in (errors or {}).items()},
        },
    }
    if parameters:
        operation["parameters"] = list(parameters)
    if location is not None:
        operation["responses"][str(location)]["headers"] = {"Location": {"schema": {"type": "string"}}}
    if body is not None:
        operation["requestBody"] = {"required": body_required, "content": _content(body)}

    def attach(route: Route) -> Route:
        first, *words = route.__name__.split("_")
        vars(route)["openapi"] = operation | {"operationId": first + "".join(map(str.capitalize, words))}
        return route

    return attach


def refusal_content(tag: str) -> Content:
    """The body of a refusal of a route of this tag."""
    problem = {"application/problem+json": {"schema": schema_of(ProblemBody)}}
    return problem if tag == "v1" else json_of(RefusedBody)


def in_query(name: str, description: str, kind: Any) -> dict[str, Any]:
    return {"name": name, "in": "query", "description": description, "schema": schema_of(kind)}


CURSOR: Final = in_query(
    "cursor", "The `next` of the page before", Annotated[str, Also(pattern="^[A-Za-z0-9_-]+$")]
)


LINK: Final = in_query(
    "link", "The signature of a link that was made for this path; not looked at beside a token", str
)


def in_header(name: str, description: str, kind: Any) -> dict[str, Any]:
    return {"name": name, "in": "header", "description": description, "schema": schema_of(kind)}


def idempotency_header(description: str) -> dict[str, Any]:
    return in_header("Idempotency-Key", description, Annotated[str, Also(pattern="^[!-~]{1,255}$")])


def page_of(item: Any, **more: Any) -> Content:
    """A list's JSON: items of a type, and fields that this one has `more`, or otherwise."""
    properties = {"items": {"type": "array", "items": schema_of(item)}} | {
        name: schema_of(kind) for name, kind in ({"next": str | None} | more).items()
    }
    schema = {"type": "object", "properties": properties, "required": list(properties)}
    return {"application/json": {"schema": schema}}


def events_of(*kinds: Any) -> Content:
    """Server-sent events whose data is one of these. OpenAPI before 3.2 has the schema tell of one event;
    a generated client that awaits the whole body has their text, so either is allowed."""
    data = {"anyOf": [schema_of(kind) for kind in kinds]}
    text = {"type": "string"}
    encoded = text | {"contentMediaType": "application/json", "contentSchema": data}
    event = {"type": "object", "properties": {"id": text, "event": text, "data": encoded}}
    return {"text/event-stream": {"schema": {"anyOf": [event | {"required": ["data"]}, text]}}}


def json_of(kind: Any) -> Content:
    return {"application/json": {"schema": schema_of(kind)}}


def _content(of: Any) -> Content:
    return of if isinstance(of, Mapping) else json_of(of)


def _answer(of: str | tuple[str, Any]) -> dict[str, Any]:
    if isinstance(of, str):
        return {"description": of}
    return {"description": of[0], "content": _content(of[1])}
