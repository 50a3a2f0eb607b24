"""Callbacks over HTTP, signed as Standard Webhooks wants it.

A portal's URL is somebody else's word: it must not make this server talk to what only this server can reach.
So the name is looked up here, each of its addresses is looked at, and the connection goes to the very address
that was looked at: a second look-up could tell another one. Redirects are not followed, nothing of the
environment is obeyed, and nothing of the answer is kept but its status. Why a try failed is told in kinds, as
users read it: what the network said, and which addresses a name has, is for the debug log.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import partial
from ipaddress import ip_address
from typing import Any, Final
from urllib.parse import urlsplit

import trio
from standardwebhooks.webhooks import Webhook

from actors.ports.callbacks import Callback, PostAnswer, PostResult, Subject
from actors.ports.ledger import LedgerError
from actors.ports.storage import StorageError
from actors.ports.world import Clock
from actors.wire.protocol.contract import rfc3339
from orchestrator.callbacks.allowed_hosts import CallbackHosts, NotAllowed
from orchestrator.http_client import Broken, Deadlines, Http, NotHttp, NotReached, UntrustedPeer

log: Final = logging.getLogger("orchestrator.callbacks")

READ: Final = 4096
"""Bytes of an answer that are read, so that its sender can finish."""
READING: Final = 2.0
"""Seconds that this may take."""
MOST_ADDRESSES: Final = 4
LOOKUPS: Final = 64
"""Names that are looked up at once. A look-up cannot be stopped, and takes some 15 s where no name server
answers; a try waits for it 10 s. So these are more than the sick half of the CallbackSender's places can
hold."""

Resolve = Callable[[str, int], Awaitable[Sequence[str]]]
"""The addresses of a name. Raises OSError and UnicodeError."""


class SystemNames:
    """As this machine looks names up, in threads of its own: slow name servers hold up nothing else."""

    def __init__(self) -> None:
        self._threads = trio.CapacityLimiter(LOOKUPS)

    async def look_up(self, host: str, port: int) -> Sequence[str]:
        """Raises OSError and UnicodeError. Cancelled, it leaves its thread alone."""
        asked = partial(socket.getaddrinfo, host, port, type=socket.SOCK_STREAM)
        found = await trio.to_thread.run_sync(asked, abandon_on_cancel=True, limiter=self._threads)
        return list(dict.fromkeys(str(address[0]) for *_, address in found))


@dataclass(frozen=True, slots=True)
class Limits:
    """Seconds: for a connection, and for all of a try until the head of the answer."""

    connect: float = 10.0
    whole: float = 30.0


class CallbackClient:
    """Implements `actors.ports.callbacks.Poster`. Close it with `aclose`."""

    def __init__(
        self,
        *,
        http: Http,
        hosts: CallbackHosts,
        secrets: Sequence[str],
        owner: str,
        clock: Clock,
        tell: Callable[[Subject], Awaitable[Mapping[str, Any]]],
        version: str = "",
        lookup: Resolve | None = None,
        limits: Limits | None = None,
    ) -> None:
        """`tell` gives a job or a batch as it is told. `owner` is the ledger's name: no other orchestrator
        gives the same ids to its messages. `lookup`: instead of the way this machine looks names up."""
        self._http = http
        self._hosts = hosts
        self._signers = [Webhook(secret) for secret in secrets]
        self._owner = owner
        self._clock = clock
        self._tell = tell
        self._agent = f"job-orchestrator/{version}" if version else "job-orchestrator"
        self._lookup = lookup or SystemNames().look_up
        self._limits = limits or Limits()

    async def post(self, callback: Callback) -> PostAnswer:
        limits = self._limits
        if not self._signers:
            return _not_sent("there is nothing to sign it with: the server's log says why")
        try:
            url = self._hosts.url(callback.url)  # the settings may be others than when it was handed in
            body = await self._body(callback)
            with trio.move_on_after(limits.whole) as limit:
                addresses = await self._addresses(url)
                return await self._post(callback, url, addresses, body, limit)
        except NotAllowed as error:
            return _not_sent(str(error))
        except (LedgerError, StorageError) as error:
            log.debug("%s could not be read for its callback: %s", callback.subject, error)
            return _not_sent(f"the {callback.subject.kind} could not be read")
        return _failed(f"no answer within {limits.whole:g} s")

    async def _body(self, callback: Callback) -> bytes:
        data = await self._tell(callback.subject)
        kind = f"{callback.subject.kind}.ended"
        body = {"type": kind, "timestamp": rfc3339(callback.since), "data": data}
        return json.dumps(body, separators=(",", ":")).encode()

    async def _addresses(self, url: str) -> Sequence[str]:
        """Those of the host that it may have, at least one. Raises NotAllowed."""
        split = urlsplit(url)
        host = split.hostname or ""
        try:
            found: Sequence[str] = [str(ip_address(host))]
        except ValueError:
            found = await self._looked_up(host, split.port or (443 if split.scheme == "https" else 80))
        allowed = [
            address for address in found if self._hosts.may_have(ip_address(address.partition("%")[0]))
        ]
        if not allowed:
            log.debug("%s is at %s", host, ", ".join(found[:MOST_ADDRESSES]))
            raise NotAllowed(
                f"{host} is at a private address, which the setting callback_private has to allow"
            )
        return allowed[:MOST_ADDRESSES]

    async def _looked_up(self, host: str, port: int) -> Sequence[str]:
        with trio.move_on_after(self._limits.connect):
            try:
                found = await self._lookup(host, port)
            except (OSError, UnicodeError) as error:
                log.debug("%s has no address: %s", host, error)
                raise NotAllowed(f"{host} has no address") from error
            if not found:
                raise NotAllowed(f"{host} has no address")
            return found
        raise NotAllowed(f"{host}: no address within {self._limits.connect:g} s")

    async def _post(
        self,
        callback: Callback,
        url: str,
        addresses: Sequence[str],
        body: bytes,
        limit: trio.CancelScope,
    ) -> PostAnswer:
        """`limit` is lifted once there is the head of an answer: nothing after it changes what it says."""
        limits, reason = self._limits, ""
        connect = limits.connect / min(len(addresses), 2)
        patience = Deadlines(connect=connect, head=limits.whole, stall=limits.whole)
        for address in addresses:
            try:
                async with self._http.post_to(
                    address,
                    url,
                    headers=self._headers(callback, body),
                    content=body,
                    patience=patience,
                ) as reply:
                    answer = self._judge(reply.status, reply.headers)
                    limit.deadline = math.inf
                    # Shielded, as an answer that is here is not thrown away because the server stops.
                    with trio.move_on_after(READING, shield=True):
                        await _drain(reply)
                    return answer
            except NotReached as error:
                log.debug("the callback of %s: %s", callback.subject, error)
                untrusted = isinstance(error, UntrustedPeer)
                reason = "its certificate is not trusted" if untrusted else "no connection"
                # Not a byte went out: the next address may be tried.
            except Broken as error:
                log.debug("the callback of %s: %s", callback.subject, error)
                no_http = isinstance(error, NotHttp)
                return _failed("its answer was no HTTP" if no_http else "the connection broke")
        return _not_sent(reason)

    def _headers(self, callback: Callback, body: bytes) -> Mapping[str, str]:
        now = int(self._clock.now())
        # A batch's id is longer than any job's, so that no two have the same.
        number = hashlib.sha256(f"{self._owner} {callback.subject.id}".encode()).hexdigest()[:32]
        at = datetime.fromtimestamp(now, UTC)
        signed = [signer.sign(f"msg_{number}", at, body.decode()) for signer in self._signers]
        return {
            "content-type": "application/json",
            "user-agent": self._agent,
            "webhook-id": f"msg_{number}",
            "webhook-timestamp": str(now),
            "webhook-signature": " ".join(signed),
        }

    def _judge(self, status: int, headers: Mapping[str, str]) -> PostAnswer:
        if 200 <= status < 300:
            return PostAnswer(PostResult.DELIVERED)
        if status == 410:
            return PostAnswer(PostResult.GONE, "HTTP 410: the receiver wants no more")
        if 300 <= status < 400:
            return _failed(f"HTTP {status}: redirects are not followed")
        wait = self._wanted_wait(headers.get("retry-after", "")) if status in (429, 503) else None
        return _failed(f"HTTP {status}", wait)

    def _wanted_wait(self, text: str) -> float | None:
        """Seconds, from either of the forms that the header has."""
        if text.isascii() and text.isdigit():
            return float(text[:9])
        try:
            return max(0.0, parsedate_to_datetime(text).timestamp() - self._clock.now())
        except (ValueError, OverflowError):
            return None


def _failed(reason: str, retry_after: float | None = None) -> PostAnswer:
    return PostAnswer(PostResult.FAILED, reason, retry_after)


def _not_sent(reason: str) -> PostAnswer:
    return PostAnswer(PostResult.FAILED, reason, connected=False)


async def _drain(reply: AsyncIterator[bytes]) -> None:
    """Whatever becomes of the rest: the status was the answer."""
    read = 0
    try:
        async for piece in reply:
            read += len(piece)
            if read >= READ:
                return
    except Broken as error:
        log.debug("the rest of an answer was not read: %s", error)
