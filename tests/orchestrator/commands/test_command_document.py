"""docs/command.md says what there is."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import click

from orchestrator.cli import load_command
from orchestrator.client import AsyncClient, Client, errors
from orchestrator.client.operations import Operations
from orchestrator.commands import COMMANDS
from orchestrator.commands.connection import _KEYS

TEXT = (Path(__file__).parents[3] / "docs" / "command.md").read_text(encoding="utf-8")


def methods(kind: type) -> dict[str, list[str]]:
    """The public ones with their parameters."""
    return {
        name: list(inspect.signature(function).parameters)
        for name, function in inspect.getmembers(kind, inspect.isfunction)
        if not name.startswith("_")
    }


def test_both_clients_have_the_same_methods_and_all_are_documented() -> None:
    assert methods(Client) == methods(Operations) == methods(AsyncClient)
    section = TEXT.partition("\n## The client\n")[2]
    assert {name for name in methods(Client) if f"`{name}(" not in section} == {"close"}


def test_every_command_and_every_flag_is_documented_once_it_differs_from_what_is_common() -> None:
    for command in map(load_command, COMMANDS):
        assert re.search(rf"`{command.name}[ `]", TEXT), command.name
        for option in command.params:
            if isinstance(option, click.Option) and option.name != "help":
                names = {name for name in option.opts if name.startswith("--") and name not in _OBVIOUS}
                assert all(f"`{name}" in TEXT or f"{name}`" in TEXT for name in names), (command.name, names)


_OBVIOUS = {"--limit", "--quiet", "--reason", "--follow"}


def test_every_key_of_the_file_and_every_error_is_documented() -> None:
    assert {key for key in _KEYS if f"| `{key}` |" not in TEXT} == set()
    found = {
        name
        for name, _ in inspect.getmembers(errors, inspect.isclass)
        if name not in ("Job", "OrchestratorError", "annotations")
    }
    assert {name for name in found if f"`{name}`" not in TEXT} == set()
