"""The server's routes over real HTTP, with the real storage and the real ledger; no actors and no nodes."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

import httpx
import trio
from support.data.ledgers import SetClock, open_ledger

from actors.cleaner import clean_now
from actors.domain.batch_request import BatchAllowance
from actors.domain.job import Attempt, Job
from actors.domain.limits import JobLimits
from actors.domain.node import NodeRef, NodeView
from actors.domain.queue_excerpt import ForecastView
from actors.domain.scaling import ServiceScaling
from actors.domain.service import Backlog, ServiceLimits, Waiting
from actors.kernel.actor import Mailbox, Question
from actors.messages import DrainNode, UndrainNode
from actors.wire.files.last_lines import Tail
from actors.wire.http.app import App
from actors.wire.http.server import serve
from actors.wire.http.web_pages import OwnNames
from orchestrator.access.audit import Refusals
from orchestrator.access.gate import SignOn
from orchestrator.access.limits import Limits
from orchestrator.access.links import Links
from orchestrator.access.node_proofs import NodeProofs
from orchestrator.access.node_secrets import NodeSecrets
from orchestrator.access.roles import Role
from orchestrator.access.sessions import Sessions
from orchestrator.access.tokens import TokenRecord, Tokens, hash_of, make_secret
from orchestrator.api import ApiContext, create_app
from orchestrator.api.routes.events import encode_change
from orchestrator.callbacks.allowed_hosts import CallbackHosts
from orchestrator.events.change_stream import ChangeStream
from orchestrator.events.waiters import JobWaiters
from orchestrator.ledger.ledger import SqliteLedger
from orchestrator.metrics.server_metrics import ServerMetrics
from orchestrator.nodes.native.events import Introduction, NodeKind
from orchestrator.nodes.registry import NodeRegistry
from orchestrator.nodes.remote_stream import NodeUnreachable, NotOnNode, RemoteStream
from orchestrator.scheduling.forecaster import Forecaster
from orchestrator.scheduling.pauses import Pauses
from orchestrator.scheduling.queue_manager import QueueManager
from orchestrator.storage.result_archive import FileEntry
from orchestrator.storage.storage import DiskStorage


async def _pieces(data: bytes) -> AsyncIterator[bytes]:
    for start in range(0, len(data), 3):
        yield data[start : start + 3]


@dataclass
class FakeNodes:
    """What nodes have, by attempt key. An attempt in `silent` cannot be asked for."""

    results: dict[str, bytes] = field(default_factory=dict)
    logs: dict[tuple[str, str], bytes] = field(default_factory=dict)
    files: dict[tuple[str, str], bytes] = field(default_factory=dict)
    silent: set[str] = field(default_factory=set)
    at: dict[str, Introduction] = field(default_factory=dict)

    async def introduce(self, url: str) -> Introduction:
        return self.at.get(url, Introduction(NodeKind.UNCLEAR, reason="no connection"))

    @asynccontextmanager
    async def open_results(self, node: NodeRef, attempt: Attempt) -> AsyncIterator[RemoteStream]:
        yield RemoteStream({}, self._get(self.results, attempt.key, attempt.key))

    @asynccontextmanager
    async def open_log(
        self, node: NodeRef, attempt: Attempt, stream: str, offset: int = 0, *, follow: bool = False
    ) -> AsyncIterator[RemoteStream]:
        yield RemoteStream({}, self._get(self.logs, (attempt.key, stream), attempt.key, offset))

    async def find_last_lines(self, node: NodeRef, attempt: Attempt, stream: str, lines: int) -> Tail:
        if attempt.key in self.silent:
            raise NodeUnreachable("no route to host")
        data = self.logs.get((attempt.key, stream), b"")
        return Tail(len(data) - len(b"".join(data.splitlines(keepends=True)[-lines:])), len(data))

    @asynccontextmanager
    async def open_file(self, node: NodeRef, attempt: Attempt, path: str) -> AsyncIterator[RemoteStream]:
        yield RemoteStream({}, self._get(self.files, (attempt.key, path), attempt.key))

    async def list_files(self, node: NodeRef, attempt: Attempt) -> Sequence[FileEntry]:
        if attempt.key in self.silent:
            raise NodeUnreachable("no route to host")
        return [
            FileEntry(path, len(data), 0o644, 0.0, "file")
            for (key, path), data in self.files.items()
            if key == attempt.key
        ]

    def _get(self, where: Any, what: Any, key: str, offset: int = 0) -> AsyncIterator[bytes]:
        if key in self.silent:
            raise NodeUnreachable("no route to host")
        if what not in where:
            raise NotOnNode("unknown key")
        return _pieces(where[what][offset:])


class Owner(Mailbox):
    """Drains what is in its views, as the Sender does."""

    def __init__(self, views: list[NodeView]) -> None:
        super().__init__("sender")
        self.views = views

    async def ask(self, question: Question[Any], *, deadline: float) -> Any:
        await trio.lowlevel.checkpoint()
        match question:
            case DrainNode(node_id=node_id, reason=reason):
                return self._order(node_id, reason)
            case UndrainNode(node_id=node_id):
                return self._order(node_id, None)
        return tuple(self.views)

    def _order(self, node_id: str, reason: str | None) -> bool:
        before = list(self.views)
        self.views[:] = [
            replace(view, draining=reason) if view.node.node_id == node_id else view for view in before
        ]
        return any(view.node.node_id == node_id for view in before)


@dataclass
class Server:
    """`whys` and `views` are what the Sender would say."""

    url: str
    client: httpx.AsyncClient
    ledger: SqliteLedger
    storage: DiskStorage
    waiters: JobWaiters
    nodes: FakeNodes
    whys: dict[int, Waiting]
    views: list[NodeView]
    registry: NodeRegistry
    hub: ChangeStream
    services: dict[str, ServiceLimits]
    clock: SetClock
    pauses: Pauses
    scaled: list[ServiceScaling]
    backlog: list[Backlog]
    app: App
    api: ApiContext

    async def post(self, *parts: str | bytes, user: str = "1", service: str = "example") -> httpx.Response:
        """Each part: what follows `form-data; `, a bar, the body. As in the cases' `mp`."""
        body, content_type = form(*parts, f'name="user_id"|{user}', f'name="service"|{service}')
        return await self.client.post("/upload", content=body, headers={"Content-Type": content_type})

    async def upload(self, **files: bytes) -> Job:
        """A stored job with these files."""
        parts = [f'name="file"; filename="{name}"|'.encode() + data for name, data in files.items()]
        answer = await self.post(*parts)
        assert answer.status_code == 201, answer.text
        job = await self.ledger.get(answer.json()["id"])
        assert job is not None
        return job

    def directories(self) -> list[str]:
        """The storage keys on disk, and whatever is left of uploads."""
        incoming = [f"incoming/{path.name}" for path in (self.storage.root / "incoming").iterdir()]
        return incoming + [path.name for path in (self.storage.root / "jobs").glob("*/*")]

    async def nothing_left(self) -> bool:
        """Neither a row nor a directory."""
        return not self.directories() and await self.ledger.max_id() == 0


def credentials(
    server: Server, role: Role, name: str, *, token_id: str | None = None, **more: Any
) -> dict[str, str]:
    """The header that shows a token, which is made now."""
    secret, made = make_secret(), server.clock.now()
    server.api.tokens.add(TokenRecord(token_id or name, hash_of(secret), role, name, made, **more))
    return {"Authorization": f"Bearer {secret}"}


def form(*parts: str | bytes) -> tuple[bytes, str]:
    body = b""
    for part in parts:
        raw = part if isinstance(part, bytes) else part.encode("utf-8", "surrogateescape")
        head, _, data = raw.partition(b"|")
        body += b"--BbB\r\nContent-Disposition: form-data; " + head + b"\r\n\r\n" + data + b"\r\n"
    return body + b"--BbB--\r\n", "multipart/form-data; boundary=BbB"


def status_body(answer: httpx.Response) -> dict[str, Any]:
    """The answer as a StatusBody, which it has to be; a refusal with its `code`."""
    assert answer.headers["content-type"] == "application/json"
    body = json.loads(answer.content)
    more = {"code"} if answer.is_error else set()
    assert set(body) == {"id", "status", "message"} | more and body.get("code", "x"), body
    assert isinstance(body["message"], str) and body["message"]
    return body


@asynccontextmanager
async def api_server(
    path: Path,
    *,
    upload_limit: int = 1 << 20,
    kill_patience: float = 5.0,
    services: Sequence[str] = ("example",),
    callbacks: CallbackHosts | None = None,
    small: int = 0,
    public_urls: Sequence[str] = (),
    local: bool = True,
    contract_open: bool = False,
    sign_on: SignOn | None = None,
    origins: Sequence[str] = (),
    limits: Limits | None = None,
) -> AsyncIterator[Server]:
    """A server on a port of its own. Inputs of at most `small` bytes are kept in the ledger. Whoever asks is
    an operator if `local`; pages of `origins` may call."""
    await trio.Path(path).mkdir(exist_ok=True)
    clock, waiters, nodes = SetClock(), JobWaiters(), FakeNodes()
    whys: dict[int, Waiting] = {}
    views: list[NodeView] = []
    scaled: list[ServiceScaling] = []
    backlog: list[Backlog] = []
    shutdown = trio.Event()

    async def why(jobs: tuple[Job, ...]) -> Sequence[Waiting | None]:
        return tuple(whys.get(job.id) for job in jobs)

    async def scaling() -> Sequence[ServiceScaling]:
        return tuple(scaled)

    async def waiting() -> Sequence[Backlog]:
        return tuple(backlog)

    async def pool() -> Sequence[NodeView]:
        return tuple(views)

    metrics = ServerMetrics(services)

    def committed(rows: Sequence[Job]) -> None:
        waiters.publish_all(rows)
        metrics.jobs.committed(rows)

    async def look(service: str, most: int) -> ForecastView:
        queue = QueueManager(of_services)
        queue.set_pauses(pauses.reasons)
        queue.fill((await ledger.live(queued=True)).queued)
        return ForecastView(queue.excerpt({service}, most), tuple(views))

    async with open_ledger(path / "db.sqlite", clock, committed=committed) as ledger:
        storage = DiskStorage(path / "data", clock, small=small)
        storage.keep_small_in(ledger)
        await storage.open()
        registry = await NodeRegistry.load(ledger, clock, owner := Owner(views), ())
        of_services = {
            name: ServiceLimits(
                name,
                max_runtime=60.0,
                max_priority=5,
                limits=JobLimits(memory_bytes=1 << 30, processes=100),
                batch_allowed=BatchAllowance(("short", "long"), max_cpus=16, max_gpus=("a100:4",)),
            )
            if name == "short"
            else ServiceLimits(name)
            for name in services
        }
        changes = ChangeStream(ledger.queries, waiters, partial(encode_change, name_of=str))
        pauses = await Pauses.load(ledger, clock, owner)
        api = ApiContext(
            ledger=ledger,
            storage=storage,
            waiters=waiters,
            nodes=nodes,
            services=of_services,
            why=why,
            pool=pool,
            backlog=waiting,
            registry=registry,
            scaling=scaling,
            changes=changes,
            clock=clock,
            pauses=pauses,
            forecaster=Forecaster(look, of_services, clock, Random(0)),
            clean=partial(clean_now, ledger, storage),
            node_secrets=(node_secrets := NodeSecrets((), ledger)),
            node_proofs=NodeProofs(node_secrets, trio.current_time),
            callbacks=callbacks or CallbackHosts(),
            upload_limit=upload_limit,
            kill_patience=kill_patience,
            version="1.2.3",
            tokens=(tokens := Tokens(await ledger.tokens(), clock.now)),
            sessions=Sessions(await ledger.sessions(), tokens, clock.now, ledger.owner, public_urls),
            is_local=lambda head: local and head.header("via") is None,
            contract_open=lambda head: contract_open,
            sign_on=sign_on or SignOn(),
            names=OwnNames.of(public_urls).with_origins(origins),
            allowed_origins=frozenset(origins),
            limits=limits or Limits(),
            links=Links(b"k" * 32, tokens, clock.now),
            public_url=next(iter(public_urls), ""),
            refusals=Refusals(ledger.note_orders),
            metrics=metrics,
        )
        async with trio.open_nursery() as nursery:
            await nursery.start(changes.run)
            beside = trio.CancelScope()

            async def run_beside() -> None:
                with beside:
                    async with trio.open_nursery() as inner:
                        inner.start_soon(api.refusals.run)
                        inner.start_soon(api.open_requests.run)

            nursery.start_soon(run_beside)
            app = create_app(api)

            async def listen(*, task_status: trio.TaskStatus[list[str]]) -> None:
                await serve(
                    app,
                    host="127.0.0.1",
                    port=0,
                    shutdown=shutdown,
                    task_status=task_status,
                    plain=app.plain,
                )

            (url,) = await nursery.start(listen)
            # Nothing is encrypted here: what authorities there are need not be read each time.
            async with httpx.AsyncClient(base_url=url, trust_env=False, verify=False, timeout=60) as client:
                yield Server(
                    url,
                    client,
                    ledger,
                    storage,
                    waiters,
                    nodes,
                    whys,
                    views,
                    registry,
                    changes,
                    of_services,
                    clock,
                    pauses,
                    scaled,
                    backlog,
                    app,
                    api,
                )
            waiters.close()
            shutdown.set()
            beside.cancel()
