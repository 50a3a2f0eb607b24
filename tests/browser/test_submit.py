"""A job is handed in from the page, and again with changed files; what the server refuses is said."""

from __future__ import annotations

from collections.abc import Callable

from playwright.sync_api import Route, expect
from support.processes.processes import Started
from support.processes.watched_page import Watched

from orchestrator.client import Client

# Files that are dropped: one in a folder cannot be made by a script, so these come as loose ones.
DROP = """(zone) => {
  const transfer = new DataTransfer();
  transfer.items.add(new File(["dropped\\n"], "a b.txt"));
  zone.dispatchEvent(new DragEvent("drop", { dataTransfer: transfer, bubbles: true, cancelable: true }));
}"""


def let_partitions_be_asked_for(route: Route) -> None:
    """As the page hears it: the server itself allows none."""
    answer = route.fetch()
    told = answer.json()
    for one in told["items"]:
        one["batch_allowed"]["partitions"] = ["short", "long"]
        one["nodes"]["ready"] = 0
    route.fulfill(response=answer, json=told)


def test_a_job_is_submitted_and_run_again_with_changes(
    open_page: Callable[..., Watched], shared: Started, client: Client
) -> None:
    opened = open_page(shared.url, "/dashboard#/jobs?user=812")
    page = opened.page
    page.route("**/v1/services", let_partitions_be_asked_for)
    page.get_by_role("link", name="Submit", exact=True).click()
    expect(page.locator("h1")).to_have_text("Submit a job")
    expect(page.get_by_label("Service")).to_have_value("example")
    expect(page.locator("form")).to_contain_text("No node is ready; the job will wait.")
    page.get_by_role("button", name="Submit").click()
    expect(page.get_by_role("alert").last).to_contain_text("There is nothing to run")
    page.get_by_label("User").fill("812")
    page.get_by_label("Name").fill("from the page")
    page.get_by_label("Tags").fill("one, two")
    page.get_by_label("Script").fill("cat 'a b.txt' in.txt\necho changed > in.txt\n")
    page.locator("input[name=files]").set_input_files(
        [
            {"name": "in.txt", "mimeType": "text/plain", "buffer": b"as it came\n"},
            {"name": "not.txt", "mimeType": "text/plain", "buffer": b"x"},
        ]
    )
    page.locator(".zone").evaluate(DROP)
    picked = page.get_by_role("list", name="Files").get_by_role("listitem")
    expect(picked).to_have_count(3)
    page.get_by_role("button", name="Leave out not.txt").click()
    expect(picked).to_have_count(2)
    page.get_by_text("Limits and place").click()
    page.get_by_label("Open files").fill("7")
    opened.may_fail = True
    page.get_by_role("button", name="Submit").click()
    # In the server's words, but for the field's name; and the form is as it was.
    expect(page.get_by_role("alert").last).to_contain_text("Open files '7'")
    expect(page.get_by_label("Open files")).to_be_focused()
    expect(page.get_by_label("Open files")).to_have_attribute("aria-invalid", "true")
    page.get_by_label("Open files").fill("64")
    page.get_by_label("Time limit").fill("1h 30m")
    page.get_by_label("Size of a file").fill("2 GB")
    expect(page.get_by_label("CPUs")).to_be_hidden()
    page.get_by_label("Partition").fill("long")
    page.get_by_role("button", name="Submit").click()
    expect(page.locator(".log")).to_have_text("dropped\nas it came\n")
    assert page.locator("#said").inner_text() == ""  # it is queued no more
    (first,) = client.jobs(user=812)
    assert first.ignored == ("partition",)  # the page has asked for it
    assert (first.name, first.tags, first.limits) == (
        "from the page",
        ("one", "two"),
        {"file_bytes": 2 << 30, "open_files": 64},
    )
    assert first.max_runtime_seconds == 5400
    assert sorted(one.path for one in client.files(first.id)) == [
        "a b.txt",
        "in.txt",
        "run.sh",
        "stderr.log",
        "stdout.log",
    ]
    held: list[Route] = []

    def hold(route: Route) -> None:
        held.append(route)

    page.route("**/files?inputs=1*", hold)
    page.get_by_role("link", name="Change and run").click()
    # What is written before the inputs are there would be lost.
    expect(page.locator("form.submit")).to_have_attribute("inert", "")
    page.unroute("**/files?inputs=1*")
    for route in held:
        route.continue_()
    expect(page.locator("h1")).to_have_text(f"Run job {first.id} again with changes")
    expect(picked).to_have_count(2)
    expect(page.get_by_label("Name")).to_have_value("from the page")
    expect(page.get_by_label("Script")).to_have_value("cat 'a b.txt' in.txt\necho changed > in.txt\n")
    page.locator("input[name=files]").set_input_files(
        {"name": "a b.txt", "mimeType": "text/plain", "buffer": b"another\n"}
    )
    page.get_by_role("button", name="Submit").click()
    # The other input is as it came, not as the job has left it.
    expect(page.locator(".log")).to_have_text("another\nas it came\n")
    again, *others = client.jobs(user=812)
    assert [job.id for job in others] == [again.rerun_of] == [first.id]
    origin = page.locator("[data-key=origin]")
    expect(origin).to_have_text(f"Changed from job {first.id}: a b.txt changed (before).")
    origin.get_by_role("link", name="before").click()
    expect(page.locator(".viewer .content")).to_contain_text("dropped")


def test_what_was_written_is_never_lost_unasked(open_page: Callable[..., Watched], shared: Started) -> None:
    page = open_page(shared.url, "/dashboard#/submit").page
    script = page.get_by_label("Script")
    picked = page.get_by_role("list", name="Files").get_by_role("listitem")
    chosen = [
        {"name": name, "mimeType": "text/plain", "buffer": text}
        for name, text in {"run.sh": b"echo from the file\n", "in.txt": b"x"}.items()
    ]
    script.fill("echo typed\n")
    page.get_by_label("Name").fill("a draft")
    page.locator("input[name=files]").set_input_files(chosen)
    page.get_by_role("button", name="Keep what is written").click()
    expect(script).to_have_value("echo typed\n")
    expect(picked).to_have_count(1)
    page.locator("input[name=files]").set_input_files(chosen)
    page.get_by_role("button", name="Replace it by run.sh").click()
    expect(script).to_have_value("echo from the file\n")
    expect(page.locator(".zone")).to_contain_text("run.sh is shown in the script box.")
    # Beside the box it would be opened by the browser, and the form would be gone.
    page.locator("h1").evaluate(DROP)
    expect(picked).to_have_count(2)
    # The draft is there on the way back, with its files;
    page.get_by_role("link", name="Jobs").click()
    page.go_back()
    expect(page.get_by_label("Name")).to_have_value("a draft")
    expect(script).to_have_value("echo from the file\n")
    expect(picked).to_have_count(2)
    # loaded anew the page cannot read them, and says so.
    page.reload()
    expect(page.get_by_label("Name")).to_have_value("a draft")
    expect(page.locator("form.submit")).to_contain_text("Choose these files again: in.txt, a b.txt.")
    page.get_by_role("button", name="Begin anew").click()
    expect(page.get_by_label("Name")).to_have_value("")
    page.get_by_role("link", name="Jobs").click()
    page.go_back()
    expect(page.get_by_label("Service")).to_have_value("example")
    expect(script).to_have_value("")
