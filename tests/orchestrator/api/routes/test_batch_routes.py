"""`/v1/batches` through the routes: what is ordered, what is refused, who sees it, and how it is told."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from support.data.ledgers import new_job, walk
from support.processes.api_server import Server, api_server, credentials

from actors.domain.status import Status
from actors.ports.callbacks import CallbackStatus, DeliveryOutcome, Subject
from actors.wire.http.app import Refusal
from orchestrator.access.audit import AuditFilter
from orchestrator.access.roles import Role
from orchestrator.api import job_views
from orchestrator.callbacks.allowed_hosts import CallbackHosts, parse_rule

HOSTS = CallbackHosts((parse_rule("portal.example.org"),))
URL = "https://portal.example.org/done"
AT = "2023-11-14T22:13:20.000Z"


async def order(server: Server, jobs: Any, url: Any = URL, **more: Any) -> Any:
    return await server.client.post("/v1/batches", json={"jobs": jobs, "callback_url": url}, **more)


async def test_a_batch_is_ordered_shown_and_told(tmp_path: Path) -> None:
    async with api_server(tmp_path, callbacks=HOSTS) as server:
        jobs = [await server.ledger.insert(new_job()) for _ in range(3)]
        await walk(server.ledger, jobs[0], Status.FAILED)
        made = await order(server, [job.id for job in jobs], " HTTPS://Portal.Example.org./done ")
        assert made.status_code == 201, made.text
        body = made.json()
        waiting = {"url": URL, "status": "pending", "tries": 0, "last_error": None}
        shown = {
            "id": body["id"],
            "jobs": 3,
            "left": 2,
            "completed": 0,
            "failed": 1,
            "invalid": 0,
            "killed": 0,
            "not_completed": [jobs[0].id],
            "created_at": AT,
            "ended_at": None,
            "callback": {**waiting, "next_at": None, "settled_at": None},
        }
        route = f"/v1/batches/{body['id']}"
        assert body == shown and made.url.join(made.headers["Location"]).path == route
        assert (await server.client.get(route)).json() == shown
        for job in jobs[1:]:
            await walk(server.ledger, job, Status.PROCESSING, Status.SUBMITTED, Status.COMPLETED)
        (pending,) = await server.ledger.pending_callbacks(0)
        shown |= {"left": 0, "completed": 2, "ended_at": AT}
        assert await job_views.render_subject(server.api, pending.subject) == {**shown, "callback": None}
        await server.ledger.record_delivery(DeliveryOutcome(pending.subject, CallbackStatus.DELIVERED, 1))
        told = (await server.client.get(route)).json()
        assert told == {**shown, "callback": {**told["callback"], "status": "delivered", "tries": 1}}
        (line,) = await server.ledger.queries.audit(AuditFilter(action="batch"), None, 10)
        assert (line.entry.about, line.entry.detail) == (body["id"], "3 jobs")


async def test_the_sender_is_rung_for_one_that_has_ended_and_for_no_other(tmp_path: Path) -> None:
    async with api_server(tmp_path, callbacks=HOSTS) as server:
        rung: list[int] = []
        object.__setattr__(server.api, "ring_callbacks", lambda: rung.append(1))
        ended = await walk(server.ledger, await server.ledger.insert(new_job()), Status.FAILED)
        waiting = await server.ledger.insert(new_job())
        await order(server, [ended.id, waiting.id])
        assert not rung
        await order(server, [ended.id])
        assert rung == [1] and len(await server.ledger.pending_callbacks(0)) == 1


@pytest.mark.parametrize(
    ("body", "status", "says"),
    [
        ({"jobs": [1, 3, 77], "callback_url": URL}, 404, "there are no jobs 3, 77"),
        ({"jobs": [], "callback_url": URL}, 422, "jobs: a list of 1 to 10000 ids"),
        ({"jobs": list(range(1, 10_002)), "callback_url": URL}, 422, "jobs: a list of 1 to 10000 ids"),
        ({"jobs": [1, 2, 1], "callback_url": URL}, 422, "jobs: each id once"),
        ({"jobs": [1, True], "callback_url": URL}, 422, "jobs: a list of ids"),
        ({"jobs": [1, 1 << 40], "callback_url": URL}, 422, "jobs: a list of ids"),
        ({"jobs": "1", "callback_url": URL}, 422, "jobs: a list"),
        ({"callback_url": URL}, 422, "jobs: a list"),
        ({"jobs": [1]}, 422, "callback_url: an URL such as"),
        ({"jobs": [1], "callback_url": " "}, 422, "callback_url: an URL such as"),
        ({"jobs": [1], "callback_url": "https://evil.example/"}, 400, "allowed: portal.example.org"),
        ({"jobs": [1], "callback_url": "\ud800"}, 400, "callback_url"),
        ({"jobs": [1], "callback_url": URL, "url": URL}, 422, "url: unknown; known: jobs, callback_url"),
    ],
)
async def test_a_refused_order_says_why_and_stores_nothing(
    tmp_path: Path, body: Any, status: int, says: str
) -> None:
    async with api_server(tmp_path, callbacks=HOSTS) as server:
        for _ in range(2):
            await walk(server.ledger, await server.ledger.insert(new_job()), Status.FAILED)
        sent = json.dumps(body)  # httpx writes no halves of characters
        answer = await server.client.post("/v1/batches", content=sent)
        assert answer.status_code == status and says in answer.json()["detail"], answer.text
        assert await server.ledger.pending_callbacks(0) == []
        assert await server.ledger.queries.audit(AuditFilter(), None, 10) == []


async def test_with_callbacks_off_the_refusal_names_the_setting(tmp_path: Path) -> None:
    async with api_server(tmp_path) as server:
        job = await server.ledger.insert(new_job())
        answer = await order(server, [job.id])
        assert answer.status_code == 400 and "callback_hosts" in answer.json()["detail"]


async def test_a_batch_of_as_many_as_may_be_is_taken(tmp_path: Path) -> None:
    async with api_server(tmp_path, callbacks=HOSTS) as server:
        await server.ledger.jump_ids(1 << 31)
        job = await server.ledger.insert(new_job())
        answer = await order(server, [*range(job.id, job.id + 10_000)])
        assert answer.status_code == 404 and "and 9979 more" in answer.json()["detail"]


async def test_the_same_key_is_the_same_batch(tmp_path: Path) -> None:
    async with api_server(tmp_path, callbacks=HOSTS) as server:
        one, other = [await server.ledger.insert(new_job()) for _ in range(2)]
        key = {"Idempotency-Key": "k"}
        first = await order(server, [one.id, other.id], headers=key)
        again = await order(server, [other.id, one.id], headers=key)
        assert (first.status_code, again.status_code) == (201, 201) and first.json() == again.json()
        refused = await order(server, [one.id], headers=key)
        assert refused.status_code == 422 and refused.json()["code"] == "idempotency_conflict"
        assert first.json()["id"] in refused.json()["detail"]
        assert (await order(server, [one.id], headers={"Idempotency-Key": ""})).status_code == 400


async def test_it_is_theirs_who_may_see_all_of_its_jobs(tmp_path: Path) -> None:
    async with api_server(tmp_path, callbacks=HOSTS) as server:
        service = replace(server.services["example"], name="other")
        server.services["other"] = service
        mine = await server.ledger.insert(new_job(1))
        others = await server.ledger.insert(new_job(2))
        elsewhere = await server.ledger.insert(new_job(1, "other"))
        user = credentials(server, Role.USER, "user", user=1)
        portal = credentials(server, Role.PORTAL, "portal", services=("example",))
        everything = credentials(server, Role.OPERATOR, "operator")
        for who, jobs, missing in (
            (user, [mine.id, others.id], others.id),
            (portal, [mine.id, elsewhere.id], elsewhere.id),
        ):
            refused = await order(server, jobs, headers=who)
            assert refused.status_code == 404 and f"no job {missing}" in refused.json()["detail"]
        made = {
            "of one": await order(server, [mine.id], headers=user),
            "of two": await order(server, [mine.id, others.id], headers=portal),
            "of all": await order(server, [mine.id, others.id, elsewhere.id], headers=everything),
        }
        seen = {}
        for name, who in (("user", user), ("portal", portal), ("operator", everything)):
            for what, batch in made.items():
                answer = await server.client.get(f"/v1/batches/{batch.json()['id']}", headers=who)
                seen[name, what] = answer.status_code
        hidden = {("user", "of two"), ("user", "of all"), ("portal", "of all")}
        assert {place for place, status in seen.items() if status == 404} == hidden
        assert set(seen.values()) == {200, 404}
        reader = credentials(server, Role.READER, "reader")
        assert (await order(server, [mine.id], headers=reader)).status_code == 403


async def test_an_unknown_batch_is_404(tmp_path: Path) -> None:
    async with api_server(tmp_path, callbacks=HOSTS) as server:
        answer = await server.client.get("/v1/batches/7")
        assert answer.status_code == 404 and answer.json()["code"] == "unknown_batch"
        with pytest.raises(Refusal, match="there is no batch"):
            await job_views.render_subject(server.api, Subject("batch", "7"))
