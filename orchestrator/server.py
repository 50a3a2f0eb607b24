"""The composition root: everything is built and wired here, by hand, under one nursery."""

from __future__ import annotations

import fcntl
import importlib.metadata
import logging
import os
import random
import ssl
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Final, cast

import trio
from quart_trio import QuartTrio

from actors.autoscaler import AutoScaler
from actors.caller import Caller
from actors.cleaner import Cleaner
from actors.clock import WallClock
from actors.getter import Getter
from actors.kernel import Supervisor
from actors.messages import Committed, PoolPicture, ScalingStatus, WhyWaiting
from actors.model import Job
from actors.ports import NodeAddress, NodeView, Waiting
from actors.scaling_port import Provider, ProviderError, ServiceScaling
from actors.sender import Sender
from actors.wire.serving import serve
from orchestrator.api import Api, create_app, jobs
from orchestrator.api.events import written
from orchestrator.callback_client import CallbackClient
from orchestrator.callback_hosts import CallbackHosts
from orchestrator.callback_secret import SecretError, load_secrets
from orchestrator.callback_trust import TrustError, load_trust
from orchestrator.changes import Changes
from orchestrator.feed import Feed
from orchestrator.http import Http
from orchestrator.ledger import SqliteLedger
from orchestrator.ledger_callbacks import SqliteCallbacks
from orchestrator.node_client import NodeClient
from orchestrator.pauses import Pauses
from orchestrator.queue_manager import QueueManager
from orchestrator.registry import NodeRegistry
from orchestrator.scaling.build import build_providers
from orchestrator.scaling.local import LocalProvider
from orchestrator.scaling.policy import decide
from orchestrator.service_pool import ServicePool
from orchestrator.settings import Settings
from orchestrator.storage import Storage
from orchestrator.telling import TellingLedger

log: Final = logging.getLogger("orchestrator")

ASK_DEADLINE: Final = 1.0
"""Seconds that a route waits for the Sender's answer."""


_PAGE: Final = 200
RESTORED_GAP: Final = 1000
"""Ids that are left out after a ledger was restored: some jobs may have left no trace."""


class StartError(Exception):
    """The server cannot start here; the text says why and what to do."""


async def serve_orchestrator(
    settings: Settings,
    *,
    shutdown: trio.Event,
    on_bound: Callable[[str], None] | None = None,
    task_status: trio.TaskStatus[list[str]] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve until `shutdown` is set. `on_bound` is called with the URL, and `task_status` reports a list of
    it, once connections are accepted.

    Raises StartError, StorageError, LedgerError, CannotListen when it cannot start; GaveUp when an actor
    keeps crashing.
    """
    here = Address()

    def bound(url: str) -> None:
        here.set(url)
        if on_bound is not None:
            on_bound(url)

    async with trio.open_nursery() as nursery:
        feed = Feed()
        app = await nursery.start(run_orchestrator, settings, feed, here)

        async def let_waiters_go() -> None:
            await shutdown.wait()
            feed.close()

        nursery.start_soon(let_waiters_go)
        await serve(
            app,
            host=settings.host,
            port=settings.port,
            shutdown=shutdown,
            task_status=task_status,
            on_bound=bound,
        )
        nursery.cancel_scope.cancel()


class Address:
    """Where nodes of this machine reach the server, once it listens."""

    def __init__(self) -> None:
        self._url = ""
        self._known = trio.Event()

    def set(self, url: str) -> None:
        """`url` may name all interfaces; the loopback one is among them."""
        self._url = url.replace("//0.0.0.0:", "//127.0.0.1:").replace("//[::]:", "//[::1]:")
        self._known.set()

    async def get(self) -> str:
        await self._known.wait()
        return self._url


async def run_orchestrator(
    settings: Settings,
    feed: Feed,
    here: Address,
    *,
    task_status: trio.TaskStatus[QuartTrio] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Everything but the listening: reports the app once all of it runs, and runs until cancelled. Whoever
    listens says where in `here`."""
    for warning in settings.warnings:
        log.warning("%s", warning)
    data, db = settings.data_path, settings.db_path
    with (
        locked(data / "orchestrator.lock", f"data directory {data}", "DATA_PATH"),
        locked(db.with_name(db.name + ".lock"), f"ledger {db}", "DB_PATH"),
    ):
        clock, chance = WallClock(), random.Random()
        secrets, trust = callback_keys(settings)
        storage = Storage(settings.data_path, clock, keep_free=settings.keep_free_disk)
        await storage.open()
        ledger = await SqliteLedger.open(str(settings.db_path), clock=clock)
        nodes = NodeClient(ledger.owner, storage, settings.data_path / "spool")
        portals = Http(trust=trust)
        providers = build_providers(
            settings.scaling,
            data=settings.data_path,
            owner=ledger.owner,
            here=here.get,
            join_url=settings.join_url,
        )
        try:
            async with trio.open_nursery() as nursery:
                await nursery.start(ledger.run)
                await go_on_from(ledger, storage)
                # The writer outlives whoever writes.
                async with trio.open_nursery() as writers:
                    app = await _start(
                        writers,
                        settings=settings,
                        feed=feed,
                        clock=clock,
                        chance=chance,
                        storage=storage,
                        ledger=ledger,
                        nodes=nodes,
                        portals=portals,
                        secrets=secrets,
                        providers=providers,
                    )
                    task_status.started(app)
                nursery.cancel_scope.cancel()
        finally:
            with trio.CancelScope(shield=True), trio.move_on_after(5):
                if settings.end_machines:
                    await _end_machines(providers)
                await nodes.aclose()
                await portals.aclose()
                await ledger.aclose()


async def _end_machines(providers: Mapping[str, Provider]) -> None:
    """Nodes that are processes of this machine end with an orchestrator that was told to end everything."""
    for provider in set(providers.values()):
        if isinstance(provider, LocalProvider):
            try:
                await provider.end_all()
            except ProviderError as error:
                log.error("nodes of this machine may be left: %s", error)


async def go_on_from(ledger: SqliteLedger, storage: Storage) -> None:
    """Never give an id twice, also with a ledger that was restored from an older copy: the files know better.
    What that ledger does not know is kept (see `actors.cleaner`), also where a crash came before its id was
    noted. Raises LedgerError, StorageError."""
    last, known = await storage.last_id(), await ledger.max_id()
    if last > known:
        log.error(
            "the ledger ends at job %d, the files at job %d: it was restored from an older copy; "
            "ids go on from %d, and directories of jobs that it does not know are kept",
            known,
            last,
            last + RESTORED_GAP,
        )
        keys = [key for key, _ in await storage.directories()]
        for start in range(0, len(keys), _PAGE):
            await storage.note_unknown(await ledger.unknown_directories(keys[start : start + _PAGE]))
        # Only now: from here on this ledger does not look like a restored one.
        await ledger.jump_ids(last + RESTORED_GAP)


async def _start(
    nursery: trio.Nursery,
    *,
    settings: Settings,
    feed: Feed,
    clock: WallClock,
    chance: random.Random,
    storage: Storage,
    ledger: SqliteLedger,
    nodes: NodeClient,
    portals: Http,
    secrets: Sequence[str],
    providers: Mapping[str, Provider],
) -> QuartTrio:
    """The actors, kept alive in `nursery`, and the app on top of them."""

    def committed(rows: Sequence[Job]) -> None:
        feed.publish_all(rows)
        news = Committed(tuple(rows))
        sender.tell(news)
        getter.tell(news)
        if caller is not None and hosts.rules:
            caller.tell(news)
        if scaler is not None:
            scaler.tell(news)

    hosts = CallbackHosts(settings.callback_hosts, settings.callback_private)
    telling = TellingLedger(ledger, committed)
    services = settings.services
    registry = await NodeRegistry.load(ledger, clock, watched(settings))
    pauses = await Pauses.load(ledger, clock, lambda: sender.ring())  # noqa: PLW0108  # there is none yet
    changes = Changes(ledger, feed, written)
    getter: Getter
    scaler: AutoScaler | None = None
    caller: Caller | None = None

    def pool_as_ordered() -> ServicePool:
        pool = ServicePool(services)
        for node_id, reason in registry.drains().items():
            pool.drain(node_id, reason)
        return pool

    sender = Sender(
        ledger=telling,
        nodes=nodes,
        queue=lambda: QueueManager(services, pauses.reasons),
        pool=pool_as_ordered,
        services=services,
        chance=chance,
        hand_over=lambda message: getter.tell(message),  # noqa: PLW0108  # there is none yet
        members=registry.members,
        tick=settings.tick_seconds,
    )
    getter = Getter(
        ledger=telling,
        nodes=nodes,
        addresses=registry.addresses,
        services=services,
        chance=chance,
        tell_sender=sender.tell,
        tick=settings.tick_seconds,
        lost_after=settings.node_lost_after,
    )
    registry.serve(sender)
    cleaner = Cleaner(ledger=telling, storage=storage, clock=clock, max_age=settings.max_age)
    supervisor = Supervisor(chance)
    # The Sender first: the Getter tells it of the nodes that it finds.
    for actor in (sender, getter, cleaner):
        await nursery.start(supervisor.keep, actor.name, actor.run)
    nursery.start_soon(registry.run)
    nursery.start_soon(changes.run)
    if settings.scaling:
        scaler = AutoScaler(
            owner=registry,  # whose orders outlast a restart
            ledger=ledger,
            providers=providers,
            limits=[config.limits for config in settings.scaling.values()],
            decide=decide,
            clock=clock,
            chance=chance,
        )
        nursery.start_soon(supervisor.keep, scaler.name, scaler.run)

    async def why(job_ids: tuple[int, ...]) -> Sequence[Waiting | None]:
        return cast(Sequence[Waiting | None], await sender.ask(WhyWaiting(job_ids), deadline=ASK_DEADLINE))

    async def pool() -> Sequence[NodeView]:
        return cast(Sequence[NodeView], await sender.ask(PoolPicture(), deadline=ASK_DEADLINE))

    async def scaling() -> Sequence[ServiceScaling]:
        if scaler is None:
            return ()
        return cast(Sequence[ServiceScaling], await scaler.ask(ScalingStatus(), deadline=ASK_DEADLINE))

    api = Api(
        ledger=telling,
        archive=ledger,
        storage=storage,
        feed=feed,
        nodes=nodes,
        services=services,
        why=why,
        pool=pool,
        registry=registry,
        scaling=scaling,
        changes=changes,
        clock=clock,
        pauses=pauses,
        clean=cleaner.clean_now,
        callbacks=hosts,
        upload_limit=settings.upload_limit,
        version=version(),
    )
    poster = CallbackClient(
        http=portals,
        hosts=hosts,
        secrets=secrets,
        owner=ledger.owner,
        clock=clock,
        tell=lambda job_id: jobs.told_at_end(api, job_id),
        version=version(),
    )
    caller = Caller(ledger=SqliteCallbacks(ledger), poster=poster, clock=clock, chance=chance)
    await nursery.start(supervisor.keep, caller.name, caller.run)
    return create_app(api)


def callback_keys(settings: Settings) -> tuple[Sequence[str], ssl.SSLContext | None]:
    """What callbacks are signed with, and who is believed; nothing where they are off. Raises StartError."""
    if not settings.callback_hosts:
        return (), None
    try:
        return load_secrets(settings.callback_secret_file), load_trust(settings.callback_ca_file)
    except (SecretError, TrustError) as error:
        raise StartError(str(error)) from error


def watched(settings: Settings) -> tuple[NodeAddress, ...]:
    """Every node's address once, with all services that name it. One that is given by its base URL and by
    the contract's URLs too is one node."""
    merged: dict[tuple[str, str], NodeAddress] = {}
    for limits in settings.services.values():
        for address in limits.addresses:
            key = (address.url, address.upload_url)
            services = merged[key].services if key in merged else ()
            merged[key] = replace(address, services=tuple(dict.fromkeys((*services, *address.services))))
    for (url, upload_url), address in list(merged.items()):
        others = [key for key in merged if key[0] == url and key[1]]
        if not upload_url and others:
            other = merged[others[0]]
            services = tuple(dict.fromkeys((*other.services, *address.services)))
            merged[others[0]] = replace(other, services=services)
            del merged[url, upload_url]
    return tuple(merged.values())


def version() -> str:
    """The installed version; "unknown" when it runs from a tree that is not installed."""
    try:
        return importlib.metadata.version("job-orchestrator")
    except importlib.metadata.PackageNotFoundError:
        return "unknown"


@contextmanager
def locked(path: Path, what: str, setting: str) -> Iterator[None]:
    """`what` for this process alone, by a lock on the file `path`. Raises StartError that names `setting`."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise StartError(f"{what}: {error.strerror}; set {setting} to a place that can be written") from error
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise StartError(
                f"{what} is used by another orchestrator; stop it, or set {setting} to another place"
            ) from None
        yield
    finally:
        os.close(fd)
