"""What keeps somebody from using a page."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from playwright.sync_api import Page

AXE: Final = Path(__file__).parents[2] / "browser" / "axe"


def serious(page: Page) -> dict[str, Any]:
    """What axe has to say of the page as it is, contrast of all its texts among it."""
    if not page.evaluate("'axe' in window"):
        page.evaluate((AXE / "axe.min.js").read_text())
    told = page.evaluate("axe.run(document, {resultTypes: ['violations']})")
    return {
        one["id"]: [node["html"][:200] for node in one["nodes"]]
        for one in told["violations"]
        if one["impact"] in ("serious", "critical")
    }
