"""Make the pictures of the dashboard in docs/dashboard: scripts/screenshots.py [--to DIRECTORY]

They are of a real system at work: scripts/testbed/scene.py has what is seen.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass
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


def main() -> int:
    parser = argparse.ArgumentParser(description="Make the pictures of the dashboard.")
    parser.add_argument("--to", type=Path, default=DOCS, metavar="DIRECTORY")
    to: Path = parser.parse_args().to
    to.mkdir(parents=True, exist_ok=True)
    try:
        with scene() as looked_at, chromium() as browser:
            for shot in _shots(looked_at):
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
        Shot("services", "#/services"),
        Shot("nodes", "#/nodes"),
        Shot("scaling", "#/scaling"),
        Shot("dark", job, width=1000, scheme="dark"),
        Shot("phone", "#/jobs", width=390, height=844),
    ]


def _take(browser: Browser, url: str, shot: Shot, file: Path) -> None:
    size = {"width": shot.width, "height": shot.height}
    context = browser.new_context(viewport=size, color_scheme=shot.scheme)  # type: ignore[arg-type]
    try:
        page = context.new_page()
        page.goto(f"{url}/dashboard{shot.page}")
        page.wait_for_selector("#connection[data-how=live]")
        page.wait_for_timeout(SETTLED)
        page.screenshot(path=file)
        print(f"{file}: {file.stat().st_size / 1000:.0f} kB", flush=True)
    finally:
        context.close()


if __name__ == "__main__":
    sys.exit(main())
