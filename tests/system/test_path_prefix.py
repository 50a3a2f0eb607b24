"""Behind a proxy that serves the orchestrator below a path, and takes that away from what it passes on."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urljoin

import httpx
import pytest
from support.peers.prefix_proxy import PrefixProxy, prefix_proxy
from support.processes.processes import Place, Started

from orchestrator.client import Client


@pytest.fixture
def portal(shared: Started) -> Iterator[PrefixProxy]:
    with prefix_proxy("/portal", shared.url) as proxy:
        yield proxy
        assert proxy.outside == []


@pytest.fixture
def http() -> Iterator[httpx.Client]:
    with httpx.Client(trust_env=False, timeout=60) as client:
        yield client


def test_the_document_leads_to_the_routes_below_the_path(portal: PrefixProxy, http: httpx.Client) -> None:
    address = f"{portal.url}/api-docs/openapi.json"
    document = http.get(address).json()
    (server,) = document["servers"]
    base = urljoin(address, server["url"])
    assert base == f"{portal.url}/"
    # As Swagger UI and what makes clients out of documents do: the path is appended.
    for path in ("/v1/jobs", "/v1/services", "/health"):
        assert path in document["paths"]
        assert http.get(base.rstrip("/") + path).status_code == 200


def test_the_page_of_the_api_asks_for_nothing_outside_the_path(
    portal: PrefixProxy, http: httpx.Client
) -> None:
    address = f"{portal.url}/swagger"
    page = http.get(address).text
    assets = [one for one in re.findall(r'(?:src|href)="([^"]+)"', page) if not one.startswith("data:")]
    assert len(assets) >= 3
    for asset in assets:
        answer = http.get(urljoin(address, asset))
        assert answer.status_code == 200 and str(answer.url).startswith(f"{portal.url}/"), asset
        for found in re.findall(r'url: "([^"]+)"', answer.text) if asset.endswith("init.js") else ():
            # A script's addresses count from the page.
            assert http.get(urljoin(address, found)).json()["openapi"] == "3.1.0"


def test_where_a_new_job_is_holds_below_the_path(portal: PrefixProxy, http: httpx.Client) -> None:
    with Client(portal.url) as client:
        job = client.wait(client.submit({"run.sh": b"true"}, user=50).id, 60)
    again = http.post(f"{portal.url}/v1/jobs/{job.id}/rerun")
    where = urljoin(str(again.url), again.headers["location"])
    assert where == f"{portal.url}/v1/jobs/{again.json()['id']}"
    assert http.get(where).json()["rerun_of"] == job.id


def test_client_and_command_work_below_the_path(portal: PrefixProxy, here: Place, tmp_path: Path) -> None:
    with Client(f"{portal.url}/") as client:
        job = client.submit({"run.sh": b"echo one; echo two > out"}, user=51)
        assert b"".join(client.logs(job.id, follow=True)) == b"one\n"
        assert [event.data["status"] for event in client.iter_events(job.id)][-1] == "Completed"
        assert client.wait(job.id, 60).succeeded
        client.download(job.id, tmp_path / "r.zip")
        client.download_file(job.id, "out", tmp_path / "out")
    assert (tmp_path / "out").read_text() == "two\n"
    (here.directory / "run.sh").write_text("cat run.sh; exit 3\n")
    environment = {"ORCHESTRATOR_URL": portal.url, "ORCHESTRATOR_USER": "51", "XDG_CONFIG_HOME": "/nowhere"}
    done = here.refused("submit", "run.sh", "--follow", "--output", "got", environment=environment)
    assert (done.status, done.out) == (3, "cat run.sh; exit 3\n")
    assert (here.directory / "got" / "stdout.log").read_text() == "cat run.sh; exit 3\n"
