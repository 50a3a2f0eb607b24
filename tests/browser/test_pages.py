"""Every page of the dashboard, wide and light, narrow and dark: that it shows what is there, that anybody can
use it, and that no name becomes anything else than text."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from playwright.sync_api import Locator, Page, Route, expect
from support.peers.prefix_proxy import prefix_proxy
from support.processes.flaws import AXE, flaws
from support.processes.gates import gate
from support.processes.processes import Started
from support.processes.watched_page import Watched

from orchestrator.client import Client

IMAGE = "<img src=x onerror=alert(1)>"
ARABIC = "ملف"

# Whether a chart's widest label fits left of it; and that it takes no more room than its labels need.
FITS = """async (label) => {
  const { Chart, WHOLE } = await import("./dashboard/charts.js");
  const told = [];
  for (const written of [label, "1"]) {
    const chart = new Chart("Labels", [{ name: "one", colour: "--line-1" }], () => written, WHOLE);
    document.querySelector("main").append(chart.element);
    chart.element.scrollIntoView();
    chart.show([0, 60], [[0, 100]]);
    while (!chart.plot) await new Promise(requestAnimationFrame);
    const { plot } = chart;
    plot.ctx.font = plot.axes[1].font[0];
    told.push({ left: plot.bbox.left, needed: plot.ctx.measureText(written).width });
    chart.close();
    chart.element.remove();
  }
  const [long, short] = told;
  return long.left > long.needed && long.left - short.left > (long.needed - short.needed) / 2;
}"""


# The labels of a chart's axis for values that end in `most`, and how far that goes.
AXIS = """async ([kind, most]) => {
  const charts = await import("./dashboard/charts.js");
  const { count, duration } = await import("./dashboard/format.js");
  const written = kind === "WHOLE" ? (value) => count(Math.round(value)) : duration;
  const chart = new charts.Chart("Axis", [{ name: "one", colour: "--line-1" }], written, charts[kind]);
  document.querySelector("main").append(chart.element);
  chart.element.scrollIntoView();
  chart.show([0, 60], [[0, most]]);
  while (!chart.plot) await new Promise(requestAnimationFrame);
  const told = [chart.plot.axes[1]._values, chart.plot.scales.y.max];
  chart.close();
  chart.element.remove();
  return told;
}"""


# What is written otherwise than the language itself would.
UNUSUAL = """async () => {
  const { count, time } = await import("./dashboard/format.js");
  const numbers = [0, 999, 1000, 12345, 1234567, -1234];
  const wrong = numbers.filter((one) => count(one) !== one.toLocaleString("en"));
  for (const text of ["2026-01-02T03:04:05Z", "1999-12-31T23:59:59Z", new Date().toISOString()]) {
    const [at, shown] = [new Date(text), time(text)];
    const whole = at.toLocaleString("sv");
    const today = at.toDateString() === new Date().toDateString();
    if (shown.title !== whole || shown.textContent !== (today ? whole.slice(11) : whole)) wrong.push(text);
  }
  return wrong;
}"""


# When a job is said to end that has run for an hour, by how far it says it is.
FORETOLD = """async () => {
  const { foretold } = await import("./dashboard/job.js");
  const { expected } = await import("./dashboard/format.js");
  const at = (minutes) => new Date(Date.now() + 60000 * minutes).toISOString();
  const ends_at = { earliest: at(1), latest: at(2) };
  const job = { id: 1, status: "Running", message: "", started_at: at(-60), starts_at: null, ends_at };
  const told = [null, 0.02, 0.5].map((progress) => foretold({ ...job, progress }));
  const written = [at(60), at(60.1)].map((end) => expected({ earliest: end, latest: end }));
  return [...told.map((one) => one && one.textContent), written.map((one) => `likely to end ${one}`)];
}"""


@dataclass
class Jobs:
    """One that runs and can be let go on, one that failed, one without a name; the node they are on."""

    running: int
    failed: int
    nameless: int
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
        nameless = client.submit({"run.sh": b"true"}, service="example", user=-5)
        client.wait(nameless.id)
        running = client.submit(
            {"run.sh": script.encode()}, service="example", user=7, name=IMAGE, tags=["x=y"]
        )
        (node,) = client.nodes()
        for event in client.iter_events(running.id):
            if event.data["status"] == "Running":
                break
        yield Jobs(running.id, failed.id, nameless.id, node.id)
        shut.open()
        client.wait(running.id)


def pages(jobs: Jobs) -> dict[str, str]:
    """What stands behind #, and a text that its page shows once it has fetched what it shows."""
    return {
        "/": "Who fills the queue",
        "/jobs": f"{IMAGE} {ARABIC}",
        "/jobs?status=Failed": "exit code 3",
        f"/jobs/{jobs.running}": "over",
        f"/jobs/{jobs.failed}": "End of the log. The job ended as Failed",
        "/submit": "Drop files or a folder here",
        "/services": "at most 8",
        "/nodes": "1 of 1 are ready.",
        f"/nodes/{jobs.node}": IMAGE,
        "/scaling": "No service is scaled",
        "/usage": "Usage by month, user and service",
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
        if at == "/":
            told_apart_without_colour(page)
        elif at == "/jobs":
            compact(page, jobs, width)
        wide = page.evaluate("document.documentElement.scrollWidth")
        assert wide <= width, f"{at} is {wide} wide"
        found |= {f"{at} {key}": value for key, value in flaws(page).items()}
    assert found == {}
    assert len(titles) >= len(pages(jobs)) - 1  # the list of jobs is there twice


def test_a_chart_that_cannot_be_drawn_says_so_beside_its_numbers(
    open_page: Callable[..., Watched], shared: Started, jobs: Jobs
) -> None:
    page = open_page(shared.url, "/dashboard#/none", may_fail=True).page
    page.route("**/uPlot*", lambda route: route.abort())
    page.evaluate("location.hash = '/'")
    chart = page.locator("figure").first
    expect(chart.locator(".plot")).to_have_text("The chart is missing: uPlot could not be fetched.")
    assert chart.locator("td").count() == 0
    chart.locator("summary").click()
    expect(chart.locator("tbody tr").first).to_be_visible()
    # It is asked for again by the next page that has charts.
    page.unroute("**/uPlot*")
    page.evaluate("location.hash = '/jobs'")
    expect(page.locator("h1")).to_have_text("Jobs")
    page.evaluate("location.hash = '/'")
    expect(chart.locator("canvas")).to_be_visible()


def told_apart_without_colour(page: Page) -> None:
    """Each chart's labels have the room they need, and no two of its lines are drawn the same way."""
    for chart in page.locator("figure").all():
        chart.scroll_into_view_if_needed()
        expect(chart.locator("canvas")).to_be_visible()
        dashes = chart.locator(".u-marker line").evaluate_all(
            "lines => lines.map(line => line.getAttribute('stroke-dasharray'))"
        )
        assert len(dashes) >= 2 and len(set(dashes)) == len(dashes)
    assert page.evaluate(FITS, "23 h 59 min")


def compact(page: Page, jobs: Jobs, width: int) -> None:
    """A short word is on one line, however long the rest is; a card has no line for what is empty."""
    row = page.locator(f"tr[data-key='{jobs.failed}']")
    name = row.get_by_role("link", name="example")
    assert name.evaluate("one => one.getClientRects().length === 1 && one.offsetHeight < 30")
    assert name.get_attribute("title") == "example"
    assert name.evaluate("one => { one.textContent = 'e'.repeat(64); return one.offsetHeight < 30; }")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    nothing = page.locator(f"tr[data-key='{jobs.nameless}'] [data-label='Name']")
    expect(nothing).to_be_visible(visible=width >= 700)
    if width < 700:
        boxes = [row.locator(f"[data-label='{one}']").bounding_box() for one in ("Service", "User", "Time")]
        tops = [box["y"] for box in boxes if box is not None]
        assert len(tops) == 3 and max(tops) - min(tops) < 10
        card = row.bounding_box()
        assert card is not None and card["height"] < 140
        folded(page)


def folded(page: Page) -> None:
    """On a phone the header is one row and the jobs come soon; what there is no room for opens."""
    assert page.locator("header").evaluate("one => one.offsetHeight") < 60
    first = page.locator("tbody tr").first.bounding_box()
    assert first is not None and first["y"] < 300
    menu, nodes = page.get_by_role("button", name="Menu"), page.get_by_role("link", name="Nodes")
    expect(nodes).to_be_hidden()
    menu.click()
    expect(nodes).to_be_visible()
    nodes.focus()
    page.keyboard.press("Escape")
    expect(nodes).to_be_hidden()
    expect(menu).to_be_focused()
    filters, user = page.get_by_role("button", name="Filters"), page.get_by_label("User", exact=True)
    expect(user).to_be_hidden()
    filters.click()
    expect(user).to_be_visible()
    menu.click()
    nodes.click()
    expect(page.locator("h1")).to_have_text("Nodes")
    expect(nodes).to_be_hidden()
    page.evaluate("location.hash = '/jobs?service=example'")
    expect(page.get_by_label("User", exact=True)).to_be_visible()


def test_names_are_text_and_show_what_is_in_them(dashboard: Callable[..., Page], jobs: Jobs) -> None:
    page = dashboard(f"/jobs/{jobs.running}")
    expect(page.locator(".log")).to_contain_text("over")
    log = page.locator(".log").inner_text()
    # Titles are gone, what was written over is, too; a control is seen.
    assert log.splitlines()[:3] == [IMAGE, "over", "␁"]
    files = page.get_by_role("region", name="Results")
    expect(files).to_contain_text(IMAGE.replace("/", ""))
    expect(files).to_contain_text(f"{ARABIC}⟨U+202E⟩gpj.exe")
    with page.expect_download() as download:
        files.get_by_role("link", name="gpj.exe").first.click()
    assert Path(download.value.path()).read_text() == f"{IMAGE}\n"
    assert page.locator("main img").count() == 0


def test_what_is_not_there_is_said(open_page: Callable[..., Watched], shared: Started, jobs: Jobs) -> None:
    opened = open_page(shared.url, "/dashboard#/jobs")
    page = opened.page
    expect(page.locator(".count")).to_contain_text("shown")
    opened.may_fail = True
    page.get_by_label("User").fill("abc")
    expect(page.get_by_role("alert")).to_have_text("User is a number.")
    expect(page.locator(".count")).to_be_hidden()
    expect(page.locator(".more")).not_to_contain_text("Show", use_inner_text=True)
    page.get_by_label("User").fill("12345")
    expect(page.get_by_role("alert")).to_be_empty()
    expect(page.locator("main")).to_contain_text("No job matches.")
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url.rpartition("/v1/")[2]))
    page.evaluate("location.hash = '/jobs/999999'")
    # Else it may be loaded anew before it has asked.
    expect(page.locator("main")).to_contain_text("There is no job 999999.")
    page.reload()
    expect(page.locator("#connection")).to_have_text("live")
    expect(page.locator("main")).to_have_text(
        "Job 999999 There is no job 999999. To the list of jobs", use_inner_text=True
    )
    page.get_by_role("link", name="To the list of jobs").click()
    expect(page.locator(f"tr[data-key='{jobs.failed}']")).to_be_visible()
    assert asked.count("jobs/999999") == 1 + 1  # before it was loaded anew, and after
    # Why an order is refused is said in the server's words.
    refusal = {"status": 409, "code": "callback_refused", "detail": "its callback is not allowed any more"}
    page.route("**/rerun", lambda route: route.fulfill(status=409, json=refusal))
    page.evaluate("at => { location.hash = at; }", f"/jobs/{jobs.failed}")
    page.get_by_role("button", name="Run again").click()
    expect(page.locator("#said")).to_have_text("its callback is not allowed any more")


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
        expect(page.locator("main")).to_contain_text("End of the log. The job ended as Failed")
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


ATOM = b"ATOM      1  CA  ALA A   1      11.104   6.134  -6.504  1.00  0.00           C\n"
SHOWN = {
    "ensemble.pdb": b"".join(b"MODEL %8d\n%sENDMDL\n" % (n, ATOM) for n in (1, 2, 3)),
    "table.csv": b'pose,energy\n1,-7.2\n"a, b",<b>x</b>\n',
    "comma.csv": b"pose;energy\n1;-7,2\n",
    "page.html": b"<script>alert(1)</script>\n",
    "sum.json": b'{"a":[1]}',
    "fold.pdb": ATOM,
    "huge.pdb": ATOM * 30_000,
}


def click(link: Locator) -> None:
    """Once it is painted where it is. A click goes to what is painted there, and that may still be a frame
    with a process of its own, which swallows it."""
    link.scroll_into_view_if_needed()
    link.page.screenshot()
    link.click()


def test_a_file_is_shown_in_the_page_as_what_it_is_and_runs_nothing(
    dashboard: Callable[..., Page], client: Client
) -> None:
    made = client.submit(
        {"run.sh": b"cat run.sh > copy.txt", **SHOWN}, service="example", user=5, name="shown"
    )
    client.wait(made.id)
    page = dashboard(f"/jobs/{made.id}")
    # What it has made comes first of one that is done, what it was given apart from that.
    expect(page.get_by_role("region", name="Results")).to_contain_text("copy.txt")
    headings = page.locator("main h2:visible").all_inner_texts()
    assert headings.index("Results") < headings.index("Output") < headings.index("Inputs")
    given = page.get_by_role("region", name="Inputs")
    viewer = page.locator(".viewer")
    page.emulate_media(reduced_motion="reduce")
    given.get_by_role("link", name="table.csv", exact=True).click()
    expect(viewer.locator("tbody tr")).to_have_text(["1-7.2", "a, b<b>x</b>"])
    assert flaws(page) == {}
    expect(given).to_contain_text("2.3 MiB")
    expect(page.get_by_role("link", name="as a zip")).to_have_text(["Everything as a zip"])
    # A number is on one line, however narrow it is.
    page.set_viewport_size({"width": 120, "height": 800})
    assert viewer.get_by_text("-7.2").evaluate("one => one.getClientRects().length") == 1
    page.set_viewport_size({"width": 1200, "height": 800})
    given.get_by_role("link", name="comma.csv", exact=True).click()
    expect(viewer.locator("tbody td")).to_have_text(["1", "-7,2"])
    expect(viewer.locator("tbody td.numeric")).to_have_count(2)
    given.get_by_role("link", name="page.html", exact=True).click()
    expect(viewer.get_by_label("Text of the file")).to_contain_text("<script>alert(1)</script>")
    given.get_by_role("link", name="sum.json", exact=True).click()
    expect(viewer.get_by_label("Text of the file")).to_contain_text('"a": [')
    given.get_by_role("link", name="fold.pdb", exact=True).click()
    expect(viewer.frame_locator("iframe").locator("body")).to_contain_text("atom")
    viewer.get_by_role("button", name="Text").click()
    expect(viewer).to_contain_text("ALA A")
    click(given.get_by_role("link", name="ensemble.pdb", exact=True))
    model = viewer.frame_locator("iframe")
    expect(model.locator("#which")).to_have_text("model 1 of 3")
    model.get_by_role("button", name="Previous").click()
    expect(model.locator("#which")).to_have_text("model 3 of 3")
    expect(model.locator("#said")).to_have_text("1 atom")
    click(given.get_by_role("link", name="huge.pdb", exact=True))
    expect(viewer).to_contain_text("It is too large to draw")
    click(given.get_by_role("link", name="fold.pdb", exact=True))
    # It has an address; and a step back, Escape and the button close it.
    page.wait_for_url(lambda url: url.endswith(f"#/jobs/{made.id}?file=fold.pdb"))
    page.reload()
    expect(viewer).to_contain_text("fold.pdb")
    page.keyboard.press("Escape")
    expect(viewer).to_be_hidden()
    page.wait_for_url(lambda url: url.endswith(f"#/jobs/{made.id}"))
    given.get_by_role("link", name="sum.json", exact=True).click()
    expect(viewer).to_contain_text("sum.json")
    given.get_by_role("link", name="fold.pdb", exact=True).click()
    page.go_back()
    expect(viewer).to_be_hidden()
    expect(page.locator("h1")).to_contain_text("shown")
    given.get_by_role("link", name="fold.pdb", exact=True).click()
    viewer.get_by_role("button", name="Close").click()
    expect(given.get_by_role("link", name="fold.pdb", exact=True)).to_be_focused()


# As a library that draws, whose pictures take so many milliseconds each.
DRAWER = """window.drawn = 0;
window.$3Dmol = { createViewer: () => {
  const draw = () => {
    window.drawn += 1;
    for (const end = performance.now() + %d; performance.now() < end; );
  };
  const told = {
    rotate: draw,
    render: draw,
    addModel: () => ({ selectedAtoms: () => [] }),
    getRenderer: () => ({ getContext: () => ({}) }),
  };
  return new Proxy(told, { get: (known, name) => known[name] ?? (() => {}) });
} };"""


@pytest.mark.parametrize(("each", "heavy"), [(60, True), (0, False)])
def test_a_model_turns_only_where_that_is_light_work(
    open_page: Callable[..., Watched], shared: Started, each: int, heavy: bool
) -> None:
    page = open_page(shared.url, "/health", may_fail=True).page  # neither has an icon
    page.route("**/3Dmol-min.js", lambda route: route.fulfill(body=DRAWER % each))
    page.goto(f"{shared.url}/dashboard/molecule.html")
    page.evaluate("() => postMessage({ text: '', format: 'pdb' }, '*')")
    expect(page.get_by_role("status").first).to_have_text("No atoms are in it.")
    page.wait_for_function("wanted => window.drawn >= wanted", arg=1 + 3 if heavy else 30)
    if heavy:
        for _ in range(3):
            page.evaluate("() => new Promise(requestAnimationFrame)")
        assert page.evaluate("window.drawn") == 1 + 3, "after three heavy ones it stands still"


def test_numbers_and_times_are_written_as_usual(dashboard: Callable[..., Page]) -> None:
    assert dashboard("/usage").evaluate(UNUSUAL) == []


def test_the_axis_of_a_chart_fits_what_is_drawn(dashboard: Callable[..., Page], jobs: Jobs) -> None:
    page = dashboard("/usage")
    for kind, most in (("WHOLE", 1), ("WHOLE", 3), ("WHOLE", 12_345), ("SECONDS", 0.3), ("SECONDS", 8_000)):
        labels, end = page.evaluate(AXIS, [kind, most])
        assert len(labels) == len(set(labels)) >= 2, "no label stands there twice"
        assert most < end < 2 * most + 0.1, "and what is drawn fills half of it at least"
    assert labels == ["0.0 s", "1 h 0 min", "2 h 0 min"]


def test_a_job_that_says_how_far_it_is_ends_when_it_says(dashboard: Callable[..., Page]) -> None:
    page = dashboard("/usage")
    by_others, begun, half, in_an_hour = page.evaluate(FORETOLD)
    assert by_others.startswith("likely to end between ")
    assert not begun, "too little is done for a guess"
    assert half in in_an_hour


def test_all_who_fill_the_queue_are_shown(dashboard: Callable[..., Page], jobs: Jobs) -> None:
    page = dashboard("/usage")

    def answer(route: Route) -> None:
        given = parse_qs(urlsplit(route.request.url).query)
        first, limit = int(given.get("cursor", ["0"])[0]), int(given["limit"][0])
        items = [{"user_id": n, "service": "example", "queued": 300 - n, "under_way": 0} for n in range(300)]
        more = str(first + limit) if first + limit < len(items) else None
        route.fulfill(json={"items": items[first : first + limit], "next": more})

    page.route("**/v1/queue*", answer)
    page.evaluate("location.hash = '/'")
    rows = page.get_by_role("table", name="Who fills the queue").locator("tbody tr")
    for shown in (20, 120, 220, 300):
        expect(rows).to_have_count(shown)
        if shown < 300:
            page.get_by_role("button", name="Show 100 more").click()
    expect(page.get_by_role("button", name="Show 100 more")).to_be_hidden()


def test_what_was_used_is_sorted_narrowed_and_downloaded(dashboard: Callable[..., Page], jobs: Jobs) -> None:
    page = dashboard("/usage")
    expect(page.locator("tbody tr", has_text="-5")).to_have_count(1)
    for _ in range(2):
        page.get_by_role("button", name="Jobs", exact=True).click()
    heading = page.locator("th", has=page.get_by_role("button", name="Jobs", exact=True))
    expect(heading).to_have_attribute("aria-sort", "ascending")
    counts = [int(text) for text in page.locator("tbody [data-label=Jobs]").all_inner_texts()]
    assert counts == sorted(counts) and counts[-1] >= 2
    page.get_by_label("User").fill("-5")
    expect(page.locator("tbody tr")).to_have_count(1)
    expect(page.locator("[data-label=Failed]")).not_to_have_text("–")
    page.wait_for_url(lambda url: "user=-5" in url and "sort=Jobs" in url)
    with page.expect_download() as begun:
        page.get_by_role("link", name="Download as CSV").click()
    rows = Path(begun.value.path()).read_text().splitlines()
    assert len(rows) == 2 and ',-5,"example",' in rows[1]


def test_of_many_results_folders_are_folded_and_one_is_found(
    dashboard: Callable[..., Page], client: Client
) -> None:
    script = b"mkdir -p out/run out/log; touch out/log/a out/b; "
    script += b"for n in $(seq 250); do echo $n > out/run/model$n.txt; done"
    made = client.submit({"run.sh": script}, service="example", user=5, name="many")
    client.wait(made.id)
    page = dashboard(f"/jobs/{made.id}")
    results = page.get_by_role("region", name="Results")
    lines = results.locator("tbody th")
    page.get_by_role("button", name="Show 200 more").click()
    expect(lines).to_have_text(["▸ out/ 252 files", "stderr.log", "stdout.log"])
    results.get_by_role("button", name="out/ 252 files").click()
    folder = results.get_by_role("button", name="out/run/ 250 files")
    expect(folder).to_have_attribute("aria-expanded", "false")
    expect(lines).to_have_count(6)
    assert flaws(page) == {}
    folder.click()
    expect(lines).to_have_count(256)
    folder.click()
    expect(lines).to_have_count(6)
    # Also among those that were not fetched yet.
    page.reload()
    page.get_by_label("Find a file").fill("MODEL99.")
    expect(lines).to_have_count(1)
    expect(results.locator("caption")).to_have_text("1 of 254 files new or changed")
    lines.get_by_role("link", name="out/run/model99.txt").click()
    expect(page.locator(".viewer")).to_contain_text("99")


DRAWING = (
    b'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 40 20"><script>parent.ran = 1</script>'
    b'<rect width="40" height="20"/></svg>'
)


def test_pictures_have_names_drawings_are_among_them_and_no_script_of_one_runs(
    dashboard: Callable[..., Page], client: Client
) -> None:
    script = b"for n in 1 2 3 4 5 6; do cp given.svg plot$n.svg; done"
    made = client.submit({"run.sh": script, "given.svg": DRAWING}, service="example", user=5, name="drawn")
    client.wait(made.id)
    page = dashboard(f"/jobs/{made.id}")
    previews = page.locator(".preview")
    expect(previews).to_have_text([f"plot{n}.svg" for n in range(1, 5)])
    page.get_by_role("button", name="Show 2 more pictures").click()
    expect(previews).to_have_count(6)
    for picture in previews.get_by_role("img").all():
        expect(picture).to_have_js_property("naturalHeight", 150)
    assert flaws(page) == {}
    previews.first.click()
    viewer = page.locator(".viewer")
    expect(viewer.get_by_role("img", name="plot1.svg")).to_be_visible()
    viewer.get_by_role("button", name="Text").click()
    expect(viewer.get_by_label("Text of the file")).to_contain_text("parent.ran")
    assert page.evaluate("window.ran") is None
