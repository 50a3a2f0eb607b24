"""A real browser before a real orchestrator. Whatever a test does, its pages may ask no other host, log no
error and break no rule of the content security policy."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect
from support.processes.processes import Place, Started, own_place, shared_server
from support.processes.watched_page import Watched
from testbed.browser import chromium

from orchestrator.client import Client

WITHIN = 60_000
"""Milliseconds that anything may take on a machine that is busy with something else."""


@pytest.fixture(scope="package")
def browser() -> Iterator[Browser]:
    """One for all modules: its start costs more than most tests. Each page has a context of its own."""
    if shutil.which("chromium") is None:
        pytest.skip("there is no chromium; type: apt-get install chromium")
    expect.set_options(timeout=WITHIN)
    with chromium() as running:
        yield running


@pytest.fixture
def here() -> Iterator[Place]:
    with own_place("browser") as found:
        yield found


@pytest.fixture(scope="module")
def shared() -> Iterator[Started]:
    """An orchestrator with a node, for tests that leave nothing behind but ended jobs."""
    with own_place("browser") as found:
        yield shared_server(found)


@pytest.fixture
def client(shared: Started) -> Iterator[Client]:
    with Client(shared.url) as made:
        yield made


@pytest.fixture
def open_page(browser: Browser) -> Iterator[Callable[..., Watched]]:
    """Opens a page of a context of its own; all is closed, and judged, when the test is over."""
    opened: list[Watched] = []

    def open_one(
        origin: str,
        path: str,
        *,
        width: int = 1200,
        height: int = 800,
        scheme: Any = "light",
        may_fail: bool = False,
        asks: str = "",
    ) -> Watched:
        context = browser.new_context(viewport={"width": width, "height": height}, color_scheme=scheme)
        context.set_default_timeout(WITHIN)
        one = Watched(context.new_page(), origin, may_fail, asks=asks)
        one.watch()
        opened.append(one)
        one.page.goto(origin + path)
        return one

    yield open_one
    for one in opened:
        one.page.context.close()
    assert [wrong for one in opened for wrong in one.wrong] == []


@pytest.fixture
def dashboard(open_page: Callable[..., Watched], shared: Started) -> Callable[..., Page]:
    """The dashboard of the shared server at what stands behind #, live."""

    def open_one(at: str, **given: Any) -> Page:
        page = open_page(shared.url, f"/dashboard#{at}", **given).page
        page.wait_for_selector("#connection[data-how=live]")
        return page

    return open_one
