"""What people and programs are shown: data on standard output, all else on standard error.

Names and messages come from jobs and may be hostile: nothing of them that steers a terminal gets to one.
"""

from __future__ import annotations

import json
import math
import unicodedata
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final, Protocol

import click

if TYPE_CHECKING:
    from rich.console import Console


class Body(Protocol):
    """A value that came as JSON."""

    @property
    def raw(self) -> Mapping[str, Any]: ...


_DIRECTIONS: Final = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


def clean(text: object) -> str:
    """The text with everything escaped that moves the cursor, colours, or turns the direction of writing."""
    shown = str(text)
    if shown.isascii() and shown.isprintable():
        return shown
    return "".join(
        character.encode("unicode_escape").decode("ascii")
        if unicodedata.category(character) in ("Cc", "Cs", "Zl", "Zp") or character in _DIRECTIONS
        else character
        for character in shown
    )


def tell(*lines: str) -> None:
    """Lines for the person, on standard error."""
    for line in lines:
        click.echo(clean(line), err=True)


def emit_json(body: Any) -> None:
    """One line of JSON. ASCII, so that nothing in it steers a terminal."""
    click.echo(json.dumps(body, separators=(",", ":")))


def emit_one(found: Body, text: object, *, json_wanted: bool) -> None:
    """What was asked for: all of it for programs, what people want to know of it for them."""
    if json_wanted:
        emit_json(found.raw)
    else:
        click.echo(clean(text))


def console(*, err: bool = False) -> Console:
    """Rich's, which honours NO_COLOR."""
    from rich.console import Console

    return Console(stderr=err, highlight=False, markup=False, emoji=False)


def pluralize(number: int, what: str) -> str:
    """As "1 job", "2 jobs"."""
    return f"{number} {what}{'' if number == 1 else 's'}"


def age(at: datetime | None, now: datetime | None = None) -> str:
    """How long ago."""
    if at is None:
        return ""
    return span(((now or datetime.now(UTC)) - at).total_seconds())


def span(seconds: float | None) -> str:
    """A duration in its two largest units."""
    if seconds is None:
        return ""
    if 0 <= seconds < 10:
        return f"{seconds:.1f}s"
    left = max(0, int(seconds))
    for unit, name, smaller, below in ((86400, "d", 3600, "h"), (3600, "h", 60, "m"), (60, "m", 1, "s")):
        if left >= unit:
            return f"{left // unit}{name}{left % unit // smaller}{below}"
    return f"{left}s"


def share(fraction: float | None) -> str:
    """Percent; 100 is all of it only."""
    return "" if fraction is None else f"{math.floor(fraction * 100 + 1e-9)}%"


def size(count: float | None) -> str:
    """Bytes in the unit that fits."""
    if count is None:
        return ""
    for unit in ("B", "K", "M", "G"):
        if count < 1024:
            return f"{count:.0f}{unit}" if unit == "B" or count >= 10 else f"{count:.1f}{unit}"
        count /= 1024
    return f"{count:.1f}T"
