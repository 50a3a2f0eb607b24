"""The node's HTTP app, the contract's routes and ours, and its links, on one port."""

from __future__ import annotations

from typing import Final

from quart_trio import QuartTrio

from actors.wire.http.plain_routes import Head
from actors.wire.http.upgrades import WebSocketRoute
from actors.wire.http.web_pages import refuse_pages
from actors.wire.link.session import MAX_FRAME
from node.api.app import NodeContext, make_node_app, refuse_if_meant_for_another
from node.api.attempts import v1_routes
from node.api.contract import contract_routes
from node.api.link import Links
from node.api.metrics import metrics_route

LINK: Final = "/v1/link"


def create_app(context: NodeContext) -> QuartTrio:
    table, note = context.table, context.metrics.note_request
    app = make_node_app(table.node_id, table.machine_boot, context.gate, note)
    app.register_blueprint(contract_routes(context))
    app.register_blueprint(v1_routes(context))
    app.register_blueprint(metrics_route(context.metrics))
    return app


def link_route(context: NodeContext) -> WebSocketRoute:
    """Where orchestrators open their links."""

    async def admit(head: Head) -> None:
        await refuse_pages(head)
        refuse_if_meant_for_another(head.header, context.table.node_id, context.table.machine_boot)
        await context.gate.admit_link(head)

    return WebSocketRoute(LINK, admit, Links(context).serve, MAX_FRAME)
