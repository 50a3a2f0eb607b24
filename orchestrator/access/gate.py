"""Before every route: who asks, and whether the route is for them.

1. A Bearer token says who asks. One that is unknown, expired or revoked is refused, whatever else holds.
2. Without one, a program of this machine is an operator: its socket belongs to the server's own uid, it has
   connected over loopback and asks for a loopback host, and no proxy says that it asks for another.
3. Else nobody is known: what is for everybody is answered, and the published contract where it is open.

Other schemes than Bearer are no tokens: proxies pass on what they have asked for themselves.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from actors.wire.http.app import Refusal
from actors.wire.http.plain_routes import Admit, Head
from actors.wire.http.web_pages import is_loopback
from orchestrator.access.local_peers import find_uid
from orchestrator.access.roles import Access, Principal, Role, access_to, asking
from orchestrator.access.tokens import Tokens

LOCAL: Final = Principal(Role.OPERATOR, "local")
CONTRACT: Final = Principal(Role.PORTAL, "open contract")
NOBODY: Final = Principal(Role.READER, "nobody")
"""Who asks for what is for everybody."""

_PROXIED: Final = (
    "Via",
    "Forwarded",
    "X-Forwarded-For",
    "X-Forwarded-Host",
    "X-Forwarded-Proto",
    "X-Forwarded-Port",
    "X-Forwarded-Server",
    "X-Forwarded-Prefix",
    "X-Real-IP",
)
"""Headers by which a proxy of this machine gives away that it asks for somebody else."""


@dataclass(frozen=True, slots=True)
class Gate:
    """See the module. `contract_open` says whether the published contract is open now; `uid` is whose
    programs are operators here."""

    tokens: Tokens
    guard: Admit
    contract_open: Callable[[], bool] = lambda: False
    uid: int = os.getuid()

    async def admit(self, head: Head) -> None:
        """Raise Refusal (401 or 403), or set who is `asking`."""
        access = access_to(head.method, head.rule)
        token = read_bearer(head.header("Authorization"))
        if token is None:
            # A page in a browser cannot add this header for another site: with it nothing else is asked.
            await self.guard(head)
        asking.set(self._admitted(head, access, token))

    def _admitted(self, head: Head, access: Access, token: str | None) -> Principal:
        principal = self._known(head, token)
        if principal is None:
            if access.everybody:
                return NOBODY
            if access.contract and self.contract_open():
                return CONTRACT
            raise Refusal(401, "no_token", _NO_TOKEN, headers=_CHALLENGE)
        if principal.role not in access.roles:
            roles = " or ".join(sorted(access.roles))
            detail = f"this is for the role {roles}, and the token is one of the role {principal.role}"
            raise Refusal(403, "wrong_role", detail)
        return principal

    def _known(self, head: Head, token: str | None) -> Principal | None:
        if token is not None:
            record = self.tokens.find(token)
            if record is None:
                raise Refusal(401, "bad_token", _BAD_TOKEN, headers=_CHALLENGE)
            return record.principal
        return LOCAL if self._is_local(head) else None

    def _is_local(self, head: Head) -> bool:
        if head.peer is None or head.host is None:
            return False
        (peer, _), (local, _) = head.peer, head.host
        if not is_loopback(peer) or not is_loopback(local) or any(map(head.header, _PROXIED)):
            return False
        named = head.header("Host")
        if named is None or not is_loopback(_name_of(named)):
            return False
        return find_uid(head.peer, head.host) == self.uid


def read_bearer(header: str | None) -> str | None:
    """The token in an Authorization header; None where there is none."""
    scheme, _, token = (header or "").strip().partition(" ")
    return token.strip() if scheme.lower() == "bearer" and token.strip() else None


def _name_of(authority: str) -> str:
    if authority.startswith("["):
        return authority.partition("]")[0].removeprefix("[")
    return authority.partition(":")[0]


_CHALLENGE: Final = {"WWW-Authenticate": "Bearer"}
_NO_TOKEN: Final = (
    "this needs a token, as `Authorization: Bearer ...`: an operator makes one with "
    "`orchestrator token create --role portal`"
)
_BAD_TOKEN: Final = "the token is not known, or has expired or been revoked"
