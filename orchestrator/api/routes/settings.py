"""`/v1/reload`: the settings are read again. `/v1/log-level`: what the log says."""

from __future__ import annotations

from quart import Blueprint, Response

from actors.process.log_lines import LEVELS, find_level, set_level
from actors.wire.http.app import Refusal, json_response, query
from orchestrator.access.audit import entry_of
from orchestrator.api.context import ApiContext
from orchestrator.api.http.json_body import read_json_object, refuse_field, refuse_unknown
from orchestrator.api.openapi.describe import BAD_PARAMETER, UNAVAILABLE, describe
from orchestrator.contract.bodies import LogLevelBody, ReloadedBody
from orchestrator.reloading import BadSettings, NothingToRead
from orchestrator.scheduling.troubles import find_nodeless, tell_nodeless


def blueprint(api: ApiContext) -> Blueprint:
    page = Blueprint("v1-settings", __name__, url_prefix="/v1")

    @page.post("/reload")
    @describe(
        "Read the settings again: services, quotas and limits change, running jobs go on",
        answers={200: ("What has changed", ReloadedBody)},
        errors=BAD_PARAMETER
        | {
            409: "The settings have mistakes, all of which are told; nothing has changed",
            413: "The body is too large",
            422: "A bad field",
            **UNAVAILABLE,
        },
    )
    async def reload() -> Response:
        query()
        refuse_unknown(await read_json_object())

        async def note(detail: str) -> None:
            await api.ledger.note_orders([entry_of("reload", detail=detail)])

        try:
            changes = await api.running.reload(note)
        except BadSettings as error:
            raise Refusal(409, "bad_settings", str(error)) from error
        except NothingToRead as error:
            raise Refusal(409, "nothing_to_read", str(error)) from error
        now = changes.settings
        nodeless = find_nodeless(now.services, {*api.registry.served(), *now.scaling})
        body: ReloadedBody = {
            "changed": list(changes.made),
            "after_restart": list(changes.after_restart),
            "warnings": [*now.warnings, *([tell_nodeless(*nodeless)] if nodeless else [])],
        }
        return json_response(body)

    @page.get("/log-level")
    @describe(
        "What the log says at least now: as it is set, or as it was ordered since",
        answers={200: ("The level", LogLevelBody)},
        errors=BAD_PARAMETER,
    )
    async def present_log_level() -> Response:
        query()
        return json_response({"level": find_level("orchestrator") or api.running.settings.log_level})

    @page.post("/log-level")
    @describe(
        "Let the log say what is of this level at least, until the next restart or reload",
        answers={200: ("What it says now", LogLevelBody)},
        errors=BAD_PARAMETER | {413: "The body is too large", 422: "A bad field"},
        body=LogLevelBody,
    )
    async def log_level() -> Response:
        query()
        body = await read_json_object()
        refuse_unknown(body, "level")
        level = body.get("level")
        if level not in LEVELS:
            refuse_field("level", f"one of {', '.join(LEVELS)}")
        await api.ledger.note_orders([entry_of("log-level", detail=level)])
        set_level("orchestrator", level)
        return json_response({"level": level})

    return page
