"""What a setting's value may be: one parser for each kind, for values of TOML files and text of variables and
flags alike. Each answers with the value, or raises `Wrong` with what was expected.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Mapping
from ipaddress import ip_network
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

from orchestrator.callbacks.allowed_hosts import HostRule, Network, parse_rule

T = TypeVar("T")


class Wrong(Exception):
    """The value is not what was expected; the text says what was."""


def text(value: Any) -> str:
    if isinstance(value, str) and value and "\0" not in value:
        return value
    raise Wrong("some text")


def path(value: Any) -> Path:
    if isinstance(value, str | Path) and str(value) and "\0" not in str(value):
        return Path(value).absolute()
    raise Wrong("a path")


def _number_as_text(value: Any) -> Any:
    # int() and float() also take "1_0", "٧" and " 7 ": nobody means a number by these.
    if isinstance(value, str) and re.fullmatch(r"[0-9]{1,18}(\.[0-9]{1,9})?", value, re.ASCII):
        return float(value) if "." in value else int(value)
    return value


def whole(least: int, most: int, what: str) -> Any:
    def parse(value: Any) -> int:
        value = _number_as_text(value)
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
            raise Wrong(what)
        return value

    return parse


def seconds(least: float, what: str) -> Any:
    def parse(value: Any) -> float:
        value = _number_as_text(value)
        if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value < 1e12:
            raise Wrong(what)
        return float(value)

    return parse


def one_of(*names: str) -> Any:
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


def route(value: Any) -> str:
    full = url(value).rstrip("/")
    if not urlsplit(full).path.strip("/"):
        raise Wrong("a full URL with its route, such as http://10.0.0.5:9000/submit")
    return full


def urls(value: Any) -> tuple[str, ...]:
    parts = value.split(",") if isinstance(value, str) else value
    expected = "base URLs of nodes, such as http://10.0.0.5:9000 (more than one: a comma between in the "
    expected += "environment, a list in the file)"
    if not isinstance(parts, list) or not all(isinstance(part, str) for part in parts):
        raise Wrong(expected)
    try:
        found = [url(part.strip()).rstrip("/") for part in parts if part.strip()]
    except Wrong:
        raise Wrong(expected) from None
    if isinstance(value, str) and not found:
        raise Wrong(expected)
    return tuple(dict.fromkeys(found))


_SEVERAL = "(more than one: a comma between in the environment, a list in the file)"


def hosts(value: Any) -> tuple[HostRule, ...]:
    expected = (
        f"hosts such as portal.example.org, *.example.org, lab.example:8443 or lab.example:* {_SEVERAL}"
    )
    return _each(value, parse_rule, expected)


def networks(value: Any) -> tuple[Network, ...]:
    return _each(value, ip_network, f"addresses and networks such as 127.0.0.1 or 10.1.0.0/16 {_SEVERAL}")


def _each(value: Any, parse: Callable[[str], T], expected: str) -> tuple[T, ...]:
    parts = value.split(",") if isinstance(value, str) else value
    if not isinstance(parts, list) or not all(isinstance(part, str) for part in parts):
        raise Wrong(expected)
    try:
        return tuple(dict.fromkeys(parse(part.strip()) for part in parts if part.strip()))
    except ValueError as error:
        raise Wrong(f"{expected}; {error}") from None


# ------------------------------------------------------------------ a value under its name


class Mistake(Exception):
    """The value cannot be used; the text is a line for the operator."""


def taken(keys: Mapping[str, Any], key: str, value: Any, where: str, also: tuple[str, ...] = ()) -> Any:
    """The value of `key`, by the parsers in `keys`; `also` are names known elsewhere. Raises Mistake."""
    if key not in keys:
        known = [*keys, *also]
        near = difflib.get_close_matches(key, known, n=1)
        hint = f"did you mean {near[0]}?" if near else f"known are {', '.join(known)}"
        raise Mistake(f"{where}: there is no such setting; {hint}")
    try:
        return keys[key](value)
    except Wrong as wrong:
        raise unexpected(where, value, str(wrong)) from None


def unexpected(where: str, value: Any, expected: str) -> Mistake:
    shown = repr(value) if len(repr(value)) <= 80 else repr(value)[:77] + "..."
    return Mistake(f"{where}: {shown} is not what was expected: {expected}")
