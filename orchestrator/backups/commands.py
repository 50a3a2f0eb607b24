"""`backup`, `restore`, `check`: what an operator does on the server's machine, past its API."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from orchestrator.commands.connection import HELP
from orchestrator.commands.console.output import tell

if TYPE_CHECKING:
    from orchestrator.backups.check import Finding

_DIRECTORY: Final = click.Path(file_okay=False, path_type=Path)
_PLACES: Final = (
    click.option("--config", type=click.Path(dir_okay=False, path_type=Path), help="The server's TOML file."),
    click.option("--db", "db_path", metavar="FILE", help="The ledger. [DB_PATH; ./db.sqlite]"),
    click.option("--data", "data_path", metavar="DIR", help="The jobs' files. [DATA_PATH; ./data]"),
)


_PATHS: Final = ("db_path", "data_path")


def _places(function: Callable[..., Any]) -> Callable[..., Any]:
    for option in reversed(_PLACES):
        function = option(function)
    return function


def _found_places(
    config: Path | None, db_path: str | None, data_path: str | None, *, named: bool = False
) -> tuple[Path, Path]:
    """Where the ledger and the files are, as the server would take it; with `named` both have to be named."""
    from actors.config.tables import SettingsError
    from orchestrator.config.settings import load
    from orchestrator.importing import ledger_of

    try:
        settings = load(
            os.environ, config, {"db_path": db_path, "data_path": data_path}, named=_PATHS if named else ()
        )
    except SettingsError as error:
        tell(*error.mistakes)
        sys.exit(2)
    return ledger_of(settings.db_path), settings.data_path


@click.command("backup", context_settings=HELP)
@click.argument("directory", type=_DIRECTORY)
@_places
def backup_command(directory: Path, **places: Any) -> None:
    """Copy a server's ledger, files and keys into DIRECTORY, as they are at one moment; it may be running.

    Into the DIRECTORY of an earlier backup only what is new is copied. Keep it on another disk, and as safe
    as the server's own: keys and tokens are in it. Status 1: some job's data was lost before; the rest is
    copied.
    """
    from orchestrator.backups.backup import make_backup
    from orchestrator.backups.kept_jobs import BackupError

    ledger, data = _found_places(**places)
    try:
        made = make_backup(ledger, data, directory, tell)
    except BackupError as error:
        tell(str(error))
        sys.exit(1)
    tell(*made.lost)
    click.echo(f"{made.jobs} jobs with data, {made.copied / 1e6:.1f} MB copied, as of {made.made_at}")
    sys.exit(1 if made.lost else 0)


@click.command("restore", context_settings=HELP)
@click.argument("directory", type=click.Path(file_okay=False, exists=True, path_type=Path))
@click.option(
    "--skip-ids",
    type=click.IntRange(min=0),
    default=10_000,
    show_default=True,
    help="How many ids may have been given since the backup: they are not given again.",
)
@_places
def restore_command(directory: Path, skip_ids: int, **places: Any) -> None:
    """Put a backup back, where nothing is yet: start the server there afterwards, with the same settings.

    Jobs are as they were when the backup was made: what has ended since runs again, and what was sent since
    is not known. Stop the server whose copy it is before. Where to has to be said, by any of the three ways.
    """
    from orchestrator.backups.kept_jobs import BackupError
    from orchestrator.backups.restore import restore_backup

    # What is written by mistake into the present directory would be taken for a server that works again.
    ledger, data = _found_places(**places, named=True)
    try:
        restored = restore_backup(directory, ledger, data, tell, skip_ids=skip_ids)
    except BackupError as error:
        tell(str(error))
        sys.exit(1)
    click.echo(f"{restored.jobs} jobs with data, as of {restored.made_at}: {ledger}, {data}")


@click.command("check", context_settings=HELP)
@click.option("--contents", is_flag=True, help="Read all results through, too.")
@click.option("--repair", is_flag=True, help="Have ended jobs whose data is lost be told as Cleaned.")
@_places
def check_command(contents: bool, repair: bool, **places: Any) -> None:
    """Hold a server's ledger against the files on the disk, and tell what does not fit.

    The server may be running, but for --repair. Status 1: something was found. A backup is checked by
    --db DIRECTORY/ledger.sqlite --data DIRECTORY/data.
    """
    from orchestrator.backups.check import check
    from orchestrator.backups.kept_jobs import BackupError

    ledger, data = _found_places(**places)
    found = []
    try:
        for one in check(ledger, data, tell, contents=contents):
            click.echo(one.text)
            found.append(one)
        if repair and found:
            click.echo(f"{_repair(ledger, data, found)} jobs are Cleaned now")
    except BackupError as error:
        tell(str(error))
        sys.exit(1)
    if not found:
        click.echo("ledger and files fit")
    sys.exit(1 if found else 0)


def _repair(ledger: Path, data: Path, found: list[Finding]) -> int:
    """Raises BackupError."""
    import trio

    from actors.ports.ledger import LedgerError
    from actors.ports.storage import StorageError
    from orchestrator.backups.check import repair
    from orchestrator.backups.kept_jobs import BackupError
    from orchestrator.errors import StartError

    try:
        return trio.run(repair, found, ledger, data)
    except (StartError, LedgerError, StorageError) as error:
        raise BackupError(f"nothing was repaired: {error}") from error
