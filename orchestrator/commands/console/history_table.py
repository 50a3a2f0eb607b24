"""What became of a job, step by step."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, date, datetime
from typing import Any

from orchestrator.commands.console.tables import emit_table


def emit_history(steps: Sequence[Mapping[str, Any]]) -> None:
    """A table of them; on a terminal the time of day is enough of a time."""
    at = [str(step["at"]) for step in steps]
    terminal = sys.stdout.isatty()
    times = list(times_of_day(at, datetime.now(UTC).date())) if terminal else at
    rows = [
        (time, step["to"], step.get("attempt"), step["reason"])
        for time, step in zip(times, steps, strict=True)
    ]
    emit_table(("AT (UTC)" if terminal else "AT", "STATUS", "ATTEMPT", "WHAT"), rows)


def times_of_day(at: Sequence[str], today: date) -> Iterator[str]:
    """Of times as RFC 3339 has them, in UTC. The first of a day has its date before it, except today's."""
    day = today
    for text in at:
        try:
            time = datetime.fromisoformat(text).astimezone(UTC)
        except ValueError:
            yield text
            continue
        dated = time.date() != day
        day = time.date()
        yield f"{time:%Y-%m-%d %H:%M:%S}" if dated else f"{time:%H:%M:%S}"
