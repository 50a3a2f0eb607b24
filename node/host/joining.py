"""Joining an orchestrator: the node says who it is and where, says it again for as long as it lives, and says
when it leaves for good. One that is stopped with payloads on it stays joined: it is to be back for them.

The same request is repeated: so the node joins again by itself when the orchestrator was started anew or has
forgotten it, and nobody has to notice that.

A node that has agreed on a secret with the orchestrator proves that it has it, by a challenge that came with
the answer before. Else it says its token, if it has one: the next link agrees on a secret, by what the token
yields with the nonce that the node says here.
"""

from __future__ import annotations

import json
import logging
import socket
import ssl
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import urlsplit, urlunsplit

import httpx
import trio

from actors.kernel.backoff import Backoff
from actors.ports.world import Random
from actors.wire.http.server import Dialled
from actors.wire.http.tls import NoAuthorities, authorities_of
from actors.wire.link.dialled import dialled_url
from node.access.credentials import Credentials
from node.access.door import Door
from node.errors import NodeError
from node.host.connecting import describe_error
from node.settings import NodeSettings

log: Final = logging.getLogger("node.joining")

AGAIN: Final = 10.0
"""Seconds between two requests of a node that has joined."""
PATIENCE: Final = 20.0
"""Seconds that one request may take: the orchestrator asks us in return."""
LEAVING: Final = 2.0

_FAILURES: Final = (httpx.HTTPError, httpx.InvalidURL, UnicodeError, OSError)
"""Of a request. `OSError`: there is no descriptor for it. `UnicodeError`: a name that the resolver takes for
none."""


@dataclass(frozen=True, slots=True)
class Invitation:
    """Whom to join, and what is said there. `url` is where the orchestrator reaches this node."""

    orchestrator: str
    node_id: str
    url: str
    services: tuple[str, ...]
    slots: int | None
    labels: Mapping[str, str]
    machine: str | None
    nonce: str | None = None

    def body(self) -> dict[str, Any]:
        said = {} if self.nonce is None else {"nonce": self.nonce}
        return said | {
            "id": self.node_id,
            "url": self.url,
            "services": list(self.services),
            "slots": self.slots,
            "labels": dict(self.labels),
            "machine": self.machine,
        }


def load_trust(settings: NodeSettings) -> ssl.SSLContext | None:
    """Whose certificates of orchestrators are believed; None: the usual authorities'. Blocks. Raises
    NodeError."""
    if settings.ca_file is None:
        return None
    try:
        return authorities_of(settings.ca_file)
    except NoAuthorities as error:
        raise NodeError(f"--ca-file: {settings.ca_file} cannot be read: {error.detail}") from error


async def stay_joined(
    settings: NodeSettings,
    door: Door,
    listening: str,
    going: Callable[[], Awaitable[bool]],
    rng: Random,
    *,
    give: trio.MemorySendChannel[Dialled],
) -> None:
    """Join, stay joined until `going` returns, and leave, unless it says that the node will be back. What a
    node opens that is not reached goes to `give`. Raises NodeError."""
    orchestrator, url = settings.join, settings.advertise
    assert orchestrator is not None
    trust = await trio.to_thread.run_sync(load_trust, settings)
    if settings.dial_out:
        url = dialled_url(door.node_id)
    elif url is None:
        url = await trio.to_thread.run_sync(reachable_url, listening, orchestrator)

    def make_credentials() -> Credentials:
        return Credentials(door.node_id, door.token, lambda: door.kept.all)

    joining = Joining(
        Invitation(
            orchestrator,
            door.node_id,
            url,
            settings.join_services,
            settings.slots,
            settings.labels,
            settings.machine,
            None if door.token is None else door.said,
        ),
        rng,
        make_credentials(),
        trust=trust or True,
        proxy=settings.proxy,
    )
    async with trio.open_nursery() as until_stopped:
        until_stopped.start_soon(joining.run)
        if settings.dial_out:
            # Late: most nodes are reached.
            from node.host.dialling import Dialler

            dialler = Dialler(
                orchestrator,
                door.node_id,
                make_credentials(),
                rng,
                trust=trust or ssl.create_default_context(),
                proxy=settings.proxy,
            )
            until_stopped.start_soon(dialler.run, give)
        back = await going()
        until_stopped.cancel_scope.cancel()
    if not back:
        await joining.leave()


class Joining:
    """`run` joins and stays joined, until it is cancelled; `leave` comes after it."""

    def __init__(
        self,
        invitation: Invitation,
        rng: Random,
        credentials: Credentials | None = None,
        *,
        again: float = AGAIN,
        trust: ssl.SSLContext | bool = True,
        proxy: str | None = None,
    ) -> None:
        self._invitation = invitation
        self._credentials = credentials or Credentials(invitation.node_id, None, dict)
        self._rng = rng
        self._again = again
        self._trust = trust
        self._proxy = proxy
        self._trouble: str | None = ""
        self._unknown: tuple[str, ...] = ()
        """Those of its services that the orchestrator does not have, by its last answer."""
        self._told_unknown: tuple[str, ...] = ()

    async def run(self) -> None:
        backoff = Backoff(self._rng, first=0.25, most=AGAIN)
        async with self._client() as client:
            while True:
                trouble = await self._say(client)
                self._tell(trouble)
                if trouble is None:
                    backoff.reset()
                    await trio.sleep(self._again)
                else:
                    await trio.sleep(backoff.next())

    async def leave(self) -> None:
        """Say that this node goes. It goes whether anybody hears it or not."""
        with trio.move_on_after(LEAVING):
            try:
                async with self._client() as client:
                    path = f"/v1/nodes/{self._invitation.node_id}"
                    await self._credentials.send(client, "DELETE", path, params={"force": "true"})
            except _FAILURES as error:
                log.warning("%s was not told that this node leaves: %s", self._where, describe_error(error))

    @property
    def _where(self) -> str:
        return self._invitation.orchestrator

    def _client(self) -> httpx.AsyncClient:
        # Nothing of the environment: a company's proxy knows no node.
        return httpx.AsyncClient(
            base_url=self._where, trust_env=False, verify=self._trust, timeout=PATIENCE, proxy=self._proxy
        )

    async def _say(self, client: httpx.AsyncClient) -> str | None:
        """Why it did not join; None if it has."""
        with trio.move_on_after(PATIENCE):
            try:
                body = json.dumps(self._invitation.body()).encode()
                answer = await self._credentials.send(client, "POST", "/v1/nodes", body)
            except _FAILURES as error:
                return describe_error(error, proxied=self._proxy is not None)
            if answer.is_success:
                self._unknown = _unknown_services(answer)
                return None
            return f"HTTP {answer.status_code}: {_detail(answer)}"
        return f"no answer within {PATIENCE:g} s"

    def _tell(self, trouble: str | None) -> None:
        """Once for each change, not for each try."""
        if self._unknown != self._told_unknown:
            self._told_unknown = self._unknown
            if self._unknown:
                names = ", ".join(self._unknown)
                log.warning("%s has no service %s, so no job of it comes here", self._where, names)
        if trouble == self._trouble:
            return
        self._trouble = trouble
        if trouble is None:
            names = ", ".join(self._invitation.services)
            log.info("joined %s for %s as %s", self._where, names, self._invitation.url)
        else:
            log.warning("not joined to %s, it is tried again: %s", self._where, trouble)


def _unknown_services(answer: httpx.Response) -> tuple[str, ...]:
    """As the answer to a joining names them; one that says nothing of the sort knows them all."""
    try:
        named = answer.json()["unknown_services"]
    except (ValueError, KeyError, TypeError):
        return ()
    return tuple(str(name)[:100] for name in named[:10]) if isinstance(named, list) else ()


def reachable_url(listening: str, orchestrator: str) -> str:
    """The URL that an orchestrator is told if none is configured: where the node listens; if that is every
    address of the machine, the one from which the orchestrator is reached."""
    split = urlsplit(listening)
    if split.hostname not in ("0.0.0.0", "::"):
        return listening
    there = urlsplit(orchestrator)
    port = there.port or (443 if there.scheme == "https" else 80)
    try:
        # Connecting a datagram socket sends nothing; it chooses a route.
        family, kind, proto, _, address = socket.getaddrinfo(there.hostname, port, type=socket.SOCK_DGRAM)[0]
        with socket.socket(family, kind, proto) as probe:
            probe.connect(address)
            host = str(probe.getsockname()[0])
    except (OSError, UnicodeError):
        host = socket.gethostname()
    named = f"[{host}]" if ":" in host else host
    return urlunsplit((split.scheme, f"{named}:{split.port}", split.path, "", ""))


def _detail(answer: httpx.Response) -> str:
    try:
        found = answer.json()
    except ValueError:
        found = None
    detail = found.get("detail") if isinstance(found, dict) else None
    return str(detail or answer.reason_phrase)[:500]
