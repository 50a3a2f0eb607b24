"""One file of a payload as a response: nothing is open unless its body is being read."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

from quart import Quart, Response

from actors.domain.payload import Payload
from actors.domain.status import Status
from node.api.app import NodeContext
from node.api.results import file_response
from node.runs.workspace import Workspace

PAYLOAD = Payload(
    key="a" * 32,
    id=1,
    job_id=1,
    n=1,
    service="x",
    user_id=1,
    owner="o",
    status=Status.RUNNING,
    sequence=0,
    created_at=0.0,
    max_runtime=0.0,
)


def opened(path: Path) -> int:
    """How often it is open in this process."""
    links = []
    for fd in os.listdir("/proc/self/fd"):
        try:
            links.append(os.readlink(f"/proc/self/fd/{fd}"))
        except FileNotFoundError:
            continue
    return links.count(str(path))


async def answer(workspace: Workspace) -> Response:
    context = cast(NodeContext, SimpleNamespace(workspace=workspace))
    async with Quart("node").test_request_context("/"):
        return await file_response(context, PAYLOAD, "a")


async def test_a_file_is_open_only_while_its_body_is_read(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    path = workspace.work(PAYLOAD.key) / "a"
    path.parent.mkdir(parents=True)
    path.write_bytes(bytes(1 << 20))
    response = await answer(workspace)
    assert response.headers["Content-Length"] == str(1 << 20) and opened(path) == 0
    async with cast(Any, response.response) as body:
        assert opened(path) == 0
        size = 0
        async for piece in body:
            size += len(piece)
            assert size == 1 << 20 or opened(path) == 1
    assert size == 1 << 20 and opened(path) == 0


async def test_a_body_that_is_left_in_the_middle_is_closed(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    path = workspace.work(PAYLOAD.key) / "a"
    path.parent.mkdir(parents=True)
    path.write_bytes(bytes(1 << 20))
    async with cast(Any, (await answer(workspace)).response) as body:
        async for _ in body:
            assert opened(path) == 1
            break
    assert opened(path) == 0
