"""What was done and when, and for how long each node could not be reached."""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Span:
    """Something that was so from `since` until `until`."""

    since: float
    until: float

    def holds(self, at: float, slack: float) -> bool:
        """Whether it may have been so at that time, or have caused what was then; `slack` in seconds."""
        return self.since - 1.0 <= at <= self.until + slack


@dataclass(slots=True)
class Diary:
    """Lines go to `path` at once, so that they are there whatever comes. Times: seconds since the epoch."""

    path: Path
    trouble: list[str] = field(default_factory=list)
    done: int = 0
    torn: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    """What was done to files of a payload, by its key."""
    struck: Counter[str] = field(default_factory=Counter)
    """How often something was torn or used up."""
    short: dict[str, list[Span]] = field(default_factory=lambda: defaultdict(list))
    """When the disk of a machine had no inodes, by its name."""
    refused: list[tuple[float, str]] = field(default_factory=list)
    """When the server had no room, and for what."""
    _reasons: dict[str, set[str]] = field(default_factory=lambda: defaultdict(set))
    _since: dict[str, float] = field(default_factory=dict)
    _outages: dict[str, list[tuple[float, float]]] = field(default_factory=lambda: defaultdict(list))

    def note(self, text: str) -> None:
        with self.path.open("a") as file:
            file.write(f"{time.time():.3f} {text}\n")

    def wrong(self, text: str) -> None:
        """Something that must not be, whenever it is."""
        self.trouble.append(text)
        self.note(f"WRONG: {text}")

    def away(self, name: str, reason: str) -> None:
        """From now on `name` cannot be reached, for this reason at least."""
        if reason in self._reasons[name]:
            return
        if not self._reasons[name]:
            self._since[name] = time.time()
        self._reasons[name].add(reason)
        self.note(f"{name}: {reason}")

    def back(self, name: str, reason: str) -> None:
        if reason not in self._reasons[name]:
            return
        self._reasons[name].discard(reason)
        self.note(f"{name}: no longer {reason}")
        if not self._reasons[name]:
            self._outages[name].append((self._since[name], time.time()))

    def spells(self, name: str) -> int:
        """How often it has been away until now, for whatever reasons at once."""
        return len(self._outages[name]) + bool(self._reasons[name])

    def longest_outage(self, name: str, slack: float) -> float:
        """Seconds; outages that are less than `slack` apart are one, because whoever looks for the node may
        look only at the wrong moments."""
        longest = 0.0
        begin = end = float("-inf")
        for since, until in self._outages[name]:
            if since - end > slack:
                begin = since
            end = until
            longest = max(longest, end - begin)
        return longest

    def was_away(self, name: str, at: float, slack: float) -> bool:
        """Whether it could not be reached then, or until `slack` seconds before."""
        return any(Span(*outage).holds(at, slack) for outage in self._outages[name])

    def reachable(self, names: Iterable[str]) -> bool:
        return not any(self._reasons[name] for name in names)
