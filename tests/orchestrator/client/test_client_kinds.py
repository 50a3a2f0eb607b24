"""The same client under Trio, under asyncio and without an event loop, against a real server."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Awaitable, Callable, Sequence
from contextlib import aclosing
from pathlib import Path
from typing import TypeVar

import anyio
import pytest
import trio
from support.data.ledgers import new_job, walk
from support.peers.wires import Fault, Rule, wire
from support.processes.api_server import api_server
from support.processes.processes import Started

from actors.domain.status import Status
from orchestrator.access.audit import AuditFilter
from orchestrator.callbacks.allowed_hosts import CallbackHosts, parse_rule
from orchestrator.client import (
    AsyncClient,
    BadInput,
    Batch,
    Client,
    ClientError,
    Job,
    JobRequest,
    NotFound,
    Refused,
    Retries,
    TimedOut,
    Unreachable,
)
from orchestrator.client.operations import Operations
from orchestrator.client.requests import Again, Patience
from orchestrator.client.transport import SyncWire, run_straight

T = TypeVar("T")
FAST = Retries(first=0.01, longest=0.05)
KINDS = ["trio", "asyncio", "plain"]


async def ask(kind: str, url: str, what: Callable[[Operations], Awaitable[T]], retries: Retries = FAST) -> T:
    """What `what` finds with a client of this kind."""

    async def run(client: Operations) -> T:
        try:
            return await what(client)
        finally:
            await client.close()  # noqa: ASYNC102  # it shields itself, with a timeout

    if kind == "trio":
        return await run(AsyncClient(url, retries=retries))
    if kind == "asyncio":
        return await trio.to_thread.run_sync(lambda: anyio.run(run, AsyncClient(url, retries=retries)))
    return await trio.to_thread.run_sync(lambda: run_straight(run(Operations(SyncWire(url, {}), retries))))


@pytest.mark.parametrize("kind", KINDS)
async def test_many_are_waited_for_together(kind: str, shared: Started) -> None:
    async def wait(client: Operations) -> tuple[list[int], list[tuple[int, str]], int]:
        jobs = [
            (await client.submit({"run.sh": script}, service="example", user=5)).id
            for script in (b"sleep 0.3", b"exit 1", b"true")
        ]
        found = [(job.id, job.status) async for job in client.wait_all(jobs, 60)]
        endless = await client.submit({"run.sh": b"exec sleep 600"}, service="example", user=5)
        again = client.wait_all([jobs[2], endless.id, jobs[0]], 0.01)
        found.append(((await anext(again)).id, "over before"))
        with pytest.raises(TimedOut) as late:
            await anext(again)
        await client.cancel(endless.id)
        return jobs, found, late.value.job.id - endless.id

    jobs, found, other = await ask(kind, shared.url, wait)
    assert found == [
        *zip(jobs, ("Completed", "Failed", "Completed"), strict=True),
        (jobs[2], "over before"),
    ]
    assert other == 0


@pytest.mark.parametrize("kind", KINDS)
async def test_many_are_handed_in_together_and_each_failure_has_its_place(kind: str, shared: Started) -> None:
    user = 300 + KINDS.index(kind)
    wanted: list[JobRequest] = [
        {"files": {"run.sh": b"true"}, "user": user, "name": f"n{n}"} for n in range(6)
    ]
    wanted[2]["callback_url"] = "ftp://nobody.example"
    wanted[4] = {"files": "/nowhere", "user": user}

    async def submit(
        client: Operations,
    ) -> tuple[Sequence[Job | ClientError], Sequence[Job | ClientError], int]:
        answers = await client.submit_many(wanted, at_once=3, idempotency_key=f"paper-{kind}")
        again = await client.submit_many(wanted, at_once=1, idempotency_key=f"paper-{kind}")
        async with aclosing(client.jobs(user=user)) as jobs:
            return answers, again, len([job async for job in jobs])

    answers, again, number = await ask(kind, shared.url, submit)
    assert [answer.name if isinstance(answer, Job) else type(answer) for answer in answers] == [
        "n0",
        "n1",
        Refused,
        "n3",
        BadInput,
        "n5",
    ]
    assert number == 4
    assert [one.id for one in answers if isinstance(one, Job)] == [
        one.id for one in again if isinstance(one, Job)
    ]


@pytest.mark.parametrize("kind", KINDS)
async def test_a_batch_is_ordered_once_however_often_it_is_sent(kind: str, tmp_path: Path) -> None:
    hosts = CallbackHosts((parse_rule("portal.example.org"),))
    url, sent = "https://portal.example.org/done", 0

    def rule(line: str) -> Rule:
        nonlocal sent
        sent += 1
        return Fault.UNANSWERED if sent == 1 else None

    async def order(client: Operations) -> tuple[Batch, Batch, str]:
        made = await client.create_batch(iter([1, 2]), url)
        with pytest.raises(NotFound) as unknown:
            await client.create_batch([1, 3], url)
        with pytest.raises(Refused, match=r"host evil\.example is not allowed"):
            await client.create_batch([1], "https://evil.example/")
        return made, await client.batch(made.id), str(unknown.value)

    async with api_server(tmp_path, callbacks=hosts) as server, wire(server.url, rule) as between:
        await walk(server.ledger, await server.ledger.insert(new_job()), Status.FAILED)
        await server.ledger.insert(new_job())
        made, shown, refusal = await ask(kind, between.url, order)
        assert len(await server.ledger.queries.audit(AuditFilter(action="batch"), None, 10)) == 1
    assert made == shown and (made.jobs, made.left, made.failed, made.not_completed) == (2, 1, 1, (1,))
    assert made.callback is not None and (made.callback.url, made.callback.status) == (url, "pending")
    assert "there is no job 3" in refusal


@pytest.mark.parametrize("kind", KINDS)
async def test_where_nobody_answers_the_rest_of_many_is_not_tried(kind: str, shared: Started) -> None:
    """As many at once as allowed find it out, and no other."""
    wanted: list[JobRequest] = [
        {"files": {"run.sh": b"true"}, "user": 1, "service": "example"} for _ in range(20)
    ]

    def rule(line: str) -> Rule:
        return Fault.UNANSWERED

    async with wire(shared.url, rule) as between:
        answers = await ask(
            kind, between.url, lambda client: client.submit_many(wanted, at_once=2), Retries(tries=1)
        )
        assert 1 <= len(between.requests) <= 2
    assert all(isinstance(answer, Unreachable) for answer in answers) and len(answers) == 20


async def test_many_are_refused_at_once_where_none_could_be_tried(shared: Started) -> None:
    for bad in ({"at_once": 0}, {"idempotency_key": ""}, {"idempotency_key": "x" * 201}):
        with pytest.raises(BadInput):
            await ask("trio", shared.url, lambda client, bad=bad: client.submit_many([], **bad))


@pytest.mark.parametrize("kind", KINDS)
async def test_a_round_trip(kind: str, shared: Started, tmp_path: Path) -> None:
    script = b"echo begun; echo bad >&2; cat sub/in > out; read line < sub/in; echo $line; exit 3"
    done: list[tuple[int, int | None]] = []

    async def trip(client: Operations) -> None:
        job = await client.submit(
            {"run.sh": script, "sub/in": b"hello\n"},
            service="example",
            user=41,
            max_runtime=60,
            memory="4G",
            cpu_time=7.5,
            open_files=64,
            progress=lambda *at: done.append(at),
        )
        assert job.limits == {"memory_bytes": 4 << 30, "cpu_seconds": 7.5, "open_files": 64}
        async with aclosing(client.iter_events(job.id)) as events:
            last = [event async for event in events][-1]
        assert last.data["status"] == "Failed"
        async with aclosing(client.logs(job.id, follow=True)) as pieces:
            assert b"".join([piece async for piece in pieces]) == b"begun\nhello\n"
        async with aclosing(client.logs(job.id, "stderr", 1)) as pieces:
            assert b"".join([piece async for piece in pieces]) == b"ad\n"
        for follow in (False, True):
            async with aclosing(client.logs(job.id, tail=1, follow=follow)) as pieces:
                assert b"".join([piece async for piece in pieces]) == b"hello\n"
        with pytest.raises(BadInput, match="number of lines"):
            client.logs(job.id, offset=1, tail=1)
        ended = await client.wait(job.id, timeout=60)
        assert (ended.exit_code, ended.over, ended.succeeded, ended.user) == (3, True, False, 41)
        assert (
            ended.ended_at is not None and ended.created_at is not None and ended.ended_at > ended.created_at
        )
        assert ended.started_at is not None and ended.finished_at is not None
        assert ended.started_at <= ended.finished_at <= ended.ended_at
        assert await client.download(job.id, tmp_path / "r.zip") == tmp_path / "r.zip"
        async with aclosing(client.jobs(user=41, limit=1)) as jobs:
            assert [found.id async for found in jobs] == [job.id]
        assert [step["to"] for step in await client.history(job.id)][-1] == "Failed"
        with pytest.raises(Refused, match="cannot be terminated") as refused:
            await client.cancel(job.id)
        assert refused.value.status == 409

    await ask(kind, shared.url, trip)
    assert zipfile.ZipFile(tmp_path / "r.zip").read("out") == b"hello\n"
    assert os.listdir(tmp_path) == ["r.zip"]
    assert done[-1][0] == done[-1][1]


@pytest.mark.parametrize("kind", KINDS)
async def test_an_upload_whose_answer_is_lost_becomes_one_job(kind: str, shared: Started) -> None:
    user = 100 + KINDS.index(kind)
    faults = [Fault.UNANSWERED, Fault.HEADLESS, Fault.UNREAD]

    def rule(line: str) -> Rule:
        return faults.pop() if line.startswith("POST /upload") and faults else None

    async def submit(client: Operations) -> None:
        await client.submit({"run.sh": b"true"}, user=user)
        async with aclosing(client.jobs(user=user)) as jobs:
            assert len([job async for job in jobs]) == 1

    async with wire(shared.url, rule) as between:
        await ask(kind, between.url, submit)
        uploads = [line for line in between.requests if line == "POST /upload"]
    assert len(uploads) == 4


@pytest.mark.parametrize("kind", KINDS)
async def test_what_cannot_be_reached_is_tried_as_often_as_wanted_and_told_in_one_line(
    kind: str, shared: Started
) -> None:
    async with wire(shared.url, lambda line: Fault.UNREAD) as between:
        with pytest.raises(Unreachable, match="try again") as told:
            await ask(kind, between.url, lambda client: client.job(1), Retries(tries=3, first=0.01))
        assert between.requests == ["GET /v1/jobs/1"] * 3
    assert "\n" not in str(told.value)


@pytest.mark.parametrize("kind", KINDS)
async def test_refusals_say_what_and_are_not_tried_again(kind: str, shared: Started) -> None:
    async with wire(shared.url) as between:
        with pytest.raises(NotFound, match="there is no job 4000000000") as told:
            await ask(kind, between.url, lambda client: client.wait(4000000000))
        assert (told.value.code, between.requests) == ("unknown_job", ["GET /v1/jobs/4000000000"])
    with pytest.raises(Refused, match="service 'nope' is unknown"):
        await ask(kind, shared.url, lambda client: client.submit({"run.sh": b""}, service="nope", user=1))
    with Client(shared.url, token="wrong") as client, pytest.raises(Refused, match="a client as token="):
        client.job(1)
    with pytest.raises(BadInput, match="ids are whole numbers"):
        await ask(kind, shared.url, lambda client: client.job(0))


async def test_a_callback_url_is_handed_in(shared: Started) -> None:
    async def submit(client: Operations) -> None:
        url = "https://portal.example.org/done"
        await client.submit({"run.sh": b"true"}, service="example", user=41, callback_url=url)

    # It is a server without callbacks, and says so.
    with pytest.raises(Refused, match=r"https://portal\.example\.org/done.*callback_hosts") as refused:
        await ask("trio", shared.url, submit)
    assert refused.value.status == 400


async def test_waiting_for_too_long_says_how_the_job_stands_and_a_cancelled_job_is_killed(
    shared: Started,
) -> None:
    async with AsyncClient(shared.url, retries=FAST) as client:
        job = await client.submit({"run.sh": b"sleep 60"}, user=5)
        with pytest.raises(TimedOut, match="goes on") as late:
            await client.wait(job.id, timeout=0.05)
        assert late.value.job.id == job.id and not late.value.job.over
        assert (await client.cancel(job.id)).status in ("Killed", "Locked")
        assert (await client.wait(job.id, timeout=60)).status == "Killed"


async def test_lists_are_read_page_by_page(shared: Started, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("orchestrator.client.operations.PAGE", 2)
    async with AsyncClient(shared.url) as client:
        ids = [(await client.submit({"run.sh": b"true"}, user=77)).id for _ in range(5)]
        for limit in (None, 5, 3):
            async with aclosing(client.jobs(user=77, limit=limit)) as jobs:
                assert [job.id async for job in jobs] == ids[::-1][:limit]


def test_the_plain_client_reads_like_a_file(shared: Started, tmp_path: Path) -> None:
    (tmp_path / "run.sh").write_text("echo hi")
    with Client(shared.url) as client:
        job = client.submit(tmp_path, user=6)
        assert b"".join(client.logs(job.id, follow=True)) == b"hi\n"
        assert [event.data["status"] for event in client.iter_events(job.id)][-1] == "Completed"
        assert client.wait(job.id).succeeded
        assert [found.id for found in client.jobs(user=6)] == [job.id]
        assert client.services()[0].jobs["Completed"] >= 1
        assert client.nodes()[0].slots == 4
        following = client.iter_events()
        following.close()


@pytest.mark.parametrize("kind", KINDS)
async def test_a_proxy_in_the_environment_is_not_asked(
    kind: str, shared: Started, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    monkeypatch.setenv("NO_PROXY", "10.0.0.0/8")
    assert len(await ask(kind, shared.url, lambda client: client.services())) == 1


@pytest.mark.parametrize(
    "url",
    [
        "",
        "nonsense",
        "ftp://host",
        "http://",
        "http://host/?x=1",
        "http://127.0.0.1:99999",
        "http://127.0.0.1:x",
        "http://a b",
        "http://a..b",
        f"http://{64 * 'a'}.org",
    ],
)
def test_what_is_no_url_is_refused_at_once(url: str) -> None:
    with pytest.raises(BadInput, match="no URL of an orchestrator"):
        Client(url)


@pytest.mark.parametrize(
    "url", ["http://[::1]:5000", "https://a_b.example.org./x", "http://xn--9ca.org", "http://\u00e9.org"]
)
def test_what_is_one_is_taken(url: str) -> None:
    with Client(url):
        pass


async def test_a_refusal_with_a_key_is_told_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    failures: list[object] = []

    async def failed(self: Patience, again: Again, *, at_least: float | None = None) -> None:
        failures.append(again.why)
        raise again.why

    monkeypatch.setattr(Patience, "failed", failed)
    async with api_server(tmp_path) as server, AsyncClient(server.url) as client:
        job = await server.upload(**{"run.sh": b"true"})
        del server.services["example"]
        with pytest.raises(Refused) as refused:
            await client.rerun(job.id)
    assert (refused.value.status, failures) == (409, [])
