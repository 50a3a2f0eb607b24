"""What the node's routes stand on, and what the errors of its rooms mean to a client."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import trio
from quart import Response, request
from quart_trio import QuartTrio

from actors.store.durable import is_full, is_passing
from actors.wire.http.app import Refusal, make_app, problem_answer
from actors.wire.http.plain_routes import NoteRequest, head_of_request
from actors.wire.http.web_pages import refuse_pages
from node.access.gate import Gate
from node.api.metrics import NodeMetrics
from node.api.small_results import SmallResults
from node.api.submit import SubmitReceiver
from node.host.inotify import Inotify
from node.host.load import LoadSampler
from node.payloads.records import OutOfIds
from node.payloads.table import PayloadTable
from node.runs.workspace import Workspace

NODE_HEADER: Final = "X-Node-Id"
"""Names the node that a request is meant for: an address may have passed to another one."""
BOOT_HEADER: Final = "X-Node-Boot"
"""Names the boot of its machine: what was ordered before may be forgotten here, and is not to begin twice."""


@dataclass(frozen=True, slots=True)
class NodeContext:
    """What the routes use. `grace`: seconds that a kill may take before SIGKILL. `executor` and `limits` are
    what `/v1/info` tells of the executor. `shutdown` ends the streams that follow something. No more than
    `most_files` are listed of a job that runs."""

    table: PayloadTable
    workspace: Workspace
    receiver: SubmitReceiver
    load: LoadSampler
    inotify: Inotify
    grace: float
    executor: str
    limits: str
    version: str
    shutdown: trio.Event
    gate: Gate
    metrics: NodeMetrics
    most_files: int
    small_results: SmallResults


def refuse_if_meant_for_another(header: Callable[[str], str | None], node_id: str, boot: str) -> None:
    """Raises `Refusal`."""
    meant, before = header(NODE_HEADER), header(BOOT_HEADER)
    if meant is not None and meant != node_id:
        raise Refusal(421, "wrong_node", f"this is node {node_id}; ask for where {meant[:100]!r} is now")
    if meant is not None and before is not None and before != boot:
        raise Refusal(421, "wrong_boot", "the machine was started anew since; ask what is there now")


def make_node_app(node_id: str, boot: str, gate: Gate, note: NoteRequest) -> QuartTrio:
    """An app without routes that does nothing that was meant for another node, or that nobody may order."""
    app = make_app("node.api", to_refusal, refuse_pages, note=note)

    @app.before_request
    async def refuse() -> Response | None:
        try:
            refuse_if_meant_for_another(request.headers.get, node_id, boot)
            path, query = (request.scope[part].decode("latin-1") for part in ("raw_path", "query_string"))
            await gate.admit(head_of_request(), path, query)
        except Refusal as refusal:
            if refusal.status != 421:
                raise
            # A problem on any page: only who knows `/v1` names the node.
            return problem_answer(refusal).to_response()
        return None

    return app


def to_refusal(error: Exception) -> Refusal | None:
    match error:
        case OutOfIds():
            return Refusal(503, "out_of_ids", str(error))
        case OSError() if is_full(error):
            return Refusal(507, "disk_full", "the node's disk is full")
        case _ if is_passing(error):
            return Refusal(503, "busy", f"the node has too little to work with: {error}")
        case _:
            return None
