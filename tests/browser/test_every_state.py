"""Every state that jobs, nodes and services may be in, and in which somebody is amid something: anybody can
use the dashboard, light and dark, wide and on a phone."""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final

import pytest
from playwright.sync_api import Page, expect
from support.processes.flaws import flaws, flaws_light_and_dark
from support.processes.gates import gate
from support.processes.processes import Started, own_place
from support.processes.watched_page import Watched

from orchestrator.client import Client

PHONE: Final = {"width": 390, "height": 844}
WIDE: Final = {"width": 1200, "height": 800}
DOT: Final = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAoAAAAKCAIAAAACUFjqAAAAEklEQVR42mNYISODBzGMSmNDADWBV4Ek2+ZEAAAAAElFTkSuQmCC"
)
"""A picture of 10 by 10 pixels."""
BAD: Final = b"echo reading receptor.pdb; echo 'line 118: no such atom' >&2; exit 3"


@dataclass
class Scene:
    """An orchestrator with a job in each state, all of one service of two nodes with a slot each."""

    server: Started
    failed: int
    pictured: int
    cancelled: int
    cleaned: int
    running: int
    queued: int
    nowhere: int
    """It waits for a label that no node has."""
    nodes: list[str]
    names: list[str]
    """How they are called."""


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    with (
        own_place("states") as here,
        gate(tmp_path_factory.mktemp("gate") / "gate") as shut,
    ):
        urls = [here.node(name, "--slots", "1").url for name in ("one", "two")]
        quotas = {"SERVICE_EXAMPLE_RUNS_PER_USER": "8", "SERVICE_EXAMPLE_MAX_RUNS": "8"}
        server = here.server(nodes=urls, **quotas)
        with Client(server.url) as client:
            yield _played(server, client, shut.wait)
            for job in client.jobs():
                if job.status == "Queued":
                    client.cancel(job.id)
            shut.open()


def _played(server: Started, client: Client, wait: str) -> Scene:
    def hand_in(script: bytes, name: str, **files: bytes) -> int:
        given = {"run.sh": script, **{path.replace("_", "."): data for path, data in files.items()}}
        return client.submit(given, service="example", user=7, name=name, tags=["project:thrombin"]).id

    # From five that ran on it is said when others will.
    quick = [hand_in(b"true", "warm up") for _ in range(5)]
    failed = hand_in(BAD, "1acb with eglin", receptor_pdb=b"ATOM\n", ligand_mol2=b"@<TRIPOS>\n")
    for number in (*quick, failed):
        client.wait(number)
    pictured = hand_in(
        b"cat data.csv > /dev/null; base64 -d < dot.b64 > energies.png",
        "energies",
        data_csv=b"step,energy\n1,-7\n",
        dot_b64=base64.b64encode(DOT),
    )
    client.wait(pictured)
    client.delete(quick[0])
    with Client(server.url, token=client.create_token("operator", name="Ada")["secret"]) as ada:
        cancelled = hand_in(wait.encode(), "the wrong ligand")
        ada.cancel(cancelled)
    client.wait(cancelled)
    long = b"echo 0.4 refining model 4 > $ORCHESTRATOR_PROGRESS; echo step 1; " + wait.encode()
    running = [hand_in(long, "2sni refinement") for _ in range(2)]
    for number in running:
        for event in client.iter_events(number):
            if event.data["status"] == "Running":
                break
    queued = hand_in(b"true", "barnase and barstar")
    nowhere = client.submit({"run.sh": b"true"}, service="example", user=8, requires="gpu=h100").id
    nodes = client.nodes()
    ids, names = [node.id for node in nodes], [node.name for node in nodes]
    return Scene(server, failed, pictured, cancelled, quick[0], running[0], queued, nowhere, ids, names)


@pytest.fixture
def page(open_page: Callable[..., Watched], scene: Scene) -> Page:
    found = open_page(scene.server.url, "/dashboard").page
    found.wait_for_selector("#connection[data-how=live]")
    return found


def states(scene: Scene) -> list[tuple[str, str, Callable[[Page], None] | None]]:
    """What stands behind #, a text that its page shows once it has fetched what it shows, and what is done
    there before it is judged."""

    def press(name: str) -> Callable[[Page], None]:
        return lambda page: page.get_by_role("button", name=name).first.click()

    def refused(page: Page) -> None:
        page.get_by_label("Script").fill("")
        page.get_by_role("button", name="Submit").click()
        expect(page.get_by_role("alert").last).to_contain_text("There is nothing to run")

    def opened(page: Page) -> None:
        page.get_by_role("link", name="energies.png").first.click()

    def chosen(page: Page) -> None:
        page.get_by_label("Select all that are shown").check()
        # Of the last one, too, the buttons are in sight.
        page.locator("[data-select]").last.scroll_into_view_if_needed()
        page.mouse.wheel(0, 10_000)
        expect(page.get_by_role("button", name="Run again (")).to_be_in_viewport(ratio=1)
        expect(page.get_by_role("group", name="Selected jobs")).to_contain_text("selected")
        page.evaluate("scrollTo(0, 0)")

    def drained(page: Page) -> None:
        page.locator("[data-order=drain]").click()
        expect(page.get_by_role("dialog")).to_contain_text(f"Drain node {scene.names[1]}?")

    def paused(page: Page) -> None:
        page.get_by_role("button", name="Pause").click()
        page.get_by_label("Reason").fill("the licence has ended")
        page.keyboard.press("Enter")
        expect(page.locator("main")).to_contain_text(": the licence has ended")

    return [
        ("/", "gpu=h100", lambda page: page.locator("main summary").first.click()),
        ("/jobs", "gpu=h100", chosen),
        ("/jobs?status=Killed,Cleaned", "Cleaned", lambda page: page.get_by_text("Status: K").click()),
        ("/jobs?search=nothing+is+like+this", "No job matches", None),
        (f"/jobs/{scene.queued}", "barnase and barstar", None),
        (f"/jobs/{scene.nowhere}", "gpu=h100", None),
        (f"/jobs/{scene.running}", "refining model 4", press("Cancel")),
        (f"/jobs/{scene.failed}", "line 118: no such atom", None),
        (f"/jobs/{scene.pictured}", "energies.png", opened),
        (f"/jobs/{scene.cancelled}", "cancelled by an operator", None),
        (f"/jobs/{scene.cleaned}", "Cleaned", None),
        ("/submit", "Drop files", lambda page: page.get_by_text("Limits and place").click()),
        (f"/submit?from={scene.failed}", "receptor.pdb", refused),
        ("/nodes", "its disk is changed", drained),
        (f"/nodes/{scene.nodes[0]}", "its disk is changed", None),
        ("/usage?sort=-Jobs", "1 shown", None),
        ("/audit", "its disk is changed", None),
        (f"/audit?job={scene.cancelled}", "Ada (operator) from 127.0.0.1", None),
        ("/services", "Who fills the queue", paused),
    ]


def test_in_every_state_anybody_can_use_it(page: Page, scene: Scene) -> None:
    found: dict[str, Any] = {}
    with Client(scene.server.url) as client:
        client.drain(scene.nodes[0], "its disk is changed")
        for at, text, act in states(scene):
            page.set_viewport_size(WIDE)
            page.evaluate("at => { location.hash = at; }", at)
            expect(page.locator("main")).to_contain_text(text)
            if act:
                act(page)
            told = flaws_light_and_dark(page)
            page.set_viewport_size(PHONE)
            told |= {f"phone {rule}": nodes for rule, nodes in flaws(page).items()}
            if (wide := page.evaluate("document.documentElement.scrollWidth")) > PHONE["width"]:
                told["phone"] = f"{wide} wide"
            found |= {f"{at} {what}": where for what, where in told.items()}
        client.resume("example")
        client.undrain(scene.nodes[0])
    assert found == {}


@pytest.mark.parametrize("size", [WIDE, PHONE], ids=["wide", "phone"])
def test_each_question_is_answered_at_once(page: Page, scene: Scene, size: dict[str, int]) -> None:
    """From the page that the address alone shows, within two clicks, and without scrolling. On a phone the
    menu is one more."""
    page.set_viewport_size(size)

    def follow(*names: str) -> None:
        page.goto(scene.server.url)
        expect(page.locator("h1")).to_have_text("Overview")
        assert len(names) <= 2
        for name in names:
            if size is PHONE and name in ("Audit", "Jobs", "Nodes", "Submit"):
                page.get_by_role("button", name="Menu").click()
            page.get_by_role("link", name=name).first.click()

    def read(*texts: str) -> None:
        for text in texts:
            told = page.locator("main").get_by_text(text).filter(visible=True)
            expect(told.first).to_be_in_viewport(ratio=1)
        assert page.evaluate("scrollY") == 0

    # Why did it fail, and which input was it?
    follow()
    told = page.get_by_role("link", name="Failed, last hour").first.locator("strong").inner_text()
    follow("Failed, last hour")
    page.wait_for_url(lambda url: "ended_since=" in url)
    expect(page.locator("main table tbody tr")).to_have_count(int(told))
    read("1acb with eglin", "exit code 3")
    page.get_by_role("link", name="1acb with eglin").click()
    read("exit code 3", "line 118: no such atom", "receptor.pdb", "ligand.mol2")
    # Show me the picture.
    follow("Completed, last hour", "energies")
    picture = page.get_by_role("img", name="energies.png")
    expect(picture).to_have_js_property("naturalWidth", 10)
    expect(picture).to_be_in_viewport(ratio=1)
    assert page.evaluate("scrollY") == 0
    # When will mine run?
    follow("Queued", "barnase and barstar")
    read("waits for a free slot", "likely to begin")
    # Why does it never run?
    follow()
    read("gpu=h100")
    # May I send one from here?
    follow("Submit")
    read("Drop files or a folder here")
    expect(page.get_by_label("Script")).to_be_in_viewport(ratio=1)
    # Who did that?
    follow("Jobs", "the wrong ligand")
    read("Cancelled by Ada (operator)")
    # Why does nothing run?
    with Client(scene.server.url) as client:
        for node in scene.nodes:
            client.drain(node, "the cooling has failed")
        follow()
        read("2 of 2 nodes are draining", "the cooling has failed")
        follow("Nodes")
        read("0 of 2 are ready.", "the cooling has failed")
        page.locator("tbody a").first.click()
        read("Drained by local (operator)", "the cooling has failed")
        follow("Audit")
        read("local (operator)", "Drained", "the cooling has failed")
        for node in scene.nodes:
            client.undrain(node)
