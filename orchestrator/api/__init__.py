"""The server over HTTP: the published contract, and what is ours under `/v1`."""

from __future__ import annotations

from quart_trio import QuartTrio

from orchestrator.api import (
    activity,
    contract,
    dashboard,
    events,
    job_files,
    logs,
    nodes,
    orders,
    pages,
    scaling,
    service_routes,
    usage,
    v1,
)
from orchestrator.api.problems import make_app
from orchestrator.api.services import Api

__all__ = ["Api", "create_app"]


def create_app(services: Api) -> QuartTrio:
    """The ASGI app with all routes, on what `services` holds."""
    app = make_app()
    app.register_blueprint(contract.blueprint(services))
    for part in (v1, job_files, logs, events, orders, service_routes, usage, activity):
        app.register_blueprint(part.blueprint(services))
    app.register_blueprint(nodes.blueprint(services))
    app.register_blueprint(scaling.blueprint(services))
    app.register_blueprint(pages.blueprint(services.version, services.services))
    app.register_blueprint(dashboard.blueprint())
    return app
