"""Tables: in the width of a terminal, or whole into a pipe."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Final, TypeVar

import click

from orchestrator.commands.console.output import Body, clean, console, emit_json

if TYPE_CHECKING:
    from rich.table import Table

B = TypeVar("B", bound=Body)

STYLES: Final = {
    "Completed": "green",
    "Running": "cyan",
    "Queued": "yellow",
    "Failed": "red",
    "Invalid": "red",
    "Killed": "magenta",
    "Locked": "magenta",
    "ready": "green",
    "suspect": "yellow",
    "lost": "red",
    "set_aside": "red",
    "draining": "yellow",
    "drained": "magenta",
}
"""Colours of statuses. Without colours, they are words still."""

NARROWEST: Final = 4
"""Characters that a column keeps at least."""

_LONG: Final = frozenset({"MESSAGE", "NAME", "WHAT", "SERVICE", "SERVICES", "URL", "PATH"})
_FOLDED: Final = frozenset({"WHAT"})


def emit_table(headings: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """A table on standard output. For a pipe no line is cut, folded or coloured."""
    if sys.stdout.isatty():
        shown = console()
        # A terminal that is too narrow for what is never cut folds the lines itself.
        shown.print(make_table(headings, rows, shown.width), crop=False)
        return
    cells = _cells((headings, *rows))
    widths = [max(len(row[column]) for row in cells) for column in range(len(headings))]
    for row in cells:
        click.echo("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def emit_list(
    found: Iterable[B], headings: Sequence[str], cells: Callable[[B], Sequence[object]], *, json_wanted: bool
) -> None:
    """What was asked for: for programs, or for people as a table with a row of `cells` for each."""
    if json_wanted:
        emit_json([one.raw for one in found])
    else:
        emit_table(headings, [cells(one) for one in found])


def make_table(headings: Sequence[str], rows: Iterable[Sequence[object]], room: int) -> Table:
    """For a terminal of `room` characters. Texts are cut or folded, the longest first; ids, statuses and
    numbers never are."""
    from rich.cells import cell_len
    from rich.table import Table
    from rich.text import Text

    cells = _cells(rows)
    widths = [max(map(cell_len, column)) for column in zip(headings, *cells, strict=True)]
    between = len(widths) - 1
    gap = 2 if sum(widths) + 2 * between <= room else 1
    widths = _fit(headings, widths, room - gap * between)
    table = Table(
        box=None,
        pad_edge=False,
        padding=(0, gap, 0, 0),
        header_style="bold",
        width=sum(widths) + gap * between,
    )
    for heading, width in zip(headings, widths, strict=True):
        folded = heading in _FOLDED
        table.add_column(heading, width=width, no_wrap=not folded, overflow="fold" if folded else "ellipsis")
    for row in cells:
        table.add_row(*(Text(cell, STYLES.get(cell, "")) for cell in row))
    return table


def _cells(rows: Iterable[Sequence[object]]) -> list[list[str]]:
    return [[clean("-" if cell in (None, "") else cell) for cell in row] for row in rows]


def _fit(headings: Sequence[str], widths: Sequence[int], room: int) -> list[int]:
    """The widths, the widest of texts made narrower until all of them have room."""
    long = [column for column, heading in enumerate(headings) if heading in _LONG]
    found = [min(width, max(room, NARROWEST)) if n in long else width for n, width in enumerate(widths)]
    while sum(found) > room and long:
        widest = max(long, key=lambda column: found[column])
        if found[widest] <= NARROWEST:
            break
        found[widest] -= 1
    return found
