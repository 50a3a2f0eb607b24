"""A promise that was broken."""

from __future__ import annotations


class Violation(BaseException):
    """Not an `Exception`: no code under test may take it for an error of its own."""

    def __init__(self, kind: str, detail: str) -> None:
        super().__init__(f"{kind}: {detail}")
        self.kind = kind


class Dead(BaseException):
    """Raised by every port of an orchestrator that was killed: what it still tries has no effect."""
