"""Clients that leave when their response has begun and its body has not."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio
from quart import Response
from support.data.node_jobs import new_dispatch, new_storage

from actors.wire.http.app import make_app
from orchestrator.api.http import file_response
from orchestrator.api.http.errors import to_refusal
from orchestrator.nodes.remote_stream import RemoteStream


async def leave(answer: Any, method: str = "GET") -> list[str]:
    """Ask for what `answer` gives, and leave when it has it. The kinds of messages that were sent."""
    app, has_it = make_app("orchestrator.api", to_refusal), trio.Event()
    requests = [{"type": "http.request", "body": b"", "more_body": False}]
    sent = []

    @app.route("/", methods=["GET"])
    async def route() -> Response:
        found: Response = await answer()
        has_it.set()
        return found

    async def receive() -> Any:
        if requests:
            return requests.pop()
        await has_it.wait()
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        sent.append(message["type"])
        await trio.sleep_forever()

    scope: Any = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": "/",
        "raw_path": b"/",
        "query_string": b"",
        "root_path": "",
        "headers": [(b"host", b"localhost")],
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 2),
        "extensions": {},
        "state": {},
    }
    with trio.fail_after(60):
        await app(scope, receive, send)
    return sent


def open_below(top: Path) -> list[str]:
    links = [link for link in Path("/proc/self/fd").iterdir() if link.is_symlink()]
    return [str(path) for path in (link.resolve() for link in links) if path.is_relative_to(top)]


@pytest.mark.parametrize("log", [False, True])
async def test_a_stored_file_is_closed(tmp_path: Path, log: bool) -> None:
    storage = await new_storage(tmp_path / "data")
    key = (await new_dispatch(storage, {"in.pdb": b"ATOM"})).job.storage_key
    result = storage.job(key) / "result"
    result.mkdir()
    (result / "stdout.log").write_bytes(b"out")

    async def answer() -> Response | None:
        if log:
            return await file_response.send_log(storage, key, "stdout.log", 0)
        return await file_response.send_stored(
            storage, key, "in.pdb", "chemical/x-pdb", "in.pdb", part="input"
        )

    assert await leave(answer) == ["http.response.start"]
    assert open_below(tmp_path) == []
    assert not storage._reading


@pytest.mark.parametrize("method", ["GET", "HEAD"])
async def test_what_was_opened_on_a_node_is_left(method: str) -> None:
    told = []

    async def pieces() -> AsyncIterator[bytes]:
        yield b"never sent"

    @asynccontextmanager
    async def source() -> AsyncIterator[RemoteStream]:
        told.append("entered")
        try:
            yield RemoteStream({}, pieces())
        finally:
            told.append("left")

    await leave(lambda: file_response.send_stream(source(), file_response.ZIP), method)
    assert told == ["entered", "left"]
