"""The examples in JavaScript: a page of another origin, and Node."""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import threading
import zipfile
from collections.abc import Callable, Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from playwright.sync_api import expect
from support.processes.processes import PATIENCE, Place, Started
from support.processes.watched_page import Watched

EXAMPLE = Path(__file__).parents[2] / "examples" / "javascript"
SCRIPT = 'echo "<b>first</b>"; echo second; cat input.txt > result.txt\n'


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def portal() -> Iterator[str]:
    """The origin at which the example's page is."""
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(EXAMPLE))) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@pytest.fixture
def orchestrator(here: Place, portal: str) -> Started:
    """One that lets the portal's pages in, and nobody without a token."""
    (here.directory / "run.sh").write_text(SCRIPT)
    (here.directory / "input.txt").write_text("put in\n")
    return here.server(nodes=[here.node().url], ALLOWED_ORIGINS=portal, OPEN_LOCAL="0")


def make_token(here: Place, at: Started, *arguments: str) -> str:
    state = {"XDG_STATE_HOME": str(here.directory), "XDG_CONFIG_HOME": str(here.directory / "none")}
    made = here.command("token", "create", "--url", at.url, *arguments, environment=state)
    assert made.status == 0, made.lines
    return made.out.strip()


def fill(page: Watched, **fields: str) -> None:
    for name, value in fields.items():
        page.page.locator(f"[name={name}]").fill(value)


def test_a_page_of_another_origin_sends_a_job_and_gets_its_results(
    open_page: Callable[..., Watched], here: Place, portal: str, orchestrator: Started
) -> None:
    token = make_token(here, orchestrator, "--role", "user", "--user", "7")
    opened = open_page(portal, "/portal.html", asks=orchestrator.url)
    page = opened.page
    fill(opened, url=orchestrator.url, token=token, user="7")
    page.locator("[name=files]").set_input_files([here.directory / "run.sh", here.directory / "input.txt"])
    page.get_by_role("button", name="Submit").click()
    expect(page.get_by_role("status")).to_have_text("Job 1: Completed")
    assert page.locator("#log").inner_text().splitlines() == ["<b>first</b>", "second"]
    with page.expect_download() as download:
        page.get_by_role("link", name="Results").click()
    assert download.value.suggested_filename == "job-1.zip"
    with zipfile.ZipFile(io.BytesIO(Path(download.value.path()).read_bytes())) as results:
        assert results.read("result.txt") == b"put in\n"
    fill(opened, user="8")
    opened.may_fail = True
    page.get_by_role("button", name="Submit").click()
    expect(page.get_by_role("status")).to_contain_text("That failed: ")


def test_a_page_that_is_not_allowed_gets_nothing(
    open_page: Callable[..., Watched], here: Place, portal: str
) -> None:
    server = here.server(nodes=[here.node().url], OPEN_LOCAL="0")
    token = make_token(here, server, "--role", "user", "--user", "7")
    opened = open_page(portal, "/portal.html", asks=server.url, may_fail=True)
    # What the browser says of it may come after the page has heard it.
    with opened.page.expect_console_message(lambda said: "blocked by CORS policy" in said.text):
        refused = opened.page.evaluate(
            "([url, token]) => fetch(url + '/v1/jobs', {headers: {Authorization: `Bearer ${token}`}})"
            ".then(() => 'answered', error => error.name)",
            [server.url, token],
        )
    assert refused == "TypeError"
    opened.wrong[:] = [each for each in opened.wrong if "blocked by CORS policy" not in each]


def test_node_sends_a_job_and_gets_its_results(here: Place, orchestrator: Started) -> None:
    if shutil.which("node") is None:
        pytest.skip("there is no node; type: apt-get install nodejs")
    token = make_token(here, orchestrator, "--role", "portal")

    def submit(*names: str, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["node", str(EXAMPLE / "submit.mjs"), "example", "7", *names],
            cwd=here.directory,
            env={**os.environ, "ORCHESTRATOR_URL": orchestrator.url, **environment},
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )

    done = submit("run.sh", "input.txt", ORCHESTRATOR_TOKEN=token)
    assert done.stdout.splitlines() == ["job 1", "<b>first</b>", "second", "Completed", "job-1.zip"], (
        done.stderr
    )
    with zipfile.ZipFile(here.directory / "job-1.zip") as results:
        assert results.read("result.txt") == b"put in\n"
    refused = submit("run.sh", ORCHESTRATOR_TOKEN="wrong")
    assert refused.returncode == 1
    assert refused.stderr.startswith("the token is not known"), refused.stderr
