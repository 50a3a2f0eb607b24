"""The orchestrator's end of the links to its nodes: one for each node, opened by whoever follows it.

What was asked of a node over its link and never went out is not sent; what went out and was not answered is
in doubt. A node that has had a link is asked for nothing by other ways while it has none: it would be told
things that its next picture does not reckon with. Results that came unasked are kept until they are
collected, or released, or the link ends.

Both prove who they are first, with the secret of both, or agree on one (see `actors/wire/link/proof.py`):
nothing is heard of a node that has not, and nothing is ordered of it, by whatever way. A node that has no
secret with us and knows no proofs is an older one; it is let in as long as no secret is asked for.
"""

from __future__ import annotations

import logging
import ssl
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any, Final, Protocol
from urllib.parse import urlsplit

import trio

from actors.domain.node import NodeRef
from actors.kernel.concurrently import run_beside
from actors.ports.ledger import LedgerError
from actors.ports.nodes import Beat, NodeEvent, PayloadChanged, Picture
from actors.store.durable import is_passing
from actors.wire.errors import WireError
from actors.wire.link.dialled import dialled_node
from actors.wire.link.link import Link, NotSent
from actors.wire.link.proof import PROOF_HEADER, NotProved, Offer, Prover, new_nonce
from actors.wire.link.session import MAX_FRAME, Hello, Lane, Message, Role, Session
from actors.wire.link.websocket import LinkBroken, NotUpgraded, WebSocket, ask_for
from actors.wire.protocol.attempts import Garbled, view_from_json
from orchestrator.access.node_secrets import NodeSecret
from orchestrator.dialled_streams import DialledStreams
from orchestrator.http_client import NotReached, Scarce
from orchestrator.nodes.native.events import Beats, Listening, Tell, meant_for, parse_event

log: Final = logging.getLogger("orchestrator.nodes")

MOST: Final = {Lane.URGENT: 1 << 20, Lane.ORDERS: 64 << 20, Lane.RESULTS: 16 << 20}
"""Bytes of a message from a node; a picture is one."""
EACH: Final = 512 * 1024
"""Bytes of a result that may come unasked."""
WINDOW: Final = 4 << 20
"""Bytes of such results that a node may have sent and that it was not told to release."""
KEPT: Final = 20_000
"""Attempts of which results came unasked, and are not collected yet."""
DIALLING: Final = 10.0
WITHIN: Final = 30.0
"""Seconds for an answer."""


CLOSED_MOST: Final = 500
NOT_JOINED: Final = (
    "the node has joined, and there is no secret with it yet: one is agreed on once it joins again"
)


class Secrets(Protocol):
    """See `orchestrator/access/node_secrets.py`."""

    @property
    def on_forget(self) -> list[Callable[[str], None]]: ...
    def find(self, node_id: str) -> NodeSecret | None: ...
    def key_for(self, node_id: str, url: str) -> str | None: ...
    async def keep(self, node_id: str, secret: bytes, now: float) -> None: ...


class NodeLink:
    """The link to one node, once its picture has come. `ref` says which boot of it is there, and how far it
    had come when it was heard last."""

    def __init__(self, ref: NodeRef, link: Link, prover: Prover | None) -> None:
        self.ref = ref
        self.prover = prover
        """Of requests beside the link; None where nothing is to be proved."""
        self._link = link
        self._results: dict[str, bytes] = {}
        self._size = 0

    async def ask(
        self, kind: str, body: Mapping[str, Any], blob: bytes = b"", lane: Lane = Lane.ORDERS
    ) -> Mapping[str, Any]:
        """The body of the answer. Raises NotSent, InDoubt."""
        return (await self._link.ask(kind, body, lane, blob, within=WITHIN)).body

    def keep_results(self, key: str, frames: bytes) -> None:
        """Raises Garbled for more than a node that keeps to the window can have sent."""
        self.take_results(key)
        self._results[key] = frames
        self._size += len(frames)
        if self._size > WINDOW or len(self._results) > KEPT:
            raise Garbled("the node sends more results unasked than there is room for")

    def end(self, why: str) -> None:
        self._link.end(why)

    def take_results(self, key: str) -> bytes | None:
        """What came of an attempt unasked; it is not kept any longer."""
        frames = self._results.pop(key, None)
        self._size -= len(frames or b"")
        return frames


class NodeLinks:
    """`owner`: the orchestrator's id. `trust`: whose certificates are believed. `secrets` None: nothing is
    proved. `dialled`: connections that nodes have opened."""

    def __init__(
        self,
        owner: str,
        trust: ssl.SSLContext,
        secrets: Secrets | None = None,
        dialled: DialledStreams | None = None,
    ) -> None:
        self._dialled_streams = dialled or DialledStreams()
        self.owner: Final = owner
        self.secrets: Final = secrets
        self._trust = trust
        if secrets is not None:
            secrets.on_forget.append(self.end)
        self._number = 0
        self._dialled: set[str] = set()
        self._links: dict[str, NodeLink] = {}
        self._linked: set[str] = set()
        self._provers: dict[str, Prover] = {}
        """Of the last link to each node, until there is another one."""

    def must_prove(self, node: NodeRef) -> bool:
        """Whether a node has to prove who it is before it is believed anything."""
        if self.secrets is None:
            return False
        return self.secrets.find(node.node_id) is not None or bool(
            self.secrets.key_for(node.node_id, node.url)
        )

    def headers(self, node: NodeRef, method: str, target: str) -> dict[str, str]:
        """Those of a request beside the link; `target` begins with `/v1`. Raises NotSent where there was no
        link yet to prove it by."""
        prover = self._provers.get(node.node_id)
        if prover is None:
            if self.must_prove(node):
                raise NotSent("the node has not proved yet who it is")
            return meant_for(node)
        path, _, query = target.partition("?")
        return {**meant_for(node), PROOF_HEADER: prover.header(method, path, query)}

    def to(self, node: NodeRef) -> NodeLink | None:
        """The link to a node; None for one that is asked over HTTP. Raises NotSent for one that has none
        now."""
        link = self._links.get(node.node_id)
        if link is None and (node.node_id in self._linked or self.must_prove(node)):
            raise NotSent("there is no link to the node now")
        if link is not None and link.ref.has_forgotten(node.moment):
            raise NotSent("the machine of the node was started anew since, or set back")
        return link

    async def follow(self, node: NodeRef, tell: Tell, silence: float) -> str | None:
        """Tell what the node tells over a link, until that ends or nothing came for `silence` seconds. Why it
        ended is the result; None if there is no link to be had. Raises Scarce."""
        with self._dial_once(node.node_id) as first:
            if not first:
                return None  # by another address: its events say that it is followed there
            try:
                socket = await _dial(node, self._trust, self._dialled_streams)
            except NotUpgraded as error:
                if error.status == 421 or self.must_prove(node):
                    return error.detail
                self._linked.discard(node.node_id)
                return None
            except (NotReached, LinkBroken) as error:
                if isinstance(error, Scarce):
                    raise
                return str(error)
            return await self._follow(node, socket, tell, silence)

    @contextmanager
    def _dial_once(self, node_id: str) -> Iterator[bool]:
        if node_id in self._dialled:
            yield False
            return
        self._dialled.add(node_id)
        try:
            yield True
        finally:
            self._dialled.discard(node_id)

    async def _follow(self, node: NodeRef, socket: WebSocket, tell: Tell, silence: float) -> str:
        known = None if self.secrets is None else self.secrets.find(node.node_id)
        key = None if self.secrets is None else self.secrets.key_for(node.node_id, node.url)
        offer = None
        if self.secrets is not None and known is None:
            if key is None:
                await socket.aclose()
                return NOT_JOINED
            offer = Offer()
        self._number = max(self._number + 1, time.time_ns())
        hello = Hello(
            Role.ORCHESTRATOR,
            self.owner,
            number=self._number,
            each=EACH,
            window=WINDOW,
            nonce="" if self.secrets is None else new_nonce(),
            offer="" if offer is None else offer.public,
        )
        link = Link(socket, Session(hello, MOST))
        listening = Listening(silence)
        socket.heard = listening.note
        agreeing = None if offer is None or key is None else _Agreeing(self, node.node_id, link, offer, key)
        secret = b"" if known is None else known.secret
        hearer = _Hearer(self, node, link, tell, secret=secret, agreeing=agreeing)

        async def follow() -> str:
            heard = partial(link.run, hearer.hear)
            return await heard() if agreeing is None else await run_beside(heard, agreeing.run) or ""

        try:
            return await listening.until_silent(follow)
        finally:
            if hearer.node_link is not None and self._links.get(node.node_id) is hearer.node_link:
                del self._links[node.node_id]

    def stands(self, link: NodeLink) -> None:
        self._links[link.ref.node_id] = link
        self._linked.add(link.ref.node_id)
        if link.prover is not None:
            self._provers[link.ref.node_id] = link.prover

    def end(self, node_id: str) -> None:
        """What a node has proved does not hold any more."""
        self._provers.pop(node_id, None)
        if (link := self._links.get(node_id)) is not None:
            link.end("the secret with the node was forgotten")

    def proves_itself(self, node_id: str) -> None:
        """From now on a node proves who it is before it is asked anything over what it has opened."""
        self._dialled_streams.drop(node_id)

    def refused(self, newest: int) -> None:
        """A node has a link with a higher number: our clock was set back."""
        self._number = max(self._number, newest)


class _Hearer:
    """What a node says over a link. It waits for nothing."""

    def __init__(
        self,
        links: NodeLinks,
        node: NodeRef,
        link: Link,
        tell: Tell,
        *,
        secret: bytes,
        agreeing: _Agreeing | None,
    ) -> None:
        self._secret = secret
        self._agreeing = agreeing
        self._links = links
        self._node = node
        self._link = link
        self._tell = tell
        self._beats = Beats()
        self.node_link: NodeLink | None = None
        """Once the picture has come."""

    def hear(self, message: Message) -> None:
        """Raises Garbled, and what `tell` raises."""
        match message.kind:
            case "hello":
                self._meet()
            case "proof" | "offer" if self._agreeing is not None:
                self._agreeing.hear(message)
            case "proof" if self._secret:
                pass
            case "offer":
                raise Garbled("it offers what it was not asked for")
            case "closed":
                why = message.body.get("why")
                self._link.end(f"the node lets nobody in: {str(why)[:CLOSED_MOST]}")
            case "refused":
                newest = message.body.get("newest")
                self._links.refused(newest if isinstance(newest, int) else 0)
            case "payloads" if self.node_link is not None:
                for view in _views(message):
                    self._tell(self._node, PayloadChanged(view))
            case "ended":
                self._hear_ends(message)
            case kind if self.node_link is not None or kind == "picture":
                told = parse_event(kind, message.body, self._links.owner)
                if isinstance(told, Picture):
                    self.node_link = NodeLink(self._node, self._link, self._prover())
                    self._links.stands(self.node_link)
                if isinstance(told, Picture | Beat):
                    assert self.node_link is not None
                    self.node_link.ref = replace(self._node, tally=told.heartbeat.tally)
                if told is not None:
                    self._tell(self._node, self._beats.judge(self._bounded(told)))

    def _bounded(self, told: NodeEvent) -> NodeEvent:
        known = None if self._links.secrets is None else self._links.secrets.find(self._node.node_id)
        return at_most(told, None if known is None else known.terms.max_slots)

    def _meet(self) -> None:
        peer = self._link.session.peer
        assert peer is not None
        if peer.name != self._node.node_id:
            raise Garbled("another node answers")
        self._node = replace(self._node, boot=peer.boot)
        session = self._link.session
        if session.admitted:
            return
        if not peer.nonce:
            if self._links.must_prove(self._node):
                raise Garbled("the node knows no proofs, and is to prove that it has the secret of both")
            session.admit()
        elif self._secret:
            session.expect(self._secret)
            self._link.prove(self._secret)

    def _prover(self) -> Prover | None:
        """Raises Garbled for a node that says what it has before both have kept their secret."""
        secret = self._secret
        if self._agreeing is not None and self._link.session.proves:
            if not self._agreeing.kept:
                raise Garbled("a picture before both have agreed")
            secret = self._agreeing.secret
        if not secret:
            return None
        meeting = self._link.session.meeting()
        return Prover(self._links.owner, meeting.number, meeting.session_key(secret))

    def _hear_ends(self, message: Message) -> None:
        views, sizes = _views(message), message.body.get("sizes")
        if self.node_link is None or not isinstance(sizes, list) or len(sizes) != len(views):
            raise Garbled("ends without a picture, or without their sizes")
        at = 0
        for view, size in zip(views, sizes, strict=True):
            if not isinstance(size, int) or not 0 <= size <= len(message.blob) - at:
                raise Garbled("ended.sizes: more than has come")
            if size:
                self.node_link.keep_results(view.key, message.blob[at : at + size])
            at += size
            self._tell(self._node, PayloadChanged(view, delivered=size > 0))


def at_most(told: NodeEvent, slots: int | None) -> NodeEvent:
    """What a node says, with no more slots than the token allows that it joined by; None: any number."""
    if slots is None or not isinstance(told, Picture | Beat):
        return told
    said = told.heartbeat.slots
    return replace(told, heartbeat=replace(told.heartbeat, slots=slots if said is None else min(said, slots)))


class _Agreeing:
    """Agreeing with a node on a secret: it says its half, both prove that they have the same, and it has kept
    it then; once it is kept here too, the node hears that it is ready."""

    def __init__(self, links: NodeLinks, node_id: str, link: Link, offer: Offer, key: str) -> None:
        self.secret = b""
        self.kept = False
        self._links = links
        self._node_id = node_id
        self._link = link
        self._offer = offer
        self._key = key
        self._put, self._heard = trio.open_memory_channel[Message](2)

    def hear(self, message: Message) -> None:
        """Raises Garbled."""
        try:
            self._put.send_nowait(message)
        except trio.WouldBlock:
            raise Garbled("too much is offered") from None

    async def run(self, _: trio.CancelScope) -> None:
        try:
            self._agree(await self._heard.receive())
            await self._heard.receive()  # its proof, which was judged
            assert self._links.secrets is not None
            with trio.CancelScope(shield=True):  # what the ledger has is known here
                await self._links.secrets.keep(self._node_id, self.secret, time.time())
        except (WireError, LedgerError) as error:
            self._link.end(str(error))
            return
        self.kept = True
        self._links.proves_itself(self._node_id)
        log.info("node %s is paired with this orchestrator", self._node_id)
        self._link.tell("ready", {}, Lane.URGENT)

    def _agree(self, message: Message) -> None:
        """Raises NotProved."""
        if message.kind != "offer":
            raise NotProved("it proves what nobody has agreed on")
        theirs, by = str(message.body.get("offer")), message.body.get("by")
        if (by == "token") is not bool(self._key):
            how = "by its token alone: let it join by it" if by == "token" else "with the first that comes"
            raise NotProved(f"the node agrees on a secret {how}")
        self.secret = self._offer.agree(theirs, self._link.session.meeting(), self._key)
        self._link.session.expect(self.secret)
        self._link.prove(self.secret)


def _views(message: Message) -> Sequence[Any]:
    payloads = message.body.get("payloads")
    if not isinstance(payloads, list):
        raise Garbled("payloads: a list was expected")
    return [view_from_json(payload) for payload in payloads]


async def _dial(node: NodeRef, trust: ssl.SSLContext, dialled: DialledStreams) -> WebSocket:
    """Raises NotReached, NotUpgraded, LinkBroken."""
    url = f"{node.url}/v1/link"
    stream: trio.abc.Stream | None = None
    try:
        with trio.fail_after(DIALLING):
            stream = await _connect(url, trust, dialled)
            return await ask_for(stream, url, meant_for(node), MAX_FRAME)
    except BaseException as error:
        if stream is not None:
            await trio.aclose_forcefully(stream)  # noqa: ASYNC102  # it does not wait
        if isinstance(error, trio.TooSlowError):
            raise LinkBroken(f"{url}: no link within {DIALLING:g} s") from error
        if is_passing(error):
            raise Scarce(f"{url}: no connection: {error}") from error
        if isinstance(error, OSError | ValueError | trio.BrokenResourceError):
            raise NotReached(f"{url}: no connection: {error}") from error
        raise


async def _connect(url: str, trust: ssl.SSLContext, dialled: DialledStreams) -> trio.abc.Stream:
    parts = urlsplit(url)
    host = parts.hostname or ""
    if (node_id := dialled_node(host)) is not None:
        return await dialled.take(node_id)
    secure = parts.scheme == "https"
    tcp = await trio.open_tcp_stream(host, parts.port or (443 if secure else 80))
    if not secure:
        return tcp
    return trio.SSLStream(tcp, trust, server_hostname=host, https_compatible=True)
