"""The picture of a simulated day. Needs the extra `plots` (matplotlib)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from testbed.scaling.arrivals import DAY
from testbed.scaling.standing import Outcome

BIN = 600.0
"""Seconds of arrivals whose waits are taken together."""


def draw(outcomes: Sequence[Outcome], path: Path, title: str) -> None:
    """Backlog, nodes, use, waits and node-hours over the day, as a PNG."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(5, 1, figsize=(11, 15), sharex=True, layout="constrained")
    figure.suptitle(title)
    colours = dict(zip([one.name for one in outcomes], ("C3", "C0", "C2", "C1", "C7"), strict=False))
    for one in outcomes:
        style: dict[str, Any] = {"label": one.name, "color": colours[one.name], "linewidth": 1.1}
        samples = [sample for sample in one.samples if sample[0] <= DAY]
        hours = [t / 3600 for t, *_ in samples]
        axes[0].plot(hours, [1 + backlog for _, backlog, _, _ in samples], **style)
        axes[1].plot(hours, [nodes for _, _, nodes, _ in samples], **style)
        used = [100 * running / max(1, nodes * one.slots_per_node) for _, _, nodes, running in samples]
        axes[2].plot(hours, _smooth(used, 10), **style)
        for part, line in ((0.5, ":"), (0.95, "-")):
            at, waits = _waits(one, part)
            label = f"{one.name}, p{100 * part:.0f}"
            axes[3].plot(at, waits, linestyle=line, color=colours[one.name], linewidth=1.1, label=label)
        spent = [one.node_hours(until=t) for t, *_ in samples[::10]]
        axes[4].plot(hours[::10], spent, **style)
    names = (
        "jobs waiting, and 1",
        "nodes",
        "use of slots (%)",
        "wait of those who came (s)",
        "node-hours so far",
    )
    for axis, name in zip(axes, names, strict=True):
        axis.set_ylabel(name)
        axis.grid(alpha=0.3)
        axis.legend(loc="upper left", fontsize=7, ncols=2 if axis is axes[3] else 1)
    axes[0].set_yscale("log")
    axes[3].set_yscale("symlog", linthresh=10)
    axes[3].set_ylim(bottom=0)
    axes[4].set_ylim(0, 1.1 * max(one.node_hours(until=DAY) for one in outcomes if "most" not in one.name))
    axes[4].set_xlim(0, DAY / 3600)
    axes[4].set_xlabel("hour of the day")
    figure.savefig(path, dpi=80)
    pyplot.close(figure)


def _waits(one: Outcome, part: float) -> tuple[list[float], list[float]]:
    bins: dict[int, list[float]] = {}
    for job, wait in zip(one.arrivals, one.waits, strict=True):
        bins.setdefault(int(job.at // BIN), []).append(wait)
    at = sorted(bins)
    chosen = [sorted(bins[i])[int(part * (len(bins[i]) - 1))] for i in at]
    return [(i + 0.5) * BIN / 3600 for i in at], chosen


def _smooth(values: Sequence[float], width: int) -> list[float]:
    """A running mean."""
    total, means = 0.0, []
    for i, value in enumerate(values):
        total += value - (values[i - width] if i >= width else 0.0)
        means.append(total / min(i + 1, width))
    return means
