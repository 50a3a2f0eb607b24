"""The node's settings: environment variables, then a TOML file, then flags, the later over the former. All
mistakes are told at once, each with where the value stands, what it is and what was expected."""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final
from urllib.parse import urlsplit

from actors.domain.ids import is_key
from actors.domain.labels import is_label_name, is_label_value

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
    that results without a key are kept; `keep_uncollected`: those with one. `upload_limit`: bytes of a body.
    `pass_env`: names and globs of the node's variables that scripts see, None: what the executor passes by
    itself. `job_env`: variables that every script sees besides.

    `health_command`: run by /bin/sh again and again; while it fails, the node gets no jobs.

    `join`: the orchestrator that this node joins by itself, for `join_services`, saying its `labels`, the
    token of its `machine`, and `advertise`, the URL at which it is reached from there."""

    port: int = 9000
    host: str = "127.0.0.1"
    data: Path = Path("data")
    max_age: float = 864_000.0
    slots: int | None = None
    on_stop: str = "leave"
    grace: float = 5.0
    tick: float = 0.5
    upload_limit: int = 1 << 30
    pass_env: tuple[str, ...] | None = None
    job_env: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    health_command: str | None = None
    join: str | None = None
    join_services: tuple[str, ...] = ()
    labels: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    machine: str | None = None
    advertise: str | None = None
    keep_uncollected: float = 30 * DAY
    keep_tombstones: float = 30 * DAY


def load_settings(
    environ: Mapping[str, str], flags: Mapping[str, str | None], config: Path | None = None
) -> NodeSettings:
    """The settings from the environment, a file, and flags that are keyed by field. A variable that is set to
    nothing counts as not set, a flag that is None was not given. Raises `SettingsError`."""
    found = _Found()
    for setting in _SETTINGS.values():
        if setting.variable is not None and environ.get(setting.variable):
            found.put(setting, environ[setting.variable], setting.variable)
    if config is not None:
        found.take_file(config)
    for setting in _SETTINGS.values():
        if setting.flag and (given := flags.get(setting.field)) is not None:
            found.put(setting, given, setting.flag)
    found.check_joining()
    if found.mistakes:
        raise SettingsError(found.mistakes)
    return NodeSettings(**found.values)


class _Found:
    """Values found so far, the later over the former, with every mistake."""

    def __init__(self) -> None:
        self.values: dict[str, Any] = {"data": Path("data").absolute()}
        self.mistakes: list[str] = []

    def put(self, setting: _Setting, given: object, where: str) -> None:
        try:
            self.values[setting.field] = setting.parse(given)
        except ValueError:
            shown = repr(given) if len(repr(given)) <= 80 else repr(given)[:77] + "..."
            self.mistakes.append(f"{where}: {shown} was given, expected {setting.expected}")

    def check_joining(self) -> None:
        if "join" in self.values and not self.values.get("join_services"):
            self.mistakes.append("--join: needs --join-services, the services that this node is for")
        if "join" not in self.values:
            for name in ("join_services", "labels", "machine", "advertise"):
                if name in self.values:
                    flag = _SETTINGS[name].flag
                    self.mistakes.append(f"{flag}: needs --join, the URL of the orchestrator to join")

    def take_file(self, path: Path) -> None:
        try:
            with path.open("rb") as file:
                data = tomllib.load(file)
        except OSError as error:
            self.mistakes.append(f"{path}: cannot be read: {error.strerror}")
            return
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            self.mistakes.append(f"{path}: is no TOML: {error}")
            return
        for key, value in data.items():
            where = f"{path}: {key}"
            if key in _SETTINGS:
                self.put(_SETTINGS[key], value, where)
            else:
                near = difflib.get_close_matches(key, _SETTINGS, n=1)
                hint = f"did you mean {near[0]}?" if near else f"known are {', '.join(_SETTINGS)}"
                self.mistakes.append(f"{where}: there is no such setting; {hint}")


# ------------------------------------------------------------------ what a value may be


def _whole(least: int, most: int) -> Callable[[object], int]:
    def parse(value: object) -> int:
        # int() takes blanks, underscores and the digits of other scripts.
        if isinstance(value, str) and re.fullmatch(r"[0-9]{1,19}", value, re.ASCII):
            value = int(value)
        if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
            raise ValueError(value)
        return value

    return parse


def _seconds(least: float, most: float) -> Callable[[object], float]:
    def parse(value: object) -> float:
        if isinstance(value, str) and re.fullmatch(r"[0-9]{1,12}(\.[0-9]{1,9})?", value, re.ASCII):
            value = float(value)
        if not isinstance(value, int | float) or isinstance(value, bool) or not least <= value <= most:
            raise ValueError(value)
        return float(value)

    return parse


def _host(value: object) -> str:
    if not isinstance(value, str) or not value or any(c.isspace() or c in "/?#@[]" for c in value):
        raise ValueError(value)
    return value


def _path(value: object) -> Path:
    if not isinstance(value, str) or not value or "\0" in value:
        raise ValueError(value)
    return Path(value).absolute()


def _one_of(*choices: str) -> Callable[[object], str]:
    def parse(value: object) -> str:
        if not isinstance(value, str) or value not in choices:
            raise ValueError(value)
        return value

    return parse


_UNITS: Final = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}


def _size(value: object) -> int:
    text = str(value) if isinstance(value, int) and not isinstance(value, bool) else value
    match = re.fullmatch(r"([0-9]{1,15})([KMGT]?)(i?B)?", text, re.ASCII) if isinstance(text, str) else None
    if match is None or int(match[1]) == 0:
        raise ValueError(value)
    return int(match[1]) * _UNITS[match[2]]


def _text(value: object) -> str:
    if not isinstance(value, str) or not value.strip() or "\0" in value:
        raise ValueError(value)
    return value


def _url(value: object) -> str:
    if not isinstance(value, str) or any(c <= " " or c == "\x7f" for c in value):
        raise ValueError(value)
    split = urlsplit(value)
    named = split.hostname and "@" not in split.netloc and split.port != 0
    if split.scheme not in ("http", "https") or not named or split.query or split.fragment:
        raise ValueError(value)
    _resolvable(value)
    return value.rstrip("/")


def _resolvable(url: str) -> None:
    """Raises ValueError for a host that no request could be sent to, as `a..b`: not later, in the middle of
    the node's life."""
    # Late: who is not to join needs no HTTP client.
    import httpx

    try:
        host = httpx.URL(url).host
    except httpx.InvalidURL as why:
        raise ValueError(url) from why
    host.encode("idna")  # As the resolver does; what it raises is a ValueError.


def _names(value: object) -> tuple[str, ...]:
    listed = re.split(r"[,\s]+", value) if isinstance(value, str) else value
    if not isinstance(listed, list) or not all(isinstance(each, str) for each in listed):
        raise ValueError(value)
    names = tuple(dict.fromkeys(each for each in listed if each))
    if not names or not all(re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name, re.ASCII) for name in names):
        raise ValueError(value)
    return names


def _labels(value: object) -> Mapping[str, str]:
    """`gpu=a100,ssd`: a label without a value is there, and that is all."""
    if isinstance(value, str):
        value = {name: text for name, _, text in (each.partition("=") for each in value.split(","))}
    if not isinstance(value, dict):
        raise ValueError(value)
    for name, text in value.items():
        if not is_label_name(name) or not is_label_value(text):
            raise ValueError(value)
    return MappingProxyType(dict(value))


def _token(value: object) -> str:
    if not is_key(value):
        raise ValueError(value)
    return value


def _patterns(value: object) -> tuple[str, ...]:
    listed = re.split(r"[,\s]+", value) if isinstance(value, str) else value
    if not isinstance(listed, list) or not all(isinstance(each, str) for each in listed):
        raise ValueError(value)
    names = tuple(dict.fromkeys(each for each in listed if each or not isinstance(value, str)))
    if not all(re.fullmatch(r"[A-Za-z0-9_.*?\[\]!-]+", name, re.ASCII) for name in names):
        raise ValueError(value)
    return names


def _variables(value: object) -> Mapping[str, str]:
    if not isinstance(value, dict):
        raise ValueError(value)
    for name, text in value.items():
        if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name, re.ASCII) or name.startswith("ORCHESTRATOR_"):
            raise ValueError(value)
        if not isinstance(text, str) or "\0" in text:
            raise ValueError(value)
    return MappingProxyType(dict(value))


@dataclass(frozen=True, slots=True)
class _Setting:
    """`field` is the key of the file too. Without `flag` or `variable` it cannot be set by one."""

    field: str
    flag: str | None
    variable: str | None
    parse: Callable[[object], Any]
    expected: str


_SETTINGS: Final = {
    each.field: each
    for each in (
        _Setting(
            "port", "--port", "PORT", _whole(0, 65535), "a port number from 0 to 65535 (0: any free one)"
        ),
        _Setting("host", "--host", "HOST", _host, "an address or host name to listen on, as 127.0.0.1"),
        _Setting("data", "--data", "DATA_PATH", _path, "a directory"),
        _Setting(
            "max_age",
            "--max-age",
            "MAX_AGE",
            _seconds(0, 1e11),
            "seconds that results are kept, as 864000",
        ),
        _Setting("slots", "--slots", None, _whole(1, 1_000_000), "a whole number of jobs, 1 or more"),
        _Setting("on_stop", "--on-stop", None, _one_of("leave", "kill"), "leave or kill"),
        _Setting("grace", "--grace", None, _seconds(0, 86_400), "seconds from 0 to 86400"),
        _Setting("tick", "--tick", None, _seconds(0.01, 3600), "seconds from 0.01 to 3600"),
        _Setting("upload_limit", "--upload-limit", None, _size, "bytes above 0, as 400M or 1073741824"),
        _Setting(
            "pass_env",
            None,
            "PASS_ENV",
            _patterns,
            "names of variables, * ? [] allowed (more than one: commas or blanks between in the environment,"
            " a list in the file)",
        ),
        _Setting(
            "job_env",
            None,
            None,
            _variables,
            'a table of NAME = "value", no name beginning with ORCHESTRATOR_',
        ),
        _Setting("health_command", "--health-command", None, _text, "a line of shell"),
        _Setting("join", "--join", None, _url, "the URL of an orchestrator, as http://10.0.0.1:5000"),
        _Setting("join_services", "--join-services", None, _names, "names of services, a comma between"),
        _Setting("labels", "--labels", None, _labels, "labels, as gpu=a100,ssd"),
        _Setting("machine", "--machine", None, _token, "the token of a machine, 32 hex digits"),
        _Setting(
            "advertise", "--advertise", None, _url, "the URL at which this node is reached, as http://h:9000"
        ),
    )
}
