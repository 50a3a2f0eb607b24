"""An upload that is sent again under its Idempotency-Key, by a client that did not hear the answer."""

from __future__ import annotations

import signal
from collections.abc import AsyncIterator

import httpx
import trio
from support.data.directories import all_files, until
from support.peers.portals import Portal, portal
from support.processes.api_server import form
from support.processes.processes import Place

PARTS = ('name="file"; filename="run.sh"|echo once >> marks', b'name="file"; filename="in"|' + bytes(3 << 20))


async def upload(user: Portal, body: bytes, kind: str, *, halt: trio.Event | None = None) -> httpx.Response:
    """Post the body under the key; the last half of it once `halt` is set."""

    async def pieces() -> AsyncIterator[bytes]:
        yield body[: len(body) // 2]
        if halt is not None:
            await halt.wait()
        yield body[len(body) // 2 :]

    headers = {"Content-Type": kind, "Idempotency-Key": "a-key"}
    return await user.http.post("/upload", content=pieces(), headers=headers)


def of(*parts: str | bytes) -> tuple[bytes, str]:
    return form('name="user_id"|1', 'name="service"|example', *parts)


async def test_sent_twice_at_once_and_again_after_a_crash_it_is_one_job(here: Place) -> None:
    node = here.node("node")
    server = here.server(nodes=[node.url])
    data = here.directory / "server" / "data"
    async with portal(server.url) as user:
        answers: list[httpx.Response] = []
        halt = trio.Event()

        async def first() -> None:
            answers.append(await upload(user, *of(*PARTS), halt=halt))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(first)
            await until(lambda: bool(all_files(data / "incoming")), data)
            refused = await upload(user, *of(*PARTS))
            assert refused.status_code == 409 and "under way" in refused.json()["message"]
            halt.set()
        (answer,) = answers
        assert answer.status_code == 201
        job = answer.json()["id"]
        assert (await user.ended(job))["status"] == "Completed"
        await same_and_no_other(user, answer)
    await server.end(signal.SIGKILL)
    server = here.server(nodes=[node.url])
    async with portal(server.url) as user:
        await same_and_no_other(user, answer)
        assert await user.statuses() == ["Completed"]
        assert (await user.contents(job))["marks"] == b"once\n"
    assert len(list((data / "jobs").glob("*/*"))) == 1


async def same_and_no_other(user: Portal, before: httpx.Response) -> None:
    """The same content has the same answer, many times at once too; any other is refused."""
    again: list[httpx.Response] = []

    async def repeat() -> None:
        again.append(await upload(user, *of(*PARTS)))

    async with trio.open_nursery() as nursery:
        for _ in range(4):
            nursery.start_soon(repeat)
    assert {answer.status_code for answer in again} <= {201, 409}
    again.append(await upload(user, *of(*PARTS)))
    assert again[-1].status_code == 201
    for answer in again:
        if answer.status_code == 201:
            assert answer.json()["id"] == before.json()["id"]
            assert answer.headers["location"] == before.headers["location"]
    for other in (of(*PARTS, 'name="file"; filename="more"|x'), of(PARTS[0])):
        answer = await upload(user, *other)
        assert (answer.status_code, answer.json()["status"]) == (422, "Unknown"), answer.text
