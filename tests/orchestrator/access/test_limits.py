"""What one user, one token or one address takes too much of is refused with the limit's name, before it is
read where that can be."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path

import httpx
import pytest
import trio
from support.data.ledgers import by_owner, new_job, open_ledger, walk
from support.processes.api_server import Server, api_server, form, status_body
from support.processes.api_server import credentials as token

from actors.domain.job import End
from actors.domain.status import Status
from orchestrator.access.gate import SignOn
from orchestrator.access.limits import BURST, REMEMBERED, Limits, Rate
from orchestrator.access.roles import Role
from orchestrator.access.tokens import make_secret
from orchestrator.api.http.file_response import SMALL
from orchestrator.client import AsyncClient, Refused
from orchestrator.config import values
from orchestrator.ledger.errors import LimitReached
from orchestrator.ledger.ledger import SqliteLedger

S = Status


def refused(answer: httpx.Response, limit: str) -> None:
    assert answer.status_code == 429, answer.text
    assert int(answer.headers["Retry-After"]) > 0
    assert f"(setting {limit})" in answer.text
    assert answer.json()["code"] == limit


# ------------------------------------------------------------------ jobs and bytes


async def test_a_queue_that_is_full_takes_no_more_of_a_user_or_of_a_service(tmp_path: Path) -> None:
    limits = Limits(queued=3, queued_per_user=2)
    async with api_server(tmp_path, services=("example", "other"), limits=limits) as server:
        assert (await server.post('name="file"; filename="run.sh"|x')).status_code == 201
        first = await server.post('name="file"; filename="run.sh"|x', service="other")
        assert first.status_code == 201
        over = await server.post('name="file"; filename="run.sh"|x')
        refused(over, "max_queued_per_user")
        status_body(over)
        for user in ("2", "3"):
            assert (await server.post('name="file"; filename="run.sh"|x', user=user)).status_code == 201
        refused(await server.post('name="file"; filename="run.sh"|x', user="4"), "max_queued")
        refused(await server.client.post(f"/v1/jobs/{first.json()['id']}/rerun"), "max_queued_per_user")
        job = await server.ledger.get(first.json()["id"])
        assert job is not None
        await walk(server.ledger, job, S.PROCESSING)
        assert (await server.client.post(f"/v1/jobs/{job.id}/rerun")).status_code == 201
        assert len(server.directories()) == 5, "nothing is left of what was refused"


async def test_a_repeated_upload_is_answered_though_the_queue_is_full(tmp_path: Path) -> None:
    async with api_server(tmp_path, limits=Limits(queued_per_user=1)) as server:
        body, kind = form('name="user_id"|1', 'name="service"|example', 'name="file"; filename="run.sh"|x')
        headers = {"Content-Type": kind, "Idempotency-Key": "k"}
        answers = [await server.client.post("/upload", content=body, headers=headers) for _ in range(2)]
        assert [answer.status_code for answer in answers] == [201, 201]
        assert answers[0].json() == answers[1].json()
        refused(
            await server.client.post("/upload", content=body, headers=headers | {"Idempotency-Key": "l"}),
            "max_queued_per_user",
        )


async def test_uploads_that_come_together_are_no_more_than_may_wait(tmp_path: Path) -> None:
    async with api_server(tmp_path, limits=Limits(queued_per_user=5)) as server:
        answers: list[int] = []

        async def upload() -> None:
            answers.append((await server.post('name="file"; filename="run.sh"|x')).status_code)

        async with trio.open_nursery() as nursery:
            for _ in range(20):
                nursery.start_soon(upload)
        assert sorted(answers) == [201] * 5 + [429] * 15


async def answer_to_the_beginning(server: Server, headers: dict[str, str], body: bytes) -> str:
    """What an upload is answered of which no more than this is ever sent."""
    lines = {"Host": "127.0.0.1", "Content-Length": "200000"} | headers
    head = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
    stream = await trio.open_tcp_stream("127.0.0.1", int(server.url.rpartition(":")[2]))
    got = b""
    with trio.fail_after(60):
        async with stream:
            await stream.send_all(f"POST /upload HTTP/1.1\r\n{head}\r\n".encode() + body)
            while b"setting " not in got and (piece := await stream.receive_some()):
                got += piece
    return got.decode()


async def test_it_is_refused_before_the_files_are_read(tmp_path: Path) -> None:
    async with api_server(tmp_path, limits=Limits(queued=1), local=False) as server:
        who = token(server, Role.PORTAL, "portal")
        body, kind = form('name="user_id"|1', 'name="service"|example', 'name="file"; filename="run.sh"|x')
        headers = who | {"Content-Type": kind}
        assert (await server.client.post("/upload", content=body, headers=headers)).status_code == 201
        answer = await answer_to_the_beginning(server, headers, body.partition(b'name="file"')[0])
        assert answer.startswith("HTTP/1.1 429 ") and "(setting max_queued)" in answer


async def test_of_a_user_s_own_token_nothing_is_read(tmp_path: Path) -> None:
    async with api_server(tmp_path, limits=Limits(bytes_per_user=1000), local=False) as server:
        headers = token(server, Role.USER, "user", user=7)
        headers |= {"Content-Type": "multipart/form-data; boundary=x"}
        answer = await answer_to_the_beginning(server, headers, b"")
        assert answer.startswith("HTTP/1.1 429 ") and "(setting max_bytes_per_user)" in answer


async def test_the_client_says_at_once_what_will_take_long(tmp_path: Path) -> None:
    limits = Limits(queued_per_user=1)
    async with api_server(tmp_path, limits=limits) as server, AsyncClient(server.url, token="") as client:
        await client.submit({"run.sh": b"true"}, user=1, service="example")
        with trio.fail_after(60), pytest.raises(Refused, match="setting max_queued_per_user"):
            await client.submit({"run.sh": b"true"}, user=1, service="example")


async def kept(path: Path, user: int) -> tuple[int, int]:
    """As the table has it, and as the jobs have it."""
    with closing(sqlite3.connect(path)) as db:
        counted = db.execute("SELECT bytes FROM kept_bytes WHERE user_id = ?", (user,)).fetchone()
        added = db.execute(
            "SELECT sum(size + coalesce(end_size, 0)) FROM jobs WHERE user_id = ? AND status <> 'Cleaned'",
            (user,),
        ).fetchone()
    return (0 if counted is None else counted[0], added[0] or 0)


async def test_bytes_are_counted_as_they_come_and_go(tmp_path: Path) -> None:
    path = tmp_path / "db"
    async with open_ledger(path) as ledger:
        limits = Limits(bytes_per_user=1000)
        first = await ledger.insert(new_job(user=1, size=600), limits=limits)
        await ledger.insert(new_job(user=2, size=900), limits=limits)
        with pytest.raises(LimitReached, match="600 bytes of user 1's jobs are stored, and 500 more"):
            await ledger.insert(new_job(user=1, size=500), limits=limits)
        await ledger.insert(new_job(user=1, size=400), limits=limits)
        assert await kept(path, 1) == (1000, 1000)
        job = await walk(ledger, first, S.PROCESSING, S.SUBMITTED)
        assert job.attempt is not None
        end = End(S.COMPLETED, "", 0, size=5000)
        (answer,) = await ledger.record(
            [by_owner(job.id, S.SUBMITTED, S.COMPLETED, "", key=job.attempt.key, end=end)]
        )
        assert answer.job is not None and await kept(path, 1) == (6000, 6000)
        await walk(ledger, answer.job, S.CLEANED)
        assert await kept(path, 1) == (400, 400)
        await ledger.insert(new_job(user=1, size=600), limits=limits)
        assert await kept(path, 1) == (1000, 1000)


# ------------------------------------------------------------------ uploads at once


async def test_no_more_uploads_at_once_than_may_be(tmp_path: Path) -> None:
    async with api_server(tmp_path, limits=Limits(uploads=1)) as server:
        body, kind = form('name="file"; filename="run.sh"|x')
        came, go_on = trio.Event(), trio.Event()
        fields = form('name="user_id"|1', 'name="service"|example')[0].removesuffix(b"--BbB--\r\n")

        async def pieces() -> AsyncIterator[bytes]:
            yield fields
            came.set()
            await go_on.wait()
            yield body

        async def upload() -> None:
            answer = await server.client.post("/upload", content=pieces(), headers={"Content-Type": kind})
            assert answer.status_code == 201, answer.text

        async with trio.open_nursery() as nursery:
            nursery.start_soon(upload)
            await came.wait()
            with trio.fail_after(60):
                while (answer := await server.post('name="file"; filename="run.sh"|x')).status_code == 201:
                    pass  # the other one is still on its way
            refused(answer, "max_uploads")
            go_on.set()
        assert (await server.post('name="file"; filename="run.sh"|x')).status_code == 201


# ------------------------------------------------------------------ requests a second


def test_a_rate_lets_a_burst_pass_and_then_so_many_a_second() -> None:
    now = [0.0]
    rate = Rate(lambda: 2.0, lambda: now[0])
    assert [rate.take("a") for _ in range(int(2 * BURST))] == [0] * int(2 * BURST)
    assert rate.take("a") == 1 and rate.take("b") == 0
    now[0] += 0.5
    assert [rate.take("a"), rate.take("a")] == [0, 1]
    now[0] += 1e6
    assert [rate.take("a") for _ in range(int(2 * BURST) + 1)] == [0] * int(2 * BURST) + [1]
    slow = Rate(lambda: 0.01, lambda: now[0])
    assert [slow.take("a"), slow.take("a")] == [0, 100]
    for number in range(3 * REMEMBERED):
        rate.take(f"other {number}")
    assert rate._pace is not None and len(rate._pace._until) == REMEMBERED


async def test_a_token_asks_so_often_and_others_go_on(tmp_path: Path) -> None:
    async with api_server(tmp_path, limits=Limits(token_rate=0.1), local=False) as server:
        busy, calm = (token(server, Role.OPERATOR, name) for name in ("busy", "calm"))
        assert (await server.client.get("/v1/jobs", headers=busy)).status_code == 200
        refused(await server.client.get("/v1/jobs", headers=busy), "token_rate")
        refused(await server.client.post("/upload", headers=busy), "token_rate")
        assert (await server.client.get("/v1/jobs", headers=calm)).status_code == 200
        assert (await server.client.get("/health")).status_code == 200


async def test_who_has_no_token_asks_so_often_by_address(tmp_path: Path) -> None:
    async with api_server(tmp_path, limits=Limits(address_rate=0.1), local=False) as server:
        good = token(server, Role.OPERATOR, "good")
        bad = {"Authorization": f"Bearer {make_secret()}"}
        assert (await server.client.get("/v1/jobs", headers=bad)).status_code == 401
        for headers in (bad, {}):
            refused(await server.client.get("/v1/jobs", headers=headers), "address_rate")
        refused(await server.client.get("/health"), "address_rate")
        assert (await server.client.get("/v1/jobs", headers=good)).status_code == 200


@pytest.mark.parametrize("more", [[], [("X-Twice", "1"), ("X-Twice", "2")]], ids=["a poll", "parsed"])
async def test_what_the_app_answers_after_all_counts_once(
    tmp_path: Path, more: list[tuple[str, str]]
) -> None:
    """A large download, and an upload with a bad token: both were admitted or refused before the app is."""
    limits = Limits(address_rate=2 / BURST, token_rate=2 / BURST)
    async with api_server(tmp_path, limits=limits) as server:
        job = await server.upload(**{"run.sh": b"true"})
        job = await walk(server.ledger, job, S.PROCESSING, S.SUBMITTED, S.RUNNING)
        result = server.storage.job(job.storage_key) / "result"
        result.mkdir()
        (result / "result.zip").write_bytes(bytes(SMALL + 1))
        await walk(server.ledger, job, S.COMPLETED)
        good = [*token(server, Role.OPERATOR, "good").items(), *more]
        bad = [("Authorization", f"Bearer {make_secret()}"), *more]
        for _ in range(2):
            assert (await server.client.get(f"/download/{job.id}", headers=good)).status_code == 200
            assert (await server.client.post("/upload", content=b"x", headers=bad)).status_code == 401
        refused(await server.client.get(f"/download/{job.id}", headers=good), "token_rate")
        refused(await server.client.post("/upload", content=b"x", headers=bad), "address_rate")


async def test_a_proxy_is_everybody_and_what_is_open_is_open(tmp_path: Path) -> None:
    proxy = SignOn("X-Forwarded-User", values.networks("127.0.0.0/8"))
    limits = Limits(address_rate=0.1, token_rate=0.1)
    async with api_server(tmp_path / "proxy", limits=limits, local=False, sign_on=proxy) as server:
        for _ in range(3):
            assert (await server.client.get("/v1/jobs")).status_code == 401
            assert (await server.client.get("/health")).status_code == 200
        person = {"X-Forwarded-User": "7"}
        assert (await server.client.get("/v1/jobs", headers=person)).status_code == 200
        refused(await server.client.get("/v1/jobs", headers=person), "token_rate")
    async with api_server(tmp_path / "open", limits=limits, local=False, contract_open=True) as server:
        for _ in range(3):
            assert (await server.client.get("/download/7")).status_code == 404
    async with api_server(tmp_path / "local", limits=limits) as server:
        for _ in range(3):
            assert (await server.client.get("/v1/jobs")).status_code == 200


async def test_older_ledgers_know_how_much_they_keep(tmp_path: Path) -> None:
    path = tmp_path / "db.sqlite"
    with closing(sqlite3.connect(path)) as db:
        db.executescript((Path(__file__).parents[1] / "ledger/older/schema_8.sql").read_text())
    async with open_ledger(path) as ledger:
        assert isinstance(ledger, SqliteLedger)
        with closing(sqlite3.connect(path)) as db:
            users = [user for (user,) in db.execute("SELECT DISTINCT user_id FROM jobs")]
        assert users
        for user in users:
            counted, added = await kept(path, user)
            assert counted == added
