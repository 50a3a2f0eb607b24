"""How far a script says it has come. What scripts and nodes say is no more than a claim: a `Progress` made by
`normalize_progress` is fit to be stored, sent and shown, whatever it was made of."""

from __future__ import annotations

import math
import unicodedata
from dataclasses import dataclass
from typing import Final

LONGEST: Final = 200
"""Characters of a message."""

_UNFIT: Final = frozenset({"Cc", "Cs", "Zl", "Zp"})
"""Kinds of characters that steer terminals, break lines or are no text."""


@dataclass(frozen=True, slots=True)
class Progress:
    """`fraction` is the share that is done, 0 to 1; None as long as none was told."""

    fraction: float | None = None
    message: str = ""


def normalize_progress(fraction: float | None, message: str) -> Progress:
    """A fraction out of range becomes the nearest in it; one that is no finite number is none. The message
    becomes one line of printable characters and is cut."""
    if isinstance(fraction, float) and not math.isfinite(fraction):
        fraction = None
    elif fraction is not None:  # a whole number may be larger than any float
        fraction = min(1.0, max(0.0, fraction))
    # Cut before as well: what comes may be long.
    line = message[: 4 * LONGEST].replace("\t", " ").strip()[:LONGEST].rstrip()
    fit = (_fit(character) for character in line)
    return Progress(fraction, line if line.isascii() and line.isprintable() else "".join(fit))


def _fit(character: str) -> str:
    return "\N{REPLACEMENT CHARACTER}" if unicodedata.category(character) in _UNFIT else character
