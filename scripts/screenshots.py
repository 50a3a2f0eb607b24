"""Make the pictures of the dashboard in docs/dashboard: scripts/screenshots.py [--to DIRECTORY] [--every]

They are of a real system at work: scripts/testbed/scene.py has what is seen. With --every it is all pages in
all states, light, dark and on a phone, to be looked at.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, Literal

from playwright.sync_api import Browser
from testbed.browser import NoBrowser, chromium
from testbed.cluster import ClusterFailed
from testbed.scene import Scene, scene

DOCS: Final = Path(__file__).resolve().parents[1] / "docs" / "dashboard"
SETTLED: Final = 2500
"""Milliseconds in which a page has fetched all and its log has grown a little."""


@dataclass(frozen=True, slots=True)
class Shot:
    """`page` is what stands behind # in the address."""

    name: str
    page: str
    width: int = 1200
    height: int = 820
    scheme: Literal["light", "dark"] = "light"
    press: str = ""
    """A button that is pressed before."""
    whole: bool = False
    """Also what is below the window's edge."""


def main() -> int:
    parser = argparse.ArgumentParser(description="Make the pictures of the dashboard.")
    parser.add_argument("--to", type=Path, default=DOCS, metavar="DIRECTORY")
    parser.add_argument("--every", action="store_true", help="all pages in all states; needs --to")
    given = parser.parse_args()
    to: Path = given.to
    if given.every and to == DOCS:
        parser.error("--every needs --to: the documents have a few of them alone")
    to.mkdir(parents=True, exist_ok=True)
    try:
        with scene() as looked_at, chromium() as browser:
            for shot in _every(looked_at) if given.every else _shots(looked_at):
                _take(browser, looked_at.url, shot, to / f"{shot.name}.png")
    except (NoBrowser, ClusterFailed) as error:
        print(f"screenshots: {error}", file=sys.stderr)
        return 1
    return 0


def _shots(looked_at: Scene) -> list[Shot]:
    job = f"#/jobs/{looked_at.running}"
    return [
        Shot("overview", "#/"),
        Shot("jobs", "#/jobs"),
        Shot("job", job, width=960, height=1080),
        Shot("done", f"#/jobs/{looked_at.done}", width=960, height=720),
        Shot("services", "#/services"),
        Shot("nodes", "#/nodes"),
        Shot("scaling", "#/scaling"),
        Shot("dark", job, width=1000, scheme="dark"),
        Shot("phone", "#/jobs", width=390, height=844),
    ]


def _every(looked_at: Scene) -> Iterator[Shot]:
    states = {
        "overview": "#/",
        "jobs": "#/jobs",
        "jobs-none": "#/jobs?search=nothing",
        "job-running": f"#/jobs/{looked_at.running}",
        "job-failed": f"#/jobs/{looked_at.failed}",
        "job-done": f"#/jobs/{looked_at.done}",
        "job-queued": f"#/jobs/{looked_at.queued}",
        "job-killed": f"#/jobs/{looked_at.cancelled}",
        "submit": "#/submit",
        "submit-again": f"#/submit?from={looked_at.failed}",
        "services": "#/services",
        "nodes": "#/nodes",
        "node": f"#/nodes/{looked_at.node}",
        "scaling": "#/scaling",
        "usage": "#/usage",
        "audit": "#/audit",
    }
    shots = [Shot(name, page, whole=True) for name, page in states.items()]
    shots.append(Shot("job-viewer", states["job-done"] + "?file=poses.tsv", whole=True))
    shots.append(Shot("job-cancel", states["job-running"], press="Cancel"))
    shots.append(Shot("node-drain", states["nodes"], press="Drain node"))
    for shot in shots:
        yield replace(shot, name=f"{shot.name}-light")
        yield replace(shot, name=f"{shot.name}-dark", scheme="dark")
        yield replace(shot, name=f"{shot.name}-phone", width=390, height=844)


def _take(browser: Browser, url: str, shot: Shot, file: Path) -> None:
    size = {"width": shot.width, "height": shot.height}
    context = browser.new_context(viewport=size, color_scheme=shot.scheme)  # type: ignore[arg-type]
    try:
        page = context.new_page()
        page.goto(f"{url}/dashboard{shot.page}")
        page.wait_for_selector("#connection[data-how=live]")
        page.wait_for_timeout(SETTLED)
        if shot.press:
            page.get_by_role("button", name=shot.press).last.click()
            page.wait_for_timeout(SETTLED)
        page.screenshot(path=file, full_page=shot.whole)
        print(f"{file}: {file.stat().st_size / 1000:.0f} kB", flush=True)
    finally:
        context.close()


if __name__ == "__main__":
    sys.exit(main())
