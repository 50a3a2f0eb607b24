"""What happens is seen at once, and what is ordered happens: with a mouse, and without one."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path

from playwright.sync_api import Page, Route, expect
from support.peers.prefix_proxy import prefix_proxy
from support.processes.gates import gate
from support.processes.processes import Place, Started
from support.processes.watched_page import Watched

from orchestrator.client import Client


def submit(client: Client, script: str, name: str | None = None) -> int:
    return client.submit({"run.sh": script.encode()}, service="example", user=3, name=name).id


def badge(page: Page) -> object:
    return page.locator(".standing .badge")


def test_a_job_is_seen_from_its_upload_to_its_end(
    dashboard: Callable[..., Page], client: Client, tmp_path: Path
) -> None:
    listed = dashboard("/jobs?search=watched")
    expect(listed.locator("main")).to_contain_text("No job matches.")
    listed.evaluate("window.sameDocument = true")
    with gate(tmp_path / "gate") as shut:
        number = submit(client, f"echo one; {shut.wait}; echo two; echo late >&2; exit 4", "Watched job")
        row = listed.locator(f"tr[data-key='{number}']")
        expect(row).to_contain_text("Running")
        row.locator("th").get_by_role("link", name=str(number), exact=True).click()
        page = listed
        expect(page).to_have_title(f"Watched job · job {number} · Job orchestrator")
        expect(badge(page)).to_contain_text("Running")
        expect(page.locator(".log")).to_have_text("one\n")
        shut.open()
        # Why it failed is what is looked for.
        expect(page.locator(".log")).to_have_text("late\n")
        expect(badge(page)).to_contain_text("Failed")
        expect(page.locator(".standing")).to_contain_text("exit code 4")
    expect(page.locator(".how")).to_have_text("End of the log. The job ended as Failed.")
    steps = page.locator(".life li .badge")
    expect(steps).to_have_count(len(client.history(number)))
    assert [text.split()[-1] for text in steps.all_inner_texts()] == [
        entry["to"] for entry in client.history(number)
    ]
    page.get_by_role("button", name="stdout", exact=True).click()
    expect(page.locator(".log")).to_have_text("one\ntwo\n")
    assert page.evaluate("window.sameDocument")


def test_what_a_page_shows_is_asked_for_once(dashboard: Callable[..., Page], client: Client) -> None:
    for job in client.jobs(status="active"):
        client.wait(job.id)
    page = dashboard("/usage")
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url.rpartition("/v1/")[2]))
    page.reload(wait_until="networkidle")
    page.wait_for_selector("#connection[data-how=live]")
    assert sum(one.startswith("usage?") for one in asked) == 1
    # The stream tells what has happened since.
    assert sum(one.startswith("events?after=") for one in asked) == 1


def test_the_history_of_a_job_waits_for_no_list_of_files(
    open_page: Callable[..., Watched], shared: Started, client: Client
) -> None:
    number = submit(client, "true")
    client.wait(number)
    page = open_page(shared.url, "/dashboard#/none").page
    page.route("**/files?*", lambda route: None)  # until it is no route any more
    page.evaluate(f"location.hash = '/jobs/{number}'")
    expect(page.locator(".life li").last).to_contain_text("Completed")
    page.unroute("**/files?*")
    expect(page.get_by_role("link", name="run.sh").first).to_be_visible()


def test_jobs_are_cancelled_and_run_again_by_keyboard_alone(
    dashboard: Callable[..., Page], client: Client, tmp_path: Path
) -> None:
    with gate(tmp_path / "gate") as shut:
        number = submit(client, shut.wait, "by keyboard")
        page = dashboard("/jobs?search=by+keyboard")
        expect(page.locator("tbody tr")).to_have_count(1)
        page.keyboard.press("Tab")
        expect(page.locator("#skip")).to_be_focused()
        page.keyboard.press("Enter")
        expect(page.locator("main")).to_be_focused()
        link = page.locator("tbody th").get_by_role("link", name=str(number), exact=True)
        tab_to(page, link)
        page.keyboard.press("Enter")
        expect(page.locator("h1")).to_be_focused()
        expect(page.locator("h1")).to_have_text(f"by keyboard job {number}")
        cancel = page.get_by_role("button", name=f"Cancel job {number}")
        tab_to(page, cancel)
        page.keyboard.press("Enter")
        expect(page.get_by_role("dialog")).to_contain_text(f"Cancel job {number}?")
        page.keyboard.press("Escape")
        expect(page.get_by_role("dialog")).to_have_count(0)
        expect(cancel).to_be_focused()
        page.keyboard.press("Enter")
        tab_to(page, page.get_by_role("dialog").get_by_role("button", name=f"Cancel job {number}"))
        page.keyboard.press("Enter")
        expect(page.locator("#said")).to_have_text(f"Job {number} is cancelled.")
        expect(badge(page)).to_contain_text("Killed")
        # The button that was pressed is gone: the focus is not lost with it.
        expect(page.locator("h1")).to_be_focused()
        tab_to(page, page.get_by_role("button", name=f"Run again: job {number}"))
        page.keyboard.press("Enter")
        expect(page.locator("main")).to_contain_text(f"Runs job {number} again")
        expect(page.locator(".facts").get_by_role("link", name=f"job {number}")).to_be_visible()
        shut.open()
        expect(badge(page)).to_contain_text("Completed")


def test_the_heading_of_a_column_turns_the_order_round(
    dashboard: Callable[..., Page], client: Client
) -> None:
    first, second = (str(submit(client, "true", "in order")) for _ in range(2))
    page = dashboard("/jobs?search=in+order")
    links = page.locator("tbody th a")
    expect(links).to_have_text([second, first])
    heading = page.locator("th", has=page.get_by_role("button", name="Submitted", exact=True))
    expect(heading).to_have_attribute("aria-sort", "descending")
    page.get_by_role("button", name="Submitted", exact=True).click()
    expect(links).to_have_text([first, second])
    expect(heading).to_have_attribute("aria-sort", "ascending")
    expect(page.get_by_label("Order")).to_have_value("oldest")
    page.wait_for_url(lambda url: "order=oldest" in url)
    page.get_by_role("button", name="Job", exact=True).click()
    expect(links).to_have_text([second, first])


def test_jobs_come_by_user_and_what_is_new_goes_where_it_belongs(
    dashboard: Callable[..., Page], client: Client
) -> None:
    def handed_in(user: int) -> int:
        return client.submit({"run.sh": b"true"}, service="example", user=user, name="sorted").id

    two, one, other = handed_in(702), handed_in(701), handed_in(702)
    page = dashboard("/jobs?search=sorted&order=user")
    links = page.locator("tbody th a")
    expect(links).to_have_text([str(one), str(other), str(two)])
    newest = handed_in(701)
    expect(links).to_have_text([str(newest), str(one), str(other), str(two)])
    heading = page.locator("th", has=page.get_by_role("button", name="User", exact=True))
    expect(heading).to_have_attribute("aria-sort", "ascending")
    page.get_by_role("button", name="User", exact=True).click()
    expect(links).to_have_text([str(other), str(two), str(newest), str(one)])
    expect(heading).to_have_attribute("aria-sort", "descending")
    page.get_by_role("button", name="Service", exact=True).click()
    expect(links).to_have_text([str(newest), str(other), str(one), str(two)])
    page.wait_for_url(lambda url: "order=service" in url and "search=sorted" in url)
    expect(page.get_by_label("Order")).to_have_value("service")
    # With filters beside it, and as an address that was sent.
    suggested = page.locator("#services option[value=example]")
    assert suggested.count() == 0, "not asked for before somebody types"
    page.get_by_label("User").fill("702")
    expect(suggested).to_have_count(1)
    expect(links).to_have_text([str(other), str(two)])
    sent = dashboard("/jobs?search=sorted&order=user_descending&user=701")
    expect(sent.locator("tbody th a")).to_have_text([str(newest), str(one)])


def test_many_jobs_are_ordered_at_once(
    dashboard: Callable[..., Page], client: Client, tmp_path: Path
) -> None:
    ended = [submit(client, "true", "of many") for _ in range(2)]
    for number in ended:
        client.wait(number)
    with gate(tmp_path / "gate") as shut:
        running = submit(client, shut.wait, "of many")
        page = dashboard("/jobs?search=of+many")
        expect(page.locator("tbody tr")).to_have_count(3)
        bar = page.get_by_role("group", name="Selected jobs")
        expect(bar.get_by_role("button")).to_have_count(0)
        page.get_by_label("Select all that are shown").check()
        expect(bar.get_by_role("button", name="Cancel (1)")).to_be_visible()
        page.get_by_role("checkbox", name=f"Select job {ended[0]}").uncheck()
        bar.get_by_role("button", name="Delete data (1)").click()
        page.get_by_role("dialog").get_by_role("button", name="Keep the data").click()
        bar.get_by_role("button", name="Cancel (1)").click()
        page.get_by_role("dialog").get_by_role("button", name="Cancel 1 job").click()
        expect(page.locator("#said")).to_have_text("1 job cancelled.")
        expect(page.locator(f"tr[data-key='{running}'] .badge")).to_contain_text("Killed")
        expect(bar.get_by_role("button")).to_have_count(0)
    page.get_by_label("Select all that are shown").check()
    bar.get_by_role("button", name="Delete data (3)").click()
    page.get_by_role("dialog").get_by_role("button", name="Delete the data").click()
    expect(page.locator("#said")).to_have_text("Data of 3 jobs deleted.")
    assert {client.job(number).status for number in (*ended, running)} == {"Cleaned"}


def tab_to(page: Page, wanted: object, most: int = 60) -> None:
    for _ in range(most):
        page.keyboard.press("Tab")
        if wanted.evaluate("one => one === document.activeElement"):  # type: ignore[attr-defined]
            return
    raise AssertionError(f"{wanted} is not reached within {most} steps")


def test_the_data_of_a_job_goes_once_that_is_confirmed(
    dashboard: Callable[..., Page], client: Client
) -> None:
    number = submit(client, "echo kept")
    client.wait(number)
    page = dashboard(f"/jobs/{number}")
    expect(page.locator(".log")).to_have_text("kept\n")
    page.get_by_role("button", name="Delete data").click()
    page.get_by_role("dialog").get_by_role("button", name="Keep the data").click()
    page.get_by_role("button", name="Delete data").click()
    page.get_by_role("dialog").get_by_role("button", name="Delete the data").click()
    expect(badge(page)).to_contain_text("Cleaned")
    expect(page.locator(".facts")).to_contain_text("Run time")
    expect(page.locator(".log")).to_be_hidden()
    assert client.job(number).status == "Cleaned"


def test_a_service_is_paused_and_a_node_is_drained(here: Place, open_page: Callable[..., Watched]) -> None:
    server = here.up("--nodes", "1", "--slots", "2")
    page = open_page(server.url, "/dashboard#/services").page
    page.get_by_role("button", name="Pause service example").click()
    page.get_by_label("Reason").fill(f"  the licence\t{'x' * 600}")
    page.get_by_role("dialog").get_by_role("button", name="Pause", exact=True).click()
    expect(page.locator("article")).to_contain_text("Paused since")
    expect(page.locator("article")).to_contain_text(": the licence xxx")
    with Client(server.url) as client:
        for _ in range(70):
            last = submit(client, "true", "many")
        expect(page.locator("article tbody tr")).to_have_text("370" + "0")
        page.get_by_role("link", name="Nodes").click()
        page.get_by_role("button", name="Drain node").click()
        expect(page.get_by_role("dialog")).to_be_visible()
        # A question does not outlast the page that it was asked on.
        page.go_back()
        expect(page.get_by_role("dialog")).to_have_count(0)
        expect(page.locator("h1")).to_have_text("Services")
        expect(page.locator("h1")).to_be_focused()
        page.go_forward()
        page.get_by_role("button", name="Drain node").click()
        page.keyboard.type("its disk is changed")
        page.keyboard.press("Enter")
        expect(page.locator("tbody .badge")).to_contain_text("drain")
        expect(page.locator("tbody tr")).to_contain_text("its disk is changed")
        page.get_by_role("button", name="Undrain node").click()
        expect(page.locator("tbody .badge")).to_contain_text("ready")
        # 50 at a time, of which those that fill a window come first; and why each waits.
        before: list[int] = []

        def look(route: Route) -> None:
            before.append(page.locator("tbody tr").count())
            route.continue_()

        page.route("**/v1/jobs?*cursor=*", look)
        page.get_by_role("link", name="Jobs").click()
        expect(page.locator("tbody tr")).to_have_count(50)
        page.unroute("**/v1/jobs?*cursor=*")
        assert before == [20]
        expect(page.locator("tbody tr").first).to_contain_text("paused")
        # What never began took no time.
        took = page.locator("tbody tr").first.locator("[data-label=Time]")
        expect(took).to_contain_text("waiting")
        client.cancel(last)
        expect(took).to_have_text("–")
        page.get_by_role("button", name="Show 50 more").click()
        expect(page.locator("tbody tr")).to_have_count(70)
        page.get_by_label("Search").fill("13")
        expect(page.locator("tbody tr")).to_have_count(1)
        page.get_by_text("Status: any").click()
        page.get_by_label("Running").check()
        expect(page.locator("tbody tr")).to_have_count(0)
        page.get_by_label("Queued").check()
        expect(page.locator("tbody tr")).to_have_count(1)
        page.keyboard.press("Escape")
        expect(page.get_by_label("Queued")).to_be_hidden()
        page.get_by_role("button", name="Clear").click()
        expect(page.locator("tbody tr")).to_have_count(50)


def test_a_server_that_comes_back_is_caught_up_with(
    here: Place, open_page: Callable[..., Watched], tmp_path: Path
) -> None:
    node = here.node()
    server = here.server(nodes=[node.url])
    with gate(tmp_path / "gate") as shut, prefix_proxy("", server.url) as proxy:
        with Client(server.url) as client:
            number = submit(client, f"echo one; {shut.wait}; echo two")
        opened = open_page(proxy.origin, f"/dashboard#/jobs/{number}")
        page = opened.page
        expect(page.locator(".log")).to_have_text("one\n")
        opened.may_fail = True
        proxy.target = None
        server.send(signal.SIGKILL)
        server.process.wait()
        proxy.cut()
        expect(page.locator("#connection")).to_contain_text("connection lost")
        shut.open()
        server = here.server(nodes=[node.url])
        with Client(server.url) as client:
            client.wait(number)
            later = submit(client, "true")
            client.wait(later)
        expect(page.locator("#connection")).to_contain_text("connection lost")
        proxy.target = server.url
        expect(page.locator("#connection")).to_have_text("live again")
        expect(badge(page)).to_contain_text("Completed")
        expect(page.locator(".log")).to_have_text("one\ntwo\n")
        expect(page.locator(".trouble")).to_have_count(0)
        page.get_by_role("link", name="Jobs").click()
        expect(page.locator("tbody tr").first).to_contain_text(str(later))
        page.goto("about:blank")
