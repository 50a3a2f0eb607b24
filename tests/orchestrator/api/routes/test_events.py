"""Server-sent events over real HTTP: nothing missing, nothing twice, and at once."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import trio
from support.data.ledgers import walk
from support.peers.event_streams import Event, events
from support.processes.api_server import Server, api_server

from actors.domain.status import Status
from orchestrator.api.http import sse
from orchestrator.events import change_stream

S = Status


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Server]:
    async with api_server(tmp_path, services=("example", "other")) as running:
        yield running


def told(found: list[Event]) -> list[tuple[int, str]]:
    return [(event.data["job_id"], event.data["status"]) for event in found]


async def test_a_job_is_followed_from_how_it_is_to_its_end(server: Server) -> None:
    job = await server.upload(a=b"")
    with trio.fail_after(60):
        async with events(server.url, f"/v1/jobs/{job.id}/events") as stream:
            assert stream.headers["content-type"] == "text/event-stream"
            assert stream.headers["x-accel-buffering"] == "no"
            first = await stream.next()
            assert first is not None and first.kind == "job"
            assert (first.id, first.data["job"]["status"]) == (job.change_seq, "Queued")
            await walk(server.ledger, job, S.PROCESSING, S.SUBMITTED, S.RUNNING, S.COMPLETED)
            rest = await stream.rest()
    assert [status for _, status in told(rest)] == ["Processing", "Submitted", "Running", "Completed"]
    assert [event.data["from"] for event in rest] == ["Queued", "Processing", "Submitted", "Running"]
    assert rest[-1].data["job"]["status"] == "Completed"


async def test_a_change_is_seen_within_200_ms(server: Server) -> None:
    job = await server.upload(a=b"")
    async with events(server.url, "/v1/events") as stream:
        job = await walk(server.ledger, job, S.PROCESSING)
        with trio.fail_after(60):
            await stream.next()
        taken = []
        for status in (S.SUBMITTED, S.RUNNING, S.LOCKED, S.KILLED):
            job = await walk(server.ledger, job, status)
            begun = trio.current_time()
            with trio.fail_after(60):
                event = await stream.next()
            assert event is not None and event.data["status"] == status
            taken.append(trio.current_time() - begun)
        assert min(taken) < 0.2


async def test_who_comes_back_goes_on_where_it_was(server: Server, tmp_path: Path) -> None:
    job = await server.upload(a=b"")
    with trio.fail_after(60):
        async with events(server.url, "/v1/events") as stream:
            job = await walk(server.ledger, job, S.PROCESSING, S.SUBMITTED)
            seen = [await stream.next(), await stream.next()]
            place = stream.place
        other = await server.upload(b=b"")
        await walk(server.ledger, job, S.RUNNING, S.FAILED)
        async with events(server.url, "/v1/events", place) as stream:
            found = [await stream.next() for _ in range(3)]
    assert all(found) and all(seen)
    assert told([event for event in found if event is not None]) == [
        (other.id, "Queued"),
        (job.id, "Running"),
        (job.id, "Failed"),
    ]
    # Superseded by the next one: only the newest tells the whole job.
    assert [event.data["job"] is None for event in found if event is not None] == [False, True, False]


async def test_nothing_is_missing_after_a_restart(tmp_path: Path) -> None:
    async with api_server(tmp_path) as server:
        job = await server.upload(a=b"")
        place = job.change_seq
        job = await walk(server.ledger, job, S.PROCESSING, S.SUBMITTED, S.RUNNING)
    with trio.fail_after(60):
        async with api_server(tmp_path) as server:
            async with events(server.url, f"/v1/jobs/{job.id}/events", place) as stream:
                await walk(server.ledger, job, S.COMPLETED)
                found = await stream.rest()
            assert [status for _, status in told(found)] == [
                "Processing",
                "Submitted",
                "Running",
                "Completed",
            ]
            async with events(server.url, f"/v1/jobs/{job.id}/events", found[-1].id, status=204):
                pass


async def test_streams_are_narrowed_to_a_user_and_a_service(server: Server) -> None:
    with trio.fail_after(60):
        async with (
            events(server.url, "/v1/events?user=7") as of_user,
            events(server.url, "/v1/events?service=other") as of_service,
        ):
            await server.post('name="f"; filename="a"|x', user="8")
            await server.post('name="f"; filename="a"|x', user="7")
            await server.post('name="f"; filename="a"|x', user="9", service="other")
            first, second = await of_user.next(), await of_service.next()
    assert first is not None and first.data["user_id"] == 7
    assert second is not None and second.data["service"] == "other"


async def test_many_changes_reach_every_listener_once_and_in_order(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(change_stream, "KEPT", 5)
    monkeypatch.setattr(change_stream, "AT_ONCE", 2)
    got: dict[int, list[int]] = {}

    async def follow(n: int, *, task_status: trio.TaskStatus[None]) -> None:
        async with events(server.url, "/v1/events?after=0") as stream:
            task_status.started()
            got[n] = []
            while len(got[n]) < 36:
                event = await stream.next()
                assert event is not None
                got[n].append(event.id)

    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            for n in range(3):
                await nursery.start(follow, n)
            for _ in range(9):
                await walk(server.ledger, await server.upload(a=b""), S.PROCESSING, S.SUBMITTED, S.FAILED)
    assert all(ids == list(range(1, 37)) for ids in got.values())


async def test_a_quiet_stream_says_that_it_is_there(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sse, "EVERY", 0.05)
    with trio.fail_after(60):
        async with events(server.url, "/v1/events?user=5") as stream:
            await server.upload(a=b"")
            assert await stream.comment() == ": nothing new"


async def test_streams_end_when_the_server_stops(server: Server) -> None:
    job = await server.upload(a=b"")
    with trio.fail_after(60):
        async with (
            events(server.url, "/v1/events") as every,
            events(server.url, f"/v1/jobs/{job.id}/events") as one,
        ):
            server.waiters.close()
            assert await every.next() is None
            assert len(await one.rest()) <= 1


async def test_a_listener_that_takes_nothing_is_cut_off(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    cut = trio.Event()
    with server.hub.listen(cut.set) as listener:
        listener.sending = trio.current_time() - 2 * change_stream.SLOW
        server.hub.cut_slow_ones()
        assert cut.is_set()


async def test_more_listeners_than_allowed_are_refused(server: Server) -> None:
    server.hub.most = 1
    with trio.fail_after(60):
        async with events(server.url, "/v1/events") as stream:
            assert await stream.line() == "retry: 1000"
            answer = await server.client.get("/v1/events")
            assert (answer.status_code, answer.json()["code"]) == (503, "unavailable")


@pytest.mark.parametrize("path", ["/v1/events", "/v1/jobs/1/events"])
async def test_a_place_that_is_none_is_a_problem(server: Server, path: str) -> None:
    await server.upload(a=b"")
    for headers, query in (({"Last-Event-ID": "x"}, ""), ({}, "?after=-1"), ({}, "?nope=1")):
        answer = await server.client.get(path + query, headers=headers)
        assert answer.status_code == 400 and answer.json()["code"]


async def test_the_head_of_a_stream_ends(server: Server) -> None:
    with trio.fail_after(60):
        answer = await server.client.head("/v1/events")
    assert answer.headers["content-type"] == "text/event-stream"
