"""Settings of server and node: environment, then a TOML file, then flags, the later over the former.

What there is to set is a table from key to kind. All mistakes are told at once, each in one line with where
the value stands, what it is and what was expected."""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from actors.config.kinds import Kind, Wrong
from actors.domain.errors import CoreError


class SettingsError(CoreError):
    """The settings cannot be used. `mistakes` has a line for each reason."""

    def __init__(self, mistakes: Iterable[str]) -> None:
        self.mistakes = tuple(mistakes)
        super().__init__("\n".join(self.mistakes))


class Mistakes:
    """A line for each. `wording` says of a `value` what was `expected`."""

    def __init__(self, wording: str = "{value} is not what was expected: {expected}") -> None:
        self.lines: list[str] = []
        self._wording = wording

    def add(self, line: str) -> None:
        self.lines.append(line)

    def add_unexpected(self, where: str, value: Any, expected: str) -> None:
        shown = repr(value) if len(repr(value)) <= 80 else repr(value)[:77] + "..."
        self.add(f"{where}: {self._wording.format(value=shown, expected=expected)}")

    def check(self) -> None:
        """Raises SettingsError if there are any."""
        if self.lines:
            raise SettingsError(self.lines)


class Table:
    """The values found for one table of `keys`; `also` are names in it that are read elsewhere."""

    def __init__(self, keys: Mapping[str, Kind], mistakes: Mistakes, also: Iterable[str] = ()) -> None:
        self.values: dict[str, Any] = {}
        self._keys = keys
        self._mistakes = mistakes
        self._also = also

    def put(self, key: str, value: Any, where: str) -> None:
        if key not in self._keys:
            known = [*self._keys, *self._also]
            near = difflib.get_close_matches(key, known, n=1)
            hint = f"did you mean {near[0]}?" if near else f"known are {', '.join(known)}"
            self._mistakes.add(f"{where}: there is no such setting; {hint}")
            return
        try:
            self.values[key] = self._keys[key](value)
        except Wrong as wrong:
            self._mistakes.add_unexpected(where, value, str(wrong))

    def put_environment(self, environ: Mapping[str, str], variables: Mapping[str, str]) -> None:
        """`variables`: which one sets which key."""
        for variable, key in variables.items():
            # Set to nothing counts as not set: that is what compose files make of a variable left out.
            if environ.get(variable):
                self.put(key, environ[variable], variable)

    def put_all(self, values: Mapping[str, Any], prefix: str) -> None:
        for key, value in values.items():
            self.put(key, value, f"{prefix}{key}")

    def put_flags(self, flags: Mapping[str, Any]) -> None:
        """Flags by their keys; one that is None was not given."""
        for key in self._keys:
            if flags.get(key) is not None:
                self.put(key, flags[key], f"--{key.replace('_', '-')}")


def explain_pair(values: Mapping[str, Any], certificate: str, key: str) -> str:
    """What is to be said where one of `tls_cert` and `tls_key` alone is among the values; the names are those
    that people set them by."""
    if "tls_cert" in values:
        return f"{certificate}: {values['tls_cert']} is named without its key: {key} names that file, too"
    return f"{key}: {values['tls_key']} is named without its certificate: {certificate} names that file, too"


def read_toml(path: Path, mistakes: Mistakes) -> dict[str, Any]:
    """What is in the file; nothing after a mistake."""
    try:
        with path.open("rb") as file:
            return tomllib.load(file)
    except OSError as error:
        mistakes.add(f"{path}: cannot be read: {error.strerror}")
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        mistakes.add(f"{path}: is no TOML: {error}")
    return {}
