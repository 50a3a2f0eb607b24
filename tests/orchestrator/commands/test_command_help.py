"""Every command and every flag says what it does, and shells complete them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from support.processes.processes import COMMAND, Place

from orchestrator.cli import main


def walked(command: click.Command, name: str) -> Iterator[tuple[str, click.Command]]:
    yield name, command
    if isinstance(command, click.Group):
        context = click.Context(command)
        for below in command.list_commands(context):
            one = command.get_command(context, below)
            assert one is not None
            yield from walked(one, f"{name} {below}")


ALL = dict(walked(main, "orchestrator"))


@pytest.mark.parametrize("name", ALL)
def test_every_command_has_a_sentence_and_every_option_a_text(name: str) -> None:
    command = ALL[name]
    assert command.help is not None
    first = command.help.strip().partition("\n\n")[0]
    assert first[0].isupper() and first.rstrip("\b\n ").endswith((".", ":")), first
    for option in command.params:
        if isinstance(option, click.Option):
            assert option.help and not option.help[0].islower(), (name, option.opts)
            assert option.help.rstrip().endswith((".", "]", ")")), (name, option.help)
    # What stands in the list of commands is a whole sentence too, not one that was cut.
    assert not command.get_short_help_str(limit=200).endswith("..."), name


def test_bash_completes_commands_flags_and_choices(here: Place) -> None:
    """With the very script that the documents have it evaluate."""
    script = """
        PATH="$1:$PATH"
        eval "$(_ORCHESTRATOR_COMPLETE=bash_source orchestrator)" || exit 1
        complete -p orchestrator
        try() {
            COMP_WORDS=(orchestrator "$@") COMP_CWORD=$# COMPREPLY=()
            _orchestrator_completion orchestrator
            echo "${COMPREPLY[*]}"
        }
        try und; try ls --sea; try ls --status Comp; try cancel --status Run
    """
    said = here.run("bash", "-c", script, "bash", str(Path(COMMAND[0]).parent)).splitlines()
    assert "_orchestrator_completion" in said[0]
    assert said[1:] == ["undrain", "--search", "completed", "running"]


@pytest.mark.parametrize(("shell", "at"), [("zsh", "1"), ("fish", "un")])
def test_the_other_shells_get_a_script_and_what_it_asks_for(here: Place, shell: str, at: str) -> None:
    made = here.refused(environment={"_ORCHESTRATOR_COMPLETE": f"{shell}_source"})
    assert made.status == 0 and f"{shell}_complete" in made.out
    asked = {"_ORCHESTRATOR_COMPLETE": f"{shell}_complete", "COMP_WORDS": "orchestrator un", "COMP_CWORD": at}
    assert "undrain" in here.refused(environment=asked).out
