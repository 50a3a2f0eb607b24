"""What keeps somebody from using a page."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final, Literal

from playwright.sync_api import Page

AXE: Final = Path(__file__).parents[2] / "browser" / "axe"
SCHEMES: Final[tuple[Literal["light", "dark"], ...]] = ("light", "dark")

# A target that is too small for a finger is a rule that has to be asked for.
ALL: Final = {"resultTypes": ["violations"], "rules": {"target-size": {"enabled": True}}}
CONTRAST: Final = {"resultTypes": ["violations"], "runOnly": ["color-contrast"]}


def flaws(page: Page) -> dict[str, Any]:
    """All that axe has to say of the page as it is, contrast of all its texts among it."""
    return _run(page, ALL)


def flaws_light_and_dark(page: Page) -> dict[str, Any]:
    """The same, with the contrast of both schemes. The page is left in the dark one."""
    found = {}
    for scheme, rules in zip(SCHEMES, (ALL, CONTRAST), strict=True):
        page.emulate_media(color_scheme=scheme)
        found |= {f"{scheme} {rule}": nodes for rule, nodes in _run(page, rules).items()}
    return found


def _run(page: Page, rules: dict[str, Any]) -> dict[str, Any]:
    if not page.evaluate("'axe' in window"):
        page.evaluate((AXE / "axe.min.js").read_text())
    told = page.evaluate("rules => axe.run(document, rules)", rules)
    return {one["id"]: [node["html"][:200] for node in one["nodes"]] for one in told["violations"]}
