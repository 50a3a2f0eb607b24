"""`server` and `up`: what runs until it is told to end."""

from __future__ import annotations

import logging
import os
import signal
import sys
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import click

from actors.process.closing import close_to_others
from actors.process.huge_pages import use_huge_pages
from actors.process.imports import uncollected_imports
from actors.process.log_lines import set_level, set_up_log
from actors.process.service_manager import READY, STOPPING, tell_manager
from actors.process.terminal import Terminal
from actors.wire.errors import leaves
from orchestrator.commands.connection import HELP

_DIRECTORY: Final = click.Path(file_okay=False, path_type=Path)


def _autoscale(_: click.Context, __: click.Parameter, value: str | None) -> tuple[int, int] | None:
    if value is None:
        return None
    from orchestrator.config.scaling import autoscale_range

    try:
        return autoscale_range(value)
    except ValueError as error:
        raise click.BadParameter(f"{value!r}: expected {error}") from None


@click.command("server", context_settings=HELP)
@click.option("--config", type=click.Path(dir_okay=False, path_type=Path), help="A TOML file with settings.")
@click.option("--host", metavar="HOST", help="Address to listen on. [HOST; 127.0.0.1]")
@click.option("--port", metavar="PORT", help="Port to listen on; 0 takes any free one. [PORT; 5000]")
@click.option("--db", "db_path", metavar="FILE", help="The ledger, an SQLite file. [DB_PATH; ./db.sqlite]")
@click.option("--data", "data_path", metavar="DIR", help="The jobs' files. [DATA_PATH; ./data]")
@click.option("--max-age", metavar="SECONDS", help="How long ended jobs are kept. [MAX_AGE; 864000]")
@click.option("--check", is_flag=True, help="Only say what is wrong with the settings, and start nothing.")
def server_command(config: Path | None, check: bool, **flags: str | None) -> None:
    """Run the orchestrator: the HTTP API, the queue, and all that talks to the nodes.

    A flag wins over the TOML file, the file over the environment variable in brackets. A service is told by
    SERVICE_<NAME>_NODES (base URLs of nodes, a comma between) or SERVICE_<NAME>_UPLOAD_URL, and limited by
    SERVICE_<NAME>_RUNS_PER_USER [5] and SERVICE_<NAME>_MAX_RUNS [10]; in the file by a table [services.NAME].
    """
    # Late, for `--help` to be quick.
    with uncollected_imports():
        import trio

        from actors.config.tables import SettingsError
        from orchestrator.config.settings import FileCheck, Settings, load
        from orchestrator.reloading import RunningSettings
        from orchestrator.scheduling.troubles import find_nodeless
        from orchestrator.server import serve_orchestrator
        from orchestrator.startup import find_mistakes

    def read(check_files: FileCheck) -> Settings:
        return load(os.environ, config, flags, check_files=check_files)

    try:
        # At a start what is wrong with a file is told by who reads it.
        settings = read(find_mistakes) if check else load(os.environ, config, flags)
    except SettingsError as error:
        _tell(*error.mistakes)
        sys.exit(2)
    if check:
        nodeless = find_nodeless(settings.services, settings.scaling)
        waits = [
            f"service {name}: no node is in the settings: its jobs wait until one joins" for name in nodeless
        ]
        _tell(*settings.warnings, *waits)
        return

    running = RunningSettings(settings, read)

    async def serve(shutdown: trio.Event) -> None:
        await serve_orchestrator(settings, shutdown=shutdown, on_bound=listening, running=running)

    sys.exit(run(serve, running.reload_for_signal, settings.log_format, settings.log_level))


@click.command("up", context_settings=HELP)
@click.option(
    "--port", type=click.IntRange(0, 65535), default=5000, show_default=True, help="0: any free one."
)
@click.option("--nodes", type=click.IntRange(0, 64), help="How many nodes. [1; 0 with --autoscale]")
@click.option(
    "--autoscale",
    metavar="MIN:MAX",
    callback=_autoscale,
    help="Make and end further nodes with the load, as 0:4.",
)
@click.option("--slots", type=click.IntRange(min=1), help="Jobs at once on each node. [the machine's cores]")
@click.option(
    "--runs-per-user",
    type=click.IntRange(min=1),
    default=5,
    show_default=True,
    help="Jobs of a user at once.",
)
@click.option("--max-runs", type=click.IntRange(min=1), default=10, show_default=True, help="Those of all.")
@click.option(
    "--data",
    type=_DIRECTORY,
    default=Path("orchestrator-data"),
    show_default=True,
    help="Directory for everything; started again with it, all goes on.",
)
def up_command(**options: Any) -> None:
    """Run a whole orchestrator on this machine: the server and its nodes, with one service, `example`.
    Of the server's variables it reads OPEN_LOCAL alone.

    Ctrl-C ends all of it, running jobs too. SIGHUP starts the server again, and a server or node that dies is
    started again: running jobs go on.
    """
    with uncollected_imports():
        from orchestrator.up import Plan, Up

    if options["nodes"] is None:
        options["nodes"] = 1 if options["autoscale"] is None else 0
    if not options["nodes"] and options["autoscale"] is None:
        raise click.BadParameter("it needs at least 1 node, or --autoscale", param_hint="--nodes")
    everything = Up(Plan(**options), looked_at)
    sys.exit(run(everything.serve, everything.restart_server))


@click.command("server-of-up", hidden=True)
def server_of_up_command() -> None:
    """The server that `up` keeps, which tells it by its standard input what to serve."""
    with uncollected_imports():
        import trio

        from orchestrator.up_server import read_serving, serve_told

    told = sys.stdin.buffer
    serving = read_serving(told)
    if serving is None:
        return

    async def serve(shutdown: trio.Event) -> None:
        await serve_told(serving, told, shutdown=shutdown, on_bound=listening)

    sys.exit(run(serve, beside_another=True))


def listening(url: str) -> None:
    """Say where, once connections are accepted: programs that start this one wait for the line."""
    with suppress(OSError):  # nobody who could not be told has to stop it
        click.echo(f"listening on {url}")
    tell_manager(READY)


def looked_at(url: str) -> None:
    """The same for a person, who is told where to look, too."""
    listening(url)
    click.echo(f"look at {url}/dashboard", err=True)


def run(
    serve: Callable[[Any], Awaitable[None]],
    reload: Callable[[], Awaitable[None]] | None = None,
    log_format: str = "text",
    log_level: str = "info",
    *,
    beside_another: bool = False,
) -> int:
    """Run `serve(shutdown)` until it ends, by SIGINT, SIGTERM or a closed terminal too. With `reload` it is
    called for each SIGHUP that comes from anything else. `beside_another`: another process tells the person
    at the terminal what goes on. The process's exit status.

    What stops the start is told in one line; what nobody foresaw, with its traceback.
    """
    import trio

    from actors.ports.ledger import LedgerError
    from actors.ports.storage import StorageError
    from actors.process.stop_signals import signals_to_stop
    from actors.wire.errors import CannotListen
    from orchestrator.errors import StartError
    from orchestrator.up import NodeFailed, ServerFailed

    async def watch_signals(nursery: trio.Nursery, shutdown: trio.Event) -> None:
        with signals_to_stop() as signals:
            terminal = Terminal()
            async for number in signals:
                if number == signal.SIGHUP and reload is not None and not terminal.was_closed():
                    nursery.start_soon(reload)  # which may take a while
                elif shutdown.is_set():
                    # Asked twice: no more patience for requests that are under way.
                    raise KeyboardInterrupt
                else:
                    told = "stopping; this takes up to 5 s, a second Ctrl-C ends it at once"
                    if beside_another:
                        pass
                    elif log_format == "json":
                        logging.getLogger("orchestrator").info(told)
                    else:
                        with suppress(OSError):  # the terminal may be what has gone
                            click.echo(told, err=True)
                    tell_manager(STOPPING)
                    shutdown.set()

    async def all_of_it() -> None:
        shutdown = trio.Event()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(watch_signals, nursery, shutdown)
            nursery.start_soon(trio.to_thread.run_sync, use_huge_pages)
            await serve(shutdown)
            nursery.cancel_scope.cancel()

    close_to_others()
    set_up_log(log_format)
    set_level("orchestrator", log_level)
    told: list[str] = []
    try:
        trio.run(all_of_it)
    except* (CannotListen, LedgerError, NodeFailed, ServerFailed, StartError, StorageError) as group:
        told += [str(error) for error in leaves(group)]
    except* KeyboardInterrupt:
        told.append("interrupted")
    _tell(*filter(None, told))
    return 1 if told else 0


def _tell(*lines: str) -> None:
    for line in lines:
        click.echo(line, err=True)
