"""The node's composition root: everything is built and wired here, under one nursery."""

from __future__ import annotations

import logging
import math
import os
import random
from functools import lru_cache, partial
from typing import Final

import trio

from actors.kernel.actor import live
from actors.kernel.clock import WallClock
from actors.kernel.supervisor import Supervisor
from actors.ports.nodes import Leaving
from actors.process.log_lines import set_level, set_up_log
from actors.process.service_manager import READY, STOPPING, tell_manager
from actors.process.version import installed_version
from actors.runner import Runner, RunnerMailbox
from actors.wire.http.server import Dialled, serve
from actors.wire.link.proof import new_nonce
from node.access.door import Door
from node.access.gate import Gate
from node.access.kept_secrets import KeptSecrets
from node.access.servers import Servers
from node.api import create_app, link_route
from node.api.app import NodeContext
from node.api.metrics import NodeMetrics
from node.api.small_results import SmallResults
from node.api.submit import SubmitReceiver
from node.checking import load_certificate
from node.executors.executor import Executor
from node.executors.shepherd_executor import ShepherdExecutor
from node.host.cards import Cards
from node.host.inotify import Inotify
from node.host.load import LoadSampler, host_name
from node.payloads.cleaner import PayloadCleaner
from node.payloads.records import DataDirectoryError, Records
from node.payloads.rows import apply_move
from node.payloads.table import PayloadTable, open_table
from node.payloads.write_through import WriteThrough
from node.runs.environment import job_environment
from node.runs.manifest import ResultLimit
from node.runs.ready_starts import ReadyStarts
from node.runs.runs import ExecutorRuns
from node.runs.sight import find_sight, find_unjoined, report, tell_grants
from node.runs.workspace import Workspace
from node.settings import NodeSettings

log: Final = logging.getLogger("node")
scripts_log: Final = logging.getLogger("node.scripts")

STOP_GRACE: Final = 3.0
"""Seconds between SIGTERM and SIGKILL for payloads at most when the node stops: whoever stops it waits."""
WRITE_PATIENCE: Final = 20.0
"""Seconds for what has ended to be written through when the node stops."""
STOP_PATIENCE: Final = 1.0
"""Seconds beyond the grace that stopping the payloads, or giving them back, may take when the node stops."""


async def serve_node(
    settings: NodeSettings,
    *,
    shutdown: trio.Event,
    hurry: trio.Event | None = None,
    executor: Executor | None = None,
    task_status: trio.TaskStatus[list[str]] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve a node until `shutdown` is set, and then until what it has is done, for at most `settings.drain`
    seconds and until `hurry`. Reports its URLs once it accepts connections.

    Raises `DataDirectoryError`, `PortInUse`, `NodeError` when it cannot start, `GaveUp` when its Runner keeps
    crashing, `DiskFailed` when the disk does not keep what is written.
    """
    if executor is None:
        executor = _make_executor(settings)
    make_records = partial(Records, settings.data, outlives=executor.outlives_machine)
    records = await trio.to_thread.run_sync(make_records)
    try:
        await _serve(
            settings,
            records,
            shutdown,
            trio.Event() if hurry is None else hurry,
            executor=executor,
            task_status=task_status,
        )
    finally:
        records.close()


async def _serve(
    settings: NodeSettings,
    records: Records,
    shutdown: trio.Event,
    hurry: trio.Event,
    *,
    executor: Executor,
    task_status: trio.TaskStatus[list[str]],
) -> None:
    clock, rng, environ = WallClock(), random.Random(), dict(os.environ)
    workspace = Workspace(settings.data)
    await trio.to_thread.run_sync(workspace.prepare)
    gate = await trio.to_thread.run_sync(_make_gate, settings, records.node_id)
    tls = await trio.to_thread.run_sync(load_certificate, settings)
    load = LoadSampler(
        settings.data,
        slots=settings.slots,
        lifetime=settings.lifetime or None,
        name=settings.name or host_name(),
        # A batch system has a queue of its own.
        ahead=0 if settings.executor == "slurm" else settings.slots or 0,
    )
    supervisor = Supervisor(rng)
    ready = ReadyStarts(
        executor, grants_of=settings.grants_of, leave_word=records.write_ready, through=records.through
    )
    intended = workspace.settle_intended
    async with (
        open_table(records, clock, intended=intended, make_ready=ready.make_ready) as table,
        trio.open_nursery() as nursery,
    ):
        cards = Cards(settings.data / "cards", lambda key: workspace.directory(key).exists())
        await trio.to_thread.run_sync(cards.load)
        inotify = Inotify()
        nursery.start_soon(inotify.hear)
        small_results = SmallResults(table, workspace)
        runs = ExecutorRuns(
            workspace,
            executor,
            reserve=records.reserve,
            environment=lru_cache(64)(partial(job_environment, environ, settings)),
            grants_of=settings.grants_of,
            sight_of=lru_cache(64)(lambda service: find_sight(environ, settings, executor.view, service)),
            cards=cards,
            grace=settings.grace,
            log_limit=settings.log_limit,
            result_limit=ResultLimit(settings.max_result_bytes, settings.max_result_files),
            inotify=inotify,
            hear_progress=table.hear_progress,
            leave_word=records.write_intent,
            write_running=records.write_running,
            write_end=lambda payload, move: records.write(apply_move(payload, move)),
            looked_through=small_results.read_early,
            ready=ready,
        )
        writing = WriteThrough(table, records)
        metrics = NodeMetrics()
        metrics.watch(table, load)
        runner = RunnerMailbox()
        make_runner = partial(
            Runner,
            payloads=table,
            runs=runs,
            clock=clock,
            rng=rng,
            slots=settings.slots,
            grace=settings.grace,
            tick=settings.tick,
        )
        cleaning = PayloadCleaner(
            table,
            workspace,
            clock,
            max_age=settings.max_age,
            keep_uncollected=settings.keep_uncollected,
            keep_tombstones=settings.keep_tombstones,
            every=min(60.0, max(1.0, settings.max_age)),
        )
        table.subscriptions.add_listener(lambda rows: runner.hear([row.payload for row in rows]))
        table.subscriptions.add_listener(cleaning.hear)
        table.subscriptions.add_listener(writing.hear)
        workspace.freed = cleaning.ring
        workspace.emptied = records.reserve.hold
        if os.getpid() == 1:
            from node.executors.orphan_reaper import reap_orphans

            nursery.start_soon(reap_orphans)
        await nursery.start(executor.serve)
        if settings.health_command is not None:
            from node.host.health import HealthCheck

            await nursery.start(HealthCheck(settings.health_command, settings.data, load.say).run)
        await nursery.start(load.run)
        # Kept by nobody: with a disk that fails the node ends.
        await nursery.start(writing.run)
        await nursery.start(supervisor.keep, runner.name, partial(live, runner, make_runner))
        await nursery.start(supervisor.keep, "cleaning", cleaning.run)
        metrics.watch_actors([runner], supervisor)
        nursery.start_soon(metrics.watch_loop)
        leaving = _Leaving(settings, table, load, runner, writing)
        # After the executor's start, which finds out how well it can keep payloads apart.
        context = NodeContext(
            table=table,
            workspace=workspace,
            receiver=SubmitReceiver(table, workspace, settings.upload_limit),
            load=load,
            inotify=inotify,
            grace=settings.grace,
            executor=executor.name,
            limits=executor.limits,
            most_files=settings.max_result_files,
            version=installed_version(),
            shutdown=leaving.closing,
            gate=gate,
            metrics=metrics,
            small_results=small_results,
        )

        async def stop() -> None:
            await shutdown.wait()
            await leaving.leave(hurry)

        async def listen(*, task_status: trio.TaskStatus[list[str]]) -> None:
            give, dialled = trio.open_memory_channel[Dialled](0)
            async with trio.open_nursery() as until_stopped:

                def join(url: str) -> None:
                    if settings.join is not None:
                        # Late: who is not to join needs no HTTP client.
                        from node.host.joining import stay_joined

                        stay = partial(stay_joined, give=give)
                        until_stopped.start_soon(stay, settings, gate.door, url, leaving.wait, rng)

                until_stopped.start_soon(stop)
                if settings.idle_timeout:
                    until_stopped.start_soon(_stop_when_idle, table, settings.idle_timeout, shutdown)
                await serve(
                    create_app(context),
                    host=None if settings.dial_out else settings.host,
                    port=settings.port,
                    shutdown=leaving.closing,
                    dialled=dialled,
                    task_status=task_status,
                    on_bound=join,
                    upgrade=link_route(context),
                    tls=tls,
                )
            nursery.cancel_scope.cancel()

        urls = await nursery.start(listen)
        for line in await trio.to_thread.run_sync(list, report(environ, settings, executor.view)):
            scripts_log.info("%s", line)
        for line in tell_grants(settings):
            scripts_log.info("%s", line)
        for line in find_unjoined(settings):
            scripts_log.warning("%s", line)
        log.info("node %s; executor %s: %s", table.node_id, executor.name, executor.limits)
        for url in filter(None, urls):
            print(f"listening on {url}", flush=True)
        if settings.dial_out:
            print(f"dialling out to {settings.join}", flush=True)
        tell_manager(READY)
        task_status.started(urls)


def _make_executor(settings: NodeSettings) -> Executor:
    """Raises NodeError."""
    if settings.executor == "slurm":
        # Late: most nodes have no batch system.
        from node.executors.slurm.commands import find_commands
        from node.executors.slurm.slurm_executor import SlurmExecutor

        return SlurmExecutor(find_commands(os.environ), settings.slurm_options)
    grants = (settings.grants, *settings.services.values())
    return ShepherdExecutor(
        settings.data, tier=settings.executor, uids=settings.uids, grants=grants, private=settings.secrets
    )


async def _stop_when_idle(table: PayloadTable, timeout: float, shutdown: trio.Event) -> None:
    """Have the node stop once there was nothing on it for `timeout` seconds."""
    changed = trio.Event()
    table.subscriptions.add_listener(lambda rows: changed.set())
    while True:
        changed = trio.Event()
        with trio.move_on_after(math.inf if table.count_wanted() else timeout) as waiting:
            await changed.wait()
        if waiting.cancelled_caught and not table.count_wanted():
            log.info("nothing was here for %g s: this node stops", timeout)
            shutdown.set()
            return


def _make_gate(settings: NodeSettings, node_id: str) -> Gate:
    """Who may order this node about. Raises DataDirectoryError."""
    try:
        kept, servers = KeptSecrets(settings.data), Servers(settings.data, settings.servers)
        if settings.pair_anew:
            kept.forget_all()
            servers.forget()
    except OSError as why:
        raise DataDirectoryError(
            f"data directory {settings.data} cannot be used: {why.strerror or why}"
        ) from why
    # A machine of scaling has none but its own.
    token, said = settings.pair_token, ""
    if settings.join is not None:
        token, said = settings.token or settings.machine, new_nonce()
    return Gate(Door(node_id, kept, token, said, settings.orchestrators), servers, settings.metrics_token)


class _Leaving:
    """How a node stops. `closing`: no connection is accepted any more."""

    def __init__(
        self,
        settings: NodeSettings,
        table: PayloadTable,
        load: LoadSampler,
        runner: RunnerMailbox,
        writing: WriteThrough,
    ) -> None:
        self._settings = settings
        self._table = table
        self._load = load
        self._runner = runner
        self._writing = writing
        self._changed = trio.Event()
        self._said = trio.Event()
        self._back = False
        self.closing = trio.Event()

    async def leave(self, hurry: trio.Event) -> None:
        """Wait for what is here for as long as is wanted, end it if it is to end, and say on every stream of
        events what is left and whether this node will be back for it."""
        tell_manager(STOPPING)
        self._load.stop()
        if self._settings.drain:
            await self._drain(hurry)
        self.closing.set()
        kill = self._settings.on_stop == "kill"
        if kill:
            with trio.move_on_after(STOP_GRACE + STOP_PATIENCE):
                await self._runner.stop_all(STOP_GRACE)
        else:
            with trio.move_on_after(STOP_PATIENCE):
                await self._runner.give_back_all()
        # Who stops a node may be about to stop its machine.
        try:
            with trio.move_on_after(WRITE_PATIENCE):
                await self._writing.write_all()
        except OSError as error:
            log.error("what has ended is not written through: %s", error)
        held = self._table.count_wanted()
        self._back = held > 0 and not kill
        self._table.subscriptions.end_subscriptions(Leaving(held, self._back))
        self._said.set()

    async def wait(self) -> bool:
        """Wait until that was said; whether this node will be back."""
        await self._said.wait()
        return self._back

    async def _drain(self, hurry: trio.Event) -> None:
        log.info("told to stop: no new jobs, %g s for those that are here", self._settings.drain)
        self._table.subscriptions.add_listener(lambda rows: self._changed.set())
        with trio.move_on_after(self._settings.drain):
            async with trio.open_nursery() as waiting:

                async def cut_short() -> None:
                    await hurry.wait()
                    waiting.cancel_scope.cancel()

                waiting.start_soon(cut_short)
                while self._table.count_wanted():
                    await self._changed.wait()
                    self._changed = trio.Event()
                waiting.cancel_scope.cancel()


def set_up_logging(settings: NodeSettings) -> None:
    """Warnings of everybody, and what the node has to say, to standard error."""
    set_up_log(settings.log_format)
    set_level("node", settings.log_level)
