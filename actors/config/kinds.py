"""What the value of a setting may be: one parser for each kind, for values of TOML files and for the text of
variables and flags alike. Each answers with the value, or raises `Wrong` with what was expected.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from actors.domain.errors import CoreError

Kind = Callable[[Any], Any]


@dataclass(frozen=True, slots=True)
class Setting:
    """What a setting may be, and what it means: Markdown, as docs/configuration.md shows it. `unit`: what the
    number counts, "" for what is none. `default`: what counts if it is not given, where that is not a value
    of the settings. `live`: it changes in a program that runs, when that reads its settings again."""

    kind: Kind
    meaning: str
    unit: str = ""
    default: str = ""
    live: bool = False

    def __call__(self, value: Any) -> Any:
        return self.kind(value)


class Wrong(CoreError):
    """The value is not what was expected; the text says what was."""


def expecting(what: str, parse: Kind) -> Kind:
    """The same, which says `what` was expected. `parse` may raise ValueError as well."""

    def parse_or_say(value: Any) -> Any:
        try:
            return parse(value)
        except (Wrong, ValueError):
            raise Wrong(what) from None

    return parse_or_say


def text(value: Any) -> str:
    if isinstance(value, str) and value and "\0" not in value:
        return value
    raise Wrong("some text")


def path(value: Any) -> Path:
    if isinstance(value, str | Path) and str(value) and "\0" not in str(value):
        return Path(value).absolute()
    raise Wrong("a path")


def whole(least: int, most: int, what: str) -> Kind:
    def parse(value: Any) -> int:
        value = _number(value)
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
            raise Wrong(what)
        return value

    return parse


def seconds(least: float, what: str, most: float = 1e12 - 1) -> Kind:
    def parse(value: Any) -> float:
        value = _number(value)
        if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value <= most:
            raise Wrong(what)
        return float(value)

    return parse


def one_of(*names: str) -> Kind:
    def parse(value: Any) -> str:
        if value not in names:
            raise Wrong(" or ".join(f'"{name}"' for name in names))
        return str(value)

    return parse


def url(value: Any) -> str:
    expected = "an URL such as http://10.0.0.5:9000"
    if not isinstance(value, str) or any(c <= " " or c == "\x7f" for c in value):
        raise Wrong(expected)
    try:
        split = urlsplit(value)
        split.port  # noqa: B018  (raises for a port that is none)
    except ValueError:
        raise Wrong(expected) from None
    if split.scheme not in ("http", "https") or not split.hostname or split.query or split.fragment:
        raise Wrong(expected)
    return value


def base_url(value: Any) -> str:
    """Where a node or a server is reached, without a slash at its end."""
    found = url(value)
    split = urlsplit(found)
    if "@" in split.netloc or split.port == 0:
        raise Wrong("an URL such as http://10.0.0.5:9000")
    return found.rstrip("/")


def _number(value: Any) -> Any:
    # int() and float() also take "1_0", "٧" and " 7 ": nobody means a number by these.
    if isinstance(value, str) and re.fullmatch(r"[0-9]{1,18}(\.[0-9]{1,9})?", value, re.ASCII):
        return float(value) if "." in value else int(value)
    return value
