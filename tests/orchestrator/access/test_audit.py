"""Who did what is told: each order once, with the token and the address, and a sample of what was refused."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import pytest
import trio
from support.data.ledgers import SetClock, new_job, open_ledger, walk
from support.processes.api_server import Server, api_server, credentials, form

from actors.cleaner import PAGE, Cleaner
from actors.domain.job import Job
from actors.domain.node import NodeRef, NodeState, NodeView
from actors.domain.status import Status
from actors.kernel.actor import Mailbox
from orchestrator.access.audit import EVERY, MOST, AuditEntry, AuditFilter, Refusals, network_of
from orchestrator.access.roles import Role
from orchestrator.ledger.tables import audit
from orchestrator.storage.storage import DiskStorage

NODE = "a" * 32


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Server]:
    async with api_server(tmp_path, local=False) as made:
        yield made


def token(server: Server, role: Role, name: str, **more: Any) -> dict[str, str]:
    return credentials(server, role, name, token_id=f"id-of-{name}", **more)


async def lines(server: Server, query: str = "") -> list[dict[str, Any]]:
    root = token(server, Role.OPERATOR, "auditor")
    answer = await server.client.get(f"/v1/audit{query}", headers=root)
    assert answer.status_code == 200, answer.text
    return list(answer.json()["items"])


async def upload(server: Server, who: dict[str, str]) -> Job:
    body, kind = form('name="user_id"|7', 'name="service"|example', 'name="file"; filename="run.sh"|true')
    answer = await server.client.post("/upload", content=body, headers=who | {"Content-Type": kind})
    assert answer.status_code == 201, answer.text
    job = await server.ledger.get(answer.json()["id"])
    assert job is not None
    return job


async def ended_job(server: Server) -> int:
    job = await upload(server, token(server, Role.PORTAL, "portal"))
    await walk(server.ledger, job, Status.PROCESSING, Status.SUBMITTED, Status.COMPLETED)
    return job.id


async def test_every_order_has_its_line_with_who_gave_it(server: Server) -> None:
    root = token(server, Role.OPERATOR, "root")
    server.views[:] = [
        NodeView(NodeRef(NODE, "http://10.0.0.5:9000"), NodeState.READY, "", ("example",), 1, 0, 0, 0.0)
    ]
    number = await ended_job(server)

    async def order(method: str, path: str, **more: Any) -> httpx.Response:
        answer = await server.client.request(method, path, headers=root, **more)
        assert answer.is_success, answer.text
        return answer

    again = (await order("POST", f"/v1/jobs/{number}/rerun")).json()["id"]
    await order("DELETE", f"/v1/jobs/{number}")
    await order("POST", "/v1/services/example/pause", json={"reason": "update"})
    await order("POST", "/v1/services/example/resume")
    await order("POST", f"/v1/nodes/{NODE}/drain", json={"reason": "new disk"})
    await order("POST", f"/v1/nodes/{NODE}/undrain")
    made = (await order("POST", "/v1/tokens", json={"role": "portal", "name": "other"})).json()
    await order("DELETE", f"/v1/tokens/{made['id']}")
    found = await lines(server)
    assert [(one["action"], one["job"], one["node"], one["about"], one["detail"]) for one in found] == [
        ("revoke token", None, None, made["id"], ""),
        ("create token", None, None, made["id"], "portal other"),
        ("undrain", None, NODE, None, ""),
        ("drain", None, NODE, None, "new disk"),
        ("resume", None, None, "example", ""),
        ("pause", None, None, "example", "update"),
        ("delete", number, None, None, ""),
        ("rerun", again, None, None, f"of {number}"),
        ("submit", number, None, None, ""),
    ]
    assert {(one["who"], one["token"], one["role"], one["address"]) for one in found[:-1]} == {
        ("root", "id-of-root", "operator", "127.0.0.1")
    }
    assert (found[-1]["who"], found[-1]["role"]) == ("portal", "portal")
    assert made["secret"] not in str(found)


async def test_an_order_to_terminate_is_told_once_however_often_it_is_given(server: Server) -> None:
    root = token(server, Role.OPERATOR, "root")
    job = await upload(server, root)
    await walk(server.ledger, job, Status.PROCESSING, Status.SUBMITTED)
    async with trio.open_nursery() as nursery:
        for _ in range(3):
            nursery.start_soon(lambda: server.client.post(f"/terminate/{job.id}", headers=root, timeout=60))
    assert [one["action"] for one in await lines(server)] == ["terminate", "submit"]


async def test_what_did_not_come_about_has_no_line(server: Server) -> None:
    root = token(server, Role.OPERATOR, "root")
    for method, path in (
        ("DELETE", "/v1/tokens/none"),
        ("DELETE", "/v1/jobs/7"),
        ("POST", f"/v1/nodes/{NODE}/undrain"),
        ("POST", "/terminate/7"),
        ("DELETE", f"/v1/nodes/{NODE}"),
    ):
        assert (await server.client.request(method, path, headers=root)).status_code == 404
    assert await lines(server) == []


async def test_lists_are_narrowed_and_go_on_page_by_page(server: Server) -> None:
    jobs = [await upload(server, token(server, Role.PORTAL, name)) for name in ("one", "two")]
    server.clock.time += 100
    jobs.append(await upload(server, token(server, Role.PORTAL, "one")))

    async def told(query: str) -> list[int]:
        return [one["job"] for one in await lines(server, query)]

    ids = [job.id for job in jobs]
    assert await told("?who=one") == [ids[2], ids[0]]
    assert await told(f"?job={ids[1]}") == [ids[1]]
    assert await told(f"?since={server.clock.time}") == [ids[2]]
    assert await told(f"?since={server.clock.time + 1}") == []
    assert await told("?node=x") == []
    await server.client.post(f"/terminate/{ids[1]}", headers=token(server, Role.PORTAL, "two"))
    assert await told("?action=terminate") == await told("?action=terminate&who=two") == [ids[1]]
    assert await told("?action=submit") == ids[::-1]
    assert await told("?action=terminate&who=one") == []
    root = token(server, Role.OPERATOR, "auditor")
    page = (await server.client.get("/v1/audit?limit=2", headers=root)).json()
    rest = (await server.client.get(f"/v1/audit?limit=2&cursor={page['next']}", headers=root)).json()
    assert [one["job"] for one in page["items"] + rest["items"]] == [ids[1], *ids[::-1]]
    assert rest["next"] is None
    refused = await server.client.get("/v1/audit?action=drian", headers=root)
    assert refused.status_code == 400 and "undrain" in refused.text


@pytest.mark.parametrize(
    ("wanted", "index"),
    [
        (AuditFilter(action="drain"), "audit_action"),
        (AuditFilter(action="drain", who="portal"), "audit_action"),
        (AuditFilter(action="terminate", job=7), "audit_job"),
        (AuditFilter(action="drain", node=NODE), "audit_node"),
        (AuditFilter(action="submit", who="portal"), "audit_who"),
    ],
)
def test_what_was_done_is_found_by_an_index(wanted: AuditFilter, index: str) -> None:
    with closing(sqlite3.connect(":memory:")) as db:
        for statement in audit.TABLES:
            db.execute(statement)
        asked: list[str] = []
        db.set_trace_callback(asked.append)
        audit.read_lines(db, wanted, None, 50)
        db.set_trace_callback(None)
        plans = db.execute(f"EXPLAIN QUERY PLAN {asked[0]}").fetchall()
        assert index in plans[0][3] and "TEMP B-TREE" not in str(plans)


async def test_nobody_but_an_operator_reads_it(server: Server) -> None:
    for role in Role:
        more = {"user": 7} if role is Role.USER else {}
        answer = await server.client.get("/v1/audit", headers=token(server, role, role.value, **more))
        assert answer.status_code == (200 if role is Role.OPERATOR else 403), role
    assert (await server.client.get("/v1/audit")).status_code == 401


async def test_refusals_are_counted_by_kind_and_sampled(server: Server) -> None:
    reader = token(server, Role.READER, "numbers")
    for _ in range(5):
        await server.client.post("/upload", headers={"Authorization": "Bearer jobo_wrong"})
        await server.client.get("/v1/audit", headers=reader)
    with trio.fail_after(60):
        while not (found := await lines(server)):  # noqa: ASYNC110  # nothing tells of a line
            await trio.sleep(0.01)
    assert found[-1]["action"] == "refused" and found[-1]["address"] == "127.0.0.1"
    assert found[-1]["detail"] == "bad_token: POST /upload" and found[-1]["who"] == ""
    assert "jobo_wrong" not in str(found)
    numbers = (await server.client.get("/metrics", headers=reader)).text
    assert 'orchestrator_refusals_total{kind="bad_token"} 5.0\n' in numbers
    assert 'orchestrator_refusals_total{kind="wrong_role"} 5.0\n' in numbers


async def test_refusals_fill_no_disk_and_no_memory(autojump_clock: trio.testing.MockClock) -> None:
    written: list[list[AuditEntry]] = []

    async def write(entries: Any) -> None:
        written.append(list(entries))

    refusals = Refusals(write)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(refusals.run)
        refusals.note("10.0.0.1", "no_token", "GET /v1/jobs")
        await trio.testing.wait_all_tasks_blocked()
        assert len(written) == 1
        for number in range(3000):
            refusals.note("10.0.0.1", "no_token", f"GET /{number}")
            refusals.note(f"2001:db8:0:{number:x}::1", "no_token", "GET /")
        await trio.testing.wait_all_tasks_blocked()
        assert len(written) == 1, "not before a minute is over"
        await trio.sleep(EVERY + 1)
        nursery.cancel_scope.cancel()
    assert len(written) == 2 and len(written[1]) == MOST
    assert written[1][0].detail == "no_token: GET /0 (3000 times)"
    assert refusals.counts == {"no_token": 6001}


@pytest.mark.parametrize(
    ("address", "network"),
    [
        ("10.1.2.3", "10.1.2.3"),
        ("::ffff:10.1.2.3", "10.1.2.3"),
        ("2001:db8::1", "2001:db8::"),
        ("fe80::1%eth0", "fe80::"),
        ("::1", "::1"),
        ("", ""),
    ],
)
def test_one_peer_s_addresses_are_one(address: str, network: str) -> None:
    assert network_of(address) == network


async def test_old_lines_go(tmp_path: Path, autojump_clock: trio.testing.MockClock) -> None:
    clock = SetClock()
    async with open_ledger(tmp_path / "db", clock) as ledger, trio.open_nursery() as nursery:
        await ledger.insert(new_job(), AuditEntry("root", None, "operator", "", "submit"))
        await ledger.note_orders([AuditEntry("", None, None, "", "refused")] * (PAGE + 1))
        clock.time += 50
        await ledger.note_orders([AuditEntry("root", None, "operator", "", "drain")])
        storage = DiskStorage(tmp_path / "data", clock)
        await storage.open()
        cleaner = Cleaner(
            Mailbox("cleaner"),
            nursery,
            ledger=ledger,
            storage=storage,
            clock=clock,
            max_age=1e6,
            audit_keep=60.0,
            patience=0.0,
        )
        clock.time += 20
        await cleaner.turn()
        left = await ledger.queries.audit(AuditFilter(), None, 1000)
        assert [one.entry.action for one in left] == ["drain"]
