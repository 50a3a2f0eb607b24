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

_PROXIED: Final = frozenset(
    {
        "via",
        "forwarded",
        "x-forwarded-for",
        "x-forwarded-host",
        "x-forwarded-proto",
        "x-forwarded-port",
        "x-forwarded-server",
        "x-forwarded-prefix",
        "x-forwarded-user",
        "x-forwarded-scheme",
        "x-forwarded-ssl",
        "x-forwarded",
        "forwarded-for",
        "x-real-ip",
        "x-client-ip",
        "x-original-forwarded-for",
        "x-original-host",
        "x-original-url",
        "x-cluster-client-ip",
        "x-envoy-external-address",
        "cf-connecting-ip",
        "true-client-ip",
    }
)
"""Headers by which a proxy of this machine gives away that it asks for somebody else, in lower case."""


def is_local(head: Head, uid: int = os.getuid()) -> bool:  # it does not change
    """Whether a program of this machine asks that runs as `uid`."""
    if head.peer is None or head.host is None or not _PROXIED.isdisjoint(head.names):
        return False
    named = head.header("host")
    host = "" if named is None else host_of(named)
    if not (is_loopback(head.peer[0]) and is_loopback(head.host[0]) and is_loopback(host)):
        return False
    # The kernel names the one who opened it, who stays the same over all requests of a connection.
    owner = head.found_out.get("uid")
    if owner is None:
        owner = head.found_out["uid"] = find_uid(head.peer, head.host)
    return bool(owner == uid)
