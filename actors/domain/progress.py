"""How far a script says it has come, and where it stands in a batch system. What scripts and nodes say is no
more than a claim: a `Progress` made by `normalize_progress` and a `BatchStand` made by `batch_from_json` are
fit to be stored, sent and shown, whatever they were made of."""

from __future__ import annotations

import math
import unicodedata
from dataclasses import asdict, dataclass
from typing import Any, Final

LONGEST: Final = 200
"""Characters of a message, and of each word of a batch system."""

_UNFIT: Final = frozenset({"Cc", "Cs", "Zl", "Zp"})
"""Kinds of characters that steer terminals, break lines or are no text."""


@dataclass(frozen=True, slots=True)
class BatchStand:
    """How a job stands in a batch system, in whose own words `id`, `state` and `reason` are; empty where it
    has said none. `system`: which one, as `slurm`. `ended`: whether that is its last word."""

    system: str
    id: str
    state: str = ""
    reason: str = ""
    ended: bool = False


@dataclass(frozen=True, slots=True)
class Progress:
    """`fraction` is the share that is done, 0 to 1; None as long as none was told. `batch`: of what a batch
    system runs."""

    fraction: float | None = None
    message: str = ""
    batch: BatchStand | None = None


def normalize_progress(fraction: float | None, message: str) -> Progress:
    """A fraction out of range becomes the nearest in it; one that is no finite number is none. The message
    becomes one line of printable characters and is cut."""
    if isinstance(fraction, float) and not math.isfinite(fraction):
        fraction = None
    elif fraction is not None:  # a whole number may be larger than any float
        fraction = min(1.0, max(0.0, fraction))
    return Progress(fraction, _one_line(message))


def batch_to_json(batch: BatchStand) -> dict[str, Any]:
    """What is empty is left out."""
    return {name: value for name, value in asdict(batch).items() if value}


def batch_from_json(data: Any) -> BatchStand | None:
    """None for what is nothing of the kind: nothing hangs on it, and a peer may have its own idea of it."""
    if not isinstance(data, dict):
        return None
    given = (data.get(name, "") for name in ("system", "id", "state", "reason"))
    system, number, state, reason = (_one_line(text) if isinstance(text, str) else "" for text in given)
    return BatchStand(system, number, state, reason, data.get("ended") is True) if system and number else None


def _one_line(text: str) -> str:
    # Cut before as well: what comes may be long.
    line = text[: 4 * LONGEST].replace("\t", " ").strip()[:LONGEST].rstrip()
    fit = (_fit(character) for character in line)
    return line if line.isascii() and line.isprintable() else "".join(fit)


def _fit(character: str) -> str:
    return "\N{REPLACEMENT CHARACTER}" if unicodedata.category(character) in _UNFIT else character
