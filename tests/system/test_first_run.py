"""Who is let in where nothing was configured: the first run, and what closes by itself."""

from __future__ import annotations

import os
import signal
import stat
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import psutil
import pytest
from support.processes.processes import PATIENCE, Place, Started

FORM: dict[str, Any] = {
    "files": {"file": ("run.sh", b"echo done")},
    "data": {"user_id": "1", "service": "example"},
}
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
        for path_, method in (("/v1/jobs", "GET"), ("/upload", "POST"), ("/download/1", "GET")):
            assert nobody.request(method, path_).status_code == 401
        # Who opens the address alone in a browser comes to where one logs in.
        assert nobody.get("/", headers={"Accept": "text/html"}).headers["location"] == "dashboard"
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


async def test_once_a_node_of_this_machine_joins_they_do_for_good(here: Place) -> None:
    server = here.server(nodes=["http://192.0.2.1:9"], **CLOSED)
    with client(server) as local:
        assert local.get("/v1/jobs").status_code == 200
        here.node("node", "--join", server.url, "--join-services", "example", "--slots", "1")
        with client(server, here.credentials("server")) as operator:
            while not (found := [one for one in _nodes(operator) if one["url"].startswith("http://127.")]):
                pass
            assert local.get("/v1/jobs").status_code == 401
            left = operator.delete(f"/v1/nodes/{found[0]['id']}", params={"force": "true"})
            assert left.status_code == 204
        # What a job of it began may be here still.
        assert local.get("/v1/jobs").status_code == 401
    assert "operator.token" in server.errors()
    await server.end(signal.SIGTERM)
    again = here.server(nodes=["http://192.0.2.1:9"], **CLOSED)
    with client(again) as local:
        assert local.get("/v1/jobs").status_code == 401
    await again.end(signal.SIGTERM)
    (here.directory / "server/data/jobs.here").unlink()
    with client(here.server(nodes=["http://192.0.2.1:9"], **CLOSED)) as local:
        assert local.get("/v1/jobs").status_code == 200


def test_where_a_node_is_here_the_contract_is_not_open_to_this_machine(here: Place) -> None:
    server = here.server(nodes=["http://127.0.0.1:9"], OPEN_LOCAL="0", OPEN_CONTRACT="auto")
    for address in ("127.0.0.1", "127.0.0.3"):
        transport = httpx.HTTPTransport(local_address=address)
        with httpx.Client(transport=transport, base_url=server.url, timeout=PATIENCE) as peer:
            answer = peer.post("/upload", **FORM)
            assert answer.status_code == 401 and "may come" in answer.text, (address, answer.text)
            assert peer.get("/health").status_code == 200
    assert "not open to programs of this machine" in server.errors()


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


def test_a_script_is_nobody_at_the_server_and_at_its_node(here: Place) -> None:
    server = here.up(**CLOSED)
    header, _, value = token_file(here).read_text().strip().partition(": ")
    script = """
    ask() {
        exec 3<>"/dev/tcp/127.0.0.1/$1"
        printf '%s %s HTTP/1.1\\r\\nHost: localhost:%s\\r\\nContent-Length: 0\\r\\n\\r\\n' "$2" "$3" "$1" >&3
        head -n 1 <&3
    }
    """
    with client(server, {header: value}) as operator:
        while not _nodes(operator):
            pass
        node = urlsplit(_nodes(operator)[0]["url"]).port
        port = urlsplit(server.url).port
        asked = [
            (port, "GET", "/v1/jobs"),
            (port, "POST", "/upload"),
            (port, "POST", "/terminate/1"),
            (port, "POST", "/v1/tokens"),
            (node, "POST", "/submit"),
            (node, "GET", "/retrieve/1"),
            (node, "POST", "/v1/attempts"),
        ]
        script += "".join(f"ask {number} {method} {path}\n" for number, method, path in asked)
        files = {"file": ("run.sh", (script + "env\n").encode())}
        assert operator.post("/upload", data=FORM["data"], files=files).status_code == 201
        ended = operator.get("/v1/jobs/1", params={"wait": "50", "until": "ended"}).json()
        assert ended["status"] == "Completed", ended
        said = operator.get("/v1/jobs/1/logs").text
    answers = [line.split()[1:2] for line in said.splitlines()[: len(asked)]]
    assert answers == [["401"]] * 4 + [["403"]] * 3, said
    assert "jobo_" not in said and "TOKEN" not in said


def test_what_is_kept_is_closed_to_other_accounts(here: Place) -> None:
    before = os.umask(0o022)
    try:
        server = here.server(**CLOSED)
    finally:
        os.umask(before)
    data = here.directory / "server"
    kept = [data / "db.sqlite", data / "db.sqlite-wal", data / "data" / "jobs", data / "data" / "incoming"]
    assert {path.name: path.stat().st_mode & 0o007 for path in kept} == {path.name: 0 for path in kept}
    assert {path.stat().st_mode & 0o077 for path in (data / "data").glob("*.*en")} == {0}
    assert server.url


async def test_a_ledger_that_others_could_read_is_closed(here: Place) -> None:
    await here.server(**CLOSED).end(signal.SIGKILL)
    path = here.directory / "server/db.sqlite"
    path.chmod(0o644)
    again = here.server("again", DB_PATH=str(path), **CLOSED)
    assert path.stat().st_mode & 0o777 == 0o640
    assert again.url


def test_nothing_but_what_is_said_listens(here: Place) -> None:
    up = here.up(**CLOSED)
    server = here.server(**CLOSED)
    node = here.node()
    for started, listening in ((up, 0), (server, 1), (node, 1)):
        mine = psutil.Process(started.pid).net_connections("tcp")
        found = [one.laddr for one in mine if one.status == psutil.CONN_LISTEN]
        assert [f"http://{one.ip}:{one.port}" for one in found] == [started.url][:listening]
        assert not psutil.Process(started.pid).net_connections("udp")
    below = [
        one.laddr
        for child in psutil.Process(up.pid).children(recursive=True)
        for one in child.net_connections("inet")
        if one.status == psutil.CONN_LISTEN
    ]
    # Its server and its node.
    assert {one.ip for one in below} == {"127.0.0.1"} and len(below) == 2
    assert up.url in {f"http://{one.ip}:{one.port}" for one in below}
