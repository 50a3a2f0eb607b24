"""Following a native node: who it is, then its event stream until it ends or falls silent."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import partial
from typing import Any, Final

import trio

from actors.domain.node import NodeRef
from actors.kernel.concurrently import run_beside
from actors.ports.nodes import Beat, Leaving, NodeEvent, PayloadChanged, Picture
from actors.wire.errors import WireError
from actors.wire.protocol.attempts import (
    PROTOCOL,
    Garbled,
    heartbeat_from_json,
    mark_from_json,
    view_from_json,
)
from actors.wire.protocol.ndjson import LineReader
from orchestrator.http_client import Broken, Deadlines, Http, NotReached, Reply, Scarce
from orchestrator.nodes.refusals import error_text

Tell = Callable[[NodeRef, NodeEvent], None]

SKEWS: Final = 5
"""Heartbeats by which the node's clock is judged."""
EXECUTOR_MOST: Final = 50
LIMITS_MOST: Final = 1000
"""Characters of what a node says of its executor."""
_ASKING: Final = Deadlines(connect=5.0, head=10.0, stall=10.0)
_OVERSLEPT: Final = 0.5


class NodeKind(StrEnum):
    NATIVE = "native"
    CONTRACT_ONLY = "contract_only"
    UNCLEAR = "unclear"


@dataclass(frozen=True, slots=True)
class Introduction:
    """Who answers at an address. `node_id`, `boot` and whether it takes a `link` for ours only; `reason` for
    what is unclear."""

    kind: NodeKind
    node_id: str = ""
    boot: str = ""
    reason: str = ""
    link: bool = False


def meant_for(node: NodeRef) -> dict[str, str]:
    """Addresses are used again for other machines, and machines start anew: whoever is somebody else by now
    refuses (421)."""
    boot = {"x-node-boot": node.boot} if node.boot else {}
    return {"x-node-id": node.node_id, **boot}


async def introduce(http: Http, base: str) -> Introduction:
    """Ask who is there. Errors of servers and proxies tell nothing: a native node that is just being
    restarted must not be taken for a contract-only one. Raises Scarce."""
    # Over a connection of its own: who has opened it is known by what is proved over a link, and is not yet.
    alone = {"Connection": "close"}
    try:
        async with http.exchange("GET", f"{base}/v1/info", headers=alone, patience=_ASKING) as reply:
            if reply.status >= 500 or reply.status in (401, 403, 408, 421, 429):
                return Introduction(NodeKind.UNCLEAR, reason=f"/v1/info: {await error_text(reply)}")
            try:
                info = await reply.json()
            except Garbled:
                return Introduction(NodeKind.CONTRACT_ONLY)
    except Scarce:
        raise
    except (NotReached, Broken) as error:
        return Introduction(NodeKind.UNCLEAR, reason=str(error))
    if reply.status != 200 or not isinstance(info, dict) or "protocol" not in info:
        return Introduction(NodeKind.CONTRACT_ONLY)
    if info["protocol"] != PROTOCOL:
        reason = f"it speaks protocol {info['protocol']!r}, {PROTOCOL} is spoken here"
        return Introduction(NodeKind.UNCLEAR, reason=reason)
    node_id = info.get("node_id")
    if not isinstance(node_id, str) or not node_id:
        return Introduction(NodeKind.UNCLEAR, reason="it does not say its node id")
    boot = info.get("machine_boot")
    boot = boot if isinstance(boot, str) else ""
    return Introduction(NodeKind.NATIVE, node_id, boot, link=isinstance(info.get("link"), int))


async def follow_events(http: Http, owner: str, node: NodeRef, tell: Tell, silence: float) -> str:
    """Tell what the node tells, until its stream ends or nothing came for `silence` seconds. Why it ended is
    the result. Raises Scarce."""
    patience = Deadlines(connect=5.0, head=max(silence, 5.0), stall=None)
    try:
        async with http.exchange(
            "GET",
            f"{node.url}/v1/events?owner={owner}",
            headers=meant_for(node),
            patience=patience,
        ) as reply:
            if reply.status != 200:
                return f"/v1/events: {await error_text(reply)}"
            listening = Listening(silence)
            return await listening.until_silent(partial(_read, reply, owner, node, tell, listening))
    except Scarce:
        raise
    except (NotReached, Broken) as error:
        return str(error)


async def _read(reply: Reply, owner: str, node: NodeRef, tell: Tell, listening: Listening) -> str:
    first = True
    beats = Beats()
    try:
        async for event in LineReader(reply):
            listening.note()
            kind = event.get("event")
            if first and kind != "picture":
                raise Garbled("the stream of events does not begin with the picture")
            first = False
            told = parse_event(kind, event, owner)
            if told is not None:
                tell(node, beats.judge(told))
    except (Broken, WireError) as error:
        return str(error)
    return "the node closed its stream of events"


class Listening:
    """How long it is since anything was heard."""

    def __init__(self, silence: float) -> None:
        self._silence = silence
        self._last = trio.current_time()

    def note(self) -> None:
        self._last = trio.current_time()

    async def until_silent(self, listen: Callable[[], Awaitable[str]]) -> str:
        """What `listen` returns, or that nothing was heard for too long, which cancels it. What it raises is
        raised as it is."""
        why = await run_beside(listen, self.watch_silence)
        return f"nothing heard for {self._silence:g} s" if why is None else why

    async def watch_silence(self, scope: trio.CancelScope) -> None:
        """Cancel `scope` when it was too long."""
        while True:
            due = self._last + self._silence
            await trio.sleep_until(due)
            now = trio.current_time()
            if now - due > _OVERSLEPT:
                # We were stopped ourselves: what came meanwhile waits to be read, before anybody is judged.
                self._last = now
            elif self._last + self._silence <= now:
                scope.cancel()
                return


class Beats:
    """What holds from one heartbeat of a node to the next: by how much its clock is ahead, and what the
    picture alone has told."""

    def __init__(self) -> None:
        self._skews: deque[float] = deque(maxlen=SKEWS)
        self._executor = "", ""

    def judge(self, told: NodeEvent) -> NodeEvent:
        """The event with all that is known of the node now."""
        if not isinstance(told, Picture | Beat):
            return told
        beat = told.heartbeat
        if isinstance(told, Picture):
            self._executor = beat.executor, beat.executor_limits
        if beat.skew is not None:
            # What is late makes a clock look slow, and never fast: the largest is the best.
            self._skews.append(beat.skew)
        skew = None if beat.skew is None else max(self._skews)
        name, limits = self._executor
        known = replace(beat, skew=skew, executor=name, executor_limits=limits)
        return replace(told, heartbeat=known)


def parse_event(kind: object, event: Mapping[str, Any], owner: str) -> NodeEvent | None:
    """What a line tells. Kinds that are not known are passed over: the node may be newer. Raises Garbled."""
    if kind == "picture":
        payloads = event.get("payloads")
        if not isinstance(payloads, list):
            raise Garbled("picture.payloads: a list was expected")
        views = [view_from_json(payload) for payload in payloads]
        beat = heartbeat_from_json(event.get("heartbeat"), owner, time.time())
        name, limits = _read_executor(event.get("executor"))
        beat = replace(beat, executor=name, executor_limits=limits)
        return Picture(mark_from_json(event), {view.key: view for view in views}, beat)
    if kind == "payload":
        return PayloadChanged(view_from_json(event.get("payload")))
    if kind == "heartbeat":
        return Beat(heartbeat_from_json(event.get("heartbeat"), owner, time.time()))
    if kind == "leaving":
        held = event.get("held")
        return Leaving(held if isinstance(held, int) else 0, back=event.get("back") is True)
    return None


def _read_executor(said: object) -> tuple[str, str]:
    """Its name and its limits; "" for what is no text: nothing hangs on it."""
    found = said if isinstance(said, dict) else {}
    name, limits = found.get("name"), found.get("limits")
    return (
        name[:EXECUTOR_MOST] if isinstance(name, str) else "",
        limits[:LIMITS_MOST] if isinstance(limits, str) else "",
    )
