"""The verdicts of runs as a table, and its place in a document."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from testbed.hostile.promises import TRIALS
from testbed.hostile.run import Seen

BEGIN: Final = "<!-- written by scripts/hostile.py --write: from here -->"
END: Final = "<!-- to here -->"


def broken(seen: Seen) -> list[str]:
    """All that was promised and does not hold."""
    reached = [
        f"{name}: {TRIALS[name].what}"
        for name, outcome in seen.outcomes.items()
        if outcome.reached and TRIALS[name].promised(seen.setup)
    ]
    return reached + seen.wrong


def verdict(seen: Seen, name: str) -> str:
    """In one word, as it stands in the table."""
    outcome = seen.outcomes.get(name)
    if outcome is None or outcome.reached is None:
        return "not tried"
    if not outcome.reached:
        return "contained" if TRIALS[name].promised(seen.setup) else "contained here"
    return "**PROMISED, NOT CONTAINED**" if TRIALS[name].promised(seen.setup) else "not contained"


def to_markdown(runs: Sequence[Seen]) -> str:
    """A row for each attack, a column for each run."""
    lines = [
        f"| a job tries to | {' | '.join(seen.setup.name for seen in runs)} |",
        f"| --- |{' --- |' * len(runs)}",
    ]
    for name, trial in TRIALS.items():
        if any(name in seen.outcomes for seen in runs):
            lines.append(f"| {trial.what} | {' | '.join(verdict(seen, name) for seen in runs)} |")
    return "\n".join(lines)


def write_into(document: Path, table: str) -> None:
    """Put the table between the marks. Raises ValueError if the document has no place for it."""
    text = document.read_text()
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"{document} has no place for the table: {BEGIN} … {END}")
    document.write_text(f"{before}{BEGIN}\n\n{table}\n\n{END}{after}")
