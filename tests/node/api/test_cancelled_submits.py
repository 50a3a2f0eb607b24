"""A sender that goes away while others' payloads are written down together with its own."""

from __future__ import annotations

import json
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager
from pathlib import Path

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from node.api.submit import SubmitReceiver
from node.payloads.operations import Arrival
from node.payloads.records import Records
from node.payloads.table import PayloadTable, open_table
from node.runs.workspace import Workspace

FIRST, SECOND, THIRD = "a" * 32, "b" * 32, "c" * 32
SCRIPT = b"echo all of it\n"
CONTENT_TYPE = "multipart/form-data; boundary=x"


class FixedClock:
    def now(self) -> float:
        return 1_000_000.0


class Held:
    """A payload whose taking over stops in the thread until it is let go."""

    def __init__(self, table: PayloadTable, data: Path, key: str) -> None:
        self.begun = trio.Event()
        self._token = trio.lowlevel.current_trio_token()
        self._going = threading.Event()
        self._table = table
        self._directory = data / "held" / key
        self._key = key

    async def accept(self) -> None:
        (self._directory / "work").mkdir(parents=True)
        await self._table.accept([Arrival(self._key, self._directory)], self._before)

    def _before(self) -> None:
        trio.from_thread.run_sync(self.begun.set, trio_token=self._token)
        assert self._going.wait(30)

    def go(self) -> None:
        self._going.set()


def part(name: str, filename: str, content: bytes) -> bytes:
    named = f'; filename="{filename}"' if filename else ""
    return f'--x\r\nContent-Disposition: form-data; name="{name}"{named}\r\n\r\n'.encode() + content + b"\r\n"


class Body:
    """The bytes of a submit: all but the last of them, and those when it is let go."""

    def __init__(self) -> None:
        self.read = trio.Event()
        self.last = trio.Event()

    async def __call__(self, *parts: bytes) -> AsyncGenerator[bytes, None]:
        yield b"".join(parts)
        self.read.set()
        await self.last.wait()
        yield b"--x--\r\n"


async def contract(receiver: SubmitReceiver, body: Body) -> None:
    async with aclosing(body(part("run.sh", "run.sh", SCRIPT))) as sent:
        await receiver.contract(CONTENT_TYPE, sent)


async def attempts(receiver: SubmitReceiver, body: Body) -> None:
    form = {"owner": "o", "attempts": [{"key": THIRD, "job": 1, "n": 1, "service": "x", "user": 1}]}
    parts = part("attempts", "", json.dumps(form).encode()), part(f"{THIRD}/run.sh", "run.sh", SCRIPT)
    async with aclosing(body(*parts)) as sent:
        await receiver.attempts(CONTENT_TYPE, sent)


@asynccontextmanager
async def opened(data: Path) -> AsyncIterator[tuple[PayloadTable, Workspace]]:
    records, workspace = Records(data), Workspace(data)
    workspace.prepare()
    try:
        async with open_table(records, FixedClock(), intended=lambda _key: False) as table:
            yield table, workspace
    finally:
        records.close()


@pytest.mark.parametrize("submit", [contract, attempts])
async def test_a_submit_cancelled_in_the_batch_of_another_is_accepted_with_its_files(
    tmp_path: Path, submit: Callable[[SubmitReceiver, Body], Awaitable[None]]
) -> None:
    async with opened(tmp_path) as (table, workspace):
        first, second = Held(table, tmp_path, FIRST), Held(table, tmp_path, SECOND)
        receiver, body, gone = SubmitReceiver(table, workspace, 1 << 20), Body(), trio.CancelScope()

        async def submitting() -> None:
            with gone:
                await submit(receiver, body)

        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(submitting)
                await body.read.wait()
                nursery.start_soon(first.accept)
                await first.begun.wait()
                nursery.start_soon(second.accept)
                await wait_all_tasks_blocked()
                body.last.set()
                await wait_all_tasks_blocked()
                first.go()
                # The second leads now, and has the third in its batch.
                await second.begun.wait()
                gone.cancel()
                await wait_all_tasks_blocked()
                second.go()
        finally:
            first.go()
            second.go()
        (found,) = [p for p in (await table.all())[0] if p.key not in (FIRST, SECOND)]
        assert (workspace.work(found.key) / "run.sh").read_bytes() == SCRIPT
        assert list((tmp_path / "incoming").iterdir()) == [] and not receiver.receiving


async def test_a_submit_cancelled_before_it_is_in_a_batch_leaves_nothing(tmp_path: Path) -> None:
    async with opened(tmp_path) as (table, workspace):
        first = Held(table, tmp_path, FIRST)
        receiver, body = SubmitReceiver(table, workspace, 1 << 20), Body()
        try:
            async with trio.open_nursery() as nursery, trio.open_nursery() as doomed:
                doomed.start_soon(attempts, receiver, body)
                await body.read.wait()
                nursery.start_soon(first.accept)
                await first.begun.wait()
                body.last.set()
                await wait_all_tasks_blocked()
                doomed.cancel_scope.cancel()
                first.go()
        finally:
            first.go()
        assert [p.key for p in (await table.all())[0]] == [FIRST]
        assert list((tmp_path / "incoming").iterdir()) == [] and not receiver.receiving


async def test_what_was_given_up_is_not_written_out(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    workspace.prepare()
    incoming = workspace.receive()
    incoming.add(THIRD)
    incoming.open(THIRD, "run.sh")
    await incoming.close()
    with pytest.raises(RuntimeError, match="given up"):
        incoming.write_out()
    assert list((tmp_path / "incoming").iterdir()) == []
