"""A job's output in the page: the end of it first, coloured, searched, and quick however long it is."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from playwright.sync_api import Page, expect

from orchestrator.client import Client

LINES = 300_000
"""Of 70 characters: 20 MB."""

FED = """async (pieces) => {
  const { Terminal } = await import("./dashboard/terminal.js");
  const terminal = new Terminal();
  const written = ({ text, runs }) => runs?.map((run) => [run.text, run.style]) ?? text;
  const lines = pieces.flatMap((one) => terminal.feed(one).map(written));
  return [...lines, written(terminal.rest)];
}"""

# What the page holds of very many lines, where it goes for what is searched for, and its longest frame.
LONG = """async (many) => {
  const { LogView } = await import("./dashboard/log_view.js");
  let told = 0;
  const view = new LogView(() => { told += 1; });
  document.querySelector("main").append(view.element);
  const rest = { text: "", runs: null };
  const line = (n) => ({ text: `${n} `.padEnd(69, "x"), runs: null });
  for (let n = 0; n < many; n += 10_000) {
    view.append(Array.from({ length: 10_000 }, (_, i) => line(n + i)), rest);
  }
  const held = () => view.element.querySelectorAll("span > span").length;
  const seen = () => {
    const { top, height } = view.element.getBoundingClientRect();
    return document.elementFromPoint(100, top + height / 2).closest("span").textContent.split(" ")[0];
  };
  const most = [held()];
  const last = view.element.textContent.trim().split("\\n").at(-1).split(" ")[0];
  view.search(`${many / 2} X`);
  view.show(0);
  view.element.scrollIntoView();
  const found = [view.found, seen(), view.element.querySelector(".current mark").textContent];
  const passed = new Set();
  for (let n = 0; n < 30; n += 1) {
    view.element.scrollTop = 0;
    await new Promise(requestAnimationFrame);
    await new Promise(requestAnimationFrame);
    most.push(held());
    passed.add(view.top);
  }
  view.prepend([line(-1)]);
  const moved = view.lines[view.current].text.startsWith(`${many / 2} `);
  view.element.remove();
  return { last, most: Math.max(...most), found, passed: passed.size, moved, told };
}"""


PRINTED: list[tuple[list[str], Any]] = [
    (["one\ntw", "o\n"], ["one", "two", ""]),
    (["a\x1b[1;31mred\x1b", "[0m b\n"], [[["a", ""], ["red", "bold fg-1"], [" b", ""]], ""]),
    # A colour goes on in the next line until it is switched off.
    (["\x1b[32mgreen\nmore\x1b[39m\n"], [[["green", "fg-2"]], [["more", "fg-2"]], ""]),
    (
        ["\x1b[38;5;196mr\x1b[38;2;0;0;255mb\x1b[48:2::0:255:0mg"],
        [[["r", "fg-1"], ["b", "fg-4"], ["g", "fg-4 bg-2"]]],
    ),
    # A progress bar is one line, as it was written last, and its colours end where they ended.
    (["1%\r2%\r", "\x1b[31m3%\x1b[m\r4%", "\r\n5%\r"], ["4%", "5%"]),
    (["\x1b]0;title\x07\x1b[2Kp\x1b[3Alain\x01\r\n"], ["plain\u2401", ""]),
    (["<b>\x1b[31m</b>\n"], [[["<b>", ""], ["</b>", "fg-1"]], ""]),
]


def test_what_a_program_prints_becomes_lines_with_colours(dashboard: Callable[..., Page]) -> None:
    page = dashboard("/services")
    for pieces, lines in PRINTED:
        assert page.evaluate(FED, pieces) == lines


def test_of_a_long_log_the_page_holds_what_is_looked_at(dashboard: Callable[..., Page]) -> None:
    told = dashboard("/services").evaluate(LONG, LINES)
    assert told["last"] == str(LINES - 1)
    assert 500 < told["most"] <= 800
    assert told["found"] == [[LINES // 2], str(LINES // 2), f"{LINES // 2} x"]
    # Whoever scrolls on comes to ever earlier lines.
    assert told["passed"] == 30 and told["moved"]


def test_a_long_log_is_shown_from_its_end_searched_and_shown_from_earlier_on(
    dashboard: Callable[..., Page], client: Client
) -> None:
    script = "printf 'first \\033[31mneedle\\033[0m\\n'; seq 30000; echo 'last <b>needle</b>'"
    number = client.submit({"run.sh": script.encode()}, service="example", user=3).id
    client.wait(number)
    page = dashboard(f"/jobs/{number}")
    log = page.locator(".log")
    expect(page.locator(".how")).to_have_text("End of the log. The job ended as Completed.")
    lines = log.inner_text().splitlines()
    assert (lines[-2:], 500 < len(lines) <= 800) == (["30000", "last <b>needle</b>"], True)
    with page.expect_download() as download:
        page.evaluate("document.querySelector('main section a[href*=logs]').setAttribute('download', '')")
        page.get_by_role("link", name="The whole log").click()
    assert len(Path(download.value.path()).read_text().splitlines()) == 30_002
    find = page.get_by_role("searchbox", name="Find")
    find.fill("NEEDLE")
    expect(page.locator(".matches")).to_have_text("line 1 of 1")
    expect(log.locator("mark")).to_have_text(["needle"])
    assert log.locator("b").count() == 0
    # What came before is fetched, too.
    page.get_by_role("button", name="Previous").click()
    expect(page.locator(".matches")).to_have_text("line 1 of 2")
    expect(log.locator(".current .fg-1 mark")).to_have_text("needle")
    expect(page.get_by_role("button", name="Show earlier")).to_be_hidden()
    find.press("Enter")
    expect(page.locator(".matches")).to_have_text("line 2 of 2")
    wrap = page.get_by_role("button", name="Wrap lines")
    wrap.click()
    expect(wrap).to_have_attribute("aria-pressed", "false")
    assert log.evaluate("one => getComputedStyle(one).whiteSpace") == "pre"
    find.fill("nothing like it")
    expect(page.locator(".matches")).to_have_text("not found")
