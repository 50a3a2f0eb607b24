"""Before every route of the node, and before its links: who may come in at all."""

from __future__ import annotations

import hmac
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Final

from actors.wire.http.app import Refusal
from actors.wire.http.plain_routes import Head
from actors.wire.link.proof import PROOF_HEADER
from node.access.door import Door
from node.access.servers import Servers

SUBMIT: Final = "/submit"
ORDERS: Final = frozenset({SUBMIT, "/retrieve/<text>", "/retrieve_partial/<text>", "/kill/<text>"})
"""Routes of the published contract by which jobs are given and taken."""
INFO: Final = "/v1/info"
METRICS: Final = "/metrics"

speaking: Final[ContextVar[str | None]] = ContextVar("speaking", default=None)
"""The orchestrator that has proved the request which a task answers; None where nothing was to be proved."""


@dataclass(frozen=True, slots=True)
class Gate:
    """`scrapes`: the token by which numbers may be read; nobody may without one."""

    door: Door
    servers: Servers
    scrapes: str | None = field(default=None, repr=False)

    async def admit(self, head: Head, path: str, query: str) -> None:
        """A request, with its path and query as they came. Raises Refusal (403)."""
        peer = None if head.peer is None else head.peer[0]
        rule = head.rule or ""
        if rule in ORDERS:
            await self.servers.admit(peer, submits=rule == SUBMIT, closed=self.door.closed)
        elif rule == METRICS:
            self._admit_scrape(head)
        elif rule.startswith("/v1/"):
            claim = head.header(PROOF_HEADER.lower())
            if claim is None and rule == INFO:
                return
            owner = self.door.admit(claim, head.method, path, query)
            if owner is None:
                await self._admit_stranger(peer)
            speaking.set(owner)

    def _admit_scrape(self, head: Head) -> None:
        if self.scrapes is None:
            raise Refusal(403, "no_metrics", _NO_METRICS)
        scheme, _, shown = (head.header("authorization") or "").partition(" ")
        right = hmac.compare_digest(shown.strip().encode("utf-8", "replace"), self.scrapes.encode())
        if scheme.lower() != "bearer" or not right:
            challenge = {"WWW-Authenticate": "Bearer"}
            raise Refusal(401, "no_token", "this needs the token of METRICS_TOKEN_FILE", headers=challenge)

    async def admit_link(self, head: Head) -> None:
        """Who opens a link: what is proved there comes later. Raises Refusal (403)."""
        if not self.door.closed:
            await self._admit_stranger(None if head.peer is None else head.peer[0])

    async def _admit_stranger(self, peer: str | None) -> None:
        if not await self.servers.may_come(peer):
            raise Refusal(403, "foreign_server", self.servers.why_not(peer))


def refuse_other_owner(owner: object) -> None:
    """Who has proved who it is speaks for nobody else. Raises Refusal (403)."""
    proved = speaking.get()
    if proved is not None and owner != proved:
        raise Refusal(403, "other_owner", f"orchestrator {proved[:8]} speaks for itself alone")


_NO_METRICS: Final = (
    "this node tells nobody its numbers: METRICS_TOKEN_FILE names a file with a token by which they are read"
)
