"""The node's HTTP app: the contract's routes and ours, on one port."""

from __future__ import annotations

from quart_trio import QuartTrio

from actors.wire.http.web_pages import refuse_pages
from node.api.app import Services, make_node_app
from node.api.attempts import v1_routes
from node.api.contract import contract_routes


def create_app(services: Services) -> QuartTrio:
    app = make_node_app(services.table.node_id)
    app.before_request(refuse_pages)
    app.register_blueprint(contract_routes(services))
    app.register_blueprint(v1_routes(services))
    return app
