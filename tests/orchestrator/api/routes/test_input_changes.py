"""A job that repeats an earlier one with changes: what an upload may say of it, and what is told."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from support.data.ledgers import walk
from support.processes.api_server import Server, api_server, credentials, form

from actors.domain.status import Status
from orchestrator.access.roles import Role
from orchestrator.contract import inputs

S = Status


@pytest.fixture(params=[0, 1 << 16])
async def server(tmp_path: Path, request: pytest.FixtureRequest) -> AsyncIterator[Server]:
    """Inputs on disk, or in the ledger."""
    async with api_server(tmp_path, services=("example", "other"), small=request.param) as running:
        yield running


async def changes(server: Server, number: int, status: int = 200, **headers: str) -> Any:
    answer = await server.client.get(f"/v1/jobs/{number}/input-changes", headers=headers)
    assert answer.status_code == status, answer.text
    return answer.json()


def files(**named: str) -> list[str]:
    return [f'name="file"; filename="{name}"|{content}' for name, content in named.items()]


async def test_an_upload_names_the_job_that_it_repeats_and_what_differs_is_told(server: Server) -> None:
    await server.upload(**{"run.sh": b"true", "params.json": b"0.1", "old.pdb": b"x", "d/in": b"same"})
    again = {"run.sh": "true", "params.json": "0.2", "seed.txt": "7", "d/in": "same"}
    accepted = await server.post(*files(**again), 'name="rerun_of"|1')
    assert accepted.status_code == 201 and "ignored" not in accepted.json()
    assert (await server.client.get("/v1/jobs/2")).json()["rerun_of"] == 1
    assert await changes(server, 2) == {
        "rerun_of": 1,
        "items": [
            {"path": "old.pdb", "change": "left_out"},
            {"path": "params.json", "change": "changed"},
            {"path": "seed.txt", "change": "new"},
        ],
        "more": 0,
    }
    # Run again as it was, and handed in by somebody who says nothing of it.
    assert (await server.client.post("/v1/jobs/2/rerun")).status_code == 201
    assert await changes(server, 3) == {"rerun_of": 2, "items": [], "more": 0}
    await server.post(*files(**again), 'name="rerun_of"| ')
    assert (await server.client.get("/v1/jobs/4")).json()["rerun_of"] is None
    assert (await changes(server, 4, 404))["code"] == "no_rerun"


async def test_of_many_that_differ_the_first_are_named(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("orchestrator.api.routes.input_changes.MOST_CHANGES", 2)
    assert inputs.MOST_CHANGES == 1000
    await server.upload(a=b"1", b=b"1", c=b"1")
    await server.post(*files(a="2", b="2", c="2"), 'name="rerun_of"|1')
    told = await changes(server, 2)
    assert ([one["path"] for one in told["items"]], told["more"]) == (["a", "b"], 1)


async def test_where_files_are_gone_it_says_whose(server: Server) -> None:
    first = await server.upload(a=b"1")
    await server.post(*files(a="2"), 'name="rerun_of"|1')
    await walk(server.ledger, first, S.KILLED)
    assert (await server.client.delete("/v1/jobs/1")).status_code == 200
    # It may still be named: it is known.
    assert (await server.post(*files(a="2"), 'name="rerun_of"|1')).status_code == 201
    told = await changes(server, 2, 404)
    assert (told["code"], told["detail"]) == ("nothing_left", "the files of job 1 were deleted")
    assert await server.ledger.purge(server.clock.now() + 1, 10) == 1
    told = await changes(server, 2, 404)
    assert (told["code"], told["detail"]) == ("unknown_job", "there is no job 1")
    assert (await server.client.get("/v1/jobs/2")).json()["rerun_of"] == 1


async def test_a_job_of_somebody_else_is_as_one_that_is_not_there(server: Server) -> None:
    await server.upload(a=b"secret")
    mine = credentials(server, Role.USER, "two", user=2)
    body, kind = form('name="user_id"|2', 'name="service"|example', 'name="rerun_of"|1', *files(a="x"))
    refused = await server.client.post("/upload", content=body, headers=mine | {"Content-Type": kind})
    assert refused.status_code == 400 and "rerun_of 1: there is no job 1" in refused.json()["message"]
    assert await server.ledger.max_id() == 1 and not server.directories()[1:]
    # A portal may say so of any: the user learns the number, and nothing of what is in it.
    assert (await server.post(*files(a="x"), 'name="rerun_of"|1', user="2")).status_code == 201
    assert (await changes(server, 2, 404, **mine))["code"] == "unknown_job"
    reader = credentials(server, Role.READER, "reader")
    assert (await changes(server, 2, 403, **reader))["code"] == "wrong_role"
