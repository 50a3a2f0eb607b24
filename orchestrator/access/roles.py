"""Roles, and which of them each route is for: the one table.

A route that is not in the table is nobody's, and the server does not start with one. Whose job it is comes on
top: what a role may do it may do with the jobs that `Principal.sees`; another's is as unknown as none.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from enum import StrEnum
from typing import Final


class Role(StrEnum):
    """PORTAL: submits and reads for any user of its services. USER: their own jobs alone. OPERATOR: all.
    READER: numbers and states, and of jobs neither names nor files nor logs. NODE: joins and leaves."""

    PORTAL = "portal"
    USER = "user"
    OPERATOR = "operator"
    READER = "reader"
    NODE = "node"


@dataclass(frozen=True, slots=True)
class Principal:
    """Who asks. `services` empty: any; `user` None: any. `token`: the id of the token that said so, None for
    who needs none. `node`: the id of a node that has proved who it is."""

    role: Role
    name: str
    services: frozenset[str] = frozenset()
    user: int | None = None
    token: str | None = None
    node: str | None = None

    def serves(self, service: str) -> bool:
        """Whether a service is theirs."""
        return not self.services or service in self.services

    def sees(self, user_id: int, service: str) -> bool:
        """Whether a job of this user and service is theirs."""
        return self.user in (None, user_id) and self.serves(service)

    def sees_all(self, user_id: int | None, services: Iterable[str]) -> bool:
        """Whether jobs of this user (None: of several) and of these services are all theirs."""
        return self.user in (None, user_id) and all(map(self.serves, services))


@dataclass(frozen=True, slots=True)
class Access:
    """Whom a route is for. `everybody`: also who does not say who they are. `contract`: of the published
    contract, which may be open."""

    roles: frozenset[Role]
    everybody: bool = False
    contract: bool = False


_ALL: Final = frozenset(Role)
_JOBS: Final = frozenset({Role.PORTAL, Role.USER, Role.OPERATOR})
_LISTS: Final = _JOBS | {Role.READER}
_NUMBERS: Final = frozenset({Role.READER, Role.OPERATOR})
_ORDERS: Final = frozenset({Role.OPERATOR})
_NODES: Final = frozenset({Role.NODE, Role.OPERATOR})

EVERYBODY: Final = Access(_ALL, everybody=True)
ANYBODY: Final = Access(_ALL)
"""Whoever has any role: also what no route is there for."""

ROUTES: Final[Mapping[str, Access]] = {
    "GET /health": EVERYBODY,
    "GET /ready": EVERYBODY,
    # It says that the server answers, and leads a browser to where one logs in.
    "GET /": EVERYBODY,
    "POST /upload": Access(_JOBS, contract=True),
    "GET /download/<number>": Access(_JOBS, contract=True),
    "GET /download_partial/<number>": Access(_JOBS, contract=True),
    "POST /terminate/<number>": Access(_JOBS, contract=True),
    "GET /swagger": Access(_ALL, contract=True),
    "GET /swagger/": Access(_ALL, contract=True),
    "GET /swagger/<name>": Access(_ALL, contract=True),
    "GET /api-docs/openapi.json": Access(_ALL, contract=True),
    "GET /v1/jobs": Access(_LISTS),
    "GET /v1/jobs/<number>": Access(_LISTS),
    "GET /v1/jobs/<number>/results": Access(_JOBS),
    "GET /v1/jobs/<number>/history": Access(_JOBS),
    "GET /v1/jobs/<number>/files": Access(_JOBS),
    "GET /v1/jobs/<number>/files/<file:path>": Access(_JOBS),
    "GET /v1/jobs/<number>/input-changes": Access(_JOBS),
    "GET /v1/jobs/<number>/logs": Access(_JOBS),
    "GET /v1/jobs/<number>/events": Access(_JOBS),
    "POST /v1/jobs/<number>/links": Access(_JOBS),
    "POST /v1/jobs/<number>/rerun": Access(_JOBS),
    "DELETE /v1/jobs/<number>": Access(_JOBS),
    "POST /v1/batches": Access(_JOBS),
    "GET /v1/batches/<batch_id>": Access(_JOBS),
    "GET /v1/events": Access(_JOBS),
    "GET /v1/services": Access(_LISTS),
    "GET /v1/services/<name>": Access(_LISTS),
    "POST /v1/services/<name>/pause": Access(_ORDERS),
    "POST /v1/services/<name>/resume": Access(_ORDERS),
    "POST /v1/reload": Access(_ORDERS),
    "GET /v1/log-level": Access(_ORDERS),
    "POST /v1/log-level": Access(_ORDERS),
    "GET /v1/usage": Access(_LISTS),
    "GET /v1/queue": Access(_NUMBERS),
    "GET /v1/activity": Access(_NUMBERS),
    "GET /v1/troubles": Access(_NUMBERS),
    "GET /v1/scaling": Access(_NUMBERS),
    "GET /metrics": Access(_NUMBERS),
    "GET /v1/nodes": Access(_NUMBERS),
    "GET /v1/nodes/<node_id:node_id>": Access(_NUMBERS | _NODES),
    "POST /v1/nodes": Access(_NODES),
    "GET /v1/link": Access(_NODES),
    "DELETE /v1/nodes/<node_id:node_id>": Access(_NODES),
    "DELETE /v1/nodes/<path:node_id>/secret": Access(_ORDERS),
    "POST /v1/nodes/<path:node_id>/drain": Access(_ORDERS),
    "POST /v1/nodes/<path:node_id>/undrain": Access(_ORDERS),
    "GET /v1/session": ANYBODY,
    "POST /v1/session": EVERYBODY,
    "DELETE /v1/session": EVERYBODY,
    "GET /v1/audit": Access(_ORDERS),
    "GET /v1/tokens": Access(_ORDERS),
    "POST /v1/tokens": Access(_ORDERS),
    "DELETE /v1/tokens/<token_id>": Access(_ORDERS),
    "GET /dashboard": EVERYBODY,
    "GET /dashboard/": EVERYBODY,
    "GET /dashboard/<path:name>": EVERYBODY,
}
"""By method and rule; HEAD is as GET. The dashboard's own files hold no data, and have the form to log in."""


def only_theirs(user: int | None, service: str | None) -> tuple[int | None, str | None, frozenset[str]]:
    """A list's filters, narrowed to the jobs of who asks: a user, a service, and services. What is nobody's
    of theirs finds nothing."""
    asks = asking.get()
    if asks.user is not None and user not in (None, asks.user):
        service = ""  # there is none of that name
    if service is not None and not asks.serves(service):
        service = ""
    return (
        (user if asks.user is None else asks.user),
        service,
        asks.services if service is None else frozenset(),
    )


def access_to(method: str, rule: str | None) -> Access:
    """Whom a route is for; `rule` None: there is no such route."""
    if rule is None or method == "OPTIONS":
        return ANYBODY
    return ROUTES[f"{'GET' if method == 'HEAD' else method} {rule}"]


asking: Final[ContextVar[Principal]] = ContextVar("asking")
"""Who asks, in the task that answers a request: set where it is admitted. There is no default, so that what
nobody was admitted to fails."""

still_holds: Final[ContextVar[Callable[[], bool] | None]] = ContextVar("still_holds", default=None)
"""Whether who asks would be admitted still; None for who shows neither a token nor a session."""

in_log: Final[ContextVar[tuple[str, str] | None]] = ContextVar("in_log", default=None)
"""What a line of the log says of the request of this task: its path, and the name of who asks, "" for one
that was not admitted."""

asked_from: Final[ContextVar[str]] = ContextVar("asked_from", default="")
"""The address that they ask from, set along with it; a trusted proxy's word counts."""
