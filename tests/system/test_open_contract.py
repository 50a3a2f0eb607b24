"""2.x's own set-up, its containers imitated by network namespaces: a portal's calls go on, and nothing else
is open to anybody."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from support.processes.hosts import Host, hosts
from support.processes.processes import COMMAND, Place, Started

NEEDED = ("ip", "unshare", "nsenter", "setpriv", "curl")
MISSING = [tool for tool in NEEDED if shutil.which(tool) is None]
pytestmark = pytest.mark.skipif(
    os.getuid() != 0 or bool(MISSING), reason=f"root is needed, and {', '.join(MISSING) or 'nothing else'}"
)
JOB_OF_ANY = ("-F", "file=true;filename=run.sh", *("-F", "user_id=1", "-F", "service=example"))
JOB = ("-F", "file=@run.sh", "-F", "user_id=1", "-F", "service=example")


@dataclass(frozen=True, slots=True)
class Containers:
    server: Host
    node: Host
    portal: Host
    url: str
    started: Started
    here: Place


@pytest.fixture
def containers(here: Place) -> Iterator[Containers]:
    """As 2.x's compose file has them: only its variables, and what our image sets."""
    script = here.directory / "run.sh"
    script.write_text("echo done >out.txt\n")
    with hosts(3) as (server, node, portal):
        data = here.directory / "node"
        node_environment = {"PORT": "9000", "DATA_PATH": str(data), "HOST": "0.0.0.0"}
        here.start("client", name="node", environment=node_environment, command=[*node.within, *COMMAND])
        base = f"http://{node.address}:9000"
        environment = {
            "PORT": "5000",
            "HOST": "0.0.0.0",
            "DB_PATH": str(here.directory / "server.sqlite"),
            "DATA_PATH": str(here.directory / "data"),
            "SERVICE_EXAMPLE_UPLOAD_URL": f"{base}/submit",
            "SERVICE_EXAMPLE_DOWNLOAD_URL": f"{base}/retrieve",
            "SERVICE_EXAMPLE_TERMINATE_URL": f"{base}/kill",
            "OPEN_LOCAL": "",
            "OPEN_CONTRACT": "auto",
        }
        started = here.start(
            "server", name="server", environment=environment, command=[*server.within, *COMMAND]
        )
        yield Containers(server, node, portal, f"http://{server.address}:5000", started, here)


def _job(containers: Containers) -> tuple[str, ...]:
    return tuple(one.replace("@", f"@{containers.here.directory}/") for one in JOB)


def test_the_portal_of_2_x_goes_on_and_nobody_has_more(containers: Containers) -> None:
    portal, node, server, url = containers.portal, containers.node, containers.server, containers.url
    status, job = portal.ask(f"{url}/upload", *_job(containers))
    assert (status, job["status"]) == (201, "Queued"), job
    while (answer := portal.ask(f"{url}/download/1", "-o", "/dev/null"))[0] == 202:
        pass
    assert answer[0] == 200
    assert portal.ask(f"{url}/terminate/1", "-X", "POST")[0] in (200, 409)
    assert portal.ask(f"{url}/health") == (200, {"status": "ok", "database": "ok"})
    # What 2.x did not have is closed to whoever reaches the port.
    for path in ("v1/jobs", "v1/jobs/1", "v1/nodes", "v1/tokens", "metrics", "v1/jobs/1/results"):
        assert portal.ask(f"{url}/{path}")[0] == 401, path
    assert portal.ask(f"{url}/v1/nodes", "-X", "POST", "-d", "{}")[0] == 401
    # A script on the node would be the portal.
    assert node.ask(f"{url}/download/1")[0] == 401
    assert node.ask(f"{url}/upload", *_job(containers))[0] == 401
    assert node.ask(f"{url}/health")[0] == 200
    # In the server's own container the account that it runs as is an operator, and another one is nobody.
    assert server.ask("http://127.0.0.1:5000/v1/jobs")[0] == 200
    assert server.ask("http://127.0.0.1:5000/v1/jobs", user=65534)[0] == 401
    assert server.ask(f"{url}/v1/jobs")[0] == 401
    assert "OPEN_CONTRACT" in containers.started.errors()


def test_a_portal_token_closes_it_at_once_and_for_good(containers: Containers) -> None:
    portal, server, url = containers.portal, containers.server, containers.url
    assert portal.ask(f"{url}/download/1")[0] == 404
    order = ("-X", "POST", "-H", "Content-Type: application/json", "-d", '{"role": "portal"}')
    status, made = server.ask("http://127.0.0.1:5000/v1/tokens", *order)
    assert status == 201
    assert portal.ask(f"{url}/download/1")[0] == 401
    token = ("-H", f"Authorization: Bearer {made['secret']}")
    assert portal.ask(f"{url}/upload", *token, *_job(containers))[0] == 201
    assert server.ask(f"http://127.0.0.1:5000/v1/tokens/{made['id']}", "-X", "DELETE")[0] == 204
    assert portal.ask(f"{url}/download/1")[0] == 401
    assert portal.ask(f"{url}/download/1", *token)[0] == 401


def test_a_node_serves_the_contract_to_its_server_alone(containers: Containers) -> None:
    portal, node = containers.portal, containers.node
    assert portal.ask(f"{containers.url}/upload", *_job(containers))[0] == 201
    while portal.ask(f"{containers.url}/download/1", "-o", "/dev/null")[0] == 202:
        pass
    base = f"http://{node.address}:9000"
    for host in (portal, node):
        assert host.ask(f"{base}/retrieve/1")[0] == 403
        assert host.ask(f"{base}/v1/attempts/{'0' * 32}")[0] == 403
        assert host.ask(f"{base}/health")[0] == 200
    assert node.ask("http://127.0.0.1:9000/retrieve/1")[0] == 403


def test_a_proxy_in_front_as_2_x_tells_to_set_one_up_opens_the_contract_and_no_more(
    containers: Containers,
) -> None:
    """nginx beside the server, under an account of its own, with the locations and headers that 2.x's page on
    production has: the server sees HTTP/1.0 of it, names, and what auth_basic has asked for."""
    name, address = "Host: jobs.example.com", "X-Real-IP: 192.0.2.7"
    upload, download, health = ("-H", name, "-H", address), ("-H", name), ("-H", "Host: orchestrator")
    signed_on = ("-H", name, "-H", "Authorization: Basic cG9ydGFsOnNlY3JldA==")

    def ask(path: str, *options: str) -> int:
        base = "http://127.0.0.1:5000"
        return containers.server.ask(f"{base}/{path}", "--http1.0", *options, user=65534)[0]

    assert ask("upload", *upload, *JOB_OF_ANY) == 201
    while (status := ask("download/1", *download, "--head")) == 202:
        pass
    assert status == 200
    assert ask("health", *health) == 200
    assert ask("upload", *signed_on, *JOB_OF_ANY) == 201
    for path in ("v1/jobs", "v1/tokens", "metrics", "v1/jobs/1/results"):
        for options in (upload, download, health, signed_on):
            assert ask(path, *options) in (401, 421), path
    assert ask("v1/tokens", "-X", "POST", "-d", "{}", *signed_on) in (401, 421)
