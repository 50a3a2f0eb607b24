"""How things are told in a line of text."""

from __future__ import annotations

from collections.abc import Sequence


def name_some(names: Sequence[object], most: int) -> str:
    """The first `most` of them, and how many more there are."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(map(str, names[:most])) + more
