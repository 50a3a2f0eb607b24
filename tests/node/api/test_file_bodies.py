"""One file of a payload as a response: open from its head to its end, and no longer."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from quart import Quart, Response, request

from actors.domain.payload import Payload
from actors.domain.status import Status
from actors.wire.http.backpressure import BoundedRequest
from node.api.app import NodeContext
from node.api.results import file_response
from node.runs.workspace import Workspace

SIZE = 1 << 20
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


@pytest.fixture
def there(tmp_path: Path) -> tuple[Workspace, Path]:
    """A workspace, and a file of a payload in it."""
    workspace = Workspace(tmp_path)
    path = workspace.work(PAYLOAD.key) / "a"
    path.parent.mkdir(parents=True)
    path.write_bytes(bytes(SIZE))
    return workspace, path


@asynccontextmanager
async def answered(workspace: Workspace) -> AsyncIterator[Response]:
    """The response to a request, which is over at the end."""
    context = cast(NodeContext, SimpleNamespace(workspace=workspace))
    app = Quart("node")
    app.request_class = BoundedRequest
    async with app.test_request_context("/"), cast(BoundedRequest, request).held:
        yield await file_response(context, PAYLOAD, "a")


async def test_a_file_is_open_until_its_body_has_been_read_whatever_becomes_of_its_name(
    there: tuple[Workspace, Path],
) -> None:
    workspace, path = there
    async with answered(workspace) as response:
        assert response.headers["Content-Length"] == str(SIZE)
        path = path.rename(path.with_name("b"))
        size = 0
        async with cast(Any, response.response) as body:
            async for piece in body:
                size += len(piece)
                assert size == SIZE or opened(path) == 1
        assert size == SIZE and opened(path) == 0


async def test_a_body_that_is_left_in_the_middle_is_closed(there: tuple[Workspace, Path]) -> None:
    workspace, path = there
    async with answered(workspace) as response, cast(Any, response.response) as body:
        async for _ in body:
            assert opened(path) == 1
            break
    assert opened(path) == 0


async def test_a_body_that_nobody_reads_is_closed_with_its_request(there: tuple[Workspace, Path]) -> None:
    workspace, path = there
    async with answered(workspace):
        assert opened(path) == 1
    assert opened(path) == 0
