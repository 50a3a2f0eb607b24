"""The console command of the node."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import click

from actors.config.tables import SettingsError
from actors.process.closing import close_to_others
from actors.process.huge_pages import use_huge_pages
from actors.process.imports import uncollected_imports
from actors.process.terminal import Terminal
from node.settings import NodeSettings, load_settings


@click.command("node", context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--port", metavar="PORT", help="Port to listen on; 0 takes any free one. [PORT; 9000]")
@click.option("--host", metavar="HOST", help="Address to listen on. [HOST; 127.0.0.1]")
@click.option("--data", metavar="DIR", help="Directory for everything this node keeps. [DATA_PATH; ./data]")
@click.option(
    "--max-age",
    metavar="SECONDS",
    help="How long results are kept that came without a key, by POST /submit. [MAX_AGE; 864000]",
)
@click.option(
    "--executor",
    metavar="TIER",
    help="What scripts are kept from: bubblewrap, landlock, bash (nothing); auto: the best that works;"
    " slurm: they are batch jobs of a cluster."
    " [EXECUTOR; auto]",
)
@click.option(
    "--uids",
    metavar="FIRST-LAST",
    help="Of which each job gets one of its own; 0: they run as the node's user. [UIDS; what works]",
)
@click.option("--slots", metavar="N", help="Jobs that run at once; without it, whatever is sent.")
@click.option(
    "--log-format", metavar="text|json", help="Lines of the log for people, or for programs. [text]"
)
@click.option(
    "--log-level", metavar="LEVEL", help="What the log says at least: debug, info, warning or error. [info]"
)
@click.option(
    "--on-stop",
    metavar="leave|kill",
    help="What SIGTERM does to running jobs: they go on and the next node finds them, or they end. [leave]",
)
@click.option(
    "--drain",
    metavar="SECONDS",
    help="At SIGTERM: take no new jobs and wait so long for those that are here. A second one hurries. [0]",
)
@click.option("--grace", metavar="SECONDS", help="Time between SIGTERM and SIGKILL for a job. [5]")
@click.option("--tick", metavar="SECONDS", help="How often is looked for what no event told. [0.5]")
@click.option("--upload-limit", metavar="BYTES", help="Largest body of a submit, as 400M. [1G]")
@click.option("--log-limit", metavar="BYTES", help="Kept of each log: its head and its tail. [100M]")
@click.option("--max-result-bytes", metavar="BYTES", help="A job that leaves more is Failed. [10G]")
@click.option("--max-result-files", metavar="N", help="A job that leaves more is Failed. [100000]")
@click.option(
    "--health-command",
    metavar="SHELL",
    help="Run every 30 s; while it fails or takes longer than 15 s, the node gets no jobs.",
)
@click.option("--read", metavar="PATHS", help='What scripts may read besides, ":" between. [READ]')
@click.option("--write", metavar="PATHS", help="What they may write besides, which they read too. [WRITE]")
@click.option("--groups", metavar="NAMES", help="Groups that they belong to, a comma between.")
@click.option(
    "--network/--no-network", default=None, help="Whether they reach what the node reaches. [NETWORK; no]"
)
@click.option(
    "--containers/--no-containers",
    default=None,
    help="Whether they may make namespaces and mounts, as Apptainer does. [CONTAINERS; no]",
)
@click.option("--devices", metavar="NAMES", help="Devices that they may use: nvidia. [DEVICES]")
@click.option("--join", metavar="URL", help="An orchestrator that this node joins, and stays joined to.")
@click.option("--join-services", metavar="NAMES", help="The services it is for, a comma between.")
@click.option("--labels", metavar="LABELS", help="What it has that jobs may require, as gpu=a100,ssd.")
@click.option("--machine", metavar="TOKEN", help="The machine it runs on, by the token that scaling gave.")
@click.option("--advertise", metavar="URL", help="Where that orchestrator reaches it. [where it listens]")
@click.option("--name", metavar="NAME", help="What people call it, as gpu-3. [the host's name]")
@click.option("--idle-timeout", metavar="SECONDS", help="Stop after so long without a job. [0: never]")
@click.option(
    "--lifetime",
    metavar="SECONDS",
    help="How long this node is there, as on a cluster: it gets no job that may take longer. [0: no end]",
)
@click.option(
    "--dial-out",
    is_flag=True,
    default=None,
    help="Listen nowhere: this node opens all connections to the orchestrator that it joins.",
)
@click.option("--proxy", metavar="URL", help="An HTTP proxy through which that one is reached, by CONNECT.")
@click.option(
    "--token-file",
    metavar="FILE",
    help="The token by which it joins, if that asks for one. [ORCHESTRATOR_TOKEN_FILE, ORCHESTRATOR_TOKEN]",
)
@click.option(
    "--metrics-token-file",
    metavar="FILE",
    help="The token by which /metrics is read; without it, by nobody. [METRICS_TOKEN_FILE]",
)
@click.option("--ca-file", metavar="FILE", help="Whose certificate it believes there, PEM. [the usual ones]")
@click.option(
    "--tls-cert", metavar="FILE", help="Speak TLS, and show this certificate (PEM, with its chain)."
)
@click.option("--tls-key", metavar="FILE", help="Its key. Renewed files are taken up without a restart.")
@click.option(
    "--servers",
    metavar="HOSTS",
    help="Addresses, networks, host names that may submit by the published contract, a comma between. "
    "[SERVERS; whoever does first]",
)
@click.option(
    "--orchestrators",
    metavar="N",
    help="How many may pair with this node, the first that come; the others are refused. [1]",
)
@click.option(
    "--pair-anew", is_flag=True, default=None, help="Forget which orchestrators this node was paired with."
)
@click.option("--config", metavar="FILE", help="A TOML file with settings, see below.")
@click.option(
    "--check",
    is_flag=True,
    help="Only say what is wrong with the settings, and what it would run with, and start nothing.",
)
def node_command(config: str | None, *, check: bool, **flags: str | bool | None) -> None:
    """Run a compute node: it takes jobs over HTTP, runs their run.sh, and keeps the results until fetched.

    Each option may also be set by the variable in brackets, where there is one, or in the file of --config,
    by its name with _ for -, as max_age = 86400. The file wins over the variable, the option over both.

    Scripts see PATH, TZ and a locale of UTF-8 of the node's environment, and what PASS_ENV names: names and
    globs, commas or blanks between, as "CUDA_VISIBLE_DEVICES,LD_*", "*" for all; in the file pass_env =
    ["LD_*"]. HOME and TMPDIR are the job's own. What stands under [job_env] in the file, as
    OMP_NUM_THREADS = "4", is set for every script, whatever is passed; so is X by a variable SCRIPT_ENV_X.

    A table [services.NAME] in the file says read, write, env (as PASS_ENV), groups, network, containers,
    devices for the scripts of one service, besides what is said for all.
    """
    environ = dict(os.environ)
    path = None if config is None else Path(config)

    def read() -> NodeSettings:
        return load_settings(environ, flags, path)

    try:
        if check:
            _check(environ, flags, path)
            return
        settings = read()
    except SettingsError as error:
        for line in error.mistakes:
            click.echo(line, err=True)
        sys.exit(2)
    # Nothing that this process starts is to have it.
    for name in ("ORCHESTRATOR_TOKEN", "ORCHESTRATOR_PAIR_TOKEN"):
        os.environ.pop(name, None)
    sys.exit(run(settings, read))


def _check(environ: Mapping[str, str], flags: Mapping[str, str | bool | None], config: Path | None) -> None:
    """Raises SettingsError."""
    # Late, for `--help` to be quick.
    from node.checking import describe, find_mistakes
    from node.runs.sight import find_unjoined, report

    settings = load_settings(environ, flags, config, find_mistakes)
    for line in (*find_unjoined(settings), *report(environ, settings, None)):
        click.echo(line, err=True)
    for line in describe(settings):
        click.echo(line)


def run(settings: NodeSettings, read: Callable[[], NodeSettings]) -> int:
    """Serve until SIGTERM, SIGINT or the end of the terminal; another SIGHUP has the settings read again, by
    `read`. The process's exit status."""
    # Late, for `--help` and the commands to be quick.
    with uncollected_imports():
        import trio

        from actors.process.stop_signals import signals_to_stop
        from actors.wire.errors import CannotListen, leaves
        from node.errors import NodeError
        from node.reloading import RunningSettings
        from node.server import serve_node, set_up_logging

    async def main() -> None:
        shutdown, hurry = trio.Event(), trio.Event()
        running = RunningSettings(settings, read)
        async with trio.open_nursery() as nursery:

            async def stop_when_told() -> None:
                # The kernel says SIGTERM once for each thread of whoever started this node and was killed: a
                # second one must not keep it from ending its jobs.
                with signals_to_stop() as signals:
                    terminal = Terminal()
                    async for number in signals:
                        if number == signal.SIGHUP and not terminal.was_closed():
                            nursery.start_soon(running.reload)
                        elif not shutdown.is_set():
                            shutdown.set()
                        elif settings.drain:
                            hurry.set()
                        elif number == signal.SIGINT:
                            raise KeyboardInterrupt

            nursery.start_soon(stop_when_told)
            nursery.start_soon(trio.to_thread.run_sync, use_huge_pages)
            await serve_node(settings, shutdown=shutdown, hurry=hurry)
            nursery.cancel_scope.cancel()

    close_to_others()
    set_up_logging(settings)
    told: list[str] = []
    try:
        trio.run(main)
    except* (CannotListen, NodeError) as group:
        told += [str(error) for error in leaves(group)]
    except* KeyboardInterrupt:
        told.append("interrupted")
    for line in told:
        click.echo(line, err=True)
    return 1 if told else 0
