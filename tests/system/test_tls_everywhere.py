"""A server and its nodes that speak TLS with certificates of their own authority: real processes."""

from __future__ import annotations

import re
import signal
from pathlib import Path

import httpx
import trio
from support.data.certificates import self_signed
from support.data.directories import until
from support.peers.portals import Portal
from support.processes.processes import Place, Started

from actors.wire.http.tls import authorities_of

NAME = "localhost"
CONFIG = "[services.example]\nruns_per_user = 8\n"


def certificate(here: Place, name: str) -> Path:
    directory = here.directory / f"tls-{name}"
    directory.mkdir()
    self_signed(directory, NAME)
    return directory


def named(process: Started) -> str:
    return process.url.replace("127.0.0.1", NAME)


async def test_jobs_run_and_come_home_where_all_of_it_is_encrypted(here: Place) -> None:
    server_tls, node_tls = certificate(here, "server"), certificate(here, "node")
    files = [f"tls_cert = '{server_tls}/cert.pem'", f"tls_key = '{server_tls}/key.pem'"]
    files += [f"node_ca_file = '{node_tls}/cert.pem'", "small_files = 0"]
    static = here.node("static", "--tls-cert", f"{node_tls}/cert.pem", "--tls-key", f"{node_tls}/key.pem")
    assert static.url.startswith("https://")
    server = here.server(config="\n".join([*files, CONFIG]), nodes=[named(static)], OPEN_LOCAL="0")
    trust = authorities_of(server_tls / "cert.pem")
    async with httpx.AsyncClient(base_url=named(server), verify=trust, trust_env=False, timeout=60) as http:
        http.headers.update(here.credentials("server"))
        user = Portal(named(server), http)
        big = bytes(2 << 20)
        job = await user.upload("cp in.bin out.bin", files={"in.bin": big})
        assert (await user.ended(job))["status"] == "Completed"
        assert (await user.contents(job))["out.bin"] == big

        made = (await http.post("/v1/tokens", json={"role": "node"})).json()
        token = here.directory / "token"
        token.write_text(made["secret"])
        joins = ["--join", named(server), "--join-services", "example", "--token-file", str(token)]
        # Whoever believes somebody else does not even show its token.
        other = here.node("other", *joins)
        await until(lambda: "certificate" in other.errors(), here.directory)
        other.send(signal.SIGTERM)
        shows = ["--tls-cert", f"{node_tls}/cert.pem", "--tls-key", f"{node_tls}/key.pem"]
        believes = ["--ca-file", f"{server_tls}/cert.pem"]
        port = re.sub(r".*:", "", static.url)
        assert await static.end(signal.SIGTERM) == 0
        where = ["--advertise", f"https://{NAME}:{port}"]
        joined = here.node("joined", *joins, *shows, *believes, *where, port=port)
        with trio.fail_after(60):
            end = await user.ended(await user.upload("true"))
        assert end["status"] == "Completed"
        assert "joined https://" in joined.errors()


async def test_a_certificate_that_cannot_be_read_ends_the_start_and_is_named(here: Place) -> None:
    tls = certificate(here, "broken")
    (tls / "key.pem").write_text("")
    refused = here.refused("node", "--port", "0", "--data", "n", "--tls-cert", f"{tls}/cert.pem")
    (line,) = refused.lines
    assert refused.status == 2 and f"{tls}/cert.pem is named without its key: --tls-key" in line
    flags = ["--tls-cert", f"{tls}/cert.pem", "--tls-key", f"{tls}/key.pem"]
    refused = here.refused("node", "--port", "0", "--data", "n", *flags)
    assert refused.status == 1 and "key.pem" in refused.lines[-1]
    config = here.directory / "c.toml"
    config.write_text(f"tls_cert = '{tls}/cert.pem'\ntls_key = '{tls}/key.pem'\n{CONFIG}")
    refused = here.refused("server", "--config", str(config), environment={"PORT": "0", "DATA_PATH": "d"})
    assert refused.status == 1 and "key.pem" in refused.lines[-1]
