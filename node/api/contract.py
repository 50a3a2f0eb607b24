"""The published contract's routes of a node. Servers that know only that page drive it by these."""

from __future__ import annotations

import logging
from typing import Final

import trio
from quart import Blueprint, Response, request

from actors.domain.payload import Payload
from actors.domain.status import Status
from actors.wire.http.app import Refusal, json_response, read_job_id
from actors.wire.http.patience import SILENCE
from actors.wire.protocol.contract import payload_body, status_body
from node.api.app import NodeContext
from node.api.results import zip_response

log: Final = logging.getLogger("node.api")

KILL_PATIENCE: Final = 4.0
"""Seconds beyond the grace that a kill may take before it is told as not successful."""


def contract_routes(context: NodeContext) -> Blueprint:
    routes = Blueprint("contract", __name__)
    table = context.table

    @routes.get("/")
    async def ping() -> Response:
        return json_response({"message": "pong"})

    @routes.get("/health")
    async def health() -> Response:
        return json_response({"status": "ok", "database": "ok"})

    @routes.get("/load")
    async def load() -> Response:
        return json_response(round(context.load.now.load, 1))

    @routes.post("/submit")
    async def submit() -> Response:
        content_type = request.headers.get("Content-Type", "")
        payload = await context.receiver.contract(content_type, request.body)
        return json_response(_body(payload))

    @routes.get("/retrieve/<text>")
    async def retrieve(text: str) -> Response:
        payload = await _find(text)
        if payload.status is not Status.COMPLETED:
            return json_response(_body(payload))
        return await zip_response(context, payload)

    @routes.get("/retrieve_partial/<text>")
    async def retrieve_partial(text: str) -> Response:
        return await zip_response(context, await _find(text))

    @routes.post("/kill/<text>")
    async def kill(text: str) -> Response:
        payload = await _find(text)
        await table.cancel([payload.key])
        with trio.move_on_after(min(context.grace + KILL_PATIENCE, SILENCE)):
            await table.wait_ended(payload.key)
            return Response("", 200, content_type="application/json")
        return json_response(status_body(payload.id, payload.status, "it could not be killed yet"), 500)

    async def _find(text: str) -> Payload:
        number = read_job_id(text)
        payload = table.by_id(number)
        if payload is None:
            raise Refusal(404, "not_found", f"no payload has the id {number}")
        return payload

    def _body(payload: Payload) -> dict[str, object]:
        killed = payload.status is Status.KILLED
        where = str(context.workspace.work(payload.key))
        return {**payload_body(payload.id, payload.status, where, payload.pid, killed)}

    return routes
