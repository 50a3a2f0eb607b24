"""The documents say what the code says."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import click
import draw_lifecycle
import pytest

from actors.config.tables import SettingsError
from node import settings as node_settings
from node.script_settings import GRANTS
from orchestrator import cli
from orchestrator.config import settings as server_settings

ROOT = Path(__file__).parents[2]
CONFIGURATION = (ROOT / "docs" / "configuration.md").read_text(encoding="utf-8")
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "examples").rglob("*.md")])
LINK = re.compile(r"\[[^\]]*\]\(([^)#\s]+)(?:#[^)]*)?\)")


def rows(heading: str) -> list[list[str]]:
    """The cells of the tables in one section of the configuration."""
    section = CONFIGURATION.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    return [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in section.splitlines()
        if line.startswith("|")
    ]


def documented(heading: str) -> set[str]:
    """What stands alone between backticks in a cell of these tables."""
    return {cell.strip("`") for row in rows(heading) for cell in row if re.fullmatch(r"`[^`]+`", cell)}


def flags(command: click.Command) -> set[str]:
    return {
        option
        for parameter in command.params
        if isinstance(parameter, click.Option)
        for option in parameter.opts
    } - {"-h", "--help", "--config"}


def test_diagram_of_states_is_drawn_from_the_table() -> None:
    text = draw_lifecycle.DOCUMENT.read_text(encoding="utf-8")
    assert text == draw_lifecycle.drawn(text), "type: .venv/bin/python scripts/draw_lifecycle.py"


def test_every_move_of_the_table_is_in_the_diagram_and_no_other() -> None:
    text = draw_lifecycle.section().partition("```mermaid")[2].partition("```")[0]
    drawn = set(re.findall(r"^    (\w+) --> (\w+)$", text, re.MULTILINE))
    assert drawn == {(source, target) for source, targets in draw_lifecycle.JOB.items() for target in targets}


def test_every_setting_of_the_server_is_documented_and_no_other() -> None:
    keys = set(server_settings.SERVER)
    variables = set(server_settings._VARIABLES)
    assert variables <= {key.upper() for key in keys}
    assert documented("The server") == keys | variables | flags(cli.main.commands["server"])


def test_variables_of_the_server_are_those_that_it_reads() -> None:
    given = {"PORT": "1", "HOST": "h", "DB_PATH": "/d", "DATA_PATH": "/f", "MAX_AGE": "2"}
    read = server_settings.load({**given, "SERVICE_A_B_NODES": "http://n:1"})
    assert (read.port, read.host, str(read.db_path), str(read.data_path)) == (1, "h", "/d", "/f")
    assert read.max_age == 2.0
    assert list(read.services) == ["a_b"]


def test_every_setting_of_a_service_is_documented_and_no_other() -> None:
    found = documented("Services")
    variables = {name.removeprefix("SERVICE_<NAME>_") for name in found if name.startswith("SERVICE_")}
    assert found - {f"SERVICE_<NAME>_{name}" for name in variables} == set(server_settings.SERVICE)
    environ = {f"SERVICE_X_{name}": "0x" for name in server_settings.SERVICE for name in [name.upper()]}
    with pytest.raises(SettingsError) as refused:
        server_settings.load({**environ, **{f"SERVICE_X_{name}": "0x" for name in variables}})
    assert {mistake.partition(":")[0] for mistake in refused.value.mistakes} == {
        f"SERVICE_X_{name}" for name in variables
    }


def test_every_setting_of_the_node_is_documented_and_no_other() -> None:
    # A token as an argument would be seen by whoever lists processes.
    in_the_file_alone = {"pass_env", "job_env", "env", "token", "pair_token"}
    expected = {f"--{key.replace('_', '-')}" for key in node_settings.SETTINGS.keys() - in_the_file_alone}
    assert expected <= flags(cli.main.commands["node"])
    expected |= node_settings.VARIABLES.keys() | flags(cli.main.commands["node"])
    found = documented("The node") | documented("What scripts may") - GRANTS.keys()
    scripts = {name for name in found - node_settings.VARIABLES.keys() if name.startswith("ORCHESTRATOR_")}
    assert scripts == {
        f"ORCHESTRATOR_{name}" for name in ("JOB_ID", "ATTEMPT", "SERVICE", "USER_ID", "PROGRESS")
    }
    assert found - scripts - {"PYTHONUNBUFFERED"} == expected


def test_every_grant_is_documented_and_no_other() -> None:
    assert documented("What scripts may") >= GRANTS.keys()


def test_every_flag_of_up_is_documented_and_no_other() -> None:
    assert documented("All on one machine") == flags(cli.main.commands["up"])


def defaults(heading: str, key: int, column: int) -> Iterator[tuple[str, str]]:
    for row in rows(heading)[2:]:
        name = row[key].strip("`-").replace("-", "_")
        if name:
            yield name, row[column]


def test_documented_defaults_are_those_of_the_code() -> None:
    server = server_settings.Settings()
    for name, shown in defaults("The server", 1, 3):
        value = getattr(server, name)
        if value in ((), None):
            value = ""
        assert shown in {f"{value:g}" if isinstance(value, float) else str(value), f"./{value}"}, name
    service = server_settings.ServiceLimits("x")
    for name, shown in defaults("Services", 1, 2):
        if hasattr(service, name):
            value = getattr(service, name)
            assert shown in {f"{value:g}" if isinstance(value, float) else str(value), f'"{value}"'}, name


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_of_a_document_lead_somewhere(document: Path) -> None:
    targets = LINK.findall(document.read_text(encoding="utf-8"))
    missing = [
        target for target in targets if "://" not in target and not (document.parent / target).exists()
    ]
    assert missing == []
