"""Query parameters as values. What is not understood is refused and named."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Final, TypeVar

from quart import request

from actors.domain.status import SEVERAL, Status
from actors.wire.http.app import Refusal

MOST: Final = (1 << 53) - 1
"""The largest whole number that every JSON parser takes."""

_Text = TypeVar("_Text", bound=str)

_ID: Final = re.compile(r"[1-9][0-9]{0,9}", re.ASCII)
_NUMBER: Final = re.compile(r"[0-9]{1,11}(\.[0-9]{1,30})?([eE][+-]?[0-9]{1,3})?", re.ASCII)
_MONTH: Final = re.compile(r"[0-9]{4}-(0[1-9]|1[0-2])", re.ASCII)
_LINE: Final = re.compile(r"[^\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]*")


def bad(name: str, value: str, expected: str) -> Refusal:
    return Refusal(400, "bad_parameter", f"{name} {value[:100]!r}: {expected} was expected")


def whole(given: Mapping[str, str], name: str, least: int, most: int, default: int) -> int:
    text = given.get(name)
    if text is None:
        return default
    if not re.fullmatch(r"0|[1-9][0-9]{0,18}", text, re.ASCII) or not least <= int(text) <= most:
        raise bad(name, text, f"a whole number from {least} to {most}")
    return int(text)


def signed(given: Mapping[str, str], name: str) -> int | None:
    text = given.get(name)
    if text is None:
        return None
    if not re.fullmatch(r"0|-?[1-9][0-9]{0,18}", text, re.ASCII) or not -(1 << 63) <= int(text) < 1 << 63:
        raise bad(name, text, "a whole number of at most 64 bits")
    return int(text)


def seconds(given: Mapping[str, str], name: str, most: float, more: str = "") -> float:
    text = given.get(name)
    if text is None:
        return 0.0
    if not _NUMBER.fullmatch(text) or float(text) > most:
        raise bad(name, text, f"a number of seconds up to {most:g}{more}")
    return float(text)


def last_event_id(default: int) -> int:
    """The header with which a client comes back to a stream. Empty it is none: so a browser has the id until
    an event brings one."""
    name, text = "Last-Event-ID", request.headers.get("Last-Event-ID")
    return whole({name: text}, name, 0, MOST, default) if text else default


def since(given: Mapping[str, str], default: float) -> float:
    """Wall-clock seconds."""
    found = moment(given, "since")
    return default if found is None else found


def moment(given: Mapping[str, str], name: str) -> float | None:
    """Wall-clock seconds."""
    text = given.get(name)
    if text is None:
        return None
    if _NUMBER.fullmatch(text) and float(text) < 1e11:
        return float(text)
    try:
        at = datetime.fromisoformat(text)
        return max(0.0, (at if at.tzinfo is not None else at.replace(tzinfo=UTC)).timestamp())
    except (ValueError, OverflowError):
        raise bad(name, text, "a time such as 2026-01-31T12:00:00Z, or seconds since 1970,") from None


def month(given: Mapping[str, str], name: str) -> str | None:
    text = given.get(name)
    if text is not None and not _MONTH.fullmatch(text):
        raise bad(name, text, "a month such as 2026-11")
    return text


def flag(given: Mapping[str, str], name: str) -> bool:
    """`?follow`, `?follow=1` and `?follow=true` are one thing."""
    text = given.get(name, "0")
    if text not in ("0", "1", "", "true", "false"):
        raise bad(name, text, "0 or 1")
    return text in ("1", "", "true")


def one_of(given: Mapping[str, str], name: str, *known: str) -> str:
    """The first of `known` unless it is there."""
    text = given.get(name, known[0])
    if text not in known:
        raise bad(name, text, f"one of {', '.join(dict.fromkeys(known))}")
    return text


def any_of(given: Mapping[str, str], name: str, known: Sequence[_Text]) -> _Text | None:
    """One of `known`, None where it is not given."""
    text = given.get(name)
    if text is None:
        return None
    for one in known:
        if one == text:
            return one
    raise bad(name, text, f"one of {', '.join(known)}")


def statuses(given: Mapping[str, str]) -> frozenset[Status]:
    """One, or several with commas between, each a status or a word for several; none where none is given."""
    text = given.get("status")
    if text is None:
        return frozenset()
    try:
        return frozenset().union(*(SEVERAL.get(word) or {Status(word)} for word in text.split(",")))
    except ValueError:
        known = ", ".join([*Status, *SEVERAL])
        raise bad("status", text, f"one or more of {known}") from None


def line(given: Mapping[str, str], name: str) -> str | None:
    """A text that a database takes and no terminal minds."""
    text = given.get(name)
    if text is None:
        return None
    if not is_line(text):
        raise bad(name, text, "a text without control characters")
    return text


def is_line(text: str) -> bool:
    """Whether it is on one line, and without control characters and half surrogates. Unlike `isprintable` it
    lets pass what joins letters, and blanks of other scripts."""
    return _LINE.fullmatch(text) is not None


def cursor(kind: str, at: int) -> str:
    """A place in a list, as a client hands it back: it promises nothing of what is in it."""
    return text_cursor(kind, str(at))


def at_cursor(given: Mapping[str, str], kind: str) -> int | None:
    found = at_text_cursor(given, kind, _ID)
    return None if found is None else int(found[0])


def text_cursor(kind: str, at: str) -> str:
    """The same, of a list that is in the order of texts."""
    return base64.urlsafe_b64encode(f"{kind}{at}".encode()).decode().rstrip("=")


def at_text_cursor(given: Mapping[str, str], kind: str, form: re.Pattern[str]) -> re.Match[str] | None:
    text = given.get("cursor")
    if text is None:
        return None
    try:
        plain = base64.b64decode(text + "=" * (-len(text) % 4), b"-_", validate=True).decode()
    except (binascii.Error, ValueError):
        plain = ""
    found = form.fullmatch(plain[len(kind) :])
    if not plain.startswith(kind) or found is None:
        raise bad("cursor", text, "the `next` of a page of this list")
    return found
