"""The schemas of the OpenAPI document, read off the types of `contract.bodies`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import is_dataclass
from datetime import datetime
from enum import StrEnum
from functools import cache
from types import NoneType, UnionType
from typing import (
    Annotated,
    Any,
    Final,
    Literal,
    NotRequired,
    Union,
    get_args,
    get_origin,
    get_type_hints,
    is_typeddict,
)

from actors.domain.failure import Failure
from actors.domain.node import NodeState
from actors.domain.service import WaitReason
from actors.domain.status import ENDED, Status
from actors.ports.callbacks import CallbackStatus
from orchestrator.access.roles import Role
from orchestrator.contract import batches, bodies, inputs, links
from orchestrator.contract.bodies import Also, Key, Of
from orchestrator.scheduling.troubles import TroubleKind

COMPONENTS: Final[Mapping[str, Any]] = {
    "Status": Status,
    "StatusBody": bodies.JobStatusBody,
    "Refused": bodies.RefusedBody,
    "Health": bodies.HealthBody,
    "Problem": bodies.ProblemBody,
    "Upload": bodies.UploadBody,
    "Job": bodies.Job,
    "BatchJob": bodies.BatchJob,
    "BatchRequest": bodies.BatchRequest,
    "Callback": bodies.JobCallback,
    "Batch": batches.Batch,
    "BatchOrder": batches.BatchOrderBody,
    "Cancellation": bodies.Cancellation,
    "Period": bodies.Period,
    "Event": bodies.EventBody,
    "File": bodies.File,
    "InputChanges": inputs.InputChanges,
    "LogText": bodies.LogTextBody,
    "LogEnd": bodies.LogEndBody,
    "Service": bodies.Service,
    "Usage": bodies.UsageBody,
    "Holder": bodies.Holder,
    "Trouble": bodies.Trouble,
    "Minute": bodies.MinuteBody,
    "AuditLine": bodies.AuditBody,
    "Reloaded": bodies.ReloadedBody,
    "LogLevel": bodies.LogLevelBody,
    "Link": links.LinkBody,
    "LinkOrder": links.LinkOrderBody,
    "Ready": bodies.ReadyBody,
    "Node": bodies.Node,
    "JoiningNode": bodies.JoiningNodeBody,
    "JoinedNode": bodies.JoinedNodeBody,
    "Transition": bodies.TransitionBody,
}
"""The types that the document gives a name; the others stand where they are used."""

_NAMES: Final = {kind: name for name, kind in COMPONENTS.items()}
_ENUMS: Final[Mapping[str, type[StrEnum]]] = {
    kind.__name__: kind for kind in (WaitReason, Failure, NodeState, CallbackStatus, Role, TroubleKind)
}
_SIMPLE: Final[Mapping[Any, dict[str, Any]]] = {
    str: {"type": "string"},
    int: {"type": "integer"},
    float: {"type": "number"},
    bool: {"type": "boolean"},
    datetime: {"type": "string", "format": "date-time"},
}


def components() -> dict[str, Any]:
    """The named schemas."""
    final = " and ".join((", ".join(sorted(ENDED)[:-1]), sorted(ENDED)[-1]))
    told = (
        f"{final} are final: the job has ended, and its results can be fetched. {Status.CLEANED} is one of "
        f"them whose data was deleted since. {Status.LOCKED}: it is being killed. All others wait or run"
    )
    return {
        name: _object(kind) if kind is not Status else _texts(Status) | {"description": told}
        for name, kind in COMPONENTS.items()
    }


def schema_of(hint: Any) -> dict[str, Any]:
    """The schema of a type, or of a name of one."""
    if get_origin(hint) is Annotated:
        named = next((note for note in hint.__metadata__ if isinstance(note, Of)), None)
        found = schema_of(hint.__origin__)
        if named is not None:
            found = _nullable(_named(named)) if NoneType in get_args(hint.__origin__) else _named(named)
        for note in hint.__metadata__:
            found = found | (note.keywords if isinstance(note, Also) else {})
        return found
    origin, args = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        options = [schema_of(one) for one in args if one is not NoneType]
        return {"anyOf": options} if NoneType not in args else _nullable(*options)
    if origin is Literal:
        return _texts(args)
    if origin in (tuple, list):
        return {"type": "array", "items": schema_of(args[0])}
    if origin in (dict, Mapping):
        return {"type": "object"} | (
            {"additionalProperties": schema_of(args[1])} if args[1] is not Any else {}
        )
    if hint in _NAMES:
        return _named(_NAMES[hint])
    return _SIMPLE[hint] if hint in _SIMPLE else _object(hint)


@cache
def _object(kind: Any) -> dict[str, Any]:
    assert is_dataclass(kind) or is_typeddict(kind), kind
    properties, required = {}, []
    for name, hint in get_type_hints(kind, include_extras=True).items():
        if name == "raw":
            continue
        key = next((str(note) for note in getattr(hint, "__metadata__", ()) if isinstance(note, Key)), name)
        is_optional = get_origin(hint) is NotRequired
        properties[key] = schema_of(get_args(hint)[0] if is_optional else hint)
        required += [] if is_optional else [key]
    return {"type": "object", "properties": properties} | ({"required": required} if required else {})


def _named(name: str) -> dict[str, Any]:
    return _texts(_ENUMS[name]) if name in _ENUMS else {"$ref": f"#/components/schemas/{name}"}


def _texts(known: Any) -> dict[str, Any]:
    return {"type": "string", "enum": [str(one) for one in known]}


def _nullable(schema: dict[str, Any]) -> dict[str, Any]:
    if "type" not in schema:
        return {"anyOf": [schema, {"type": "null"}]}
    known = {"enum": [*schema["enum"], None]} if "enum" in schema else {}
    return schema | {"type": [schema["type"], "null"]} | known
