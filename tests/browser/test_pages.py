"""Every page of the dashboard, wide and light, narrow and dark: that it shows what is there, that anybody can
use it, and that no name becomes anything else than text."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from fakes.gates import gate
from fakes.prefix_proxy import prefix_proxy
from fakes.processes import Started
from fakes.watched_page import Watched
from playwright.sync_api import Page, expect

from orchestrator.client import Client

AXE = Path(__file__).parent / "axe"
IMAGE = "<img src=x onerror=alert(1)>"
ARABIC = "ملف"


@dataclass
class Jobs:
    """One that runs and can be let go on, one that failed; the node they are on."""

    running: int
    failed: int
    node: str


@pytest.fixture(scope="module")
def jobs(shared: Started, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Jobs]:
    with (
        gate(tmp_path_factory.mktemp("gate") / "gate") as shut,
        Client(shared.url) as client,
    ):
        odd = f"echo '{IMAGE}' | tee '{IMAGE.replace('/', '')}' '{ARABIC}'$'\\u202e'gpj.exe; "
        script = odd + r"printf '\033[31mred\033[0m \033]0;title\007plain\rover\n\001\n'; " + shut.wait
        failed = client.submit(
            {"run.sh": b"echo no >&2; exit 3"}, service="example", user=-5, name=f"{IMAGE} {ARABIC}"
        )
        client.wait(failed.id)
        running = client.submit(
            {"run.sh": script.encode()}, service="example", user=7, name=IMAGE, tags=["x=y"]
        )
        (node,) = client.nodes()
        for event in client.iter_events(running.id):
            if event.data["status"] == "Running":
                break
        yield Jobs(running.id, failed.id, node.id)
        shut.open()
        client.wait(running.id)


def pages(jobs: Jobs) -> dict[str, str]:
    """What stands behind #, and a text that its page shows once it has fetched what it shows."""
    return {
        "/": "Who fills the queue",
        "/jobs": f"{IMAGE} {ARABIC}",
        "/jobs?status=Failed": "exit code 3",
        f"/jobs/{jobs.running}": "over",
        f"/jobs/{jobs.failed}": "printed nothing here",
        "/services": "at most 8",
        "/nodes": "1 of 1 are ready.",
        f"/nodes/{jobs.node}": IMAGE,
        "/scaling": "No service is scaled",
        "/nothing/at/all": "No such page",
    }


@pytest.mark.parametrize(("width", "scheme"), [(1200, "light"), (390, "dark")])
def test_every_page_can_be_read_by_anybody(
    dashboard: Callable[..., Page], jobs: Jobs, width: int, scheme: str
) -> None:
    page = dashboard("/", width=width, scheme=scheme)
    assert page.evaluate("matchMedia('(prefers-color-scheme: dark)').matches") == (scheme == "dark")
    found: dict[str, Any] = {}
    titles = set()
    for at, text in pages(jobs).items():
        page.evaluate("at => { location.hash = at; }", at)
        expect(page.locator("main")).to_contain_text(text)
        expect(page.locator("h1")).to_have_count(1)
        expect(page.locator("h1" if at != "/" else "body")).to_be_focused()
        titles.add(page.title())
        wide = page.evaluate("document.documentElement.scrollWidth")
        assert wide <= width, f"{at} is {wide} wide"
        found |= {f"{at} {key}": value for key, value in serious(page).items()}
    assert found == {}
    assert len(titles) >= len(pages(jobs)) - 1  # the list of jobs is there twice


def serious(page: Page) -> dict[str, Any]:
    """What axe has to say of the page as it is, contrast of all its texts among it."""
    if not page.evaluate("'axe' in window"):
        page.evaluate((AXE / "axe.min.js").read_text())
    told = page.evaluate("axe.run(document, {resultTypes: ['violations']})")
    return {
        one["id"]: [node["html"][:200] for node in one["nodes"]]
        for one in told["violations"]
        if one["impact"] in ("serious", "critical")
    }


def test_names_are_text_and_show_what_is_in_them(dashboard: Callable[..., Page], jobs: Jobs) -> None:
    page = dashboard(f"/jobs/{jobs.running}")
    expect(page.locator(".log")).to_contain_text("over")
    log = page.locator(".log").inner_text()
    # Colours and titles are gone, what was written over is, too; a control is seen.
    assert log.splitlines()[:3] == [IMAGE, "over", "␁"]
    files = page.get_by_role("region", name="Files")
    expect(files).to_contain_text(IMAGE.replace("/", ""))
    expect(files).to_contain_text(f"{ARABIC}⟨U+202E⟩gpj.exe")
    with page.expect_download() as download:
        files.get_by_role("link", name="gpj.exe").click()
    assert Path(download.value.path()).read_text() == f"{IMAGE}\n"
    assert page.locator("main img").count() == 0


def test_what_is_not_there_is_said(open_page: Callable[..., Watched], shared: Started) -> None:
    opened = open_page(shared.url, "/dashboard#/jobs/999999")
    opened.may_fail = True
    expect(opened.page.get_by_role("alert")).to_have_text("there is no job 999999")
    opened.page.evaluate("location.hash = '/jobs?user=abc'")
    expect(opened.page.get_by_role("alert")).to_contain_text("user 'abc'")
    opened.page.get_by_label("User").fill("12345")
    expect(opened.page.get_by_role("alert")).to_be_empty()
    expect(opened.page.locator("main")).to_contain_text("No job is like this.")


def test_vendored_axe_is_the_published_one() -> None:
    for line in (AXE / "SHA256SUMS").read_text().splitlines():
        wanted, name = line.split()
        assert hashlib.sha256((AXE / name).read_bytes()).hexdigest() == wanted


def test_everything_works_below_a_path(
    open_page: Callable[..., Watched], shared: Started, jobs: Jobs
) -> None:
    with prefix_proxy("/portal", shared.url) as proxy:
        page = open_page(proxy.origin, f"/portal/dashboard#/jobs/{jobs.failed}").page
        expect(page.locator("#connection")).to_have_text("live")
        expect(page.locator("main")).to_contain_text("printed nothing here")
        page.get_by_role("link", name="API").click()
        expect(page.locator(".swagger-ui .info")).to_contain_text("Job orchestrator")
        page.locator("#operations-contract-health .opblock-summary-control").click()
        page.get_by_role("button", name="Try it out").click()
        page.get_by_role("button", name="Execute").click()
        expect(page.locator(".live-responses-table")).to_contain_text('"status": "ok"')
        page.get_by_role("link", name="Dashboard").click()
        expect(page.get_by_role("heading", name="Overview")).to_be_visible()
        page.goto(f"{proxy.url}/dashboard/")
        expect(page.get_by_role("heading", name="Overview")).to_be_visible()
        page.goto("about:blank")
        assert proxy.outside == []
