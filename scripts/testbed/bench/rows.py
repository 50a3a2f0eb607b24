"""Figures, and what a benchmark raises when it has none."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

MB: Final = 1_000_000


class Wrong(Exception):
    """A job of the benchmark did not do what it should, so its figures would mean nothing."""


@dataclass(frozen=True, slots=True)
class Row:
    """One figure: `value` in `unit`, and beside it, if there is one, the baseline with what it is."""

    figure: str
    value: float
    unit: str
    baseline: float | None = None
    baseline_is: str = ""

    @property
    def ratio(self) -> float | None:
        """How many times the baseline it is; None without one."""
        return self.value / self.baseline if self.baseline else None


@contextmanager
def scratch() -> Iterator[Path]:
    """A directory for a cluster and its data."""
    with TemporaryDirectory(prefix="orchestrator-bench-") as name:
        # Closed to others, as such directories are, no script could run in it with a uid of its own.
        Path(name).chmod(0o711)
        yield Path(name).resolve()
