"""What lies between the orchestrator and its nodes, as the chaos run needs it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Place:
    """Where a node runs: its own arguments, and the command that takes a process there."""

    arguments: Sequence[str] = ()
    within: Sequence[str] = field(default_factory=tuple)


class Network(Protocol):
    """Nodes count from 1. `modes` are the ways in which it can fail."""

    modes: Sequence[str]

    def url(self, node: int) -> str:
        """Where the orchestrator finds this node, always."""

    def place(self, node: int) -> Place: ...

    def node_up(self, node: int, url: str) -> None:
        """This node listens, and where."""

    def node_down(self, node: int) -> None: ...

    async def fail(self, node: int, mode: str, seconds: float) -> None:
        """Fail for a while; works again when this returns."""
