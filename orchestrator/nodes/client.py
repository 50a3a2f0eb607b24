"""Nodes over HTTP, native and contract-only: the port `Nodes`, and what the api reads from a node directly.

One client, and with it one pool of connections, serves all nodes. What differs between the two kinds of nodes
is in `native/` and `contract_only/`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Final

from actors.domain.job import Attempt
from actors.domain.node import NodeAddress, NodeRef
from actors.ports.nodes import AttemptLookup, CollectAnswer, Dispatch, NodeEvent, SubmitAnswer
from actors.wire.files.last_lines import Tail
from orchestrator.dialled_streams import DialledStreams
from orchestrator.http_client import Http
from orchestrator.nodes.addresses import base_of, contract_only_ref
from orchestrator.nodes.contract_only.client import ContractOnlyNodes
from orchestrator.nodes.contract_only.poller import ContractOnlyPoller
from orchestrator.nodes.contract_only.probe import GRACE, Asking
from orchestrator.nodes.contract_only.spool import CONTRACT_RESULT_LIMIT, Spool
from orchestrator.nodes.job_files import JobFiles
from orchestrator.nodes.native.client import NativeNodes
from orchestrator.nodes.native.events import Introduction, NodeKind, follow_events, introduce
from orchestrator.nodes.native.link import NodeLinks, Secrets
from orchestrator.nodes.native.results import RESULT_LIMIT
from orchestrator.nodes.remote_stream import NodeUnreachable, NotOnNode, RemoteStream
from orchestrator.storage.result_archive import FileEntry, parse_listing

SILENCE: Final = 3.5
"""Seconds without a word after which a node's event stream, in which it says something each second, is taken
for dead and opened anew."""


class NodeClient:
    """`owner` is this orchestrator's id. `spool` is a directory of its own, where what contract-only nodes
    give is checked: it needs room for it; they may give `contract_result_limit` bytes for a job, our own
    nodes `result_limit`. `secrets`: of nodes that prove who they are. Close the client with `aclose`."""

    def __init__(
        self,
        owner: str,
        files: JobFiles,
        spool: Path,
        *,
        poll_seconds: float = 0.5,
        silence: float = SILENCE,
        grace: float = GRACE,
        result_limit: int = RESULT_LIMIT,
        contract_result_limit: int = CONTRACT_RESULT_LIMIT,
        http: Http | None = None,
        secrets: Secrets | None = None,
        dialled: DialledStreams | None = None,
    ) -> None:
        self._owner = owner
        self._http = http or Http()
        self._poll_seconds = poll_seconds
        self._silence = silence
        self._links = NodeLinks(owner, self._http.trust, secrets, dialled)
        self._native = NativeNodes(self._http, owner, files, self._links, result_limit)
        kept = Spool(spool, contract_result_limit)
        self._asking = Asking(self._http, kept, grace)
        self._contract_only = ContractOnlyNodes(self._http, kept, self._asking, files)
        self._followed: dict[str, Sequence[Attempt]] = {}

    async def aclose(self) -> None:
        await self._http.aclose()

    def _for(self, node: NodeRef) -> NativeNodes | ContractOnlyNodes:
        return self._contract_only if node.contract_only else self._native

    async def submit(self, node: NodeRef, items: Sequence[Dispatch]) -> Sequence[SubmitAnswer]:
        return await self._for(node).submit(node, items)

    async def lookup(self, node: NodeRef, attempts: Sequence[Attempt]) -> Sequence[AttemptLookup]:
        return await self._for(node).lookup(node, attempts)

    async def cancel(self, node: NodeRef, attempts: Sequence[Attempt]) -> Sequence[AttemptLookup]:
        return await self._for(node).cancel(node, attempts)

    async def release(self, node: NodeRef, attempts: Sequence[Attempt]) -> Sequence[bool]:
        return await self._for(node).release(node, attempts)

    async def collect(self, node: NodeRef, items: Sequence[Dispatch]) -> Sequence[CollectAnswer]:
        return await self._for(node).collect(node, items)

    async def take_delivered(self, node: NodeRef, items: Sequence[Dispatch]) -> Sequence[CollectAnswer]:
        return await self._native.take_delivered(node, items)

    def open_results(self, node: NodeRef, attempt: Attempt) -> AbstractAsyncContextManager[RemoteStream]:
        """The zip of what an attempt has in its directory now. Raises NotOnNode, Unreachable."""
        return self._for(node).open_results(node, attempt)

    @asynccontextmanager
    async def open_log(
        self, node: NodeRef, attempt: Attempt, stream: str, offset: int = 0, *, follow: bool = False
    ) -> AsyncIterator[RemoteStream]:
        """The bytes of `stdout` or `stderr` from `offset` on, with `follow` also those to come until the run
        has ended. Raises NotOnNode, also for contract-only nodes, which have no logs to be read;
        Unreachable."""
        if node.contract_only:
            raise NotOnNode("the node knows only the contract, which has no logs")
        async with self._native.open_log(node, attempt, stream, offset, follow=follow) as opened:
            yield opened

    async def find_last_lines(self, node: NodeRef, attempt: Attempt, stream: str, lines: int) -> Tail:
        """Where the last lines of `stdout` or `stderr` begin now. Raises as `open_log` does."""
        if node.contract_only:
            raise NotOnNode("the node knows only the contract, which has no logs")
        return await self._native.find_last_lines(node, attempt, stream, lines)

    @asynccontextmanager
    async def open_file(self, node: NodeRef, attempt: Attempt, path: str) -> AsyncIterator[RemoteStream]:
        """One file of an attempt's directory as it is now, by its spelled path. Raises NotOnNode, also for
        contract-only nodes; Unreachable."""
        if node.contract_only:
            raise NotOnNode("the node knows only the contract, which has no single files")
        async with self._native.open_file(node, attempt, path) as opened:
            yield opened

    async def list_files(self, node: NodeRef, attempt: Attempt) -> Sequence[FileEntry]:
        """What is in an attempt's directory now. Raises as `open_file` does."""
        if node.contract_only:
            raise NotOnNode("the node knows only the contract, which has no single files")
        try:
            return parse_listing(await self._native.list_files(node, attempt))
        except ValueError as error:
            raise NodeUnreachable(
                f"the node lists its files in a way that makes no sense: {error}"
            ) from error

    def follow(self, node_id: str, attempts: Sequence[Attempt]) -> None:
        self._followed[node_id] = tuple(attempts)

    async def introduce(self, url: str) -> Introduction:
        """Who answers at this base URL."""
        return await introduce(self._http, url)

    async def watch(self, address: NodeAddress, tell: Callable[[NodeRef, NodeEvent], None]) -> str:
        base = base_of(address)
        who = await introduce(self._http, base)
        if who.kind is NodeKind.UNCLEAR:
            return who.reason
        if who.kind is NodeKind.NATIVE:
            node = NodeRef(who.node_id, base, boot=who.boot)
            if who.link and (why := await self._links.follow(node, tell, self._silence)) is not None:
                return why
            if self._links.must_prove(node):
                return "the node knows no links, and is to prove over one who it is"
            return await follow_events(self._http, self._owner, node, tell, self._silence)
        node = contract_only_ref(address)
        watch = ContractOnlyPoller(
            self._http,
            self._asking,
            node,
            open_attempts=lambda: self._followed.get(node.node_id, ()),
            tell=tell,
            poll_seconds=self._poll_seconds,
        )
        return await watch.run()
