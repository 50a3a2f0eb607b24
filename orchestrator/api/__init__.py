"""The server over HTTP: the published contract, and what is ours under `/v1`."""

from __future__ import annotations

import re
import time
from typing import Final, cast

from quart import request

from actors.wire.http.app import App, make_app
from actors.wire.http.backpressure import BoundedRequest
from actors.wire.http.plain_routes import Head
from actors.wire.http.web_pages import READS, make_guard
from orchestrator.access.gate import Gate
from orchestrator.access.limits import Rate
from orchestrator.access.request_log import note_and_log
from orchestrator.access.roles import still_holds
from orchestrator.api.context import ApiContext
from orchestrator.api.http import sse
from orchestrator.api.http.cors import allow_origins
from orchestrator.api.http.errors import to_refusal
from orchestrator.api.routes import (
    activity,
    audit,
    batches,
    contract,
    dashboard,
    events,
    input_changes,
    job_actions,
    job_files,
    jobs,
    links,
    logs,
    nodes,
    scaling,
    session,
    settings,
    swagger,
    tokens,
    usage,
)
from orchestrator.api.routes import services as service_routes

__all__ = ["ApiContext", "create_app"]

_ENDING: Final = re.compile(r"/v1/jobs/([0-9]{1,10})/(?:cancel|terminate|kill|stop)", re.ASCII)


def create_app(services: ApiContext) -> App:
    """The ASGI app with all routes, on what `services` holds."""
    hint = "PUBLIC_URL, the address by which people and nodes reach it, makes a name known"
    page_hint = "ALLOWED_ORIGINS lets pages of another origin ask, PUBLIC_URL says which is our own"
    guard = make_guard(services.names, _is_open, hint, page_hint)
    gate = Gate(
        services.tokens,
        services.sessions,
        guard,
        services.is_local,
        services.contract_open,
        services.sign_on,
        services.refusals,
        services.node_proofs,
        services.links,
        Rate(lambda: services.limits.token_rate, time.monotonic),
        Rate(lambda: services.limits.address_rate, time.monotonic),
    )
    app = make_app(
        "orchestrator.api",
        to_refusal,
        gate.admit,
        lambda app: allow_origins(app, services.allowed_origins),
        note_and_log(services.metrics.note_request, lambda: services.running.settings.access_log == "1"),
        suggest=_suggest,
    )

    async def list_request() -> None:
        holds, cut = still_holds.get(), sse.cut()
        # Orders are short, but for this one; and some of them end what holds.
        lasts = request.method in READS or request.path == "/upload"
        if lasts and holds is not None and cut is not None:
            cast(BoundedRequest, request).held.enter_context(services.open_requests.listed(holds, cut))

    app.before_request(list_request)
    for polled in (contract, jobs):
        app.register_blueprint(polled.blueprint(services, app.plain))
    for part in (job_files, input_changes, logs, events, job_actions, service_routes, usage, activity):
        app.register_blueprint(part.blueprint(services))
    app.register_blueprint(nodes.blueprint(services))
    app.upgrade = nodes.dialling_route(services, gate.admit)
    app.register_blueprint(links.blueprint(services))
    app.register_blueprint(batches.blueprint(services))
    app.register_blueprint(audit.blueprint(services))
    app.register_blueprint(tokens.blueprint(services))
    app.register_blueprint(session.blueprint(services))
    app.register_blueprint(settings.blueprint(services))
    app.register_blueprint(scaling.blueprint(services))
    app.register_blueprint(swagger.blueprint(services.version, services.services))
    app.register_blueprint(dashboard.blueprint(app.plain))
    return app


def _suggest(head: Head) -> str | None:
    """The contract's route where somebody looked for it under /v1."""
    if (head.method, head.path) == ("POST", "/v1/jobs"):
        return "a job is handed in by POST /upload"
    ended = _ENDING.fullmatch(head.path)
    return None if ended is None else f"a job is killed by POST /terminate/{ended[1]}"


def _is_open(path: str) -> bool:
    """Whether a path answers under any host name: the published contract's, which proxies of 2.x pass on with
    the portal's name, and what probes look at."""
    return not path.startswith(("/v1/", "/dashboard", "/metrics"))
