"""The node's own protocol under `/v1`: attempts by their keys, many in one request, and the event stream."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

import trio
from quart import Blueprint, Response, request

from actors.domain.ids import is_key
from actors.domain.node import StreamPosition
from actors.domain.payload import Payload
from actors.wire.errors import BadRequest, TooLarge
from actors.wire.files.names import printable
from actors.wire.http.app import PASSES, Refusal, json_response, query
from actors.wire.link.session import VERSION
from actors.wire.protocol import ndjson
from actors.wire.protocol.attempts import PROTOCOL, heartbeat_to_json, mark_to_json
from node.access.gate import refuse_other_owner, speaking
from node.api import orders
from node.api.app import BOOT_HEADER, NODE_HEADER, NodeContext
from node.api.packing import CollectForm
from node.api.results import (
    collect_response,
    file_list,
    file_response,
    log_response,
    zip_response,
)
from node.api.submit import Item, ItemResult
from node.payloads.table import is_told

HEARTBEAT_EVERY: Final = 1.0
EVENTS_AT_ONCE: Final = 200
KEYS_LIMIT: Final = 8 << 20
"""Bytes of a request that lists keys."""

_ALONE: Final = {
    ItemResult.ACCEPTED: 200,
    ItemResult.KNOWN: 200,
    ItemResult.TOMBSTONED: 410,
    ItemResult.MALFORMED: 400,
    ItemResult.BUSY: 503,
}


def v1_routes(context: NodeContext) -> Blueprint:
    routes = Blueprint("v1", __name__, url_prefix="/v1")
    table = context.table

    @routes.get("/info")
    async def info() -> Response:
        query()
        beat = context.load.now
        identity = {
            "protocol": PROTOCOL,
            "link": VERSION,
            "node_id": table.node_id,
            "machine_boot": table.machine_boot,
        }
        if context.gate.door.closed and speaking.get() is None:
            return json_response(identity)
        return json_response(
            {
                **identity,
                "incarnation": table.incarnation,
                "version": context.version,
                "clock": time.time(),
                "slots": beat.slots,
                "cores": beat.cores,
                "executor": context.executor,
                "limits": context.limits,
            }
        )

    @routes.get("/events")
    async def events() -> Response:
        owner = query("owner").get("owner")
        refuse_other_owner(owner)
        return Response(_events(context, owner), content_type="application/x-ndjson")

    @routes.post("/attempts")
    async def submit() -> Response:
        query()
        content_type = request.headers.get("Content-Type", "")
        # Who names no boot may bring an attempt again to another one.
        through = not all(name in request.headers for name in (NODE_HEADER, BOOT_HEADER))
        items = await context.receiver.attempts(content_type, request.body, through=through)
        status = _alone(items[0]) if len(items) == 1 else 200
        answer = {**mark_to_json(table.mark), "items": [item.to_json() for item in items]}
        return json_response(answer, status)

    @routes.get("/attempts/<key>")
    async def attempt(key: str) -> Response:
        query()
        payload = await _find(key)
        return json_response({**mark_to_json(table.mark), "payload": orders.view(payload)})

    @routes.post("/cancel")
    async def cancel() -> Response:
        query()
        return _answer(table.mark, await orders.cancel(context, await _keys()))

    @routes.post("/release")
    async def release() -> Response:
        query()
        return _answer(table.mark, await orders.release(context, await _keys()))

    @routes.post("/collect")
    async def collect() -> Response:
        query()
        asked = await _request()
        return collect_response(context, orders.parse_keys(asked["keys"]), _form_of(asked))

    @routes.get("/attempts/<key>/results")
    async def results(key: str) -> Response:
        query()
        return await zip_response(context, await _find(key))

    @routes.get("/attempts/<key>/files")
    async def files(key: str) -> Response:
        query()
        return json_response(await file_list(context, await _find(key)))

    @routes.get("/attempts/<key>/files/<file:path>")
    async def file(key: str, path: str) -> Response:
        query()
        return await file_response(context, await _find(key), path)

    @routes.get("/attempts/<key>/logs")
    async def logs(key: str) -> Response:
        given = query("stream", "offset", "follow", "tail")
        return await log_response(context, await _find(key), given)

    async def _find(key: str) -> Payload:
        if is_key(key):
            payload = table.get(key)
            if payload is not None:
                return payload
            if table.is_tombstoned(key):
                raise Refusal(410, "tombstoned", "it was cancelled or released and will never run here")
            if key in context.receiver.receiving:
                raise Refusal(409, "receiving", "it is being received; ask again", headers=PASSES)
        raise Refusal(404, "not_found", f"no attempt has the key {printable(key)}")

    return routes


async def _events(context: NodeContext, owner: str | None) -> AsyncIterator[bytes]:
    table = context.table
    async with table.subscribe(owner) as (picture, mark, changes):
        beat = await heartbeat(context)
        yield ndjson.encode(
            {
                "event": "picture",
                **mark_to_json(mark),
                "payloads": [orders.view(payload) for payload in picture],
                "heartbeat": beat,
                "executor": executor(context),
            }
        )
        sequence, next_beat = mark.sequence, trio.current_time() + HEARTBEAT_EVERY
        while True:
            changed: list[Payload] = []
            try:
                with trio.move_on_at(next_beat):
                    changed.append(await changes.receive())
                    # Those that are there already go along, in one piece.
                    while len(changed) < EVENTS_AT_ONCE:
                        changed.append(changes.receive_nowait())
            except trio.WouldBlock:
                pass
            except trio.EndOfChannel:
                if not changed:
                    if (last := table.subscriptions.farewell) is not None:
                        yield ndjson.encode({"event": "leaving", "held": last.held, "back": last.back})
                    return
            if changed:
                sequence = changed[-1].sequence
                mine = [payload for payload in changed if is_told(payload, owner)]
                told = [{"event": "payload", "sequence": p.sequence, "payload": orders.view(p)} for p in mine]
                if told:
                    yield b"".join(map(ndjson.encode, told))
            if trio.current_time() >= next_beat:
                # From now on, not from when it was due: a sleeping machine owes no heartbeats.
                next_beat = trio.current_time() + HEARTBEAT_EVERY
                beat = await heartbeat(context)
                yield ndjson.encode({"event": "heartbeat", "sequence": sequence, "heartbeat": beat})


async def heartbeat(context: NodeContext) -> dict[str, Any]:
    measured = context.load.now
    # What one of several owners has waiting here would fill the node in the eyes of the others, for as long
    # as it has more of that.
    ahead = 0 if len(context.table.subscriptions.owners) > 1 else measured.ahead
    beat = replace(measured, tally=context.table.tally, ahead=ahead)
    return heartbeat_to_json(beat, context.table.count_held(), time.time())


def executor(context: NodeContext) -> dict[str, str]:
    """What scripts are kept from here, which is the same for as long as the node runs."""
    return {"name": context.executor, "limits": context.limits}


async def _keys() -> list[str]:
    """The keys that a request lists. Raises `WireError`."""
    return orders.parse_keys((await _request())["keys"])


async def _request() -> dict[str, Any]:
    body = bytearray()
    async for chunk in request.body:
        body += chunk
        if len(body) > KEYS_LIMIT:
            raise TooLarge(f"the body is larger than {KEYS_LIMIT} bytes", KEYS_LIMIT)
    try:
        asked = json.loads(body)
    except (ValueError, RecursionError):
        asked = None
    if not isinstance(asked, dict) or "keys" not in asked:
        raise BadRequest('an object was expected: {"keys": [...]}')
    return asked


def _form_of(asked: Mapping[str, Any]) -> CollectForm:
    return CollectForm(str(asked.get("sums")), asked.get("as_received") is True)


def _alone(item: Item) -> int:
    assert item.result is not None
    return 507 if item.disk_full else _ALONE[item.result]


def _answer(mark: StreamPosition, items: Sequence[dict[str, Any]]) -> Response:
    return json_response({**mark_to_json(mark), "items": list(items)})
