"""What a simulated day comes to, in figures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from testbed.scaling.arrivals import Shape
from testbed.scaling.standing import Outcome

WAIT_AT_MOST = 1.5
HOURS_AT_MOST = 1.3
"""What is asked of scaling in the crowd, in terms of the oracle's."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """The crowd under scaling, in terms of the oracle's. `hours` are those of the nodes from shortly before
    the crowd until both have worked it off and let their nodes go. `foreseen`: the oracle lets the crowd wait
    less than a boot takes, as it boots ahead; who does not know the future cannot, and is held against a
    boot."""

    wait: float
    hours: float
    foreseen: bool = False

    @property
    def good(self) -> bool:
        return self.wait <= WAIT_AT_MOST and self.hours <= HOURS_AT_MOST

    def __str__(self) -> str:
        than = "a boot, as the oracle boots ahead" if self.foreseen else "the oracle's"
        said = "as asked" if self.good else "MORE than asked"
        return (
            f"crowd: p95 wait {self.wait:.2f} times {than} (at most {WAIT_AT_MOST}), "
            f"node-hours {self.hours:.2f} times (at most {HOURS_AT_MOST}): {said}"
        )


def verdict(scaled: Outcome, oracle: Outcome, shape: Shape, boot_seconds: float) -> Verdict:
    begins = shape.crowd_at - 300.0
    over = max(
        job.at + wait + job.seconds
        for outcome in (scaled, oracle)
        for job, wait in zip(outcome.arrivals, outcome.waits, strict=True)
        if job.crowd
    )
    ends = over + 1200.0
    best = oracle.wait(0.95, crowd=True)
    return Verdict(
        scaled.wait(0.95, crowd=True) / max(best, boot_seconds),
        scaled.node_hours(begins, ends) / max(1e-9, oracle.node_hours(begins, ends)),
        best < boot_seconds,
    )


def table(outcomes: Sequence[Outcome]) -> str:
    """A line each; waits in seconds."""
    heads = (
        "pool",
        "node-hours",
        "use",
        "most nodes",
        "most waiting",
        "wait p50",
        "p95",
        "p99",
        "crowd p50",
        "p95",
    )
    rows = [heads]
    for one in outcomes:
        rows.append(
            (
                one.name,
                f"{one.node_hours():,.0f}",
                f"{100 * one.utilisation:.0f} %",
                f"{max(nodes for _, _, nodes, _ in one.samples):,}",
                f"{max(backlog for _, backlog, _, _ in one.samples):,}",
                *(f"{one.wait(part, crowd=False):,.0f}" for part in (0.5, 0.95, 0.99)),
                *(f"{one.wait(part, crowd=True):,.0f}" for part in (0.5, 0.95)),
            )
        )
    widths = [max(len(row[i]) for row in rows) for i in range(len(heads))]
    lines = [
        "  ".join(
            cell.ljust(w) if i == 0 else cell.rjust(w)
            for i, (cell, w) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    ]
    return "\n".join(lines)
