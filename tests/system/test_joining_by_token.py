"""A node that joins a server to which nobody is local, by a token: real processes."""

from __future__ import annotations

import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
from support.data.directories import until
from support.peers.portals import Portal, portal
from support.processes.processes import Place, Started

CONFIG = "[services.example]\nruns_per_user = 8\n"
SHUT = {"OPEN_LOCAL": "0"}


@asynccontextmanager
async def operator(here: Place, server: Started, name: str = "server") -> AsyncIterator[Portal]:
    async with portal(server.url) as user:
        user.http.headers.update(here.credentials(name))
        yield user


async def make_token(user: Portal, **order: Any) -> dict[str, Any]:
    answer = await user.http.post("/v1/tokens", json={"role": "node", **order})
    assert answer.status_code == 201, answer.text
    made: dict[str, Any] = answer.json()
    return made


def joining(here: Place, server: Started, token: str, *flags: str, port: str = "0") -> Started:
    file = here.directory / "token"
    file.write_text(f"{token}\n")
    joins = ["--join", server.url, "--join-services", "example", "--token-file", str(file)]
    return here.node("node", *joins, "--slots", "1", *flags, port=port)


async def test_a_node_joins_by_a_token_once_and_by_its_secret_from_then_on(here: Place) -> None:
    server = here.server(config=CONFIG, **SHUT)
    async with operator(here, server) as user:
        made = await make_token(user, once=True, max_slots=1)
        node = joining(here, server, made["secret"])
        script = "env > env.txt; tr '\\0' '\\n' < /proc/$PPID/environ > parent.txt; true"
        job = await user.upload(script)
        assert (await user.ended(job))["status"] == "Completed"
        seen = await user.contents(job)
        assert made["secret"].encode() not in b"".join(seen.values())
        (found,) = (await user.json("/v1/nodes"))["items"]
        assert (await user.http.delete(f"/v1/tokens/{made['id']}")).status_code == 204
        # The node is started anew, and so is the server: what both kept goes on.
        assert await node.end(signal.SIGTERM) == 0
        node = joining(here, server, made["secret"], port=node.port)
        assert (await user.run("true"))["status"] == "Completed"
    await server.end(signal.SIGKILL)
    server = here.server(config=CONFIG, port=server.port, **SHUT)
    async with operator(here, server) as user:
        assert (await user.run("true"))["node"] == found["id"]
        # The same id from another place, by a token that is good.
        other = await make_token(user)
        node.send(signal.SIGKILL)
        await node.ended()
        here.run("rm", "-r", str(here.directory / "node" / "orchestrators"))
        thief = joining(here, server, other["secret"])
        await until(lambda: "has a secret with this orchestrator" in thief.errors(), here.directory)
        assert f"DELETE /v1/nodes/{found['name']}/secret" in thief.errors()
        assert (await user.http.delete(f"/v1/nodes/{found['id']}/secret")).status_code == 204
        assert (await user.run("true"))["node"] == found["id"]


@pytest.mark.parametrize(
    ("order", "flags", "why"),
    [
        ({"max_slots": 1}, ["--slots", "3"], "--slots 1 at most"),
        ({"sources": ["10.1.0.0/16"]}, [], "10.1.0.0/16"),
        ({"expires_in": 0.001}, [], "has expired"),
        (None, [], "the token is not known"),
    ],
)
async def test_a_node_that_is_not_let_in_says_why(
    here: Place, order: dict[str, Any] | None, flags: list[str], why: str
) -> None:
    server = here.server(config=CONFIG, **SHUT)
    async with operator(here, server) as user:
        token = "jobo_" + "0" * 46 if order is None else (await make_token(user, **order))["secret"]
        node = joining(here, server, token, *flags)
        await until(lambda: why in node.errors(), here.directory)
        assert token not in node.errors()
        assert (await user.json("/v1/nodes"))["items"] == []


async def test_nodes_that_scaling_makes_here_join_although_nobody_is_local(here: Place) -> None:
    up = here.up("--autoscale", "0:1", "--slots", "1", **SHUT)
    with trio.fail_after(60):
        async with portal(up.url) as user:
            line = (here.directory / "up" / "server" / "data" / "operator.token").read_text().strip()
            header, _, value = line.partition(": ")
            user.http.headers[header] = value
            assert (await user.run("true"))["status"] == "Completed"


async def test_an_id_without_a_secret_is_not_taken_over_by_another_token(here: Place) -> None:
    server = here.server(config=CONFIG, **SHUT)
    async with operator(here, server) as user:
        made = await make_token(user)
        node = here.node("node", "--slots", "1")
        node_id = (await user.http.get(f"{node.url}/v1/info")).json()["node_id"]
        order = {"id": node_id, "url": node.url, "services": ["example"]}
        assert (await user.http.post("/v1/nodes", json=order)).status_code == 201
        token = {"Authorization": f"Bearer {made['secret']}"}
        elsewhere = order | {"url": node.url.replace("127.0.0.1", "127.0.0.9"), "nonce": "0" * 32}
        answer = await user.http.post("/v1/nodes", json=elsewhere, headers=token)
        assert answer.status_code == 409, answer.text
