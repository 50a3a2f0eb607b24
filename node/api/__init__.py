"""The node's HTTP app: the contract's routes and ours, on one port."""

from __future__ import annotations

from quart_trio import QuartTrio

from node.api.app import NodeContext, make_node_app
from node.api.attempts import v1_routes
from node.api.contract import contract_routes


def create_app(context: NodeContext) -> QuartTrio:
    app = make_node_app(context.table.node_id, context.table.machine_boot)
    app.register_blueprint(contract_routes(context))
    app.register_blueprint(v1_routes(context))
    return app
