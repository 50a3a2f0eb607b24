"""Parameters at their edges: what may well be sent is taken, and what means nothing is refused."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import trio
from support.data.ledgers import walk
from support.processes.api_server import Server, api_server

from actors.domain.status import Status
from orchestrator.api.http.query_params import text_cursor

JOINED = "семья 👨‍👩‍👧\u3000می‌خواهم"
"""Letters that are joined, and a blank of another script."""


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Server]:
    async with api_server(tmp_path) as running:
        yield running


async def test_seconds_are_taken_as_programs_write_numbers(server: Server) -> None:
    job = await server.upload(a=b"")
    for wait in ("0", "0.0", "0.01", "0.010000000000000002", "1e-05", "2.2e-308", "0.1E-1"):
        assert (await server.client.get(f"/v1/jobs/{job.id}?wait={wait}")).status_code == 200, wait


async def test_what_is_no_number_of_seconds_is_refused(server: Server) -> None:
    job = await server.upload(a=b"")
    for wait in ("", "-1", "86401", "1e5", "inf", "nan", "0x1", "1_0", "٣", "1e-9999", " 1"):
        answer = await server.client.get(f"/v1/jobs/{job.id}", params={"wait": wait})
        assert (answer.status_code, answer.json()["code"]) == (400, "bad_parameter"), wait


async def test_names_and_reasons_of_any_script_are_taken_and_found_again(server: Server) -> None:
    answer = await server.post('name="file"; filename="run.sh"|true', f'name="name"|{JOINED}')
    assert answer.status_code == 201, answer.text
    for query in ({"name": JOINED}, {"search": "👨‍👩‍👧"}):
        (found,) = (await server.client.get("/v1/jobs", params=query)).json()["items"]
        assert found["name"] == JOINED
    paused = await server.client.post("/v1/services/example/pause", json={"reason": JOINED})
    assert paused.json()["paused"] == JOINED


async def test_what_breaks_a_line_or_steers_a_terminal_is_refused_everywhere(server: Server) -> None:
    for odd in ("a\nb", "a\rb", "a\x00b", "a\x1b[2J", "a\x7f", "a\x85b", "a\u2028b", "a\u2029b"):
        answer = await server.client.get("/v1/jobs", params={"name": odd})
        assert (answer.status_code, answer.json()["code"]) == (400, "bad_parameter"), odd
        reason = await server.client.post("/v1/services/example/pause", json={"reason": odd})
        assert (reason.status_code, reason.json()["code"]) == (422, "bad_field"), odd
        uploaded = await server.post('name="file"; filename="a"|b', f'name="name"|{odd}')
        assert uploaded.status_code == 400, odd


async def test_half_a_character_in_json_is_refused_and_no_trouble_of_the_server(server: Server) -> None:
    answer = await server.client.post(
        "/v1/services/example/pause",
        content=b'{"reason": "\\ud800"}',
        headers={"Content-Type": "application/json"},
    )
    assert (answer.status_code, answer.json()["code"]) == (422, "bad_field")


@pytest.mark.parametrize(
    "route", ["/v1/events", "/v1/jobs/1/events", "/v1/jobs/1/logs", "/v1/jobs/1/logs?format=json"]
)
async def test_a_place_that_no_stream_has_is_refused_whatever_else_is_asked(
    server: Server, route: str
) -> None:
    await server.upload(a=b"")
    for place in ("-1", "x", "9007199254740992", "1.0", "7,8"):
        answer = await server.client.get(route, headers={"Last-Event-ID": place})
        assert (answer.status_code, answer.json()["code"]) == (400, "bad_parameter"), place
        if "events" in route:
            answer = await server.client.get(route, params={"after": place}, headers={"Last-Event-ID": "1"})
            assert (answer.status_code, answer.json()["code"]) == (400, "bad_parameter"), place


@pytest.mark.parametrize(
    "route",
    ["/v1/events", "/v1/events?after=0", "/v1/jobs/1/events", "/v1/jobs/1/logs?format=events"],
)
async def test_a_place_that_is_empty_is_none(server: Server, route: str) -> None:
    await server.upload(a=b"")
    with trio.fail_after(60):
        async with server.client.stream("GET", route, headers={"Last-Event-ID": ""}) as answer:
            assert answer.status_code == 200


async def test_the_orders_for_a_node_know_one_method_only(server: Server) -> None:
    for order in ("drain", "undrain"):
        for node in ("n" * 32, "http%3A%2F%2Fold.example.org%3A9000%2Fbase"):
            answer = await server.client.get(f"/v1/nodes/{node}/{order}")
            assert (answer.status_code, answer.json()["code"]) == (405, "method_not_allowed")
            assert set(answer.headers["allow"].split(", ")) == {"POST", "OPTIONS"}
        unknown = await server.client.get("/v1/nodes/http%3A%2F%2Fold.example.org%3A9000%2Fdrains")
        assert unknown.json()["code"] == "unknown_node"


async def test_lists_take_several_states_a_time_and_either_order(server: Server) -> None:
    jobs = [await server.upload(a=b"") for _ in range(3)]
    ids = [job.id for job in jobs]

    async def listed(query: str) -> list[int]:
        found: list[int] = []
        after = ""
        while True:
            body = (await server.client.get(f"/v1/jobs?limit=2&{query}{after}")).json()
            found += [item["id"] for item in body["items"]]
            if body["next"] is None:
                return found
            after = f"&cursor={body['next']}"

    assert await listed("status=Queued,Running") == ids[::-1]
    assert await listed("status=Failed,Running") == []
    assert await listed("order=oldest") == ids
    assert await listed("since=2001-01-01T00:00:00Z&order=oldest") == ids
    assert await listed("until=2001-01-01T00:00:00Z") == await listed("since=9e9") == []
    await walk(server.ledger, jobs[0], Status.PROCESSING, Status.FAILED)
    assert await listed("ended_since=2001-01-01T00:00:00Z") == ids[:1]
    assert await listed("ended_since=9e9") == await listed("ended_since=1&status=Killed,Invalid") == []
    assert await listed("ended_since=1&status=Failed,Invalid") == ids[:1]
    newest = (await server.client.get("/v1/jobs?limit=1")).json()["next"]
    wrongs = (
        "status=",
        "status=Queued,",
        "status=Queued,x",
        "order=up",
        "since=x",
        "until=",
        "ended_since=x",
    )
    for wrong in wrongs:
        answer = await server.client.get(f"/v1/jobs?{wrong}")
        assert (answer.status_code, answer.json()["code"]) == (400, "bad_parameter"), wrong
    # A place in the one order is none in the other.
    for order in ("oldest", "user", "service_descending"):
        answer = await server.client.get(f"/v1/jobs?order={order}&cursor={newest}")
        assert (answer.status_code, answer.json()["code"]) == (400, "bad_parameter")


async def test_lists_come_by_user_and_by_service_too(tmp_path: Path) -> None:
    async with api_server(tmp_path, services=("b.1 c", "a")) as server:
        for user, service in ((5, "b.1 c"), (-3, "a"), (2**63 - 1, "b.1 c"), (5, "a"), (-3, "a")):
            answer = await server.post('name="f"; filename="run.sh"|', user=str(user), service=service)
            assert answer.status_code == 201

        async def listed(query: str, limit: int) -> list[int]:
            found: list[int] = []
            after = ""
            while True:
                answer = await server.client.get(f"/v1/jobs?limit={limit}&{query}{after}")
                body = answer.json()
                found += [item["id"] for item in body["items"]]
                if body["next"] is None:
                    return found
                after = f"&cursor={body['next']}"

        for limit in (1, 2, 50):
            assert await listed("order=user", limit) == [5, 2, 4, 1, 3]
            assert await listed("order=user_descending", limit) == [3, 4, 1, 5, 2]
            assert await listed("order=service", limit) == [5, 4, 2, 3, 1]
            assert await listed("order=service_descending&status=active", limit) == [3, 1, 5, 4, 2]
            assert await listed("order=user&service=a&status=Queued,Failed", limit) == [5, 2, 4]
        # What a client may make up.
        for order, place in (
            ("user", " 7 x"),
            ("user", f" 7 {2**63}"),
            ("user", " 0 7"),
            ("user", "_descending 7 5"),
            ("service", " 7 "),
            ("service", " 7"),
        ):
            answer = await server.client.get(f"/v1/jobs?order={order}&cursor={text_cursor(order, place)}")
            assert (answer.status_code, answer.json()["code"]) == (400, "bad_parameter"), place
