"""What somebody aims at, or has in focus, stays itself when the page is renewed: a press on it is not
lost, nor turned into another one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page, Route, expect
from support.processes.gates import gate

from orchestrator.client import Client

BEGIN = """async ([module, make, given]) => {
  await (await import("./dashboard/session.js")).ask();
  const page = (await import(`./dashboard/${module}`))[make](...given, new URLSearchParams());
  document.querySelector("main").replaceChildren(page.view);
  await page.refresh();
  window.shown = page;
}"""
"""Shows a page made of modules apart from those of the dashboard around it: only the test renews it."""

# How often each part of a job's page was taken out of it.
TAKEN_OUT = """() => {
  window.taken = [];
  const name = (one) => one.querySelector("h2")?.textContent ?? "about";
  new MutationObserver((changes) => {
    for (const { removedNodes } of changes) window.taken.push(...[...removedNodes].map(name));
  }).observe(document.querySelector("main section"), { childList: true });
}"""


def trouble(node: str) -> dict[str, Any]:
    about = {"service": "example", "node": node, "node_name": node, "jobs": 0}
    return {"kind": "failing", "text": f"example fails on node {node}", **about}


def service(given: dict[str, Any], paused: str | None, **jobs: int) -> dict[str, Any]:
    (one,) = given["items"]
    since = None if paused is None else "2026-01-01T00:00:00Z"
    return {**given, "items": [{**one, "jobs": jobs, "paused": paused, "paused_since": since}]}


def queue(*users: int) -> dict[str, Any]:
    items = [{"user_id": user, "service": "example", "queued": 9, "under_way": 0} for user in users]
    return {"items": items, "next": None}


Answer = Callable[[dict[str, Any]], dict[str, Any]]


@dataclass
class Renewal:
    """A page, what it asks, the answers to that before and after, and what somebody aims at meanwhile."""

    page: tuple[str, str]
    asked: str
    before: Answer
    after: Answer
    aimed: str


RENEWALS = {
    "a trouble before it is over": Renewal(
        ("overview.js", "overviewPage"),
        "**/v1/troubles",
        lambda _: {"items": [trouble("first"), trouble("second")], "next": None},
        lambda _: {"items": [trouble("second")], "next": None},
        ".troubles a:has-text('second')",
    ),
    "another user has more jobs now": Renewal(
        ("overview.js", "overviewPage"),
        "**/v1/queue*",
        lambda _: queue(1, 2, 3),
        lambda _: queue(3, 2, 1),
        "tbody tr[data-key='example 2'] a",
    ),
    "it is paused, and what waited is gone": Renewal(
        ("services.js", "servicesPage"),
        "**/v1/services",
        lambda given: service(given, None, Queued=1, Running=2),
        lambda given: service(given, "the licence", Running=2),
        ".counts a:has-text('Running')",
    ),
}


def answer_with(page: Page, asked: str, change: Answer) -> None:
    def answer(route: Route) -> None:
        found = route.fetch()
        route.fulfill(response=found, json=change(found.json()))

    page.unroute(asked)
    page.route(asked, answer)


@pytest.mark.parametrize("renewal", RENEWALS.values(), ids=RENEWALS)
def test_a_link_stays_itself(dashboard: Callable[..., Page], renewal: Renewal) -> None:
    page = dashboard("/nothing")
    answer_with(page, renewal.asked, renewal.before)
    page.evaluate(BEGIN, [*renewal.page, []])
    link = page.locator(renewal.aimed)
    link.evaluate("one => { window.aimed = one; one.focus(); }")
    answer_with(page, renewal.asked, renewal.after)
    page.evaluate("window.shown.refresh()")
    assert link.evaluate("one => one === window.aimed")
    expect(link).to_be_focused()
    page.evaluate("window.shown.close?.()")


def test_a_fact_stays_itself_when_others_come_before_it(
    dashboard: Callable[..., Page], client: Client
) -> None:
    script = b"echo 0.5 half > $ORCHESTRATOR_PROGRESS"
    number = client.submit({"run.sh": script}, service="example", user=31).id
    client.wait(number)
    page = dashboard("/nothing")
    asked = f"**/v1/jobs/{number}"
    answer_with(page, asked, lambda job: {**job, "status": "Running", "progress": 0.5, "version": 1})
    page.evaluate(BEGIN, ["job.js", "jobPage", [str(number)]])
    user = page.locator(".facts").get_by_role("link", name="31", exact=True)
    user.evaluate("one => { window.aimed = one; }")
    answer_with(page, asked, lambda job: {**job, "progress": 0.5})
    page.evaluate("window.shown.refresh()")
    expect(page.locator(".facts div").first).to_contain_text("Progress")
    assert user.evaluate("one => one === window.aimed")
    page.evaluate("window.shown.close()")


def test_files_that_were_asked_for_stay_when_the_job_goes_on(
    dashboard: Callable[..., Page], client: Client
) -> None:
    number = client.submit({"run.sh": b"touch $(seq 250)"}, service="example", user=3).id
    client.wait(number)
    page = dashboard("/nothing")
    asked = f"**/v1/jobs/{number}"
    answer_with(page, asked, lambda job: {**job, "status": "Running", "version": 1})
    page.evaluate(BEGIN, ["job.js", "jobPage", [str(number)]])
    files = page.get_by_role("region", name="Results").locator("tbody tr")
    page.get_by_role("button", name="Show 200 more").click()
    # Beside those that the script made are what it printed and its errors.
    last = files.nth(251)
    last.evaluate("one => { window.aimed = one; }")
    answer_with(page, asked, lambda job: job)
    page.evaluate("window.shown.refresh()")
    expect(page.locator(".standing .badge")).to_contain_text("Completed")
    expect(files).to_have_count(252)
    assert last.evaluate("one => one === window.aimed")
    page.evaluate("window.shown.close()")


def test_an_order_never_becomes_another(dashboard: Callable[..., Page]) -> None:
    page = dashboard("/nothing")
    nodes = "**/v1/nodes"

    def drained(why: str | None) -> Answer:
        return lambda given: {**given, "items": [{**one, "draining": why} for one in given["items"]]}

    answer_with(page, nodes, drained(None))
    page.evaluate(BEGIN, ["nodes.js", "nodesPage", []])
    drain = page.get_by_role("button", name="Drain node").element_handle()
    answer_with(page, nodes, drained("its disk is changed"))
    page.evaluate("window.shown.refresh()")
    expect(page.get_by_role("button", name="Undrain node")).to_be_visible()
    assert drain.get_attribute("data-order") == "drain"
    assert not drain.evaluate("one => one.isConnected")


def test_of_a_job_that_ends_no_more_is_moved_than_must_be(
    dashboard: Callable[..., Page], client: Client, tmp_path: Path
) -> None:
    with gate(tmp_path / "gate") as shut:
        number = client.submit({"run.sh": f"echo one; {shut.wait}".encode()}, service="example", user=3).id
        page = dashboard(f"/jobs/{number}")
        expect(page.locator(".log")).to_have_text("one\n")
        page.evaluate(TAKEN_OUT)
        shut.open()
        expect(page.locator(".standing .badge")).to_contain_text("Completed")
    headings = page.locator("main h2:visible")
    expect(headings.first).to_have_text("Results")
    assert set(page.evaluate("window.taken")) <= {"Results"}
