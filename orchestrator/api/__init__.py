"""The server over HTTP: the published contract, and what is ours under `/v1`."""

from __future__ import annotations

from quart_trio import QuartTrio

from actors.wire.http.app import make_app
from orchestrator.api.context import Api
from orchestrator.api.http.errors import to_refusal
from orchestrator.api.routes import (
    activity,
    contract,
    dashboard,
    events,
    job_actions,
    job_files,
    jobs,
    logs,
    nodes,
    scaling,
    swagger,
    usage,
)
from orchestrator.api.routes import services as service_routes

__all__ = ["Api", "create_app"]


def create_app(services: Api) -> QuartTrio:
    """The ASGI app with all routes, on what `services` holds."""
    app = make_app("orchestrator.api", to_refusal)
    app.register_blueprint(contract.blueprint(services))
    for part in (jobs, job_files, logs, events, job_actions, service_routes, usage, activity):
        app.register_blueprint(part.blueprint(services))
    app.register_blueprint(nodes.blueprint(services))
    app.register_blueprint(scaling.blueprint(services))
    app.register_blueprint(swagger.blueprint(services.version, services.services))
    app.register_blueprint(dashboard.blueprint())
    return app
