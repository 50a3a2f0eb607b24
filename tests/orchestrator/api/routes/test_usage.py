"""What was used is told by month, user and service, as JSON and as a table, and to each what is theirs."""

from __future__ import annotations

import csv
from collections.abc import AsyncIterator
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from support.data.ledgers import by_owner, new_job, walk
from support.processes.api_server import Server, api_server, credentials

from actors.domain.job import End
from actors.domain.status import Status
from orchestrator.access.roles import Role
from orchestrator.api.routes import usage as route
from orchestrator.contract.csv_text import to_csv

S = Status
NOVEMBER = 1_699_000_000.0
DECEMBER = 1_702_000_000.0
FORMULA = '=HYPERLINK("http://x","a,b")'


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Server]:
    async with api_server(tmp_path, local=False) as running:
        for when, user, service in (
            (NOVEMBER, 7, "example"),
            (DECEMBER, 7, "example"),
            (DECEMBER, -8, "example"),
            (DECEMBER, -8, FORMULA),
        ):
            running.clock.time = when
            job = await running.ledger.insert(new_job(user, service, size=100))
            job = await walk(running.ledger, job, S.PROCESSING, S.SUBMITTED)
            end = End(S.COMPLETED, "", 0, cpu_seconds=1.25, wall_seconds=2.5, peak_bytes=1000, size=9)
            await running.ledger.record([by_owner(job.id, S.SUBMITTED, S.COMPLETED, "", end=end)])
        yield running


async def get(server: Server, query: str, role: Role = Role.OPERATOR, **more: Any) -> Any:
    who = credentials(server, role, role.value, token_id=f"id-{role.value}", **more)
    answer = await server.client.get(f"/v1/usage{query}", headers=who)
    assert answer.status_code == 200, answer.text
    return answer.json()


async def keys(server: Server, query: str, role: Role = Role.OPERATOR, **more: Any) -> list[tuple[Any, ...]]:
    items = (await get(server, query, role, **more))["items"]
    return [(one["month"][5:], one["user_id"], one["service"]) for one in items]


async def test_sums_are_told_by_month_user_and_service(server: Server) -> None:
    body = await get(server, "")
    assert body["items"][0] == {
        "month": "2023-11",
        "user_id": 7,
        "service": "example",
        **{"jobs": 1, "completed": 1, "failed": 0, "invalid": 0, "killed": 0},
        **{"wall_seconds": 2.5, "cpu_seconds": 1.25, "memory_byte_seconds": 2500.0},
        **{"bytes_in": 100, "bytes_out": 9},
    }
    assert [len(body["items"]), body["next"]] == [4, None]
    assert await keys(server, "?from=2023-12&user=7") == [("12", 7, "example")]
    assert await keys(server, "?to=2023-11") == [("11", 7, "example")]
    assert await keys(server, "?service=example&user=-8") == [("12", -8, "example")]


async def test_pages_follow_each_other(server: Server) -> None:
    found = []
    query = "?limit=1"
    while True:
        page = await get(server, query)
        found += page["items"]
        if page["next"] is None:
            break
        query = f"?limit=1&cursor={page['next']}"
    assert found == (await get(server, ""))["items"]


async def test_a_user_sees_their_own_and_a_portal_its_services(server: Server) -> None:
    assert await keys(server, "", Role.USER, user=7) == [("11", 7, "example"), ("12", 7, "example")]
    assert await keys(server, "?user=-8", Role.USER, user=7) == []
    portal = {"services": frozenset({"example"})}
    assert {service for _, _, service in await keys(server, "", Role.PORTAL, **portal)} == {"example"}
    assert len(await keys(server, "", Role.READER)) == 4
    assert (await server.client.get("/v1/usage")).status_code == 401
    node = credentials(server, Role.NODE, "node", token_id="id-node")
    assert (await server.client.get("/v1/usage", headers=node)).status_code == 403


@pytest.mark.parametrize(
    ("query", "accept"), [("?format=csv", "*/*"), ("", "text/csv"), ("?limit=1", "text/csv")]
)
async def test_a_table_holds_all_rows_and_no_formula(server: Server, query: str, accept: str) -> None:
    who = credentials(server, Role.OPERATOR, "root", token_id="id-root") | {"Accept": accept}
    answer = await server.client.get(f"/v1/usage{query}", headers=who)
    assert answer.headers["Content-Type"] == "text/csv; charset=utf-8"
    assert answer.headers["Vary"] == "Accept"
    rows = list(csv.DictReader(StringIO(answer.text, newline="")))
    assert set(rows[0]) == set((await get(server, ""))["items"][0])
    assert list(rows[0])[:3] == ["month", "user_id", "service"]
    assert [row["month"] for row in rows] == ["2023-11", "2023-12", "2023-12", "2023-12"]
    assert rows[1]["service"] == f"'{FORMULA}" and rows[1]["user_id"] == "-8"


async def test_a_table_that_is_too_long_is_refused(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(route, "MOST_ROWS", 3)
    who = credentials(server, Role.OPERATOR, "root", token_id="id-root")
    answer = await server.client.get("/v1/usage?format=csv", headers=who)
    assert (answer.status_code, answer.json()["code"]) == (400, "too_many_rows")
    assert (await server.client.get("/v1/usage?format=csv&user=7", headers=who)).status_code == 200


async def test_json_comes_where_the_format_says_so(server: Server) -> None:
    who = credentials(server, Role.OPERATOR, "root", token_id="id-root")
    for accept, query in (
        ("text/csv", "?format=json"),
        ("text/html", ""),
        ("application/json, text/csv", ""),
    ):
        answer = await server.client.get(f"/v1/usage{query}", headers=who | {"Accept": accept})
        assert answer.headers["Content-Type"] == "application/json", accept


async def test_what_makes_no_sense_is_refused(server: Server) -> None:
    who = credentials(server, Role.OPERATOR, "root", token_id="id-root")
    cursors = (f"cursor={route.query_params.text_cursor('u', at)}" for at in ("", f"2023-11 {2**63} a", "x"))
    for query in (
        *("from=2023", "from=2023-13", "to=yesterday", "from=2023-12&to=2023-11", "user=x"),
        *("format=xml", "limit=0", "limit=10001", "cursor=%C3%A4", *cursors),
    ):
        answer = await server.client.get(f"/v1/usage?{query}", headers=who)
        assert (answer.status_code, answer.json()["code"]) == (400, "bad_parameter"), query


@pytest.mark.parametrize("text", ["=1", "+1", "-1", "@a", "\tx", "\rx", "\n=1", "\uff1d1"])
def test_no_text_of_a_table_is_a_formula(text: str) -> None:
    rows = list(csv.reader(StringIO(to_csv(("a", "b"), [{"a": text, "b": -1, "c": 0}]), newline="")))
    assert rows == [["a", "b"], [f"'{text}", "-1"]]


@pytest.mark.parametrize("text", ["a;=1", "a\t=1", 'a";=1', "a,=1", "a\n=1"])
@pytest.mark.parametrize("between", [",", ";", "\t"])
def test_no_text_of_a_table_begins_a_cell_of_its_own(text: str, between: str) -> None:
    table = to_csv(("a",), [{"a": text}])
    assert list(csv.reader(StringIO(table, newline=""), delimiter=between)) == [["a"], [text]]
