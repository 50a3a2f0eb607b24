"""The console command: `orchestrator`, also installed as `job-orchestrator`."""

from __future__ import annotations

import copy
import errno
import importlib
import os
import sys
from typing import Any, Final, TypeGuard

import click

from actors.wire.errors import leaves
from orchestrator.commands import COMMANDS

_HELP: Final = {"help_option_names": ["-h", "--help"]}
_COMMANDS: Final = {
    **COMMANDS,
    "server": "orchestrator.serving_commands",
    "up": "orchestrator.serving_commands",
    "server-of-up": "orchestrator.serving_commands",
    "node": "node.cli",
    "backup": "orchestrator.backups.commands",
    "restore": "orchestrator.backups.commands",
    "check": "orchestrator.backups.commands",
}
_FORMER: Final = {"client": "node"}
"""Commands as 2.x calls them."""
_UNWRITABLE: Final = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EBADF, errno.EPIPE)


def _print_version(context: click.Context, _: click.Parameter, wanted: bool) -> None:
    if wanted:
        from actors.process.version import installed_version

        click.echo(f"orchestrator {installed_version()}")
        context.exit()


class _Cli(click.Group):
    """The command, which says in a line that its output could not be written. What one command needs is
    imported when that one is named."""

    def list_commands(self, _: click.Context) -> list[str]:
        return sorted([*_COMMANDS, *_FORMER])

    def get_command(self, _: click.Context, name: str) -> click.Command | None:
        return load_command(name) if name in _COMMANDS or name in _FORMER else None

    def main(self, *args: Any, **options: Any) -> Any:
        if not args and not options:
            _speak_utf8()
        _open_standard_descriptors()
        try:
            return super().main(*args, **options)
        except (OSError, ExceptionGroup) as error:
            errors = leaves(error) if isinstance(error, ExceptionGroup) else [error]
            failed = next((one for one in errors if _is_about_output(one)), None)
            if failed is None:
                raise
            # What stands in the buffer would be tried once more at the end.
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            if failed.errno != errno.EPIPE:  # whoever read it has had enough
                click.echo(f"standard output cannot be written: {failed.strerror}", err=True)
            sys.exit(1)


def _speak_utf8() -> None:
    """Names of files are UTF-8 on the wire and on disk, whatever the locale: where Python would have them in
    the locale's encoding it is begun anew, as the same process."""
    as_utf8 = ["-X", "utf8"]
    if sys.getfilesystemencoding() != "utf-8" and sys.orig_argv[1:3] != as_utf8:
        os.execv(sys.executable, [sys.executable, *as_utf8, *sys.orig_argv[1:]])


def _is_about_output(error: BaseException) -> TypeGuard[OSError]:
    """Places that have a name, as of downloads, are told by the commands themselves."""
    return isinstance(error, OSError) and error.errno in _UNWRITABLE and error.filename is None


def _open_standard_descriptors() -> None:
    """Where one of the three was closed a socket or a file would take its place. What is written to a closed
    standard output fails still, and is told."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None and os.open(os.devnull, os.O_RDONLY) == number == 1:
            sys.stdout = open(number, "w", encoding="utf-8", closefd=False)  # noqa: SIM115  # for the process


@click.group(cls=_Cli, context_settings=_HELP)
@click.option(
    "--version",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_print_version,
    help="Show the version.",
)
def main() -> None:
    """Job orchestrator for science portals: queues jobs, keeps quotas, runs them on compute nodes, serves the
    results.

    \b
    Try it:   orchestrator up
    Server:   SERVICE_EXAMPLE_NODES=http://node:9000 orchestrator server
    Node:     orchestrator node --slots 4
    """


def load_command(name: str) -> click.Command:
    """The command of this name. Raises KeyError if there is none."""
    if name in _FORMER:
        return _as_called_before(load_command(_FORMER[name]))
    module = importlib.import_module(_COMMANDS[name])
    found: click.Command = getattr(module, f"{name.replace('-', '_')}_command")
    return found


def _as_called_before(command: click.Command) -> click.Command:
    found = copy.copy(command)
    found.short_help = f"The same as {command.name}, as 2.x calls it."
    return found
