"""The OpenAPI document, gathered from what the app's routes say of themselves."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any, Final

from quart import Quart

from actors.domain.ids import MAX_ID
from orchestrator.access.links import PARAMETER, RULES
from orchestrator.access.roles import Access, access_to
from orchestrator.api.openapi.describe import refusal_content
from orchestrator.api.openapi.examples import examples
from orchestrator.api.openapi.schemas import components

_IN_PATH: Final = re.compile(r"<(?:\w+:)?(\w+)>")
_PARAMETERS: Final[dict[str, dict[str, Any]]] = {
    "number": {"name": "id", "schema": {"type": "integer", "minimum": 1, "maximum": MAX_ID}},
    "node_id": {
        "name": "id",
        "description": "The node's id; that of a node which knows only the contract is its URL, "
        "percent-encoded",
        "schema": {"type": "string"},
    },
    "name": {"name": "name", "schema": {"type": "string"}},
    "token_id": {"name": "id", "description": "The token's id, no secret", "schema": {"type": "string"}},
    "batch_id": {"name": "id", "schema": {"type": "string"}},
    "path": {"name": "path", "schema": {"type": "string"}},
}
"""What a route takes from its path, by the name that it has in its functions."""


def document(app: Quart, version: str, services: Iterable[str]) -> dict[str, Any]:
    """The whole document, of a server with these services."""
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Job orchestrator",
            "version": version or "0",
            "description": "Queues jobs, keeps quotas, runs them on compute nodes, serves the results. "
            "The routes outside /v1 are the published contract of job-orchestrator 2.x.",
            "license": {"name": "MIT", "identifier": "MIT"},
        },
        # Relative to where the document is, so that it holds behind a proxy that takes a prefix away.
        "servers": [{"url": "..", "description": "Where this document is from"}],
        "paths": _paths(app),
        "components": {"schemas": _schemas(services), "securitySchemes": _SCHEMES},
    }


def _paths(app: Quart) -> dict[str, Any]:
    paths: dict[str, Any] = {}
    for rule in app.url_map.iter_rules():
        operation = vars(app.view_functions[rule.endpoint]).get("openapi")
        if operation is None:
            continue  # a test holds that every route is described
        taken = [{"in": "path", "required": True} | _PARAMETERS[name] for name in _IN_PATH.findall(rule.rule)]
        path = path_of(rule.rule)
        for method in (rule.methods or set()) - {"HEAD", "OPTIONS"}:
            parameters = [*taken, *operation.get("parameters", ())]
            found = paths.setdefault(path, {})
            access = access_to(method, rule.rule)
            responses = _refusals(path, access) | operation["responses"]
            found[method.lower()] = (
                operation
                | _access(rule.rule, access)
                | {"responses": responses}
                | ({"parameters": parameters} if parameters else {})
            )
    return paths


_SCHEMES: Final = {
    "token": {
        "type": "http",
        "scheme": "bearer",
        "description": "A token, as `orchestrator token create` makes",
    },
    "link": {
        "type": "apiKey",
        "in": "query",
        "name": PARAMETER,
        "description": "What a link has that POST /v1/jobs/{id}/links gives, for this very path",
    },
}


def _access(rule: str, access: Access) -> dict[str, Any]:
    """Who an operation is for. What may be open is open to nobody who relies on it."""
    roles = ", ".join(sorted(access.roles))
    if access.everybody:
        return {"security": []}
    open_to_all = ", or for everybody where the contract is open" if access.contract else ""
    shown = ("token", "link") if rule in RULES else ("token",)
    return {"security": [{scheme: []} for scheme in shown], "x-roles": f"{roles}{open_to_all}"}


def path_of(rule: str) -> str:
    """A route's path as the document has it."""
    return _IN_PATH.sub(lambda found: f"{{{_PARAMETERS[found[1]]['name']}}}", rule)


def _refusals(path: str, access: Access) -> dict[str, Any]:
    """What the gate answers."""
    content = refusal_content("v1" if path.startswith("/v1/") else "contract")
    said = {429: "Too many requests by this token or address: `code` names the limit"}
    if not access.everybody:
        said[401] = "No token, or one that does not hold"
        said[403] = "Not for this role, or a page of another site"
    return {str(status): {"description": text, "content": content} for status, text in said.items()}


def _schemas(services: Iterable[str]) -> dict[str, Any]:
    """The components with examples. Which services there are is an example too: code that is generated from
    the document of one server has to fit another, and the same one after a service was added."""
    found = components()
    for name, some in examples().items():
        found[name]["examples"] = some
    if known := sorted(services):
        upload = found["Upload"]
        upload["examples"] = [{**one, "service": known[0]} for one in upload["examples"]]
    return found
