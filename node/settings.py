"""The node's settings: environment variables, overridden by flags. All mistakes are told at once."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

DAY: Final = 86_400.0


class SettingsError(Exception):
    """The settings do not make sense; `lines` has one sentence a mistake."""

    def __init__(self, lines: list[str]) -> None:
        super().__init__("\n".join(lines))
        self.lines = lines


@dataclass(frozen=True, slots=True)
class NodeSettings:
    """`port` 0 takes any free one. `slots` None: whatever is sent runs at once. `on_stop`: what SIGTERM does
    to running payloads, `leave` or `kill`. `grace`: seconds between SIGTERM and SIGKILL. `max_age`: seconds
    that results without a key are kept; `keep_uncollected`: those with one. `upload_limit`: bytes of a
    body."""

    port: int = 9000
    host: str = "127.0.0.1"
    data: Path = Path("data")
    max_age: float = 864_000.0
    slots: int | None = None
    on_stop: str = "leave"
    grace: float = 5.0
    tick: float = 0.5
    upload_limit: int = 1 << 30
    keep_uncollected: float = 30 * DAY
    keep_tombstones: float = 30 * DAY


@dataclass(frozen=True, slots=True)
class _Setting:
    field: str
    flag: str
    variable: str | None
    parse: Callable[[str], Any]
    expected: str


def load_settings(environ: Mapping[str, str], flags: Mapping[str, str | None]) -> NodeSettings:
    """The settings from the environment and from flags, which are keyed by field and win. A variable that is
    set to nothing counts as not set. Raises `SettingsError`."""
    values: dict[str, Any] = {"data": Path("data").absolute()}
    mistakes: list[str] = []
    for setting in _SETTINGS:
        given, named = flags.get(setting.field), setting.flag
        if given is None and setting.variable is not None:
            given, named = environ.get(setting.variable) or None, setting.variable
        if given is None:
            continue
        try:
            values[setting.field] = setting.parse(given)
        except ValueError:
            mistakes.append(f"{named}: {given!r} was given, expected {setting.expected}")
    if mistakes:
        raise SettingsError(mistakes)
    return NodeSettings(**values)


def _whole(least: int, most: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        # int() takes blanks, underscores and the digits of other scripts.
        if not re.fullmatch(r"[0-9]{1,19}", text, re.ASCII) or not least <= int(text) <= most:
            raise ValueError(text)
        return int(text)

    return parse


def _seconds(least: float, most: float) -> Callable[[str], float]:
    def parse(text: str) -> float:
        if (
            not re.fullmatch(r"[0-9]{1,12}(\.[0-9]{1,9})?", text, re.ASCII)
            or not least <= float(text) <= most
        ):
            raise ValueError(text)
        return float(text)

    return parse


def _host(text: str) -> str:
    if not text or any(character.isspace() or character in "/?#@[]" for character in text):
        raise ValueError(text)
    return text


def _path(text: str) -> Path:
    if not text or "\0" in text:
        raise ValueError(text)
    return Path(text).absolute()


def _one_of(*choices: str) -> Callable[[str], str]:
    def parse(text: str) -> str:
        if text not in choices:
            raise ValueError(text)
        return text

    return parse


_UNITS: Final = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}


def _size(text: str) -> int:
    match = re.fullmatch(r"([0-9]{1,12})([KMGT]?)(i?B)?", text, re.ASCII)
    if match is None or int(match[1]) == 0:
        raise ValueError(text)
    return int(match[1]) * _UNITS[match[2]]


_SETTINGS: Final = (
    _Setting("port", "--port", "PORT", _whole(0, 65535), "a port number from 0 to 65535 (0: any free one)"),
    _Setting("host", "--host", "HOST", _host, "an address or host name to listen on, as 127.0.0.1"),
    _Setting("data", "--data", "DATA_PATH", _path, "a directory"),
    _Setting(
        "max_age", "--max-age", "MAX_AGE", _seconds(0, 1e11), "seconds that results are kept, as 864000"
    ),
    _Setting("slots", "--slots", None, _whole(1, 1_000_000), "a whole number of jobs, 1 or more"),
    _Setting("on_stop", "--on-stop", None, _one_of("leave", "kill"), "leave or kill"),
    _Setting("grace", "--grace", None, _seconds(0, 86_400), "seconds from 0 to 86400"),
    _Setting("tick", "--tick", None, _seconds(0.01, 3600), "seconds from 0.01 to 3600"),
    _Setting("upload_limit", "--upload-limit", None, _size, "bytes above 0, as 400M or 1073741824"),
)
