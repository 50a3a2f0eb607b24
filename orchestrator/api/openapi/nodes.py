"""The OpenAPI document's part on nodes."""

from __future__ import annotations

from typing import Any, Final

from orchestrator.api.openapi.parts import REASON, answer, json, listed, operation, problems, query

_NODE: Final = {"$ref": "#/components/schemas/Node"}
_ID: Final = {
    "name": "id",
    "in": "path",
    "required": True,
    "description": "The node's id; that of a node which knows only the contract is its URL, percent-encoded",
    "schema": {"type": "string"},
}


def paths() -> dict[str, Any]:
    unknown = problems(_404="Unknown node", _503="Not available now")
    bad = problems(_400="No JSON", _413="Too large", _422="A field is unknown or wrong")
    joining = _body({"$ref": "#/components/schemas/JoiningNode"}, required=True)
    drain = _body(REASON)
    joined = json({"$ref": "#/components/schemas/JoinedNode"})
    return {
        "/v1/nodes": {
            "get": operation(
                "nodes",
                "The nodes as the scheduler sees them",
                "v1",
                {"200": answer("All", json(listed(_NODE))), **problems(_503="Not available now")},
            ),
            "post": operation(
                "joinNode",
                "A node joins, or says again who it is: the same request may be repeated for ever",
                "v1",
                {
                    "200": answer("It is known", joined),
                    "201": answer("It has joined", joined),
                    **bad,
                    **problems(
                        _409="Another node answers at the URL, or the machine's token is another node's",
                        _422="A field is wrong, no service of it is known, or the node cannot be asked",
                        _503="The ledger cannot be written now",
                    ),
                },
                requestBody=joining,
            ),
        },
        "/v1/nodes/{id}": {
            "get": operation(
                "node", "One node", "v1", {"200": answer("The node", json(_NODE)), **unknown}, _ID
            ),
            "delete": operation(
                "removeNode",
                "A node that joined leaves. With `force` also while jobs run there: these begin anew",
                "v1",
                {
                    "204": answer("It has left"),
                    **unknown,
                    **problems(
                        _400="A query parameter is wrong",
                        _409="It is in the settings, or jobs run there: drain it first",
                    ),
                },
                _ID,
                query("force", "Let it leave although jobs run there", {"type": "boolean", "default": False}),
            ),
        },
        "/v1/nodes/{id}/drain": {
            "post": operation(
                "drainNode",
                "Give a node no more jobs; what runs there goes on. Holds until undrain, restarts too",
                "v1",
                {"200": answer("It drains", json(_NODE)), **unknown, **bad},
                _ID,
                requestBody=drain,
            )
        },
        "/v1/nodes/{id}/undrain": {
            "post": operation(
                "undrainNode",
                "Give a node jobs again",
                "v1",
                {"200": answer("The node", json(_NODE)), **unknown},
                _ID,
            )
        },
    }


def _body(schema: dict[str, Any], *, required: bool = False) -> dict[str, Any]:
    return {"required": required, "content": json(schema)}
