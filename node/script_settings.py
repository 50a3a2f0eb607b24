"""What can be set about scripts: for those of all services, and in a table `[services.NAME]` for one.

A service's table adds to what holds for all; its own `network` and `containers` count in place of theirs.
"""

from __future__ import annotations

import grp
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

from actors.config.kinds import Setting, Wrong, expecting
from actors.config.tables import Mistakes, Table
from node.confinement.grants import Grants

SCRIPT_ENV: Final = "SCRIPT_ENV_"
"""Variables of the node that begin so are set for every script without it."""
FOR_EVERY_BASH: Final = frozenset({"BASH_ENV", "ENV", "SHELLOPTS", "BASHOPTS", "POSIXLY_CORRECT"})
"""Variables that change what each bash does."""
RESERVED: Final = ("SERVICE_", "ORCHESTRATOR_", "BASH_FUNC_")
"""How variables begin that are never passed."""
_SERVICE_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}", re.ASCII)
_OF_A_SERVER: Final = "operator.token"
"""What a server leaves in its data directory."""
_BUNDLES: Final = ("nvidia",)


# ------------------------------------------------------------------ what a value may be


def patterns(value: object) -> tuple[str, ...]:
    """Names and globs of variables. Raises ValueError."""
    names = _listed(value)
    if not all(re.fullmatch(r"[A-Za-z0-9_.*?\[\]!-]+", name, re.ASCII) for name in names):
        raise ValueError(value)
    return names


def variables(value: object) -> Mapping[str, str]:
    """Raises ValueError."""
    if not isinstance(value, dict):
        raise ValueError(value)
    for name, text in value.items():
        if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name, re.ASCII) or name.startswith("ORCHESTRATOR_"):
            raise ValueError(value)
        if not isinstance(text, str) or "\0" in text:
            raise ValueError(value)
    return MappingProxyType(dict(value))


def _listed(value: object) -> tuple[str, ...]:
    """What stands in a list, or in a text between commas and blanks. Raises ValueError."""
    listed = re.split(r"[,\s]+", value) if isinstance(value, str) else value
    if not isinstance(listed, list) or not all(isinstance(each, str) for each in listed):
        raise ValueError(value)
    return tuple(dict.fromkeys(each for each in listed if each or not isinstance(value, str)))


def _paths(value: object) -> tuple[Path, ...]:
    listed = value.split(":") if isinstance(value, str) else value
    if not isinstance(listed, list) or not listed:
        raise ValueError(value)
    for each in listed:
        if not isinstance(each, str) or not each.startswith("/") or "\0" in each:
            raise ValueError(value)
    return tuple(dict.fromkeys(Path(os.path.normpath(each)) for each in listed))


def _groups(value: object) -> tuple[str, ...]:
    groups = _listed(value)
    for name in groups:
        try:
            grp.getgrnam(name)
        except KeyError:
            raise Wrong(f"names of groups of this machine, and {name!r} is none") from None
    return groups


def _bundles(value: object) -> tuple[str, ...]:
    bundles = _listed(value)
    if not set(bundles) <= set(_BUNDLES):
        raise ValueError(value)
    return bundles


def _switch(value: object) -> bool:
    if value not in (True, False, "1", "0"):
        raise ValueError(value)
    return value in (True, "1")


_PATHS: Final = 'absolute paths (a list in the file, else ":" between), as /opt/data:/srv/models'
NAMES_OF_VARIABLES: Final = (
    "names of variables, * ? [] allowed (more than one: commas or blanks between in the environment,"
    " a list in the file)"
)

GRANTS: Final[Mapping[str, Setting]] = {
    "read": Setting(
        expecting(_PATHS, _paths),
        "files and directories that scripts may read besides, as `/home/ada/miniconda3`; a list in "
        "the file, else a `:` between as in `PATH`",
    ),
    "write": Setting(
        expecting(_PATHS, _paths),
        "those that they may write, and read. What a job leaves there is not among its results, "
        "and the next job finds it",
    ),
    "env": Setting(
        expecting(NAMES_OF_VARIABLES, patterns),
        "names and globs of the node's variables that they see, as `PASS_ENV`; beside that one",
    ),
    "groups": Setting(_groups, "groups that they belong to, as for a database that only a group may read"),
    "network": Setting(
        expecting("true or false (1 or 0 in the environment)", _switch),
        "they reach what the node reaches, other machines and the node's own; `--no-network` takes "
        "back what the file says",
    ),
    "containers": Setting(
        expecting("true or false (1 or 0 in the environment)", _switch),
        "they may make namespaces and mounts, as Apptainer does; `--no-containers` takes it back",
    ),
    "devices": Setting(
        expecting(f"names of bundles of devices: {', '.join(_BUNDLES)}", _bundles),
        "bundles of devices that they may use: `nvidia`",
    ),
}
"""Each key is a field of `Grants`."""


# ------------------------------------------------------------------ reading


def check_paths(grants: Grants, secrets: Sequence[tuple[str, Path]], where: str, mistakes: Mistakes) -> None:
    """`secrets`: what no script may see, each with what it is."""
    for key, paths in (("read", grants.read), ("write", grants.write)):
        for path in paths:
            for what, secret in secrets:
                # The link's target counts, and nothing is granted with something secret below it.
                real, kept = Path(os.path.realpath(path)), Path(os.path.realpath(secret))
                if real == kept or real in kept.parents or kept in real.parents:
                    mistakes.add(f"{where}{key}: {path} leads to {what} ({secret}): name others, beside it")
            for found in _find_servers(Path(os.path.realpath(path))):
                mistakes.add(f"{where}{key}: {path} leads to an orchestrator's data ({found}): name others")


def _find_servers(path: Path) -> list[Path]:
    """Directories of servers' data that a path is in, or that are where they usually are below it."""
    usual = (path / "data", path / "server" / "data", path / "orchestrator-data" / "server" / "data")
    return [each for each in (*usual, path, *path.parents) if os.path.exists(each / _OF_A_SERVER)]


def take_grants(values: dict[str, Any]) -> Grants:
    """What is granted to all services; it is taken out of the values."""
    return Grants(**{key: values.pop(key) for key in GRANTS if key in values})


def read_services(
    tables: object,
    for_all: Grants,
    secrets: Sequence[tuple[str, Path]],
    where: str,
    mistakes: Mistakes,
) -> Mapping[str, Grants]:
    """The tables `[services.NAME]`, each with what is granted `for_all`; `secrets` as in `check_paths`."""
    if not isinstance(tables, dict):
        mistakes.add_unexpected(where, tables, "tables [services.NAME]")
        return {}
    found = {}
    for name, table in tables.items():
        if not _SERVICE_NAME.fullmatch(name):
            mistakes.add(f"{where}.{name}: a service's name has letters, digits, '_', '.' and '-' only")
        elif not isinstance(table, dict):
            mistakes.add_unexpected(f"{where}.{name}", table, f"a table [services.{name}]")
        else:
            own = Table(GRANTS, mistakes)
            own.put_all(table, f"{where}.{name}.")
            check_paths(Grants(**own.values), secrets, f"{where}.{name}.", mistakes)
            found[name] = _widened(for_all, own.values)
    return MappingProxyType(found)


def _widened(grants: Grants, own: Mapping[str, Any]) -> Grants:
    values: dict[str, Any] = {}
    for key in GRANTS:
        common = getattr(grants, key)
        value = own.get(key, common)
        values[key] = value if isinstance(value, bool) else tuple(dict.fromkeys((*common, *value)))
    return Grants(**values)


def read_script_env(environ: Mapping[str, str], mistakes: Mistakes) -> Mapping[str, str]:
    """What the node's variables `SCRIPT_ENV_…` set for every script."""
    found = {}
    for variable, value in environ.items():
        name = variable.removeprefix(SCRIPT_ENV)
        if name == variable:
            continue
        if name in FOR_EVERY_BASH or name.startswith(RESERVED):
            mistakes.add(f"{variable}: {name} is not set for scripts")
        elif not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name, re.ASCII):
            mistakes.add(f"{variable}: {name!r} is no name of a variable")
        else:
            found[name] = value
    return found
