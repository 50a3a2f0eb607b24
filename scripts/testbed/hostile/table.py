"""The verdicts of runs as a table, and its place in a document."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from testbed.hostile.promises import TRIALS
from testbed.hostile.run import Seen

BEGIN: Final = "<!-- written by scripts/hostile.py --write, {}: from here -->"
END: Final = "<!-- to here -->"
TIERS_MARK: Final = "tiers"
CONTAINED: Final = "contained"
VERSIONS_MARK: Final = "versions of Landlock"


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
        return CONTAINED if TRIALS[name].promised(seen.setup) else "contained here"
    return "**PROMISED, NOT CONTAINED**" if TRIALS[name].promised(seen.setup) else "not contained"


def to_markdown(runs: Sequence[Seen], *, only_differing: bool = False) -> str:
    """A row for each attack, a column for each run; `only_differing`: without those that are contained in
    each of them, as is promised."""
    lines = [
        f"| a job tries to | {' | '.join(seen.setup.name for seen in runs)} |",
        f"| --- |{' --- |' * len(runs)}",
    ]
    left_out = 0
    for name, trial in TRIALS.items():
        if not any(name in seen.outcomes for seen in runs):
            continue
        verdicts = [verdict(seen, name) for seen in runs]
        if only_differing and set(verdicts) == {CONTAINED}:
            left_out += 1
        else:
            lines.append(f"| {trial.what} | {' | '.join(verdicts)} |")
    if left_out:
        lines.append(f"| {left_out} other things of the table above |{f' {CONTAINED} |' * len(runs)}")
    return "\n".join(lines)


def write_into(document: Path, mark: str, table: str) -> None:
    """Put the table between the marks. Raises ValueError if the document has no place for it."""
    start = BEGIN.format(mark)
    text = document.read_text()
    before, begin, rest = text.partition(start)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"{document} has no place for the table: {start} … {END}")
    document.write_text(f"{before}{start}\n\n{table}\n\n{END}{after}")
