"""The routes under `/v1`: what the contract does not tell."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from contextlib import nullcontext, suppress
from typing import Annotated, Final, Literal, get_args

import trio
from quart import Blueprint, Response

from actors.domain.job import Job
from actors.domain.status import OVER, SEVERAL, Status
from actors.wire.http.app import PASSES, Refusal, json_response, query, read_job_id, read_query
from actors.wire.http.patience import SILENCE
from actors.wire.http.plain_routes import Answer, Asked, PlainRoutes
from orchestrator.access.gate import CHALLENGE
from orchestrator.access.links import PARAMETER
from orchestrator.access.roles import Role, asking, only_theirs, still_holds
from orchestrator.api import job_views
from orchestrator.api.context import ApiContext
from orchestrator.api.http import query_params
from orchestrator.api.openapi.describe import (
    CURSOR,
    LINK,
    OF_A_JOB,
    UNAVAILABLE,
    ZIP,
    Line,
    User,
    Whole,
    describe,
    in_query,
    page_of,
)
from orchestrator.api.serializers import render_transition
from orchestrator.contract import bodies
from orchestrator.contract.bodies import Also
from orchestrator.contract.lists import JobOrder
from orchestrator.events.waiters import WaitersClosed
from orchestrator.ledger.grouped_lists import Grouping, GroupPlace
from orchestrator.ledger.job_lists import JobFilter

MOST_WAIT: Final = 86_400.0
"""Seconds that may be asked for as `wait`; waited is for SILENCE at most."""
_ANSWERED: Final = f", of which {SILENCE:g} are waited at most,"

_NOT_STORED: Final = {"Cache-Control": "no-store"}

PAGE: Final = 50
MOST_PAGE: Final = 500

_GROUPINGS: Final = {
    "user": Grouping("user"),
    "user_descending": Grouping("user", descending=True),
    "service": Grouping("service"),
    "service_descending": Grouping("service", descending=True),
}
_GROUP_PLACE: Final = re.compile(r" ([1-9][0-9]{0,9}) (.+)", re.ASCII | re.DOTALL)
"""Behind the order: the id below which a list goes on, and whose jobs they are."""

_Statuses = Annotated[
    list[str],
    Also(minItems=1, items={"type": "string", "enum": [*map(str, Status), *SEVERAL]}),
]
_ListVersion = Annotated[
    int, Also(description="Of the list: /v1/events?after=VERSION tells all that changes from here on")
]


def blueprint(api: ApiContext, plain: PlainRoutes) -> Blueprint:  # a route is a closure over what it uses
    page = Blueprint("v1", __name__, url_prefix="/v1")

    @page.get("/jobs")
    @describe(
        "Jobs, newest first, oldest first, or by user or service",
        in_query("user", "Only this user's", User),
        in_query("service", "Only this service's", Line),
        {
            **in_query("status", "Only in one of these states; active: not over, ended: over", _Statuses),
            "style": "form",
            "explode": False,
        },
        in_query("name", "Only of this name", Line),
        in_query("node", "Only those that are on this node now, by its id or its name", Line),
        in_query(
            "search",
            "A part of the name or of a tag, or the number of the job or of its user. A page may "
            "have few jobs or none and still be followed by a `next`",
            Line,
        ),
        in_query("tag", "Only with this tag", Line),
        in_query("since", "Only those that came then or later: a time, or seconds since 1970", Line),
        in_query("until", "Only those that came before it", Line),
        in_query("ended_since", "Only those that have ended then or later", Line),
        in_query(
            "order",
            "The newest or the oldest first; or those of a user, or of a service, together, the newest of "
            "each first: then a page may have few jobs or none and still be followed by a `next`",
            Annotated[JobOrder, Also(default="newest")],
        ),
        in_query(
            "estimates",
            "1: tell also when those begin and end that are not over",
            Literal["0", "1", "", "true", "false"],
        ),
        CURSOR,
        in_query("limit", "Jobs a page", Annotated[int, Also(minimum=1, maximum=MOST_PAGE, default=PAGE)]),
        answers={200: ("A page of jobs", page_of(bodies.Job, version=_ListVersion))},
        errors={400: "A bad parameter", **UNAVAILABLE},
    )
    async def list_jobs() -> Response:
        given = query(
            *("user", "service", "status", "name", "tag", "node", "search", "since", "until", "order"),
            "ended_since",
            *("estimates", "cursor", "limit"),
        )
        limit = query_params.whole(given, "limit", 1, MOST_PAGE, PAGE)
        order = query_params.one_of(given, "order", *get_args(JobOrder))
        grouping, kind = _GROUPINGS.get(order), "o" if order == "oldest" else "j"
        place = None if grouping is None else _at_group(given, order, grouping)
        beyond = query_params.at_cursor(given, kind) if grouping is None else None
        user, service, services = only_theirs(
            query_params.signed(given, "user"), query_params.line(given, "service")
        )
        for name in ("name", "tag", "search"):
            if name in given and asking.get().role is Role.READER:
                raise Refusal(403, "wrong_role", f"{name}: names are not for the role reader")
        node = query_params.line(given, "node")
        wanted = JobFilter(
            user=user,
            service=service,
            services=services,
            statuses=query_params.statuses(given),
            name=query_params.line(given, "name"),
            tag=query_params.line(given, "tag"),
            node=node and (api.registry.names.find(node) or node),
            search=query_params.line(given, "search") or None,
            since=query_params.moment(given, "since"),
            until=query_params.moment(given, "until"),
            ended_since=query_params.moment(given, "ended_since"),
            oldest_first=order == "oldest",
        )
        version = await api.ledger.queries.newest_change()
        rows: Sequence[Job]
        after: str | None = None
        if grouping is None:
            timed = await api.ledger.queries.page(wanted, beyond, limit)
            rows = timed.jobs
            if timed.beyond is not None:
                after = query_params.cursor(kind, timed.beyond)
        else:
            grouped = await api.ledger.queries.group_page(wanted, grouping, place, limit)
            rows = grouped.jobs
            if grouped.beyond is not None:
                after = _group_cursor(order, grouped.beyond)
        items = await job_views.render_jobs(api, rows, estimated=query_params.flag(given, "estimates"))
        return json_response({"items": items, "next": after, "version": version})

    @plain.get(page, "/jobs/<number>", takes_query=True)
    @describe(
        "One job; with `wait` as soon as it changes",
        in_query(
            "wait",
            f"Seconds to wait at most; more than {SILENCE:g} counts as {SILENCE:g}: ask again, with `after`",
            Annotated[float, Also(minimum=0, maximum=MOST_WAIT)],
        ),
        in_query("after", "Answer once its version is above this", Whole),
        in_query("until", "Answer once it has ended", Literal["ended"]),
        answers={200: ("The job", bodies.Job)},
        errors=OF_A_JOB,
    )
    async def job(asked: Asked) -> Answer:
        given = read_query(asked.query, "wait", "after", "until")
        number = read_job_id(asked.part)
        row = await (_wait_for_change(api, number, given) if given else job_views.find(api, number))
        return Answer(200, "application/json", await job_views.write_in_full(api, row), _NOT_STORED)

    @page.get("/jobs/<number>/results")
    @describe(
        "The results of an ended job, whatever its end",
        LINK,
        answers={
            200: ("A zip; with a strong ETag and ranges if the job had run", ZIP),
            206: ("The range", ZIP),
            304: "Unchanged",
        },
        errors=OF_A_JOB | {409: "Not ended yet", 416: "Nothing in this range"},
    )
    async def results(number: str) -> Response:
        query(PARAMETER)
        row = await job_views.find(api, read_job_id(number))
        if row.status not in OVER:
            raise Refusal(
                409,
                "not_ended",
                f"job {row.id} is {row.status}; /download_partial/{row.id} sends what is there",
                headers=PASSES,
            )
        return await job_views.send_results(api, row)

    @page.get("/jobs/<number>/history")
    @describe(
        "Every transition", answers={200: ("In order", page_of(bodies.TransitionBody))}, errors=OF_A_JOB
    )
    async def history(number: str) -> Response:
        query()
        row = await job_views.find(api, read_job_id(number))
        items = [
            render_transition(entry, api.registry.names.of) for entry in await api.ledger.history(row.id)
        ]
        return json_response({"items": items, "next": None})

    return page


def _group_cursor(order: str, place: GroupPlace) -> str:
    return query_params.text_cursor(order, f" {place.below} {place.group}")


def _at_group(given: Mapping[str, str], order: str, grouping: Grouping) -> GroupPlace | None:
    found = query_params.at_text_cursor(given, order, _GROUP_PLACE)
    if found is None:
        return None
    if grouping.by == "service":
        return GroupPlace(found[2], int(found[1]))
    user = query_params.signed({"cursor": found[2]}, "cursor")
    assert user is not None
    return GroupPlace(user, int(found[1]))


async def _wait_for_change(api: ApiContext, number: int, given: Mapping[str, str]) -> Job:
    """The job's row; with `wait` as soon as it is newer than `after` (or than now), or over if `until` says
    so."""
    wait = min(query_params.seconds(given, "wait", MOST_WAIT, _ANSWERED), SILENCE)
    after = query_params.whole(given, "after", 0, query_params.MOST, -1)
    until = given.get("until")
    if until not in (None, "ended"):
        raise Refusal(400, "bad_parameter", f"until {until[:100]!r}: ended was expected")
    if wait == 0:
        return await job_views.find(api, number)
    holds, waiting, revoked = still_holds.get(), trio.CancelScope(), False

    def cut() -> None:
        nonlocal revoked
        revoked = True
        waiting.cancel()

    listed = nullcontext() if holds is None else api.open_requests.listed(holds, cut)
    with listed, api.waiters.watch(number) as watch:
        row = await job_views.find(api, number)
        if row.change_seq < after <= api.ledger.begun_after:
            return row  # what was told before a power cut was taken back by it
        wanted = after if after >= 0 else (-1 if until else row.change_seq)

        def is_enough(row: Job) -> bool:
            if row.status is Status.CLEANED:  # nothing comes after it
                return True
            return row.change_seq > wanted and (not until or row.status in OVER)

        if not is_enough(row):
            waiting.deadline = trio.current_time() + wait
            with waiting, suppress(WaitersClosed):
                await watch.newer(row.change_seq, is_enough)
            if watch.newest is not None and watch.newest.change_seq > row.change_seq:
                row = watch.newest
        if revoked:
            detail = "the token has expired or been revoked meanwhile"
            raise Refusal(401, "bad_token", detail, headers=CHALLENGE)
        return row
