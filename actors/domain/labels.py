"""What a job requires of its node: labels, as `gpu=a100,ssd`. One form for each meaning, so that equal
requirements are equal texts. A label without a value only has to be there."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Final

MOST: Final = 16
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/-]{0,62}", re.ASCII)


def is_label_name(text: str) -> bool:
    return _NAME.fullmatch(text) is not None


def is_label_value(text: object) -> bool:
    return isinstance(text, str) and len(text) <= 200 and text.isprintable()


def requirement(text: str) -> str:
    """The one form of what somebody wrote. Raises ValueError with what was expected."""
    wanted: dict[str, str] = {}
    for each in text.split(","):
        name, _, value = (part.strip() for part in each.partition("="))
        if not is_label_name(name) or not is_label_value(value):
            raise ValueError("labels were expected, such as gpu=a100,ssd")
        if wanted.setdefault(name, value) != value:
            raise ValueError(f"label {name} cannot have two values")
    if len(wanted) > MOST:
        raise ValueError(f"at most {MOST} labels were expected")
    return from_labels(wanted)


def from_labels(labels: Mapping[str, str]) -> str:
    return ",".join(f"{name}={value}" if value else name for name, value in sorted(labels.items()))


@lru_cache(maxsize=1024)
def to_labels(requires: str) -> Mapping[str, str]:
    """The labels of a requirement in its one form; "" stands for any value."""
    if not requires:
        return {}
    return {name: value for name, _, value in (each.partition("=") for each in requires.split(","))}


def satisfies(requires: str, labels: Mapping[str, str]) -> bool:
    """Whether a node with these labels has what is required."""
    return all(name in labels and value in ("", labels[name]) for name, value in to_labels(requires).items())
