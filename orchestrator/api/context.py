"""What the routes use of the server."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import Protocol

from actors.domain.job import Attempt, Job
from actors.domain.node import NodeRef, NodeView
from actors.domain.scaling import ServiceScaling
from actors.domain.service import Backlog, ServiceLimits, Waiting
from actors.kernel.actor import Mailbox
from actors.ports.world import Clock
from actors.sender.reservations import Reservations
from actors.wire.files.last_lines import Tail
from actors.wire.http.plain_routes import Head
from actors.wire.http.web_pages import OwnNames
from orchestrator.access.audit import Refusals
from orchestrator.access.gate import SignOn
from orchestrator.access.limits import Limits
from orchestrator.access.links import Links
from orchestrator.access.node_proofs import NodeProofs
from orchestrator.access.node_secrets import NodeSecrets
from orchestrator.access.open_requests import OpenRequests
from orchestrator.access.sessions import Sessions
from orchestrator.access.tokens import Tokens
from orchestrator.callbacks.allowed_hosts import CallbackHosts
from orchestrator.config.settings import Settings
from orchestrator.dialled_streams import DialledStreams
from orchestrator.events.change_stream import ChangeStream
from orchestrator.events.waiters import JobWaiters
from orchestrator.ledger.ledger import SqliteLedger
from orchestrator.ledger.recent import Recent
from orchestrator.metrics.server_metrics import ServerMetrics
from orchestrator.nodes.native.events import Introduction
from orchestrator.nodes.registry import NodeRegistry
from orchestrator.nodes.remote_stream import RemoteStream
from orchestrator.reloading import RunningSettings
from orchestrator.scheduling.forecast import Estimate
from orchestrator.scheduling.forecaster import Forecaster
from orchestrator.scheduling.pauses import Pauses
from orchestrator.storage.result_archive import FileEntry
from orchestrator.storage.storage import DiskStorage


class NodeFiles(Protocol):
    """Reading what an attempt has on its node now. Entering raises `Unreachable`, or `NotOnNode`
    when the node does not know the attempt."""

    def open_results(self, node: NodeRef, attempt: Attempt) -> AbstractAsyncContextManager[RemoteStream]:
        """A zip of the attempt's directory as it is now."""
        ...

    def open_log(
        self, node: NodeRef, attempt: Attempt, stream: str, offset: int = 0, *, follow: bool = False
    ) -> AbstractAsyncContextManager[RemoteStream]:
        """The bytes of "stdout" or "stderr" from `offset`; with `follow` as they come, until the end."""
        ...

    async def find_last_lines(self, node: NodeRef, attempt: Attempt, stream: str, lines: int) -> Tail:
        """Where the last lines of "stdout" or "stderr" begin now. Raises as the others do."""
        ...

    def open_file(
        self, node: NodeRef, attempt: Attempt, path: str
    ) -> AbstractAsyncContextManager[RemoteStream]:
        """One file of the attempt's directory as it is now, by its spelled path. NotOnNode also when there is
        no such file."""
        ...

    async def list_files(self, node: NodeRef, attempt: Attempt) -> Sequence[FileEntry]:
        """What is in the attempt's directory now. Raises as the others do."""
        ...

    async def introduce(self, url: str) -> Introduction:
        """Who answers at this base URL."""
        ...


@dataclass(frozen=True, slots=True)
class ApiContext:
    """`ledger` tells of what it commits, so that waiting routes wake and actors are rung. `why` says of
    queued jobs why they wait, `pool` shows the nodes, `backlog` how many jobs wait; they ask the Sender, and
    `scaling` the AutoScaler; they raise `actors.kernel.actor.NoAnswer` when it does not answer in time.
    `silent`: when nodes that are suspect were last heard, in monotonic seconds; None: not yet.
    `clean` ends the keeping of an ended job's data: the job afterwards, None if it has changed meanwhile.
    `tokens`, `is_local`, `contract_open`, `sign_on` and `node_proofs` are what the gate goes by, `refusals`
    what it tells; pages of `allowed_origins` may call. `callbacks` says which URLs may be told of an
    end, and `ring_callbacks` tells that a callback came with no job's end. `upload_limit` is bytes of the
    whole body; `kill_patience` seconds that terminate waits for the end.
    `left_out`: what results lack, and `written`: the JSON of jobs, by a job's id, version and estimate."""

    ledger: SqliteLedger
    storage: DiskStorage
    waiters: JobWaiters
    nodes: NodeFiles
    services: Mapping[str, ServiceLimits]
    why: Callable[[tuple[Job, ...]], Awaitable[Sequence[Waiting | None]]]
    pool: Callable[[], Awaitable[Sequence[NodeView]]]
    backlog: Callable[[], Awaitable[Sequence[Backlog]]]
    registry: NodeRegistry
    scaling: Callable[[], Awaitable[Sequence[ServiceScaling]]]
    changes: ChangeStream
    clock: Clock
    pauses: Pauses
    forecaster: Forecaster
    clean: Callable[[Job], Awaitable[Job | None]]
    node_secrets: NodeSecrets
    node_proofs: NodeProofs
    silent: Mapping[str, float | None] = field(default_factory=dict)
    dialled: DialledStreams = field(default_factory=DialledStreams)
    callbacks: CallbackHosts = field(default_factory=CallbackHosts)
    ring_callbacks: Callable[[], None] = lambda: None
    upload_limit: int = 400 << 20
    kill_patience: float = 5.0
    version: str = ""
    tokens: Tokens = field(default_factory=lambda: Tokens((), time.time))
    sessions: Sessions = field(default_factory=lambda: Sessions((), Tokens((), time.time), time.time))
    is_local: Callable[[Head], bool] = lambda head: False
    contract_open: Callable[[Head], bool] = lambda head: False
    sign_on: SignOn = field(default_factory=SignOn)
    allowed_origins: frozenset[str] = frozenset()
    refusals: Refusals = field(default_factory=Refusals)
    limits: Limits = field(default_factory=Limits)
    running: RunningSettings = field(default_factory=lambda: RunningSettings(Settings()))
    open_requests: OpenRequests = field(default_factory=OpenRequests)
    links: Links | None = None
    public_url: str = ""
    written: Recent[int, tuple[tuple[int, Estimate | None, Waiting | None], bytes]] = field(
        default_factory=lambda: Recent(1024)
    )
    left_out: Recent[tuple[int, int], tuple[tuple[str, str], ...]] = field(
        default_factory=lambda: Recent(256)
    )
    names: OwnNames = field(default_factory=OwnNames)
    reservations: Reservations = field(default_factory=lambda: Reservations(Mailbox("nobody")))
    metrics: ServerMetrics = field(default_factory=ServerMetrics)
