"""Reading and sending on a socket without TLS. Trio's streams do it with several times the calls, and whoever
moves a large file does little else."""

from __future__ import annotations

import os

import trio


async def receive_some(sock: trio.socket.SocketType, most: int) -> bytes:
    """What comes, `most` bytes at most; none at its end. Others have a turn before. Raises OSError,
    trio.ClosedResourceError."""
    while True:
        if sock.fileno() < 0:
            raise trio.ClosedResourceError
        await trio.lowlevel.wait_readable(sock)
        try:
            return os.read(sock.fileno(), most)
        except BlockingIOError:
            continue


def send_now(sock: trio.socket.SocketType, data: bytes | memoryview) -> memoryview:
    """What is left when the kernel has taken what it has room for. Raises OSError."""
    rest = memoryview(data)
    try:
        return rest[os.write(sock.fileno(), rest) :]
    except BlockingIOError:
        return rest
