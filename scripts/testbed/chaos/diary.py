"""What was done and when, and for how long each node could not be reached."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(slots=True)
class Diary:
    """Lines go to `path` at once, so that they are there whatever comes. Times: seconds since the epoch."""

    path: Path
    trouble: list[str] = field(default_factory=list)
    done: int = 0
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

    def reachable(self, names: Iterable[str]) -> bool:
        return not any(self._reasons[name] for name in names)
