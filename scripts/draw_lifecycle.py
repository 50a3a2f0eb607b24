"""Write the states of a job and a payload into docs/architecture.md, from the tables in
actors/domain/status.py.

.venv/bin/python scripts/draw_lifecycle.py           write them
.venv/bin/python scripts/draw_lifecycle.py --check   only look; status 1 if it says something else
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

from actors.domain.status import ENDED, JOB, OWNER, PAYLOAD, QUOTA, Status

DOCUMENT = Path(__file__).resolve().parents[1] / "docs" / "architecture.md"
BEGIN = "<!-- from actors/domain/status.py, written by scripts/draw_lifecycle.py -->"
END = "<!-- end of what scripts/draw_lifecycle.py wrote -->"


def diagram(table: Mapping[Status, frozenset[Status]], first: Status) -> Iterator[str]:
    """A Mermaid state diagram of a table, in the table's order."""
    order = list(table)
    yield "```mermaid"
    yield "stateDiagram-v2"
    yield f"    [*] --> {first}"
    for source, targets in table.items():
        for target in filter(targets.__contains__, order):
            yield f"    {source} --> {target}"
        if not targets:
            yield f"    {source} --> [*]"
    yield "```"


def states() -> Iterator[str]:
    """A Markdown table: each state of a job, who alone moves it, whether it takes a place in the quotas."""
    order = list(JOB)
    yield "| state | moved by | counts against the quotas | next |"
    yield "| --- | --- | --- | --- |"
    for source, targets in JOB.items():
        owner = str(OWNER[source]).capitalize() if source in OWNER else ""
        counts = "until its end is recorded" if source in QUOTA else ""
        following = ", ".join(target for target in order if target in targets)
        yield f"| {source}{' (ended)' if source in ENDED else ''} | {owner} | {counts} | {following} |"


def section() -> str:
    """What stands between the two marks, with them."""
    lines = [BEGIN, "", "A job, as the orchestrator keeps it:", "", *diagram(JOB, Status.QUEUED), ""]
    lines += [
        *states(),
        "",
        "A payload, as its node keeps it:",
        "",
        *diagram(PAYLOAD, Status.PREPARED),
        "",
        END,
    ]
    return "\n".join(lines)


def drawn(text: str) -> str:
    """The document with the section as it has to be. Raises ValueError if a mark is missing."""
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"{DOCUMENT} has lost the marks between which the states are drawn")
    return before + section() + after


def main(arguments: list[str]) -> int:
    text = DOCUMENT.read_text(encoding="utf-8")
    wanted = drawn(text)
    if arguments == ["--check"]:
        if text != wanted:
            print(
                f"{DOCUMENT} is not what actors/domain/status.py says; run this without --check",
                file=sys.stderr,
            )
            return 1
    elif arguments:
        print(__doc__, file=sys.stderr)
        return 2
    else:
        DOCUMENT.write_text(wanted, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
