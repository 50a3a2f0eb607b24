"""The node's end of a link: what an orchestrator orders over it, and what it is told without asking.

A link begins with the orchestrator's hello, and with a proof of both sides where there is something to prove
(see `node/access`): until then nothing is told, and no other link ends. Before it is told anything, the older
link of the same orchestrator has ended, and what was read from that one is done or will never be: so the
picture that comes first holds all that the older link has brought about. After that come changes, heartbeats,
and the ends of payloads: with what they have left, where that is little and the orchestrator has room for it.
It has room again once it has released what came before.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from typing import Any, Final

import trio

from actors.domain.node import StreamPosition
from actors.domain.payload import Payload
from actors.domain.status import ENDED
from actors.kernel.complaint import Complaint
from actors.process.kept_threads import KeptThreads
from actors.store.durable import is_passing
from actors.wire.errors import BadRequest, WireError
from actors.wire.link.link import Link
from actors.wire.link.proof import Judge, Offer, new_nonce
from actors.wire.link.session import Fence, Hello, Lane, Message, Role, Session
from actors.wire.link.websocket import WebSocket
from actors.wire.protocol.attempts import Garbled, mark_to_json
from node.access.door import Admit, Agree, Prove, Refuse
from node.access.gate import speaking
from node.api import orders
from node.api.app import NodeContext
from node.api.attempts import EVENTS_AT_ONCE, HEARTBEAT_EVERY, executor, heartbeat
from node.api.small_results import bound_of
from node.payloads.table import is_answered, is_told

log = logging.getLogger("node.link")

MOST: Final = {Lane.URGENT: 1 << 20, Lane.ORDERS: 16 << 20, Lane.RESULTS: 1 << 16}
"""Bytes of a message from an orchestrator."""
PROVED_WITHIN: Final = 10.0
"""Seconds that an orchestrator has to say who it is, and to prove it."""
PUSHED_AT_ONCE: Final = 64
QUIET: Final = 3.0
"""Seconds without a word of the orchestrator after which it is asked for one."""
SILENCE: Final = 6.0
"""Seconds that it has for it: then it is not there any more, whatever the connection looks like."""
FAREWELL: Final = 2.0
"""Seconds for an orchestrator to hear the last word."""


class Links:
    """The links of a node."""

    def __init__(self, context: NodeContext) -> None:
        self._context = context
        self._fence = Fence()
        self._keeping = trio.CapacityLimiter(1)
        self._complaint = Complaint(log)

    async def serve(self, socket: WebSocket) -> None:
        """Until it ends."""
        await _NodeLink(self._context, self._fence, self._keeping, self._complaint, socket).run()


class _NodeLink:
    def __init__(
        self,
        context: NodeContext,
        fence: Fence,
        keeping: trio.CapacityLimiter,
        complaint: Complaint,
        socket: WebSocket,
    ) -> None:
        self._context = context
        self._complaint = complaint
        self._door = context.gate.door
        self._keeping = keeping
        self._secret = b""
        """What is proved over this link."""
        self._agreed = b""
        """One that is not kept yet."""
        self._stands = False
        """Whether it is the link of its orchestrator: then orders are taken."""
        self._table = context.table
        self._fence = fence
        hello = Hello(
            Role.NODE,
            context.table.node_id,
            boot=context.table.machine_boot,
            incarnation=context.table.incarnation,
            nonce=new_nonce(),
        )
        self._socket = socket
        self._link = Link(socket, Session(hello, MOST))
        self._heard, self._asked_at = trio.current_time(), math.inf
        socket.heard = self._note_heard
        self._scope = trio.CancelScope()
        self._over = trio.Event()
        self._nursery: trio.Nursery
        self._pushed: dict[str, int] = {}
        """Bytes of results that the orchestrator has not released."""
        self._to_push: list[Payload] = []
        self._pushed_all = trio.Event()
        """Set while nothing is to be pushed."""
        self._pushed_all.set()
        self._reading = KeptThreads("results", 1)
        self._orders, self._orders_that_wait = trio.open_memory_channel[Message](0)
        """To tasks that have carried out an order, and have none."""

    async def run(self) -> None:
        try:
            with self._scope:
                async with trio.open_nursery() as nursery:
                    self._nursery = nursery
                    nursery.start_soon(self._expect_proof)
                    why = await self._link.run(self._hear)
                    log.debug("the link has ended: %s", why)
                    nursery.cancel_scope.cancel()
        finally:
            peer = self._link.session.peer
            if peer is not None:
                self._fence.leave(peer.name, self)
            self._over.set()

    async def end(self) -> None:
        """Nothing of it is done after this."""
        self._scope.cancel()
        await self._over.wait()

    async def _expect_proof(self) -> None:
        await trio.sleep(PROVED_WITHIN)
        if not self._stands:
            self._link.end("nobody has said who is there, or proved it")

    # ------------------------------------------------------------------ hearing

    def _hear(self, message: Message) -> None:
        match message.kind:
            case "hello":
                self._meet()
            case "proof":
                kept = self._door.kept.all.get(self._peer.name)
                if self._secret and kept is not None and kept.confirmed:
                    self._enter()
                else:
                    self._nursery.start_soon(self._keep)
            case "ready" if self._secret:
                self._nursery.start_soon(self._confirm)
            case "closed":
                self._link.end(f"the orchestrator says: {str(message.body.get('why'))[:500]}")
            case _ if not self._stands:
                raise Garbled(f"{message.kind!r} before the link stands")
            case "submit" | "lookup" | "cancel" | "release":
                self._order(message)
            case _ if message.asks:
                self._answer(message, {"error": f"{message.kind!r} is not known here"})

    # ------------------------------------------------------------------ who is there

    def _meet(self) -> None:
        session = self._link.session
        match self._door.meet(self._peer):
            case Admit():
                session.admit()
                self._enter()
            case Prove(secret=secret):
                self._secret = secret
                session.expect(secret)
                self._link.prove(secret)
            case Agree(key=key):
                self._agree(key)
            case Refuse() as refused:
                self._close(refused)

    def _agree(self, key: str) -> None:
        """Say our half of a secret, and expect a proof that the other side has the same. Raises NotProved."""
        offer = Offer()
        self._agreed = offer.agree(self._peer.offer, self._link.session.meeting(), key)
        self._link.session.expect(self._agreed)
        self._link.tell("offer", {"offer": offer.public, "by": "token" if key else "first"}, Lane.URGENT)

    async def _keep(self) -> None:
        """The other side has proved that it has the secret: one that is new is kept before we say that we
        have it; then the other side keeps it, and says so."""
        if self._secret:
            await self._confirm()
            return
        async with self._keeping:
            # Another one may have come first.
            refused = self._door.may_keep(self._peer.name)
            if refused is None:
                try:
                    await trio.to_thread.run_sync(self._door.kept.keep, self._peer.name, self._agreed)
                except Exception as error:
                    if not isinstance(error, OSError) and not is_passing(error):
                        raise
                    refused = Refuse("not_kept", f"the node cannot keep the secret: {error}")
        if refused is not None:
            self._close(refused)
            return
        self._secret = self._agreed
        self._link.prove(self._secret)

    async def _confirm(self) -> None:
        try:
            await trio.to_thread.run_sync(self._door.kept.confirm, self._peer.name)
        except Exception as error:
            if not isinstance(error, OSError) and not is_passing(error):
                raise
            # It is confirmed by the next link: what is there is proved as well.
            log.warning("that orchestrator %s has its secret too is noted later: %s", self._peer.name, error)
        self._enter()

    def _enter(self) -> None:
        """Whoever is there may be let in, unless there is a newer link."""
        if self._stands:
            return
        peer = self._peer
        newest = self._fence.newest(peer.name)
        if peer.number <= newest:
            self._nursery.start_soon(self._refuse, newest)
            return
        self._stands = True
        if self._secret:
            key = self._link.session.meeting().session_key(self._secret)
            self._door.stands(peer.name, Judge(peer.number, key))
        self._nursery.start_soon(self._begin, peer, self._fence.enter(peer.name, peer.number, self))

    def _close(self, refused: Refuse) -> None:
        """End the link, and say why."""

        async def end() -> None:
            await self._link.say_last()
            self._link.end(refused.why)

        self._complaint.say("an orchestrator, %.8s, is refused: %s", self._peer.name, refused.why)
        self._link.tell("closed", {"code": refused.code, "why": refused.why}, Lane.URGENT)
        self._nursery.start_soon(end)

    @property
    def _peer(self) -> Hello:
        peer = self._link.session.peer
        assert peer is not None
        return peer

    # ------------------------------------------------------------------ orders

    def _order(self, message: Message) -> None:
        try:
            self._orders.send_nowait(message)
        except trio.WouldBlock:
            # All who have carried out orders before are at it.
            self._nursery.start_soon(self._carry_out_orders, message)

    async def _carry_out_orders(self, message: Message) -> None:
        """This one, and one after the other of those that come when there is nothing else to do."""
        speaking.set(self._peer.name if self._secret else None)
        while True:
            await self._carry_out(message)
            message = await self._orders_that_wait.receive()

    async def _carry_out(self, message: Message) -> None:
        try:
            body = await (self._submit(message) if message.kind == "submit" else self._keyed(message))
        except (WireError, OSError) as error:
            malformed = isinstance(error, BadRequest)
            body = {"error": str(error) or repr(error), "malformed": malformed}
        except Exception as error:
            if not is_passing(error):
                log.error("%s by the link went wrong", message.kind, exc_info=error)
            body = {"error": f"internal error: {error!r}"}
        self._answer(message, body)

    def _answer(self, message: Message, body: Mapping[str, Any]) -> None:
        if message.kind == "release" and self._table.count_held().get(self._peer.name):
            # Until it is answered the orchestrator gathers what it lets go of: with what is told next of what
            # goes on, or a heartbeat.
            self._link.leave(message.kind, body, Lane.ORDERS, answers=message.asks)
            return
        lane = Lane.URGENT if message.kind == "cancel" else Lane.ORDERS
        self._link.tell(message.kind, body, lane, answers=message.asks)

    async def _submit(self, message: Message) -> Mapping[str, Any]:
        items = await self._context.receiver.small(message.body, message.blob)
        return {**mark_to_json(self._table.mark), "items": [item.to_json() for item in items]}

    async def _keyed(self, message: Message) -> Mapping[str, Any]:
        keys = orders.parse_keys(message.body.get("keys"))
        match message.kind:
            case "lookup":
                items = await orders.lookup(self._context, keys)
            case "cancel":
                items = await orders.cancel(self._context, keys)
            case _:
                items = await orders.release(self._context, keys)
                for key in keys:
                    self._pushed.pop(key, None)
        return {"items": items}

    async def _refuse(self, newest: int) -> None:
        self._link.tell("refused", {"newest": newest}, Lane.URGENT)
        await self._link.say_last()
        self._link.end("there is a newer link")

    # ------------------------------------------------------------------ telling

    async def _begin(self, peer: Hello, older: object | None) -> None:
        if isinstance(older, _NodeLink):
            await older.end()

        def is_news(payload: Payload) -> bool:
            return is_told(payload, peer.name) and not is_answered(payload)

        async with self._table.subscribe(peer.name, is_news) as (picture, mark, changes):
            await self._tell_picture(picture, mark)
            self._nursery.start_soon(self._beat)
            with self._context.small_results.wanted(min(peer.each, peer.window)):
                while changed := await _receive(changes):
                    if self._tell_changes(changed, peer):
                        await self._link.drained(Lane.ORDERS)
            await self._leave()

    async def _tell_picture(self, picture: Sequence[Payload], mark: StreamPosition) -> None:
        body = {
            **mark_to_json(mark),
            "payloads": [orders.view(payload) for payload in picture],
            "heartbeat": await heartbeat(self._context),
            "executor": executor(self._context),
        }
        self._link.tell("picture", body, Lane.ORDERS)

    def _tell_changes(self, changed: Sequence[Payload], peer: Hello) -> bool:
        """Whether some of it goes with the orders; ends wait for room on their own."""
        told = {payload.key: payload for payload in changed}
        ended = [payload for payload in told.values() if self._is_to_be_pushed(payload, peer)]
        for payload in ended:
            del told[payload.key]
            self._pushed[payload.key] = _bound(payload)
        if read := self._context.small_results.take(ended, peer.each):
            self._tell_ends([view for view, _ in read.values()], [frames for _, frames in read.values()])
        unread = [payload for payload in ended if payload.key not in read]
        self._to_push += unread
        if unread and self._pushed_all.is_set():
            self._pushed_all = trio.Event()
            self._nursery.start_soon(self._push_results, peer)
        for payload in told.values():
            if payload.end is not None:
                self._context.small_results.drop(payload.key)
        if told:
            self._link.tell(
                "payloads", {"payloads": [orders.view(payload) for payload in told.values()]}, Lane.ORDERS
            )
        return bool(told)

    def _is_to_be_pushed(self, payload: Payload, peer: Hello) -> bool:
        if payload.end is None or payload.lost or payload.key in self._pushed or payload.status not in ENDED:
            return False
        size = _bound(payload)
        return size <= peer.each and sum(self._pushed.values()) + size <= peer.window

    async def _push_results(self, peer: Hello) -> None:
        while batch := self._to_push[:PUSHED_AT_ONCE]:
            del self._to_push[:PUSHED_AT_ONCE]
            try:
                found = await self._context.small_results.read(batch, peer.each, self._reading)
            except Exception as error:
                if not is_passing(error):
                    raise
                found = [b""] * len(batch)
            self._tell_ends([orders.view(payload) for payload in batch], found)
            await self._link.drained(Lane.RESULTS)
        self._pushed_all.set()

    def _tell_ends(self, views: Sequence[dict[str, Any]], found: Sequence[bytes]) -> None:
        """Whatever could not be read is told without, and asked for later."""
        body = {"payloads": views, "sizes": [len(frames) for frames in found]}
        self._link.tell("ended", body, Lane.RESULTS, b"".join(found))
        for view, frames in zip(views, found, strict=True):
            key = view["key"]
            if not frames:
                self._pushed.pop(key, None)
            elif key in self._pushed:
                self._pushed[key] = len(frames)

    async def _beat(self) -> None:
        while True:
            # From now on, not from when it was due: a sleeping machine owes no heartbeats.
            await trio.sleep(HEARTBEAT_EVERY)
            now = trio.current_time()
            if now - self._asked_at > SILENCE:
                self._link.end(f"nothing heard of the orchestrator for {now - self._heard:.0f} s")
            elif now - self._heard > QUIET and self._asked_at == math.inf:
                self._asked_at = now
                self._socket.ping()
            await self._link.drained(Lane.URGENT)
            self._link.tell("heartbeat", {"heartbeat": await heartbeat(self._context)}, Lane.URGENT)

    def _note_heard(self) -> None:
        self._heard, self._asked_at = trio.current_time(), math.inf

    async def _leave(self) -> None:
        last = self._table.subscriptions.farewell
        with trio.move_on_after(FAREWELL):
            await self._pushed_all.wait()
            if last is not None:
                self._link.tell("leaving", {"held": last.held, "back": last.back}, Lane.ORDERS)
            for lane in Lane:
                await self._link.drained(lane)
        self._link.end("the node stops" if last is not None else "its orchestrator reads too slowly")


def _bound(payload: Payload) -> int:
    """Bytes that come of it at most, if it left what it says."""
    return bound_of(0 if payload.end is None else payload.end.size)


async def _receive(changes: trio.MemoryReceiveChannel[Payload]) -> list[Payload]:
    """What has changed; those that are there already go along. Empty at the end."""
    changed: list[Payload] = []
    try:
        changed.append(await changes.receive())
        while len(changed) < EVENTS_AT_ONCE:
            changed.append(changes.receive_nowait())
    except (trio.WouldBlock, trio.EndOfChannel):
        pass
    return changed
