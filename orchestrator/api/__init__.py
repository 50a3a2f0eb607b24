"""The server over HTTP: the published contract, and what is ours under `/v1`."""

from __future__ import annotations

from quart_trio import QuartTrio

from orchestrator.api import contract, nodes, pages, scaling, v1
from orchestrator.api.problems import make_app
from orchestrator.api.services import Api

__all__ = ["Api", "create_app"]


def create_app(services: Api) -> QuartTrio:
    """The ASGI app with all routes, on what `services` holds."""
    app = make_app()
    app.register_blueprint(contract.blueprint(services))
    app.register_blueprint(v1.blueprint(services))
    app.register_blueprint(nodes.blueprint(services))
    app.register_blueprint(scaling.blueprint(services))
    app.register_blueprint(pages.blueprint(services.version))
    return app
