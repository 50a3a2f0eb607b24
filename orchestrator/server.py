"""The composition root: everything is built and wired here, by hand, under one nursery."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Final
from urllib.parse import urlsplit

import trio

from actors.autoscaler.autoscaler import AutoScaler
from actors.callbacks.callback_sender import CallbackSender
from actors.cleaner import Cleaner, clean_now
from actors.domain.job import Job
from actors.domain.node import NodeView
from actors.domain.queue_excerpt import ForecastView
from actors.domain.scaling import ServiceScaling
from actors.domain.service import Backlog, Waiting
from actors.getter.getter import Getter
from actors.kernel.actor import Actor, Mailbox, live
from actors.kernel.clock import WallClock
from actors.kernel.courtesy import Courtesy
from actors.kernel.supervisor import Supervisor
from actors.messages import (
    BacklogPicture,
    CallbackWritten,
    Committed,
    ForecastPicture,
    KeepingChanged,
    PoolPicture,
    ScalingStatus,
    SetServices,
    WhyWaiting,
)
from actors.ports.scaling import Provider, ProviderError
from actors.process.version import installed_version
from actors.sender.reservations import Reservations
from actors.sender.sender import Sender
from actors.wire.http.app import App
from actors.wire.http.server import serve
from actors.wire.http.tls import OwnCertificate
from actors.wire.http.web_pages import OwnNames
from actors.wire.link.proof import hash_of, join_key
from orchestrator.access.audit import Refusals, entry_of_signal
from orchestrator.access.doors import findable, note_uses, open_doors
from orchestrator.access.gate import SignOn
from orchestrator.access.links import Links
from orchestrator.access.node_proofs import NodeProofs
from orchestrator.access.node_secrets import BY_TOKEN, NodeSecrets
from orchestrator.access.sessions import Sessions
from orchestrator.access.tokens import make_secret, token_of_machines
from orchestrator.api import ApiContext, create_app, job_views
from orchestrator.api.routes.events import encode_change
from orchestrator.callbacks.allowed_hosts import CallbackHosts
from orchestrator.callbacks.client import CallbackClient
from orchestrator.config.settings import Settings
from orchestrator.dialled_streams import DialledStreams
from orchestrator.events.change_stream import ChangeStream
from orchestrator.events.waiters import JobWaiters
from orchestrator.exclusive_use import locked
from orchestrator.http_client import Http
from orchestrator.importing import answer_probes, import_2x, is_needed, ledger_of
from orchestrator.ledger.ledger import SqliteLedger
from orchestrator.metrics.server_metrics import ServerMetrics
from orchestrator.nodes.addresses import base_of, merge_addresses
from orchestrator.nodes.client import NodeClient
from orchestrator.nodes.registry import NodeRegistry
from orchestrator.reloading import RunningSettings
from orchestrator.scaling.policy import decide
from orchestrator.scaling.providers.build import build_providers
from orchestrator.scaling.providers.local import LocalProvider
from orchestrator.scheduling.forecaster import Forecaster
from orchestrator.scheduling.pauses import Pauses
from orchestrator.scheduling.queue_manager import QueueManager
from orchestrator.scheduling.service_pool import ServicePool
from orchestrator.scheduling.troubles import find_nodeless, tell_nodeless
from orchestrator.startup import (
    Address,
    callback_keys,
    end_orderly,
    go_on_from,
    log,
    log_steps,
    own_certificate,
    trust_in_nodes,
)
from orchestrator.storage.storage import DiskStorage

ASK_DEADLINE: Final = 1.0
"""Seconds that a route waits for the Sender's answer."""
MOST_BACKLOG: Final = 200
"""Requirements of waiting jobs that are looked at for what is wrong, those of most jobs."""


async def serve_orchestrator(
    settings: Settings,
    *,
    shutdown: trio.Event,
    on_bound: Callable[[str], None] | None = None,
    running: RunningSettings | None = None,
    end_machines: Callable[[], bool] = lambda: False,
    task_status: trio.TaskStatus[list[str]] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve until `shutdown` is set. `on_bound` is called with the URL, and `task_status` reports a list of
    it, once connections are accepted. `running` reads the settings again; without it nobody does. Nodes that
    are processes of this machine, made with the load, end with the server if `end_machines` says so then.

    Raises StartError, StorageError, LedgerError, CannotListen when it cannot start; GaveUp when an actor
    keeps crashing.
    """
    here, running = Address(), running or RunningSettings(settings)
    tls = await trio.to_thread.run_sync(own_certificate, settings)
    if await trio.to_thread.run_sync(is_needed, settings.db_path):
        await _import_2x(settings, tls)
    settings = replace(settings, db_path=await trio.to_thread.run_sync(ledger_of, settings.db_path))

    def bound(url: str) -> None:
        here.set(url)
        places = settings.db_path, settings.data_path
        log.info("version %s listens on %s; ledger %s, data %s", installed_version(), url, *places)
        make_findable(urlsplit(url).port or 0)
        if on_bound is not None:
            on_bound(url)

    with findable(settings.data_path) as make_findable:
        async with trio.open_nursery() as nursery:
            waiters, dialled = JobWaiters(), DialledStreams()
            all_of_it = partial(run_orchestrator, end_machines=end_machines)
            app = await nursery.start(all_of_it, settings, waiters, here, dialled, running)

            async def let_go() -> None:
                await shutdown.wait()
                waiters.close()
                dialled.close()

            nursery.start_soon(let_go)
            await serve(
                app,
                host=settings.host,
                port=settings.port,
                shutdown=shutdown,
                task_status=task_status,
                on_bound=bound,
                plain=app.plain,
                upgrade=app.upgrade,
                tls=tls,
            )
            nursery.cancel_scope.cancel()


async def _import_2x(settings: Settings, tls: OwnCertificate | None) -> None:
    """Take over what 2.x has left, which may be much; probes are answered meanwhile. Raises StartError."""
    data, over = settings.data_path, trio.Event()
    with locked(data / "orchestrator.lock", f"data directory {data}", "DATA_PATH"):
        async with trio.open_nursery() as nursery:
            answering = partial(serve, answer_probes, host=settings.host, port=settings.port, shutdown=over)
            await nursery.start(partial(answering, tls=tls, graceful_timeout=0.5))
            await trio.to_thread.run_sync(import_2x, settings)
            over.set()


async def run_orchestrator(
    settings: Settings,
    waiters: JobWaiters,
    here: Address,
    dialled: DialledStreams,
    running: RunningSettings,
    *,
    end_machines: Callable[[], bool] = lambda: False,
    task_status: trio.TaskStatus[App] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Everything but the listening: reports the app once all of it runs, and runs until cancelled. Whoever
    listens says where in `here`. `running` has what may change meanwhile, `settings` what does not."""
    for warning in settings.warnings:
        log.warning("%s", warning)
    data, db = settings.data_path, settings.db_path
    with (
        locked(data / "orchestrator.lock", f"data directory {data}", "DATA_PATH"),
        locked(db.with_name(db.name + ".lock"), f"ledger {db}", "DB_PATH"),
    ):
        clock, rng = WallClock(), random.Random()
        secrets, trust = callback_keys(settings)
        courtesy = Courtesy()
        storage = DiskStorage(
            settings.data_path,
            clock,
            keep_free=settings.keep_free_disk,
            small=settings.small_files,
            courtesy=courtesy,
        )
        await storage.open()
        metrics = ServerMetrics(running.services)
        on_commit: list[Callable[[Sequence[Job]], None]] = [waiters.publish_all, metrics.jobs.committed]

        def committed(jobs: Sequence[Job]) -> None:
            courtesy.note()
            for tell in on_commit:
                tell(jobs)

        may_begin = not await storage.has_jobs()
        ledger = await SqliteLedger.open(
            str(settings.db_path),
            clock=clock,
            committed=committed,
            timed=metrics.note_commit,
            may_begin=may_begin,
        )
        storage.keep_small_in(ledger)
        named = map(base_of, merge_addresses(settings))
        before = [node.node_id for node in await ledger.nodes() if node.kind != BY_TOKEN]
        named_key = join_key(hash_of(settings.node_token), "") if settings.node_token else ""
        node_secrets = NodeSecrets(await ledger.node_secrets(), ledger, named, before, named_key)
        nodes = NodeClient(
            ledger.owner,
            storage,
            settings.data_path / "spool",
            result_limit=settings.result_limit,
            contract_result_limit=settings.contract_result_limit,
            http=Http(trust=trust_in_nodes(settings), dialled=dialled, courtesy=courtesy),
            secrets=node_secrets,
            dialled=dialled,
        )
        portals = Http(trust=trust)

        async def nodes_here() -> str:
            """Where nodes of this machine join: a certificate is for a name."""
            url = await here.get()
            return settings.join_url if settings.tls_cert is not None and settings.join_url else url

        node_token = make_secret()
        providers = build_providers(
            settings.scaling,
            data=settings.data_path,
            owner=ledger.owner,
            here=nodes_here,
            join_url=settings.join_url,
            node_token=node_token,
            ca_file=settings.node_ca_file,
        )
        try:
            async with trio.open_nursery() as nursery:
                await nursery.start(ledger.run)
                nursery.start_soon(ledger.watch_log)
                nursery.start_soon(ledger.watch_room)
                nursery.start_soon(storage.run)
                await go_on_from(ledger, storage)
                # The writer outlives whoever writes.
                async with trio.open_nursery() as writers:
                    app = await _start(
                        writers,
                        settings=settings,
                        running=running,
                        waiters=waiters,
                        clock=clock,
                        rng=rng,
                        storage=storage,
                        ledger=ledger,
                        on_commit=on_commit,
                        nodes=nodes,
                        dialled=dialled,
                        node_secrets=node_secrets,
                        node_token=node_token,
                        portals=portals,
                        secrets=secrets,
                        providers=providers,
                        metrics=metrics,
                    )
                    running.begun.set()
                    task_status.started(app)
                nursery.cancel_scope.cancel()
        finally:
            with trio.CancelScope(shield=True), trio.move_on_after(5):
                if end_machines():
                    await _end_machines(providers)
                await nodes.aclose()
                await portals.aclose()
                await end_orderly(ledger, storage)
                await ledger.aclose()


async def _end_machines(providers: Mapping[str, Provider]) -> None:
    """Nodes that are processes of this machine end with an orchestrator that was told to end everything."""
    for provider in set(providers.values()):
        if isinstance(provider, LocalProvider):
            try:
                await provider.end_all()
            except ProviderError as error:
                log.error("nodes of this machine may be left: %s", error)


async def _start(
    nursery: trio.Nursery,
    *,
    settings: Settings,
    running: RunningSettings,
    waiters: JobWaiters,
    clock: WallClock,
    rng: random.Random,
    storage: DiskStorage,
    ledger: SqliteLedger,
    on_commit: list[Callable[[Sequence[Job]], None]],
    nodes: NodeClient,
    dialled: DialledStreams,
    node_secrets: NodeSecrets,
    node_token: str,
    portals: Http,
    secrets: Sequence[str],
    providers: Mapping[str, Provider],
    metrics: ServerMetrics,
) -> App:
    """The actors, kept alive in `nursery`, and the app on top of them."""

    sender, getter, cleaner = Mailbox("sender"), Mailbox("getter"), Mailbox("cleaner")
    callback_sender, scaler = Mailbox("callback sender"), Mailbox("autoscaler")
    hosts = CallbackHosts(settings.callback_hosts, settings.callback_private)
    services = running.services
    registry = await NodeRegistry.load(ledger, clock, sender, merge_addresses(settings))
    registry.on_sweep.append(node_secrets.forget_machines)
    doors = await open_doors(settings, ledger, registry, clock, dialled)
    if settings.scaling:
        doors.tokens.add(token_of_machines(node_token, clock.now()))
    pauses = await Pauses.load(ledger, clock, sender)
    silent: dict[str, float | None] = {}
    changes = ChangeStream(ledger.queries, waiters, partial(encode_change, name_of=registry.names.of))

    def tell_actors(rows: Sequence[Job]) -> None:
        news = Committed(tuple(rows))
        sender.tell(news)
        getter.tell(news)
        if hosts.rules:
            callback_sender.tell(news)
        if settings.scaling:
            scaler.tell(news)

    reservations = Reservations(sender)

    def make_sender(mailbox: Mailbox, nursery: trio.Nursery) -> Sender:
        queue = QueueManager(services.now)
        return Sender(
            mailbox,
            nursery,
            ledger=ledger,
            nodes=nodes,
            queue=queue,
            pool=ServicePool(
                services.now,
                rng,
                registry.drains(),
                registry.names,
                going=queue.going,
                waiting=queue.waiting,
                silent=silent,
            ),
            services=services.now,
            rng=rng,
            hand_over=getter.leave,
            members=registry.members,
            name_of=registry.names.of,
            reservations=reservations,
            tick=settings.tick_seconds,
        )

    make_getter = partial(
        Getter,
        ledger=ledger,
        nodes=nodes,
        addresses=registry.addresses,
        services=services,
        rng=rng,
        tell_sender=sender.tell,
        name_of=registry.names.of,
        tick=settings.tick_seconds,
        lost_after=settings.node_lost_after,
        back_within=settings.node_back_within,
    )

    def make_cleaner(mailbox: Mailbox, nursery: trio.Nursery) -> Cleaner:
        now = running.settings
        return Cleaner(
            mailbox,
            nursery,
            ledger=ledger,
            storage=storage,
            clock=clock,
            max_age=now.max_age,
            keep_rows=now.keep_rows,
            audit_keep=now.audit_keep,
        )

    def warn_of_nodeless(now: Settings) -> None:
        if nodeless := find_nodeless(now.services, {*registry.served(), *now.scaling}):
            log.warning("%s", tell_nodeless(*nodeless))

    warn_of_nodeless(settings)

    async def change(now: Settings) -> None:
        warn_of_nodeless(now)
        addresses = merge_addresses(now)
        node_secrets.name(map(base_of, addresses))
        cleaner.tell(KeepingChanged(now.max_age, now.keep_rows, now.audit_keep))
        await registry.set_static(addresses)
        await sender.ask(SetServices(now.services), deadline=ASK_DEADLINE)

    running.on_change.append(change)

    async def note_signal(detail: str) -> None:
        await ledger.note_orders([entry_of_signal("SIGHUP", "reload", detail)])

    running.note_signal = note_signal

    async def look(service: str, most: int) -> ForecastView:
        return await sender.ask(ForecastPicture(service, most), deadline=ASK_DEADLINE)

    forecaster = Forecaster(look, services, clock, rng)
    await forecaster.load(ledger.queries)
    on_commit += (tell_actors, forecaster.committed, partial(log_steps, name_of=registry.names.of))
    supervisor = Supervisor(rng)
    metrics.watch_actors((sender, getter, cleaner, callback_sender, scaler), supervisor)
    nursery.start_soon(metrics.watch_loop)

    async def keep(mailbox: Mailbox, make: Callable[[Mailbox, trio.Nursery], Actor]) -> None:
        await nursery.start(supervisor.keep, mailbox.name, partial(live, mailbox, make))

    # The Sender first: the Getter tells it of the nodes that it finds.
    await keep(sender, make_sender)
    await keep(getter, make_getter)
    await keep(cleaner, make_cleaner)
    nursery.start_soon(registry.run)
    nursery.start_soon(registry.names.run, ledger)
    nursery.start_soon(doors.hosts.run)
    nursery.start_soon(note_uses, doors.tokens, ledger)
    nursery.start_soon(changes.run)
    nursery.start_soon(forecaster.run)
    refusals = Refusals(ledger.note_orders)
    nursery.start_soon(refusals.run)
    if settings.scaling:
        make_scaler = partial(
            AutoScaler,
            pool=registry,  # whose orders outlast a restart
            ledger=ledger,
            providers=providers,
            limits=[config.limits for config in settings.scaling.values()],
            decide=decide,
            clock=clock,
            rng=rng,
        )
        await keep(scaler, make_scaler)

    async def why(rows: tuple[Job, ...]) -> Sequence[Waiting | None]:
        return await sender.ask(WhyWaiting(rows), deadline=ASK_DEADLINE)

    async def pool() -> Sequence[NodeView]:
        return await sender.ask(PoolPicture(), deadline=ASK_DEADLINE)

    async def backlog() -> Sequence[Backlog]:
        return await sender.ask(BacklogPicture(MOST_BACKLOG), deadline=ASK_DEADLINE)

    async def scaling() -> Sequence[ServiceScaling]:
        return await scaler.ask(ScalingStatus(), deadline=ASK_DEADLINE) if settings.scaling else ()

    api = ApiContext(
        ledger=ledger,
        storage=storage,
        waiters=waiters,
        nodes=nodes,
        services=services,
        why=why,
        pool=pool,
        silent=silent,
        backlog=backlog,
        registry=registry,
        scaling=scaling,
        changes=changes,
        clock=clock,
        pauses=pauses,
        forecaster=forecaster,
        clean=partial(clean_now, ledger, storage),
        node_secrets=node_secrets,
        node_proofs=NodeProofs(node_secrets, trio.current_time),
        dialled=dialled,
        callbacks=hosts,
        ring_callbacks=lambda: callback_sender.tell(CallbackWritten()),
        upload_limit=settings.upload_limit,
        names=OwnNames.of([*settings.public_url, settings.join_url]).with_origins(settings.allowed_origins),
        version=installed_version(),
        tokens=doors.tokens,
        sessions=Sessions(
            await ledger.sessions(), doors.tokens, clock.now, ledger.owner, settings.public_url
        ),
        is_local=doors.is_local,
        contract_open=doors.contract_open_to,
        allowed_origins=frozenset(settings.allowed_origins),
        refusals=refusals,
        limits=running.limits,
        running=running,
        sign_on=SignOn(
            settings.trusted_user_header, settings.trusted_proxies, frozenset(settings.trusted_operators)
        ),
        links=Links(doors.links_key, doors.tokens, clock.now),
        public_url=next(iter(settings.public_url), ""),
        metrics=metrics,
        reservations=reservations,
    )
    nursery.start_soon(api.open_requests.run)
    poster = CallbackClient(
        http=portals,
        hosts=hosts,
        secrets=secrets,
        owner=ledger.owner,
        clock=clock,
        tell=partial(job_views.render_subject, api),
        version=installed_version(),
    )
    await keep(callback_sender, partial(CallbackSender, ledger=ledger, poster=poster, clock=clock, rng=rng))
    return create_app(api)
