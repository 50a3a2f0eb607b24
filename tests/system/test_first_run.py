"""Who is let in where nothing was configured: the first run, and what closes by itself."""

from __future__ import annotations

import os
import signal
import stat
from pathlib import Path

import httpx
import pytest
from support.processes.processes import PATIENCE, Place, Started

FORM = {"files": {"file": ("run.sh", b"echo done")}, "data": {"user_id": "1", "service": "example"}}
CLOSED = {"OPEN_LOCAL": ""}


def client(server: Started, headers: dict[str, str] | None = None) -> httpx.Client:
    return httpx.Client(base_url=server.url, headers=headers, trust_env=False, timeout=PATIENCE)


def _nodes(operator: httpx.Client) -> list[dict[str, str]]:
    found: list[dict[str, str]] = operator.get("/v1/nodes").json()["items"]
    return found


def token_file(here: Place) -> Path:
    return here.directory / "up/server/data/operator.token"


def test_where_jobs_run_as_the_server_does_a_token_is_wanted(here: Place) -> None:
    server = here.up(**CLOSED)
    path = token_file(here)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    header, _, value = path.read_text().strip().partition(": ")
    with client(server) as nobody, client(server, {header: value}) as operator:
        assert nobody.get("/health").status_code == nobody.get("/ready").status_code == 200
        for path_, method in (("/v1/jobs", "GET"), ("/upload", "POST"), ("/download/1", "GET"), ("/", "GET")):
            assert nobody.request(method, path_).status_code == 401
        assert operator.post("/upload", **FORM).status_code == 201
        ended = operator.get("/v1/jobs/1", params={"wait": "50", "until": "ended"}).json()
        assert ended["status"] == "Completed", ended
    assert str(path) in server.errors()
    assert value.removeprefix("Bearer ") not in server.errors()


def test_commands_of_the_same_account_find_it_by_themselves(here: Place) -> None:
    server = here.up(**CLOSED)
    script = here.directory / "run.sh"
    script.write_text("echo done\n")
    environment = {"XDG_STATE_HOME": str(here.directory), "XDG_CONFIG_HOME": str(here.directory / "none")}
    submitted = here.command(
        "submit", "--url", server.url, "--user", "1", "--wait", str(script), environment=environment
    )
    assert submitted.status == 0, submitted.lines
    made = here.command(
        "token", "create", "--url", server.url, "--role", "reader", "--name", "wall", environment=environment
    )
    secret = made.out.strip()
    with client(server, {"Authorization": f"Bearer {secret}"}) as reader:
        assert reader.get("/v1/jobs").status_code == 200
        assert reader.post("/upload", **FORM).status_code == 403
        listed = here.command("token", "ls", "--url", server.url, environment=environment)
        number = next(line.split()[0] for line in listed.out.splitlines() if "wall" in line)
        assert secret not in listed.out
        revoked = here.command("token", "revoke", "--url", server.url, number, environment=environment)
        assert revoked.status == 0
        assert reader.get("/v1/jobs").status_code == 401
    elsewhere = here.command(
        "ls", "--url", server.url, environment={**environment, "XDG_STATE_HOME": "/nowhere"}
    )
    assert elsewhere.status == 1 and "needs a token" in elsewhere.lines[0]


async def test_the_token_stays_over_a_start_and_the_link_goes_with_the_server(here: Place) -> None:
    server = here.server(**CLOSED)
    before = here.credentials("server")
    (link,) = (here.directory / "job-orchestrator").glob("*.token")
    assert os.readlink(link) == str(here.directory / "server/data/operator.token")
    await server.end(signal.SIGTERM)
    assert not link.is_symlink()
    again = here.server(nodes=["http://127.0.0.1:9"], **CLOSED)
    assert here.credentials("server") == before
    with client(again, before) as operator:
        assert operator.get("/v1/tokens").json()["items"][0]["role"] == "operator"
        answer = operator.delete("/v1/tokens/operator.token")
        assert (answer.status_code, answer.json()["code"]) == (409, "token_in_file")


def test_where_no_job_runs_here_programs_of_the_account_need_none(here: Place) -> None:
    server = here.server(nodes=["http://192.0.2.1:9"], **CLOSED)
    with client(server) as local:
        assert local.post("/upload", **FORM).status_code == 201
        assert local.get("/v1/tokens").status_code == 200
        assert local.get("/v1/jobs", headers={"X-Forwarded-For": "192.0.2.7"}).status_code == 401
        assert local.get("/v1/jobs", headers={"Host": "evil.example"}).status_code == 421


def test_once_a_node_of_this_machine_joins_they_do(here: Place) -> None:
    server = here.server(nodes=["http://192.0.2.1:9"], **CLOSED)
    with client(server) as local:
        assert local.get("/v1/jobs").status_code == 200
        here.node("node", "--join", server.url, "--join-services", "example", "--slots", "1")
        with client(server, here.credentials("server")) as operator:
            while not any(one["url"].startswith("http://127.") for one in _nodes(operator)):
                pass
        assert local.get("/v1/jobs").status_code == 401


@pytest.mark.parametrize("content", ["", "x", "Authorization: Bearer jobo_000", "\0" * 10])
def test_a_damaged_token_file_is_made_anew(here: Place, content: str) -> None:
    path = here.directory / "server/data/operator.token"
    path.parent.mkdir(parents=True)
    path.write_text(content)
    server = here.server(nodes=["http://127.0.0.1:9"], **CLOSED)
    with client(server, here.credentials("server")) as operator:
        assert operator.get("/v1/jobs").status_code == 200


async def test_a_token_file_that_others_could_read_counts_no_more(here: Place) -> None:
    server = here.server(**CLOSED)
    before = here.credentials("server")
    await server.end(signal.SIGTERM)
    (here.directory / "server/data/operator.token").chmod(0o644)
    again = here.server(**CLOSED)
    assert here.credentials("server") != before
    with client(again, before) as old:
        assert old.get("/v1/jobs").status_code == 401


def test_machines_of_scaling_join_where_nothing_is_open(here: Place) -> None:
    server = here.up("--autoscale", "0:1", **CLOSED)
    header, _, value = token_file(here).read_text().strip().partition(": ")
    with client(server, {header: value}) as operator:
        assert operator.post("/upload", **FORM).status_code == 201
        ended = operator.get("/v1/jobs/1", params={"wait": "50", "until": "ended"}).json()
        assert ended["status"] == "Completed", ended
        assert all(not one["id"].startswith("machine") for one in operator.get("/v1/tokens").json()["items"])
