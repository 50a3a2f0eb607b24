"""What the value of a setting of the server may be, beside the kinds that `actors.config.kinds` has."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from ipaddress import ip_network
from types import MappingProxyType
from typing import Any, Final, TypeVar
from urllib.parse import urlsplit

from actors.config.kinds import Wrong, url
from actors.domain.batch_request import parse_gpus, parse_word
from orchestrator.callbacks.allowed_hosts import HostRule, Network, parse_rule

T = TypeVar("T")

WEIGHT_MOST: Final = 1000

_SEVERAL: Final = "(more than one: a comma between in the environment, a list in the file)"


def route(value: Any) -> str:
    full = url(value).rstrip("/")
    if not urlsplit(full).path.strip("/"):
        raise Wrong("a full URL with its route, such as http://10.0.0.5:9000/submit")
    return full


def urls(value: Any) -> tuple[str, ...]:
    return _parse_urls(value, f"base URLs of nodes, such as http://10.0.0.5:9000 {_SEVERAL}")


def own_urls(value: Any) -> tuple[str, ...]:
    return _parse_urls(value, f"base URLs of this server, such as https://jobs.example.org {_SEVERAL}")


def origins(value: Any) -> tuple[str, ...]:
    expected = f"origins of web pages, such as https://portal.example.org {_SEVERAL}"

    def parse(part: str) -> str:
        try:
            found = urlsplit(url(part).lower())
        except Wrong:
            raise ValueError(f"{part[:100]!r} is none") from None
        if found.path.strip("/") or "@" in found.netloc:
            raise ValueError(f"{part[:100]!r} has more than a scheme, a host and a port")
        return f"{found.scheme}://{found.netloc}"

    return _parse_each(value, parse, expected)


def header(value: Any) -> str:
    if isinstance(value, str) and re.fullmatch(r"[A-Za-z0-9-]{1,100}", value, re.ASCII):
        return value
    raise Wrong("the name of a header, such as X-Remote-User")


def names(value: Any) -> tuple[str, ...]:
    return _parse_each(value, str, f"names {_SEVERAL}")


def batch_words(of: str) -> Callable[[Any], tuple[str, ...]]:
    return lambda value: _parse_each(value, parse_word, f"a list of names of {of}")


def gpus(value: Any) -> tuple[str, ...]:
    try:
        return tuple(parse_gpus(one) for one in (value if isinstance(value, list) else [value]))
    except ValueError:
        raise Wrong('a number of GPUs, or a list of kinds with numbers, as ["a100:4"]') from None


def weights(value: Any) -> Mapping[int, int]:
    """By a user's number; TOML has keys that are texts."""
    parsed = {}
    for user, weight in value.items() if isinstance(value, dict) else [(value, 0)]:
        is_user = isinstance(user, str) and re.fullmatch(r"-?[0-9]{1,18}", user, re.ASCII)
        if not is_user or type(weight) is not int or not 1 <= weight <= WEIGHT_MOST:
            raise Wrong(f"a table of users and whole numbers from 1 to {WEIGHT_MOST}, as {{ 42 = 3 }}")
        parsed[int(user)] = weight
    return MappingProxyType(parsed)


def _parse_urls(value: Any, expected: str) -> tuple[str, ...]:
    try:
        found = _parse_each(value, lambda part: url(part).rstrip("/"), expected)
    except Wrong:
        raise Wrong(expected) from None
    if isinstance(value, str) and not found:
        raise Wrong(expected)
    return found


def hosts(value: Any) -> tuple[HostRule, ...]:
    expected = (
        f"hosts such as portal.example.org, *.example.org, lab.example:8443 or lab.example:* {_SEVERAL}"
    )
    return _parse_each(value, parse_rule, expected)


def networks(value: Any) -> tuple[Network, ...]:
    return _parse_each(
        value, ip_network, f"addresses and networks such as 127.0.0.1 or 10.1.0.0/16 {_SEVERAL}"
    )


def _parse_each(value: Any, parse: Callable[[str], T], expected: str) -> tuple[T, ...]:
    parts = value.split(",") if isinstance(value, str) else value
    if not isinstance(parts, list) or not all(isinstance(part, str) for part in parts):
        raise Wrong(expected)
    try:
        return tuple(dict.fromkeys(parse(part.strip()) for part in parts if part.strip()))
    except ValueError as error:
        raise Wrong(f"{expected}; {error}") from None
