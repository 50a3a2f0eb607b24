"""Nodes that open all connections themselves: real processes, with what may lie between them and the
server."""

from __future__ import annotations

import os
import random
import shutil
import signal
import ssl
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import psutil
import pytest
import trio
from support.data.certificates import self_signed
from support.data.directories import until
from support.peers.portals import Portal, portal
from support.peers.relay import relay
from support.processes.hosts import hosts
from support.processes.processes import COMMAND, PATIENCE, Place, Started, look_later, promised

from actors.wire.link.dialled import REVERSED
from orchestrator.nodes.client import SILENCE

CONFIG = "[services.example]\nruns_per_user = 8\nmax_runs = 8\n"
SHUT = {"OPEN_LOCAL": "0"}
NOTICED = 10.0
"""Seconds within which either end of a link notices that the other is not there any more."""


@asynccontextmanager
async def operator(here: Place, server: Started) -> AsyncIterator[Portal]:
    async with portal(server.url) as user:
        user.http.headers.update(here.credentials("server"))
        yield user


async def dialling(here: Place, user: Portal, url: str, *flags: str, name: str = "node") -> Started:
    """A node that dials out to this URL, by a token of its own."""
    made = await user.http.post("/v1/tokens", json={"role": "node", "services": ["example"]})
    token = here.directory / f"{name}.token"
    token.write_text(made.json()["secret"])
    joins = ["--join", url, "--join-services", "example", "--token-file", str(token), "--dial-out"]
    own = ["--data", str(here.directory / name), "--slots", "4", "--on-stop", "leave"]
    return again(here, *joins, *own, *flags, name=name)


def again(here: Place, *flags: str, name: str = "node") -> Started:
    return here.begin("node", *flags, name=name, environment={"EXECUTOR": "bash"}, forked=True)


async def test_a_node_that_listens_nowhere_does_all_that_others_do(here: Place) -> None:
    server = here.server(config=CONFIG, **SHUT)
    async with operator(here, server) as user:
        node = await dialling(here, user, server.url)
        job = await user.run(
            "cat big | tr a b > copy; echo said; echo wrong >&2; exit 3", files={"big": b"a" * 3_000_000}
        )
        assert (job["status"], job["exit_code"]) == ("Failed", 3)
        left = await user.contents(job["id"])
        assert left["copy"] == b"b" * 3_000_000
        assert left["stdout.log"] == b"said\n" and left["stderr.log"] == b"wrong\n"

        gate = here.directory / "gate"
        here.run("mkfifo", str(gate))
        long = await user.upload(f"echo begun; echo part > part.txt; echo > {gate}; cat {gate}")
        here.run("cat", str(gate))
        assert (await user.http.get(f"/v1/jobs/{long}/logs")).content.startswith(b"begun\n")
        partial = await user.http.get(f"/download_partial/{long}")
        assert partial.status_code == 200 and b"part.txt" in partial.content
        assert (await user.http.post(f"/terminate/{long}")).status_code == 200
        assert (await user.ended(long))["status"] == "Killed"

        followed = await user.upload("echo begun; sleep 0.3; echo more")
        await user.until(followed, "Running", "Completed")
        log = await user.http.get(f"/v1/jobs/{followed}/logs?follow=1")
        assert log.content == b"begun\nmore\n"

        (found,) = (await user.json("/v1/nodes"))["items"]
        assert found["status"] == "ready" and found["url"].endswith(".dialled")
        listening = [one for one in psutil.Process(node.pid).net_connections() if one.status == "LISTEN"]
        assert listening == []


async def test_nobody_opens_connections_in_the_name_of_another_node(here: Place) -> None:
    server = here.server(config=CONFIG, **SHUT)
    async with operator(here, server) as user:
        await dialling(here, user, server.url)
        await user.run("true")
        (found,) = (await user.json("/v1/nodes"))["items"]
        made = (await user.http.post("/v1/tokens", json={"role": "node"})).json()
        portals = (await user.http.post("/v1/tokens", json={"role": "portal"})).json()
    upgrade = {"Upgrade": REVERSED, "Connection": "upgrade", "X-Node-Id": found["id"]}
    bearer = {"Authorization": f"Bearer {made['secret']}"}
    for headers, expected in (
        (upgrade, 401),
        (upgrade | {"Authorization": f"Bearer {portals['secret']}"}, 403),
        (upgrade | bearer, 409),
        (upgrade | bearer | {"X-Node-Id": "me"}, 422),
        (bearer, 426),
    ):
        async with httpx.AsyncClient(base_url=server.url) as client:
            answer = await client.get("/v1/link", headers=headers)
        assert answer.status_code == expected, (headers, answer.text)


async def run_while_cut(here: Place, jobs: int, cuts: int, seed: int) -> Counter[str]:
    """How often each of `jobs` jobs was begun over a link that is cut so often at random."""
    rng, begun = random.Random(seed), here.directory / "begun"
    server = here.server(config=CONFIG, **SHUT)
    async with operator(here, server) as user, relay(server.url) as between:
        await dialling(here, user, between.url)
        await user.run("true")
        script = f"echo $ORCHESTRATOR_JOB_ID >> {begun}; sleep 0.0$((RANDOM % 10)); echo done > done.txt"
        over = trio.Event()

        async def cut() -> None:
            for _ in range(cuts):
                await trio.sleep(rng.uniform(0.02, 0.4))
                between.cut()
            over.set()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(cut)
            uploaded: list[int] = []
            while len(uploaded) < jobs or not over.is_set():
                uploaded.append(await user.upload(script))
                await trio.sleep(0.4 * cuts / jobs * rng.random())
        for job in uploaded:
            row = await user.ended(job)
            assert row["status"] == "Completed", row
            assert (await user.contents(job))["done.txt"] == b"done\n"
        found = Counter(begun.read_text().split())
        assert found.keys() == {str(job) for job in uploaded}
    return found


async def test_a_link_that_is_cut_again_and_again_loses_nothing_and_begins_nothing_twice(here: Place) -> None:
    begun = await run_while_cut(here, jobs=40, cuts=12, seed=7)
    assert set(begun.values()) == {1}


async def test_both_ends_notice_that_nothing_comes_any_more_and_go_on_once_it_does(here: Place) -> None:
    server = here.server(config=CONFIG, **SHUT)
    async with operator(here, server) as user, relay(server.url) as between:
        node = await dialling(here, user, between.url)
        gate = here.directory / "gate"
        here.run("mkfifo", str(gate))
        job = await user.upload(f"cat {gate} > result.txt")
        await user.until(job, "Running")
        links = links_of(node)
        between.freeze()
        with trio.fail_after(promised(NOTICED)):
            # The link has gone on this side, and the server opens another one, of which nothing comes either.
            while links <= links_of(node):
                await user.json("/v1/nodes")
                await look_later()
            while (await user.json("/v1/nodes"))["items"][0]["last_contact_seconds"] < SILENCE:
                await look_later()
        between.thaw()
        here.run("sh", "-c", f"echo through > {gate}")
        assert (await user.ended(job))["status"] == "Completed"
        assert (await user.contents(job))["result.txt"] == b"through\n"


def links_of(node: Started) -> set[int]:
    """Local ports of what a node has open."""
    return {
        one.laddr.port for one in psutil.Process(node.pid).net_connections() if one.status == "ESTABLISHED"
    }


async def test_a_node_and_a_server_that_were_killed_go_on_where_they_were(here: Place) -> None:
    server = here.server(config=CONFIG, **SHUT)
    async with operator(here, server) as user:
        gate = here.directory / "gate"
        here.run("mkfifo", str(gate))
        node = await dialling(here, user, server.url)
        job = await user.upload(f"cat {gate} > result.txt; echo $ORCHESTRATOR_ATTEMPT > attempt")
        await user.until(job, "Running")
        command = psutil.Process(node.pid).cmdline() or []
        await node.end(signal.SIGKILL, PATIENCE)
        await server.end(signal.SIGKILL, PATIENCE)
    server = here.server(config=CONFIG, port=server.port, **SHUT)
    async with operator(here, server) as user:
        token = here.directory / "node.token"
        token.unlink()  # what both have agreed on is enough
        joins = ["--join", server.url, "--join-services", "example", "--dial-out", "--slots", "4"]
        again(here, *joins, "--data", str(here.directory / "node"))
        here.run("sh", "-c", f"echo through > {gate}")
        assert (await user.ended(job))["status"] == "Completed"
        assert (await user.contents(job))["attempt"] == b"1\n"
    assert command is not None


async def test_it_goes_through_a_proxy_and_tls(here: Place) -> None:
    _, cert = self_signed(here.directory, "localhost")
    server = here.server(config=CONFIG, TLS_CERT=str(cert), TLS_KEY=str(cert.with_name("key.pem")), **SHUT)
    url, trust = f"https://localhost:{server.port}", ["--ca-file", str(cert)]
    async with relay(server.url, login="me:my word") as proxy:
        async with httpx.AsyncClient(
            base_url=url, verify=ssl.create_default_context(cafile=cert), timeout=PATIENCE
        ) as client:
            client.headers.update(here.credentials("server"))
            made = await client.post("/v1/tokens", json={"role": "node"})
            token = here.directory / "token"
            token.write_text(made.json()["secret"])
            joins = ["--join", url, "--join-services", "example", "--token-file", str(token)]
            flags = [*joins, "--dial-out", *trust, "--proxy"]
            wrong = again(here, *flags, proxy.url, "--data", str(here.directory / "wrong"), name="wrong")
            await until(lambda: "the proxy says: HTTP 407" in wrong.errors(), here.directory)
            right = proxy.url.replace("//", "//me:my%20word@")
            node = again(here, *flags, right, "--data", str(here.directory / "node"))
            files = {"file": ("run.sh", b"echo done > done.txt")}
            answer = await client.post("/upload", data={"user_id": "1", "service": "example"}, files=files)
            assert answer.status_code == 201, answer.text
            while (row := (await client.get("/v1/jobs/1?wait=20")).json())["status"] != "Completed":
                assert row["status"] in ("Queued", "Processing", "Submitted", "Prepared", "Running"), row
        assert set(proxy.asked) == {url.removeprefix("https://")}
        assert "my word" not in node.errors() and "my%20word" not in node.errors()


def test_what_a_node_that_dials_out_cannot_have_is_refused(here: Place) -> None:
    flags = ["node", "--dial-out", "--advertise", "http://10.0.0.1:9000"]
    refused = here.refused(*flags, "--join", "http://127.0.0.1:1", "--join-services", "a")
    assert refused.status == 2 and any("--advertise" in line for line in refused.lines), refused
    refused = here.refused("node", "--dial-out", "--data", str(Path(here.directory / "n")))
    assert refused.status == 2 and any("--dial-out: needs --join" in line for line in refused.lines), refused


@pytest.mark.skipif(
    os.getuid() != 0 or shutil.which("ip") is None, reason="it makes a network: root is needed, and ip"
)
async def test_it_runs_jobs_from_a_network_of_its_own_and_gets_over_a_cut_of_that(here: Place) -> None:
    with hosts(2) as (server_host, node_host):
        config = here.directory / "server.toml"
        config.write_text(CONFIG)
        environment = {"HOST": "0.0.0.0", "PORT": "5000", "OPEN_LOCAL": "1"}
        environment |= {
            "DB_PATH": str(here.directory / "db.sqlite"),
            "DATA_PATH": str(here.directory / "data"),
        }
        arguments = ["server", "--config", str(config)]
        on_server = [*server_host.within, *COMMAND]
        here.start(*arguments, name="server", environment=environment, command=on_server)
        local, url = "http://127.0.0.1:5000", f"http://{server_host.address}:5000"
        order = ("-X", "POST", "-H", "Content-Type: application/json", "-d", '{"role": "node"}')
        token = here.directory / "token"
        token.write_text(server_host.ask(f"{local}/v1/tokens", *order)[1]["secret"])
        joins = ["--join", url, "--join-services", "example", "--token-file", str(token), "--dial-out"]
        own = ["--data", str(here.directory / "node"), "--grace", "0.5"]
        bash = {"EXECUTOR": "bash"}
        here.begin("node", *joins, *own, name="node", environment=bash, command=[*node_host.within, *COMMAND])

        gate = here.directory / "gate"
        here.run("mkfifo", str(gate))
        (here.directory / "run.sh").write_text(f"cat {gate} > result.txt\n")
        form = ("-F", f"file=@{here.directory}/run.sh", "-F", "user_id=1", "-F", "service=example")
        assert server_host.ask(f"{local}/upload", *form)[0] == 201
        while server_host.ask(f"{local}/v1/jobs/1?wait=5")[1]["status"] != "Running":
            pass
        assert not node_host.run("ss", "-Hltn").strip()

        node_host.run("ip", "link", "set", "eth0", "down")
        with trio.fail_after(promised(NOTICED)):
            while node_host.run("ss", "-Htn", "state", "established").strip():
                await look_later()
            # One is that by which it joins, which is as any client's.
            while len(server_host.run("ss", "-Htn", "state", "established").splitlines()) > 1:
                await look_later()
        node_host.run("ip", "link", "set", "eth0", "up")
        here.run("sh", "-c", f"echo through > {gate}")
        while (job := server_host.ask(f"{local}/v1/jobs/1?wait=5&until=ended")[1])["status"] != "Completed":
            assert job["status"] == "Running", job
        assert (job["attempt"], job["attempts_used"]) == (1, 1)


async def test_a_node_says_how_long_it_is_there_and_stops_when_nobody_wants_it(here: Place) -> None:
    server = here.server(config=f"{CONFIG}max_runtime = 500\n")
    joins = ["--join", server.url, "--join-services", "example", "--dial-out"]
    # On a busy machine it takes a while until the job is there.
    idle = round(min(promised(3), PATIENCE / 3))
    flags = [*joins, "--lifetime", "600", "--idle-timeout", str(idle), "--data", str(here.directory / "node")]
    async with portal(server.url) as user:
        job = await user.upload(f"sleep {idle + 1}")
        node = again(here, *flags)
        assert (await user.until(job, "Running"))["status"] == "Running"
        (found,) = (await user.json("/v1/nodes"))["items"]
        assert 500 < found["seconds_left"] <= 600
        # Longer than it may be idle.
        assert (await user.ended(job))["status"] == "Completed"
        assert await node.ended(PATIENCE) == 0
        assert f"nothing was here for {idle} s" in node.errors()
        while (await user.json("/v1/nodes"))["items"]:
            await look_later()
