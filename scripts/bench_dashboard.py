"""Measure the dashboard with many jobs and nodes, in a real browser: scripts/bench_dashboard.py [--jobs N]

The ledger is filled before the server starts; all nodes but one are idle ones of one process, the last is
real and runs the jobs whose changes are timed. Every figure is taken in the page.

With --pages: what each page costs instead. With --against too: beside it the same of another version, whose
command `orchestrator` is named; it has to know the same ledger.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from playwright.sync_api import Browser, Page
from testbed import idle_nodes, page_costs
from testbed.browser import NoBrowser, chromium
from testbed.cluster import ClusterFailed, Member, start, stop, wait_until_listening
from testbed.figures import machine, percentile
from testbed.page_costs import look_for, open_until_usable, opened
from testbed.portal import Portal
from testbed.seeding import seed_with_queue

SEEDED: Final = "crowd"
REAL: Final = "example"
LOADS: Final = 5
CHANGES: Final = 30
BURST: Final = 200
COSTS: Final = 5

# What a page shows once it can be used. Behind a blank: of what, where an address stands for two things.
USABLE: Final = {
    "#/": "document.querySelectorAll('.numbers li').length > 0",
    "#/ with charts": "document.querySelector('.numbers li') && document.querySelector('.plot canvas')",
    "#/jobs": "document.querySelector('tbody tr:last-child')?.getBoundingClientRect().bottom >= innerHeight",
    "#/jobs/1": "document.querySelector('.standing') && document.querySelector('.life li')",
    "#/submit": "document.querySelector('main form')",
    "#/services": "document.querySelectorAll('.services article').length === 2",
    "#/nodes": "document.querySelectorAll('tbody tr').length >= {nodes}",
    f"#/nodes/{1:032x}": "document.querySelector('.facts')",
    "#/scaling": "(document.querySelector('.services')?.textContent ?? 'Loading') !== 'Loading'",
    "#/usage": "document.querySelectorAll('tbody tr').length > 0",
    "#/audit": "(document.querySelector('.count')?.textContent ?? 'Loading') !== 'Loading'",
}

_LONGEST: Final = """
window.longest = 0;
new PerformanceObserver((list) => {
  for (const one of list.getEntries()) window.longest = Math.max(window.longest, one.duration);
}).observe({ type: "longtask", buffered: true });
"""

# When each status of each job was first to be seen: after the frame in which it was drawn.
_SEEN: Final = """() => {
  window.seen = {};
  new MutationObserver(() => {
    for (const row of document.querySelectorAll("tbody tr")) {
      const key = `${row.dataset.key} ${row.querySelector(".badge").lastChild.data}`;
      if (!(key in window.seen)) {
        window.seen[key] = 0;
        requestAnimationFrame(() => setTimeout(() => { window.seen[key] = Date.now(); }));
      }
    }
  }).observe(document.querySelector("tbody"), { subtree: true, childList: true, characterData: true });
}"""

# The longest time between two frames while the page scrolls to its end and back.
_SCROLL: Final = """() => new Promise((resolve) => {
  let last = performance.now(), longest = 0, frames = 0;
  const step = (now) => {
    longest = Math.max(longest, now - last);
    last = now;
    frames += 1;
    window.scrollBy(0, frames <= 60 ? 200 : -200);
    if (frames < 120) requestAnimationFrame(step);
    else resolve(longest);
  };
  requestAnimationFrame(step);
})"""

# From the choice of a status until only such jobs are shown.
_FILTER: Final = """(status) => new Promise((resolve) => {
  const boxes = [...document.querySelectorAll("input[name=status]")];
  const began = performance.now();
  for (const box of boxes) box.checked = box.value === status;
  boxes[0].dispatchEvent(new Event("input", { bubbles: true }));
  const look = () => {
    const shown = [...document.querySelectorAll("tbody .badge")];
    const done = shown.length > 0 && shown.every((one) => one.lastChild.data === status);
    if (done) resolve(performance.now() - began);
    else requestAnimationFrame(look);
  };
  requestAnimationFrame(look);
})"""

Figures = list[tuple[str, float]]


def main() -> int:
    parser = argparse.ArgumentParser(description="Measure the dashboard with many jobs and nodes.")
    parser.add_argument("--jobs", type=int, default=10_000)
    parser.add_argument("--nodes", type=int, default=100)
    parser.add_argument("--pages", action="store_true", help="only what each page costs until it can be used")
    parser.add_argument("--against", metavar="COMMAND", help="another version with the same ledger")
    given = parser.parse_args()
    try:
        began = machine()
        if given.pages:
            print(f"{began}; {given.jobs:,} jobs, {given.nodes} nodes\n")
            for line in costs(given.jobs, given.nodes, given.against):
                print(line, flush=True)
            return 0
        with running(given.jobs, given.nodes) as server, chromium() as browser:
            figures = [*loads(browser, server.url, given.nodes), *use(browser, server.url)]
    except (NoBrowser, ClusterFailed) as error:
        print(f"bench_dashboard: {error}", file=sys.stderr)
        return 1
    print(f"{began}; {given.jobs:,} jobs, {given.nodes} nodes\n")
    print("| figure | |\n| --- | --- |")
    for name, value in figures:
        print(f"| {name} | {value:,.0f} ms |")
    return 0


def costs(jobs: int, nodes: int, against: str | None) -> Iterator[str]:
    with ExitStack() as stack:
        browser = stack.enter_context(chromium())
        servers = {"this": stack.enter_context(running(jobs, nodes))}
        if against:
            servers = {"other": stack.enter_context(running(jobs, nodes, [against])), **servers}
        yield from page_costs.table(browser, servers, usable(nodes), COSTS)


def usable(nodes: int) -> Mapping[str, str]:
    return {at: condition.format(nodes=nodes) for at, condition in USABLE.items()}


@contextmanager
def running(jobs: int, nodes: int, command: Sequence[str] | None = None) -> Iterator[Member]:
    """The server, once all its nodes are ready. `command`: what it is begun with, if not this version's."""
    with tempfile.TemporaryDirectory(prefix="bench-") as name, ExitStack() as stack:
        directory = Path(name)
        data = directory / "server"
        data.mkdir()
        seed_with_queue(data / "db.sqlite", SEEDED, jobs, jobs // 20, nodes - 1)

        def begin(what: str, *arguments: str, **more: Any) -> Member:
            member = start(what, arguments, more.pop("environ", {}), directory, **more)
            stack.callback(stop, member)
            wait_until_listening(member)
            return member

        idle = begin("idle", str(nodes - 1), command=[sys.executable, idle_nodes.__file__])
        node = begin("node", "node", "--port", "0", "--data", str(directory / "node"), "--on-stop", "kill")
        config = directory / "server.toml"
        config.write_text(
            f"[services.{SEEDED}]\nnodes = {idle.url}\n[services.{REAL}]\nnodes = [{json.dumps(node.url)}]\n"
        )
        environ = {"PORT": "0", "DB_PATH": str(data / "db.sqlite"), "DATA_PATH": str(data / "data")}
        server = begin("server", "server", "--config", str(config), environ=environ, command=command)
        with Portal(server.url) as portal:
            while (
                sum(one["status"] == "ready" for one in json.loads(portal.get("/v1/nodes"))["items"]) < nodes
            ):
                time.sleep(0.1)
        yield server


def loads(browser: Browser, url: str, nodes: int) -> Figures:
    """From the begin of the navigation, with nothing in the cache, until the page can be used."""
    figures = []
    for at, condition in usable(nodes).items():
        times, longest = [], []
        for _ in range(LOADS):
            with opened(browser) as page:
                watch(page, condition)
                open_until_usable(page, f"{url}/dashboard{at.partition(' ')[0]}")
                times.append(float(page.evaluate("window.usable")))
                longest.append(float(page.evaluate("window.longest")))
        figures.append((f"load of {at} until usable, p50 of {LOADS}", statistics.median(times)))
        figures.append((f"load of {at}, longest task of the main thread", max(longest)))
    return figures


def watch(page: Page, condition: str) -> None:
    page.add_init_script(_LONGEST)
    look_for(page, condition)


def use(browser: Browser, url: str) -> Figures:
    """What is felt on the list of jobs, while it is live."""
    with opened(browser) as page, Portal(url) as portal:
        watch(page, USABLE["#/jobs"])
        page.goto(f"{url}/dashboard#/jobs")
        page.wait_for_selector("#connection[data-how=live]")
        page.wait_for_function("window.usable")
        for rows in range(100, 501, 50):
            page.get_by_role("button", name="Show 50 more").click()
            page.wait_for_function(f"document.querySelectorAll('tbody tr').length >= {rows}")
        scrolled = float(page.evaluate(_SCROLL))
        chosen = [
            float(page.evaluate(_FILTER, status)) for status in ("Failed", "Killed", "Queued", "Failed")
        ]
        page.evaluate("location.hash = '/'")
        page.evaluate("location.hash = '/jobs'")
        page.wait_for_function("document.querySelectorAll('tbody tr').length >= 50")
        page.evaluate("window.longest = 0")
        late = changes(page, portal)
        longest = float(page.evaluate("window.longest"))
        page.evaluate("window.longest = 0")
        burst(page, portal)
        burdened = float(page.evaluate("window.longest"))
    return [
        ("500 rows: longest time between two frames while scrolling", scrolled),
        ("choice of a status until only such jobs are shown, longest of 4", max(chosen)),
        (f"change in the ledger until drawn, p50 of {len(late)}", percentile(late, 0.5)),
        (f"change in the ledger until drawn, p95 of {len(late)}", percentile(late, 0.95)),
        ("the same, longest task of the main thread meanwhile", longest),
        (f"{BURST} jobs from upload to end, longest task of the main thread meanwhile", burdened),
    ]


def changes(page: Page, portal: Portal) -> list[float]:
    """Milliseconds from when real jobs begin to run until that is drawn."""
    page.evaluate(_SEEN)
    late = []
    for _ in range(CHANGES):
        number = portal.upload({"run.sh": b"sleep 0.4\n"}, 1, REAL)
        portal.wait_ended(number)
        history = json.loads(portal.get(f"/v1/jobs/{number}/history"))["items"]
        ran = next(one["at"] for one in history if one["to"] == "Running")
        page.wait_for_function(f"window.seen['{number} Running']")
        seen = float(page.evaluate(f"window.seen['{number} Running']"))
        late.append(seen - 1000 * datetime.fromisoformat(ran).timestamp())
    return late


def burst(page: Page, portal: Portal) -> None:
    """Many short jobs at once, until the page shows the end of the last."""
    numbers = [portal.upload({"run.sh": b"true\n"}, 1, REAL) for _ in range(BURST)]
    for number in numbers:
        portal.wait_ended(number)
    page.wait_for_function(f"window.seen['{numbers[-1]} Completed']")


if __name__ == "__main__":
    sys.exit(main())
