"""What an orchestrator orders of attempts by their keys, whether it comes by a request or by a link."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from actors.domain.ids import is_key
from actors.domain.payload import Payload
from actors.wire.errors import BadRequest
from actors.wire.files.names import printable
from actors.wire.protocol.attempts import view_to_json
from node.api.app import NodeContext
from node.payloads.table import view_of


def parse_keys(listed: object) -> list[str]:
    """Each once. Raises `BadRequest`."""
    if not isinstance(listed, list):
        raise BadRequest("keys: a list was expected")
    for key in listed:
        if not is_key(key):
            raise BadRequest(f"keys: {printable(repr(key))} is no key (32 hex digits)")
    return list(dict.fromkeys(listed))


async def cancel(context: NodeContext, keys: Sequence[str]) -> list[dict[str, Any]]:
    """Raises `OSError`, as `release` does."""
    payloads = await context.table.cancel(keys)
    context.receiver.refuse(keys)
    return [
        {"key": key, "result": "tombstoned", "payload": None} if payload is None else _found(payload)
        for key, payload in zip(keys, payloads, strict=True)
    ]


async def release(context: NodeContext, keys: Sequence[str]) -> list[dict[str, Any]]:
    await context.table.release(keys)
    context.receiver.refuse(keys)
    return [{"key": key, "result": "released"} for key in keys]


async def lookup(context: NodeContext, keys: Sequence[str]) -> list[dict[str, Any]]:
    there, dead = context.table.find_known(keys)

    def one(key: str) -> dict[str, Any]:
        if key in there:
            return _found(there[key])
        result = "receiving" if key in context.receiver.receiving else "gone"
        return {"key": key, "result": "tombstoned" if key in dead else result, "payload": None}

    return [one(key) for key in keys]


def _found(payload: Payload) -> dict[str, Any]:
    return {"key": payload.key, "result": "found", "payload": view(payload)}


def view(payload: Payload) -> dict[str, Any]:
    return view_to_json(view_of(payload))
