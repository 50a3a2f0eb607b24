"""A page of a real browser, and what is held against it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from playwright.sync_api import Page


@dataclass
class Watched:
    """`wrong` has what it asked of another host, and what it logged, a broken rule of its policy among that.
    `may_fail` is set by a test in which requests are not answered as they should be; `asks` is another origin
    that the page is to ask."""

    page: Page
    origin: str
    may_fail: bool = False
    asks: str = ""
    wrong: list[str] = field(default_factory=list)

    def watch(self) -> None:
        self.page.on("request", self._asked)
        self.page.on("console", self._logged)
        self.page.on("pageerror", lambda error: self.wrong.append(f"error: {error}"))

    def _asked(self, request: Any) -> None:
        known = (f"{self.origin}/", f"{self.asks or self.origin}/", "data:", "blob:")
        if not request.url.startswith(known):
            self.wrong.append(f"asked {request.url}")

    def _logged(self, message: Any) -> None:
        if message.text.startswith("[.WebGL-") and "GPU stall" in message.text:
            return  # of the browser's renderer in software: it says how slow it is
        if message.type in ("error", "warning") and not (self.may_fail and "Failed to load" in message.text):
            self.wrong.append(f"{message.type}: {message.text}")
