"""A wait, and a download by a link, end with the token that let them in."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import trio
from support.processes.api_server import Server, api_server, credentials, form

from orchestrator.access.roles import Role


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Server]:
    async with api_server(tmp_path, local=False, upload_limit=1 << 26) as made:
        yield made


def token(server: Server, name: str, **more: Any) -> dict[str, str]:
    return credentials(server, Role.OPERATOR, name, **more)


async def a_job(server: Server, who: dict[str, str], content: bytes = b"true") -> int:
    part = b'name="file"; filename="run.sh"|' + content
    body, kind = form('name="user_id"|7', 'name="service"|example', part)
    answer = await server.client.post("/upload", content=body, headers=who | {"Content-Type": kind})
    return int(answer.json()["id"])


async def test_a_wait_ends_by_a_refusal(server: Server) -> None:
    mine = token(server, "mine")
    number = await a_job(server, mine)
    answers: list[httpx.Response] = []

    async def wait() -> None:
        answers.append(await server.client.get(f"/v1/jobs/{number}?wait=50&until=ended", headers=mine))

    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(wait)
            while not server.waiters.waiting:  # noqa: ASYNC110  # nothing tells of one who waits
                await trio.sleep(0.01)
            server.api.tokens.remove("mine")
    assert [answer.status_code for answer in answers] == [401]


async def test_a_download_by_a_link_breaks_off(server: Server) -> None:
    mine = token(server, "mine")
    number = await a_job(server, mine, bytes(40 << 20))
    made = await server.client.post(f"/v1/jobs/{number}/links", json={"file": "run.sh"}, headers=mine)
    url, got = made.json()["url"], 0
    with trio.fail_after(60), pytest.raises((httpx.RemoteProtocolError, httpx.ReadError)):
        async with server.client.stream("GET", url) as answer:
            assert answer.status_code == 200
            async for piece in answer.aiter_raw():
                if not got:
                    server.api.tokens.remove("mine")
                    await trio.sleep(2)  # the network holds no more than a part of it meanwhile
                got += len(piece)
    assert 0 < got < 40 << 20
    assert (await server.client.get(url)).status_code == 403
