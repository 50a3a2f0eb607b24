"""`callback_url` through the routes: what is stored, what is refused, and how it is shown."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.data.ledgers import new_job, walk
from support.processes.api_server import api_server, status_body

from actors.domain.changes import JobDetails
from actors.domain.status import Status
from actors.ports.callbacks import CallbackStatus, DeliveryOutcome, subject_of
from orchestrator.callbacks.allowed_hosts import CallbackHosts, parse_rule

HOSTS = CallbackHosts((parse_rule("portal.example.org"), parse_rule("*.jobs.example:8443")))
FILE = 'name="file"; filename="run.sh"|true'
URL = "https://portal.example.org/done"
PATH = (Status.PROCESSING, Status.SUBMITTED, Status.RUNNING)


def field(url: str) -> str:
    return f'name="callback_url"|{url}'


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("https://evil.example/", "host evil.example is not allowed; allowed: portal.example.org, *.jobs."),
        ("https://portal.example.org:99/", "port 99"),
        ("https://u:p@portal.example.org/", "user or a password"),
        ("http://127.0.0.1/", "127.0.0.1 is not allowed"),
        ("javascript:x", "https://portal.example.org/done was expected"),
        ("https://portal.example.org/" + "x" * 2000, "2000 are allowed"),
    ],
)
async def test_a_refused_url_is_400_and_leaves_nothing(tmp_path: Path, url: str, says: str) -> None:
    async with api_server(tmp_path, callbacks=HOSTS) as server:
        answer = await server.post(FILE, field(url))
        body = status_body(answer)
        assert answer.status_code == 400 and says in body["message"] and "callback_url" in body["message"]
        assert await server.nothing_left()


async def test_without_allowed_hosts_the_refusal_names_the_setting(tmp_path: Path) -> None:
    async with api_server(tmp_path) as server:
        answer = await server.post(FILE, field(URL))
        assert answer.status_code == 400 and "callback_hosts" in status_body(answer)["message"]
        assert await server.nothing_left()
        assert (await server.post(FILE, field(""))).status_code == 201


async def test_how_a_callback_stands_is_shown(tmp_path: Path) -> None:
    async with api_server(tmp_path, callbacks=HOSTS) as server:
        answer = await server.post(FILE, field(" HTTPS://Portal.Example.org./done "))
        job = await server.ledger.get(answer.json()["id"])
        assert job is not None
        route = f"/v1/jobs/{job.id}"

        async def shown() -> dict[str, object]:
            found: dict[str, object] = (await server.client.get(route)).json()["callback"]
            return found

        waiting = {
            "url": URL,
            "status": "pending",
            "tries": 0,
            "last_error": None,
            "next_at": None,
            "settled_at": None,
        }
        assert await shown() == waiting
        job = await walk(server.ledger, job, *PATH, Status.COMPLETED)
        at = "2023-11-14T22:13:20.000Z"
        assert await shown() == {**waiting, "next_at": at}
        await server.ledger.record_delivery(
            DeliveryOutcome(subject_of(job.id), CallbackStatus.PENDING, 1, "HTTP 500", server.clock.time + 5)
        )
        assert await shown() == {
            **waiting,
            "tries": 1,
            "last_error": "HTTP 500",
            "next_at": "2023-11-14T22:13:25.000Z",
        }
        await server.client.delete(route)
        assert len(await server.ledger.pending_callbacks(0)) == 1
        await server.ledger.record_delivery(DeliveryOutcome(subject_of(job.id), CallbackStatus.DELIVERED, 2))
        done = {**waiting, "status": "delivered", "tries": 2, "last_error": "HTTP 500", "settled_at": at}
        assert await shown() == done
        # What is settled stays so, whoever comes late.
        await server.ledger.record_delivery(
            DeliveryOutcome(subject_of(job.id), CallbackStatus.GIVEN_UP, 9, "late")
        )
        assert await shown() == done
        metrics = (await server.client.get("/metrics")).text
        assert 'orchestrator_callbacks{status="delivered"} 1.0\n' in metrics
        assert 'orchestrator_callbacks{status="pending"} 0.0\n' in metrics
        listed = (await server.client.get("/v1/jobs")).json()["items"]
        assert [item["callback"] for item in listed] == [None]


async def test_a_job_without_callback_has_none(tmp_path: Path) -> None:
    async with api_server(tmp_path, callbacks=HOSTS) as server:
        job = await server.upload(**{"run.sh": b"true"})
        await walk(server.ledger, job, *PATH, Status.COMPLETED)
        assert (await server.client.get(f"/v1/jobs/{job.id}")).json()["callback"] is None
        assert await server.ledger.pending_callbacks(0) == []


async def test_a_rerun_calls_the_same_url(tmp_path: Path) -> None:
    async with api_server(tmp_path, callbacks=HOSTS) as server:
        first = await server.ledger.get((await server.post(FILE, field(URL))).json()["id"])
        assert first is not None
        await walk(server.ledger, first, *PATH, Status.FAILED)
        again = (await server.client.post(f"/v1/jobs/{first.id}/rerun")).json()
        assert again["callback"]["url"] == URL and again["callback"]["status"] == "pending"


async def test_a_rerun_whose_url_is_not_allowed_any_more_is_refused(tmp_path: Path) -> None:
    for name, hosts in (("others", HOSTS), ("off", CallbackHosts())):
        async with api_server(tmp_path / name, callbacks=hosts) as server:
            job = await server.upload(**{"run.sh": b"true"})
            details = JobDetails(callback_url="https://before.example.org/")
            told = await server.ledger.insert(new_job(details=details))
            assert (await server.client.post(f"/v1/jobs/{job.id}/rerun")).status_code == 201
            answer = await server.client.post(f"/v1/jobs/{told.id}/rerun")
            assert answer.status_code == 409 and answer.json()["code"] == "callback_refused"
            assert "setting callback_hosts" in answer.json()["detail"]
            assert len((await server.client.get("/v1/jobs")).json()["items"]) == 3


async def test_the_same_key_with_another_url_is_another_content(tmp_path: Path) -> None:
    async with api_server(tmp_path, callbacks=HOSTS) as server:
        server.client.headers["Idempotency-Key"] = "k"
        assert (await server.post(FILE, field(URL))).status_code == 201
        assert (await server.post(FILE, field(URL))).status_code == 201
        assert (await server.post(FILE, field(f"{URL}/2"))).status_code == 422
