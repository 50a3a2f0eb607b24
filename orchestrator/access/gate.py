"""Before every route: who asks, and whether the route is for them.

1. A Bearer token says who asks. With one that is unknown, expired or revoked only what is for everybody is
   answered, whatever else holds.
2. A node that has a secret with this server proves it (`node_proofs`).
3. A proxy that signs people on says who asks, if it is one of those that are trusted.
4. A signed link (`links`) is as the token that it was made with, for its very path.
5. The cookie of a session (`sessions`) is as the token that it was begun with; orders by it show more.
6. Without any of these, a program of this machine is an operator (`local_peers`), where that is allowed.
7. Else nobody is known: what is for everybody is answered, and the published contract where it is open.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from ipaddress import ip_address
from os import urandom
from typing import Final

from actors.process.log_lines import request_id
from actors.wire.http.app import Refusal
from actors.wire.http.peers import parse_address
from actors.wire.http.plain_routes import Admit, Head, earlier
from actors.wire.http.web_pages import READS
from orchestrator.access.audit import Refusals, network_of
from orchestrator.access.limits import Rate
from orchestrator.access.links import Links
from orchestrator.access.node_proofs import ASKED_AGAIN, NodeProofs
from orchestrator.access.roles import (
    Access,
    Principal,
    Role,
    access_to,
    asked_from,
    asking,
    in_log,
    still_holds,
)
from orchestrator.access.sessions import HEADER, Sessions
from orchestrator.access.tokens import Tokens
from orchestrator.callbacks.allowed_hosts import Network

_REQUEST_ID: Final = re.compile(r"[A-Za-z0-9._:-]{1,100}", re.ASCII)
"""What a proxy may call a request; whatever else it is told gets a name of ours."""

LOCAL: Final = Principal(Role.OPERATOR, "local")
CONTRACT: Final = Principal(Role.PORTAL, "open contract")
NOBODY: Final = Principal(Role.READER, "nobody")
"""Who asks for what is for everybody."""


@dataclass(frozen=True, slots=True)
class SignOn:
    """A proxy in front that signs people on: from `proxies` alone, `header` names who asks. It holds the
    number of a user, or the name of one of the `operators`."""

    header: str = ""
    proxies: tuple[Network, ...] = ()
    operators: frozenset[str] = frozenset()

    def trusts(self, head: Head) -> bool:
        """Whether the request comes from one of the proxies."""
        if head.peer is None or not self.proxies:
            return False
        address = parse_address(head.peer[0])
        return address is not None and any(address in network for network in self.proxies)

    def address_of(self, head: Head) -> str:
        """Where the request comes from: what one of the proxies says of it, which adds at the end of what it
        was told; "" where that is not known."""
        if head.peer is None:
            return ""
        if self.trusts(head):
            told = (head.header("x-forwarded-for") or "").rpartition(",")[2].strip()
            with suppress(ValueError):
                return str(ip_address(told))
        return head.peer[0]

    def read(self, head: Head) -> Principal | None:
        """Who asks, if a proxy of ours says so. Raises Refusal for a name that says nothing to us."""
        name = head.header(self.header.lower()) if self.header else None
        if not name or not self.trusts(head):
            return None
        if name in self.operators:
            return Principal(Role.OPERATOR, name)
        if name.removeprefix("-").isdecimal() and name.isascii() and -(1 << 63) <= int(name) < 1 << 63:
            return Principal(Role.USER, f"user {int(name)}", user=int(name))
        detail = (
            f"{self.header} says {name[:100]!r}, which is neither a user's number nor in TRUSTED_OPERATORS"
        )
        raise Refusal(403, "unknown_person", detail)


class WrongRole(Refusal):
    """What `who` asks for is not for their role."""

    def __init__(self, who: Principal, detail: str) -> None:
        super().__init__(403, "wrong_role", detail)
        self.who = who


@dataclass(frozen=True, slots=True)
class Gate:
    """See the module. `guard` says what web pages may ask; `is_local` whether a program of this machine asks
    that is an operator; `contract_open` whether the published contract is open to who asks; it may
    say why not by a Refusal."""

    tokens: Tokens
    sessions: Sessions
    guard: Admit
    is_local: Callable[[Head], bool] = lambda head: False
    contract_open: Callable[[Head], bool] = lambda head: False
    sign_on: SignOn = SignOn()
    refusals: Refusals = field(default_factory=Refusals)
    nodes: NodeProofs | None = None
    links: Links | None = None
    token_rate: Rate = field(default_factory=lambda: Rate(lambda: 0.0, time.monotonic))
    address_rate: Rate = field(default_factory=lambda: Rate(lambda: 0.0, time.monotonic))

    async def admit(self, head: Head) -> None:
        """Raise Refusal (401 or 403), or set who is `asking`."""
        address = self.sign_on.address_of(head)
        asked_from.set(address)
        still_holds.set(None)
        told = head.header("x-request-id")
        if told is None or not _REQUEST_ID.fullmatch(told):
            told = urandom(8).hex()
        request_id.set(told)
        name = ""
        try:
            admitted = await self._admit(head)
            asking.set(admitted)
            name = admitted.name
        except Refusal as refusal:
            # Whether anybody is logged in is asked by each page that is opened.
            opened = refusal.code == "no_token" and head.rule == "/v1/session"
            before = earlier.get()
            if refusal.code != ASKED_AGAIN and not opened and not (before and before.refused):
                who = refusal.who if isinstance(refusal, WrongRole) else None
                self.refusals.note(address, refusal.code, f"{head.method} {head.path}", who)
            raise
        finally:
            in_log.set((head.path, name))

    async def _admit(self, head: Head) -> Principal:
        access = access_to(head.method, head.rule)
        token = read_bearer(head.header("authorization"))
        link = self.links.read(head) if self.links is not None and token is None else None
        if token is None and link is None:
            # A page in a browser cannot add this header for another site: with it nothing else is asked.
            await self.guard(head)
        if link is not None and link.token is not None and (maker := self.tokens.get(link.token)) is not None:
            still_holds.set(partial(self.tokens.holds, maker))
        return self._admitted(head, access, link or self._known(head, access, token))

    def _admitted(self, head: Head, access: Access, principal: Principal | None) -> Principal:
        if principal is None:
            if access.everybody:
                self._limit_address(head)
                return NOBODY
            if access.contract and self.contract_open(head):
                return CONTRACT
            self._limit_address(head)
            if head.rule == "/swagger" and "text/html" in (head.header("accept") or ""):
                # A browser: it is led to where one logs in, as `/` leads it. Relative, for a path before it.
                headers = {"Location": "dashboard", "Vary": "Accept"}
                raise Refusal(303, "no_token", "log in first", headers=headers)
            role = Role.PORTAL if Role.PORTAL in access.roles else min(access.roles)
            raise Refusal(401, "no_token", _NO_TOKEN.format(role=role), headers=CHALLENGE)
        if principal is not LOCAL and (wait := _take(self.token_rate, principal.token or principal.name)):
            raise _too_many("token_rate", f"too many requests by {principal.name}", wait)
        if principal.role not in access.roles:
            roles = " or ".join(sorted(access.roles))
            detail = f"this is for the role {roles}, and {principal.name} has the role {principal.role}"
            raise WrongRole(principal, detail)
        return principal

    def _limit_address(self, head: Head) -> None:
        """Raise Refusal for one that asks too often without a token that holds. A proxy is everybody."""
        if head.peer is None or self.sign_on.trusts(head):
            return
        if wait := _take(self.address_rate, network_of(head.peer[0])):
            raise _too_many("address_rate", "too many requests without a token from this address", wait)

    def _known(self, head: Head, access: Access, token: str | None) -> Principal | None:
        if token is not None:
            record = self.tokens.find(token)
            if record is None and access.everybody:
                return None  # a probe is answered whatever it was once given
            if record is None:
                self._limit_address(head)
                raise Refusal(401, "bad_token", _BAD_TOKEN, headers=CHALLENGE)
            still_holds.set(partial(self.tokens.holds, record))
            return record.principal
        if self.nodes is not None and (node := self.nodes.read(head)) is not None:
            return node
        if (person := self.sign_on.read(head)) is not None:
            return person
        session = self.sessions.find(head.header("cookie"))
        if session is not None:
            # Logging in anew orders nothing in the name of who is logged in.
            is_order = head.method not in READS and (head.method, head.rule) != ("POST", "/v1/session")
            if is_order and not session.allows_order(head.header(HEADER.lower())):
                raise Refusal(403, "no_session_token", _NO_SESSION_TOKEN)
            still_holds.set(partial(self.sessions.holds, session.record))
            return session.principal
        # A proxy asks for others, and is none of them itself.
        return LOCAL if self.is_local(head) and not self.sign_on.trusts(head) else None


def _take(rate: Rate, who: str) -> int:
    """As `Rate.take`; a request that is asked for twice counts once."""
    before = earlier.get()
    if before is not None and before.counted:
        return 0
    wait = rate.take(who)
    if before is not None and not wait:
        before.counted = True
    return wait


def _too_many(limit: str, what: str, wait: int) -> Refusal:
    detail = f"{what}: try again in {wait} s (setting {limit})"
    return Refusal(429, limit, detail, headers={"Retry-After": str(wait)})


def read_bearer(header: str | None) -> str | None:
    """The token in an Authorization header; None where there is none. Other schemes are none: proxies pass on
    what they have asked for themselves."""
    if header is None:
        return None
    scheme, _, token = header.strip().partition(" ")
    return token.strip() if scheme.lower() == "bearer" and token.strip() else None


CHALLENGE: Final = {"WWW-Authenticate": "Bearer"}
_NO_SESSION_TOKEN: Final = (
    f"an order by cookie needs the header {HEADER} with the `session_token` of GET /v1/session"
)
_NO_TOKEN: Final = (
    "this needs a token, as `Authorization: Bearer ...`: an operator makes one with "
    "`orchestrator token create --role {role}`"
)
_BAD_TOKEN: Final = "the token is not known, or has expired or been revoked"
