"""Rows as a text for spreadsheets (RFC 4180): a line of names, then a line a row."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping, Sequence
from io import StringIO
from typing import Any, Final

_BEGIN_FORMULAS: Final = ("=", "+", "-", "@", "\t", "\r", "\n", "\uff1d", "\uff0b", "\uff0d", "\uff20")
"""The last four are wide forms, which some spreadsheets take for the same."""


def to_csv(columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> str:
    """A text that a spreadsheet would take for a formula gets an apostrophe before it; numbers stay as they
    are. Texts are quoted, as some spreadsheets part cells at a semicolon. What a row has besides the columns
    is left out."""
    text = StringIO()
    csv.writer(text).writerow(columns)
    writer = csv.writer(text, quoting=csv.QUOTE_NONNUMERIC)
    writer.writerows([_harmless(row[column]) for column in columns] for row in rows)
    return text.getvalue()


def _harmless(cell: object) -> object:
    return f"'{cell}" if isinstance(cell, str) and cell.startswith(_BEGIN_FORMULAS) else cell
