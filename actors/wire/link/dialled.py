"""Connections the other way round: a node that cannot be reached opens them, and is asked over them by HTTP
as if it had been reached.

A request `GET /v1/link` with `Upgrade: orchestrator-reversed` is answered by 101, and from then on it is the
orchestrator that sends requests, and the node that answers them: its link, and what goes beside that. The
node has an URL of its own kind, by which it is known as any other.
"""

from __future__ import annotations

import socket
from typing import Final

import trio

from actors.domain.ids import is_key

PATH: Final = "/v1/link"
REVERSED: Final = "orchestrator-reversed"
NODE_HEADER: Final = "X-Node-Id"
"""Which node it is that opens a connection."""
_SUFFIX: Final = ".dialled"
_IDLE, _EVERY, _TRIES = 3, 2, 2
"""Seconds after which the other machine is asked whether it is there, and again; and how often."""
_UNHEARD: Final = 9000
"""Milliseconds for which the other machine may leave what it was sent unacknowledged."""


def dialled_url(node_id: str) -> str:
    return f"http://{node_id}{_SUFFIX}"


def dialled_node(host: str) -> str | None:
    """The node whose URL has this host; None for hosts that are dialled from here."""
    node_id = host.removesuffix(_SUFFIX)
    return node_id if node_id != host and is_key(node_id) else None


def watch_peer(sock: trio.socket.SocketType) -> None:
    """Have the kernel break a connection whose other machine is not there any more, within 10 s."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, _IDLE)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, _EVERY)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, _TRIES)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, _UNHEARD)
