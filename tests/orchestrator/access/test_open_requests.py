"""Streams and uploads end with what they were admitted by."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractContextManager, suppress
from pathlib import Path
from typing import Any

import httpx
import pytest
import trio
import trio.testing
from support.processes.api_server import Server, api_server

from orchestrator.access.open_requests import OpenRequests
from orchestrator.access.roles import Role
from orchestrator.access.sessions import LIFE
from orchestrator.access.tokens import TokenRecord, hash_of, make_secret

WITHIN = 60.0
"""Seconds that anything may take on a machine that is busy with something else."""


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Server]:
    async with api_server(tmp_path, local=False) as running:
        yield running


def make_token(server: Server, expires_at: float | None = None) -> str:
    secret = make_secret()
    record = TokenRecord("id", hash_of(secret), Role.OPERATOR, "", 0.0, expires_at=expires_at)
    server.api.tokens.add(record)
    return secret


async def until_cut(stream: AsyncIterator[bytes]) -> None:
    with trio.fail_after(WITHIN), pytest.raises(httpx.TransportError):
        async for _ in stream:
            pass


@pytest.mark.parametrize("path", ["/v1/events", "/v1/jobs/1/events", "/v1/jobs/1/logs?follow=1"])
@pytest.mark.parametrize("how", ["revoked", "expired"])
async def test_a_stream_is_cut_with_its_token(server: Server, path: str, how: str) -> None:
    secret = make_token(server, server.clock.now() + 10)
    bearer = {"Authorization": f"Bearer {secret}"}
    files = {"file": ("run.sh", b"true")}
    await server.client.post(
        "/upload", data={"user_id": "1", "service": "example"}, files=files, headers=bearer
    )
    async with server.client.stream("GET", path, headers=bearer) as answer:
        assert answer.status_code == 200
        if how == "revoked":
            server.api.tokens.remove("id")
        else:
            server.clock.time += 10
        await until_cut(answer.aiter_bytes())
    assert (await server.client.get("/v1/jobs", headers=bearer)).status_code == 401


@pytest.mark.parametrize("how", ["logged out", "expired"])
async def test_a_stream_is_cut_with_its_session(server: Server, how: str) -> None:
    told = (await server.client.post("/v1/session", json={"token": make_token(server)})).json()
    async with server.client.stream("GET", "/v1/events") as answer:
        assert answer.status_code == 200
        if how == "expired":
            server.clock.time += LIFE
        else:
            shown = {"X-Session-Token": told["session_token"]}
            assert (await server.client.delete("/v1/session", headers=shown)).status_code == 204
        await until_cut(answer.aiter_bytes())


async def test_an_upload_is_cut_with_its_token(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    under_way, listed = trio.Event(), server.api.open_requests.listed

    def listed_now(*given: Callable[[], Any]) -> AbstractContextManager[None]:
        under_way.set()
        return listed(*given)

    monkeypatch.setattr(server.api.open_requests, "listed", listed_now)
    head = (
        f"POST /upload HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {make_token(server)}\r\n"
        "Content-Type: multipart/form-data; boundary=b\r\nContent-Length: 1000000\r\n\r\n"
        '--b\r\nContent-Disposition: form-data; name="f"; filename="a"\r\n\r\nx'
    )
    with trio.fail_after(WITHIN):
        async with await trio.open_tcp_stream("127.0.0.1", int(server.url.rpartition(":")[2])) as stream:
            await stream.send_all(head.encode())
            await under_way.wait()
            server.api.tokens.remove("id")
            with suppress(trio.BrokenResourceError):
                assert await stream.receive_some() == b""
    assert await server.ledger.max_id() == 0


async def test_what_holds_goes_on() -> None:
    requests, cut, holds = OpenRequests(), trio.Event(), True
    async with trio.open_nursery() as nursery:
        nursery.start_soon(requests.run)
        with (
            requests.listed(lambda: holds, cut.set),
            requests.listed(lambda: True, nursery.cancel_scope.cancel),
        ):
            await trio.testing.wait_all_tasks_blocked()
            assert not cut.is_set()
            holds = False
            with trio.fail_after(WITHIN):
                await cut.wait()
            nursery.cancel_scope.cancel()
