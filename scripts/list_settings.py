"""Write the tables of settings into the documents, from where the settings are declared.

.venv/bin/python scripts/list_settings.py           write them
.venv/bin/python scripts/list_settings.py --check   only look; status 1 if one says something else
"""

from __future__ import annotations

import dataclasses
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import click

from actors.config.kinds import Setting
from actors.domain.limits import LIMITS
from actors.domain.scaling import ScalingLimits
from actors.domain.service import ServiceLimits
from node import settings as node
from node.confinement.grants import Grants
from node.script_settings import GRANTS
from node.slurm_settings import OPTIONS, SlurmOptions
from orchestrator import cli
from orchestrator.config import scaling
from orchestrator.config import settings as server

DOCS = Path(__file__).resolve().parents[1] / "docs"
DOCUMENTS = (DOCS / "configuration.md", DOCS / "slurm.md")
TABLE = re.compile(
    r"(?P<begin><!-- settings (?P<name>[a-z0-9-]+), written by scripts/list_settings.py -->\n)"
    r".*?(?P<end>\n<!-- end of settings -->)",
    re.DOTALL,
)
COLUMNS = ("variable", "in the file", "flag", "default", "unit", "meaning")
OF_THE_FILE_ALONE = frozenset({"config", "help"})
"""Options that are no settings."""

Row = Mapping[str, str]
"""A cell for each column that it has something in."""


def settings_rows(
    settings: Mapping[str, Setting],
    defaults: Mapping[str, Any],
    *,
    variables: Mapping[str, str] | None = None,
    command: click.Command | None = None,
) -> Iterator[Row]:
    """A row for each setting, then one for each option of `command` that sets nothing. `variables` says which
    one sets which key."""
    by_key = {key: variable for variable, key in (variables or {}).items()}
    flags = {option.name: option.opts[0] for option in options(command)}
    for key, setting in settings.items():
        yield {
            "variable": code(by_key.get(key, "")),
            "in the file": code(key),
            "flag": code(flags.pop(key, "")),
            "default": setting.default or show(defaults.get(key), setting.unit),
            "unit": setting.unit,
            "meaning": setting.meaning,
        }
    by_name = {option.name: option for option in options(command)}
    for name, flag in flags.items():
        yield {"flag": code(flag), "meaning": first_small(by_name[name].help)}


def options(command: click.Command | None) -> list[click.Option]:
    parameters = () if command is None else command.params
    return [one for one in parameters if isinstance(one, click.Option) and one.name not in OF_THE_FILE_ALONE]


def flag_rows(command: click.Command) -> Iterator[Row]:
    """A row for each option of a command that has no settings."""
    for option in options(command):
        meaning, _, told = (option.help or "").rstrip("]").partition(" [")
        value = str(option.default) if option.show_default else ""
        yield {
            "flag": code(option.opts[0]),
            "default": told or (f"./{value}" if isinstance(option.default, Path) else value),
            "meaning": first_small(meaning),
        }


def defaults_of(declared: Any) -> dict[str, Any]:
    """What stands for each field of a dataclass; `MISSING` for one that has to be given."""
    if not isinstance(declared, type):
        return {field.name: getattr(declared, field.name) for field in dataclasses.fields(declared)}
    return {
        field.name: field.default if field.default_factory is dataclasses.MISSING else field.default_factory()
        for field in dataclasses.fields(declared)
    }


def show(value: Any, unit: str) -> str:
    if value is dataclasses.MISSING:
        return "has to be given"
    if isinstance(value, bool):
        return str(value).lower()
    if value is None or value == "" or (isinstance(value, tuple | Mapping) and not value):
        return ""
    if isinstance(value, Path):
        return f"./{value}"
    if not isinstance(value, int | float):
        return str(value)
    number = f"{value:.0f}" if value == int(value) else str(value)
    for size, name in sizes(unit):
        if value >= size and value % size == 0:
            count = int(value) // size
            return f"{number} ({count} {name if count == 1 else name + ('s' if unit == 's' else '')})"
    return number


def sizes(unit: str) -> tuple[tuple[int, str], ...]:
    """What is easier read than a large number of the unit."""
    if unit == "bytes":
        return (1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")
    return ((86400, "day"), (3600, "hour")) if unit == "s" else ()


def code(text: str) -> str:
    return f"`{text}`" if text else ""


def first_small(text: str | None) -> str:
    """As in the other rows: no capital, no full stop at the end."""
    text = (text or "").removesuffix(".")
    return text[:1].lower() + text[1:]


def draw_table(rows: Iterable[Row]) -> str:
    """Columns that are empty throughout are left out."""
    listed = list(rows)
    columns = [column for column in COLUMNS if any(row.get(column) for row in listed)]
    lines = [columns, ["---"] * len(columns)]
    lines += [[row.get(column, "").replace("|", r"\|") for column in columns] for row in listed]
    return "\n".join(re.sub(r" +", " ", f"| {' | '.join(cells)} |") for cells in lines)


def tables() -> dict[str, Iterable[Row]]:
    """Each table by its name in the documents."""
    local = ScalingLimits("x", **scaling.LOCAL_DEFAULTS)
    limits = []
    for row in settings_rows(
        {"provider": scaling.PROVIDER, **scaling.LIMITS}, defaults_of(ScalingLimits("x"))
    ):
        key = row["in the file"].strip("`")
        here = show(getattr(local, key, None), row["unit"])
        differs = here and here != row["default"]
        limits.append({**row, "default": f"{row['default']}; local: {here}" if differs else row["default"]})
    return {
        "server": settings_rows(
            server.SERVER,
            defaults_of(server.Settings()),
            variables=server.VARIABLES,
            command=cli.load_command("server"),
        ),
        "service": settings_rows(
            server.SERVICE,
            {**defaults_of(ServiceLimits("x")), **dict.fromkeys(LIMITS, 0)},
            variables={f"SERVICE_<NAME>_{name}": name.lower() for name in server.SERVICE_VARIABLES},
        ),
        "scaling": limits,
        "command": settings_rows(scaling.COMMAND, defaults_of(scaling.CommandSettings)),
        "ec2": settings_rows(scaling.EC2, defaults_of(scaling.Ec2Settings)),
        "slurm": settings_rows(scaling.SLURM, defaults_of(scaling.SlurmSettings)),
        "node": settings_rows(
            {key: one for key, one in node.SETTINGS.items() if key not in GRANTS},
            defaults_of(node.NodeSettings()),
            variables=node.VARIABLES,
            command=_without(cli.load_command("node"), GRANTS),
        ),
        "scripts": settings_rows(
            GRANTS,
            defaults_of(Grants()),
            variables=node.VARIABLES,
            command=_only(cli.load_command("node"), GRANTS),
        ),
        "batch-jobs": settings_rows(OPTIONS, defaults_of(SlurmOptions())),
        "up": flag_rows(cli.load_command("up")),
    }


def _without(command: click.Command, names: Iterable[str]) -> click.Command:
    return click.Command(command.name, params=[one for one in command.params if one.name not in names])


def _only(command: click.Command, names: Iterable[str]) -> click.Command:
    return click.Command(command.name, params=[one for one in command.params if one.name in names])


def listed(text: str) -> str:
    """The document with its tables as they have to be. Raises KeyError for one that there is not."""
    known = tables()
    return TABLE.sub(
        lambda found: found["begin"] + "\n" + draw_table(known[found["name"]]) + found["end"], text
    )


def main(arguments: list[str]) -> int:
    if arguments not in ([], ["--check"]):
        print(__doc__, file=sys.stderr)
        return 2
    stale = 0
    for document in DOCUMENTS:
        text = document.read_text(encoding="utf-8")
        wanted = listed(text)
        if text == wanted:
            continue
        if arguments:
            print(f"{document} is not what the settings say; run this without --check", file=sys.stderr)
            stale = 1
        else:
            document.write_text(wanted, encoding="utf-8")
    return stale


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
