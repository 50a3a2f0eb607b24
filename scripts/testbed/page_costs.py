"""What each page of the dashboard costs until it can be used: asked for, computed, waited for.

Wall time on a busy machine says little. CPU, requests and how many of them wait for one another say on any
machine which of two versions is the faster.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from playwright.sync_api import Browser, CDPSession, Page

from testbed.cluster import Member

PATIENCE: Final = 60_000
"""Milliseconds for anything."""
VISITS: Final = ("first", "second")
FIGURES: Final = ("requests", "kB", "server's CPU, ms", "browser's CPU, ms", "usable after, ms")
LATENCY: Final = 500.0
"""Milliseconds by which each answer is late where it is counted how many of them are waited for in turn."""

_LOOK: Final = """
const look = () => {
  if (USABLE) {
    window.usable = performance.now();
    console.debug("usable");
  } else requestAnimationFrame(look);
};
requestAnimationFrame(look);
"""

# Requests before that which the network had, and the bytes of their answers.
_ASKED: Final = """() => {
  const all = ["navigation", "resource"].flatMap((kind) => performance.getEntriesByType(kind));
  const asked = all.filter((one) => one.startTime < window.usable && one.transferSize > 0);
  return [asked.length, asked.reduce((sum, one) => sum + one.transferSize, 0)];
}"""


def table(
    browser: Browser, servers: Mapping[str, Member], usable: Mapping[str, str], times: int
) -> Iterator[str]:
    """The lines of a table: each page of each server, medians of so many visits, the servers in turn.
    `usable`: what holds in a page, by its address, once it can be used."""
    yield f"| page | visit | of | {' | '.join(FIGURES)} | in turn |"
    yield f"| --- | --- | --- |{' --- |' * (len(FIGURES) + 1)}"
    for at, condition in usable.items():
        found: dict[tuple[str, str], list[Sequence[float]]] = {}
        for _ in range(times):
            for name, server in servers.items():
                visits = _visits(browser, server, at, condition)
                for visit, costs in zip(VISITS, visits, strict=True):
                    found.setdefault((visit, name), []).append(costs)
        late = {name: _visits(browser, server, at, condition, LATENCY) for name, server in servers.items()}
        for (visit, name), every in found.items():
            shown = [statistics.median(values) for values in zip(*every, strict=True)]
            turns = (late[name][VISITS.index(visit)][-1] - shown[-1]) / LATENCY
            yield f"| {at} | {visit} | {name} | {' | '.join(f'{one:,.0f}' for one in shown)} | {turns:.1f} |"


def _visits(
    browser: Browser, server: Member, at: str, usable: str, late: float = 0.0
) -> list[Sequence[float]]:
    """FIGURES of a visit with an empty cache, and of the next one."""
    costs = []
    with opened(browser) as page:
        look_for(page, usable)
        devtools = page.context.new_cdp_session(page)
        devtools.send("Network.enable")
        devtools.send(
            "Network.emulateNetworkConditions",
            {"offline": False, "latency": late, "downloadThroughput": -1, "uploadThroughput": -1},
        )
        devtools.send("Performance.enable", {"timeDomain": "threadTicks"})
        for _ in VISITS:
            page.goto("about:blank")
            costs.append(_visit(page, devtools, server, f"{server.url}/dashboard{at.partition(' ')[0]}"))
            page.wait_for_load_state("networkidle")
    return costs


def _visit(page: Page, devtools: CDPSession, server: Member, address: str) -> Sequence[float]:
    of_server, of_browser = _cpu(server), _busy(devtools)
    open_until_usable(page, address)
    of_server, of_browser = _cpu(server) - of_server, _busy(devtools) - of_browser
    requests, size = page.evaluate(_ASKED)
    usable = float(page.evaluate("window.usable"))
    return requests, size / 1000, 1000 * of_server, 1000 * of_browser, usable


def _busy(devtools: CDPSession) -> float:
    """CPU seconds of the main thread of the page."""
    metrics = devtools.send("Performance.getMetrics")["metrics"]
    return next(float(one["value"]) for one in metrics if one["name"] == "TaskDuration")


def _cpu(server: Member) -> float:
    """CPU seconds of all its threads. The times of the process itself are counted in hundredths."""
    threads = Path(f"/proc/{server.pid}/task").glob("*/schedstat")
    return sum(int(one.read_text().split()[0]) for one in threads) / 1e9


def look_for(page: Page, usable: str) -> None:
    """Have each document that is loaded say when this came to hold: milliseconds as `window.usable`."""
    page.add_init_script(_LOOK.replace("USABLE", usable))


def open_until_usable(page: Page, address: str) -> None:
    """Go there, and wait for what `look_for` looks for. To ask the page for it would be work of its own
    there: the first question brings a script that is larger than the dashboard's."""
    with page.expect_console_message(lambda said: said.text == "usable", timeout=PATIENCE):
        page.goto(address, wait_until="commit")


@contextmanager
def opened(browser: Browser) -> Iterator[Page]:
    # The page's policy forbids what waiting for a condition is made of.
    context = browser.new_context(viewport={"width": 1200, "height": 800}, bypass_csp=True)
    context.set_default_timeout(PATIENCE)
    try:
        yield context.new_page()
    finally:
        context.close()
