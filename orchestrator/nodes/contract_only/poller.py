"""Following a contract-only node: it tells nothing of itself, so it is asked, attempt by attempt, ever
again."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Final

import trio

from actors.domain.job import Attempt
from actors.domain.node import Heartbeat, NodeRef
from actors.domain.status import Status
from actors.ports.nodes import Beat, PayloadChanged, PayloadGone
from actors.wire.protocol.attempts import Garbled
from orchestrator.http_client import Broken, Deadlines, Http, NotReached, Scarce
from orchestrator.nodes.contract_only.fetch import Nothing
from orchestrator.nodes.contract_only.probe import Asking, Gone, view_of
from orchestrator.nodes.native.events import Tell
from orchestrator.nodes.refusals import error_text

_AT_ONCE: Final = 8
BEAT_SECONDS: Final = 1.0
_MISSED: Final = 3
_SLOWEST: Final = 8.0
"""Poll intervals between two questions to a node that gives no sensible answer."""

_ASKING: Final = Deadlines(connect=5.0, head=5.0, stall=5.0)


class ContractOnlyPoller:
    """`open_attempts` says what there is to ask for. `tell` hears a Beat for each sign of life, and each
    attempt's status when it changes."""

    def __init__(
        self,
        http: Http,
        asking: Asking,
        node: NodeRef,
        *,
        open_attempts: Callable[[], Sequence[Attempt]],
        tell: Tell,
        poll_seconds: float,
        beat_seconds: float = BEAT_SECONDS,
    ) -> None:
        self._http = http
        self._asking = asking
        self._node = node
        self._open_attempts = open_attempts
        self._tell = tell
        self._poll_seconds = poll_seconds
        self._beat_seconds = beat_seconds
        self._limiter = trio.CapacityLimiter(_AT_ONCE)
        self._under_way: set[str] = set()
        self._told: dict[str, Status | None] = {}
        self._misses: dict[str, int] = {}
        self._due: dict[str, float] = {}

    async def run(self) -> str:
        """Until the node does not answer any more; why is the result. Raises Scarce."""
        why = await self._beat()
        if why:
            return why
        scarce: Scarce | None = None
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._poll)
            missed = 0
            while missed < _MISSED:
                await trio.sleep(self._beat_seconds)
                try:
                    why = await self._beat()
                except Scarce as error:
                    scarce = error
                    break
                missed = missed + 1 if why else 0
            nursery.cancel_scope.cancel()
        if scarce is not None:
            raise scarce
        return why

    # ------------------------------------------------------------------ is it there

    async def _beat(self) -> str:
        """Tell its load; why not, if there is none. What has no `/load` may say `pong`: a mere 404 could as
        well be a proxy's, with nobody behind it."""
        try:
            load = await self._number()
            if load is None:
                load = await self._pong()
            self._tell(self._node, Beat(Heartbeat(load=load)))
            return ""
        except Scarce:
            raise
        except (NotReached, Broken, Garbled) as error:
            return str(error)

    async def _number(self) -> float | None:
        async with self._http.exchange("GET", f"{self._node.url}/load", patience=_ASKING) as reply:
            if reply.status != 200:
                return None
            load = await reply.json()
        if isinstance(load, bool) or not isinstance(load, int | float) or not math.isfinite(load):
            return None
        return min(100.0, max(0.0, float(load)))

    async def _pong(self) -> float:
        async with self._http.exchange("GET", f"{self._node.url}/", patience=_ASKING) as reply:
            if reply.status != 200 or await reply.json() != {"message": "pong"}:
                raise Broken(f"no node answers at {self._node.url}: {await error_text(reply)}")
        return 0.0

    # ------------------------------------------------------------------ how are its attempts

    async def _poll(self) -> None:
        async with trio.open_nursery() as nursery:
            while True:
                attempts = {a.key: a for a in self._open_attempts() if a.foreign_id is not None}
                for memory in (self._told, self._misses, self._due):
                    for key in memory.keys() - attempts.keys():
                        del memory[key]
                now = trio.current_time()
                for key, attempt in attempts.items():
                    if key not in self._under_way and self._due.get(key, -math.inf) <= now:
                        self._under_way.add(key)
                        nursery.start_soon(self._ask, attempt)
                await trio.sleep(self._poll_seconds)

    async def _ask(self, attempt: Attempt) -> None:
        key = attempt.key
        try:
            async with self._limiter:
                heard = await self._asking.ask(self._node, attempt)
        finally:
            self._under_way.discard(key)
        if isinstance(heard, Nothing):
            misses = self._misses[key] = self._misses.get(key, 0) + 1
            self._due[key] = trio.current_time() + self._poll_seconds * min(
                _SLOWEST, 2.0 ** min(misses - 1, 9)
            )
            return
        self._misses.pop(key, None)
        if isinstance(heard, Gone):
            self._due[key] = math.inf
            self._tell(self._node, PayloadGone(key))
            return
        view = view_of(heard, key)
        assert view is not None
        if view.end is not None:
            self._due[key] = math.inf
        if self._told.get(key) != view.status:
            self._told[key] = view.status
            self._tell(self._node, PayloadChanged(view))
