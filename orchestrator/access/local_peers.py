"""Programs of this machine that need no token: those of the server's own uid, over loopback.

1. The connection goes from a loopback address to one, and the request is for a loopback host: a page whose
   name was made to resolve to this machine asks for its own.
2. No proxy says that it asks for somebody else.
3. The kernel knows the socket at the other end (sock_diag(7)), and it belongs to our uid.
"""

from __future__ import annotations

import os
from typing import Final

from actors.process.sock_diag import find_uid
from actors.wire.http.plain_routes import Head
from actors.wire.http.web_pages import host_of, is_loopback

_PROXIED: Final = (
    "Via",
    "Forwarded",
    "X-Forwarded-For",
    "X-Forwarded-Host",
    "X-Forwarded-Proto",
    "X-Forwarded-Port",
    "X-Forwarded-Server",
    "X-Forwarded-Prefix",
    "X-Forwarded-User",
    "X-Forwarded-Scheme",
    "X-Forwarded-Ssl",
    "X-Forwarded",
    "Forwarded-For",
    "X-Real-IP",
    "X-Client-IP",
    "X-Original-Forwarded-For",
    "X-Original-Host",
    "X-Original-URL",
    "X-Cluster-Client-IP",
    "X-Envoy-External-Address",
    "CF-Connecting-IP",
    "True-Client-IP",
)
"""Headers by which a proxy of this machine gives away that it asks for somebody else."""


def is_local(head: Head, uid: int = os.getuid()) -> bool:  # it does not change
    """Whether a program of this machine asks that runs as `uid`."""
    if head.peer is None or head.host is None or any(head.header(name) is not None for name in _PROXIED):
        return False
    named = head.header("Host")
    ends = head.peer[0], head.host[0], "" if named is None else host_of(named)
    if not all(map(is_loopback, ends)):
        return False
    # The kernel names the one who opened it, who stays the same over all requests of a connection.
    owner = head.found_out.get("uid")
    if owner is None:
        owner = head.found_out["uid"] = find_uid(head.peer, head.host)
    return bool(owner == uid)
