"""A server that has no local port left towards its node."""

from __future__ import annotations

import ctypes
import fcntl
import os
import socket
import struct
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
import trio
from support.data.directories import until
from support.peers.portals import portal
from support.processes.processes import Place, promised

_CLONE_NEWNET = 0x40000000
_SIOCSIFFLAGS, _IFF_UP = 0x8914, 1
_RANGE = Path("/proc/sys/net/ipv4/ip_local_port_range")
_IDLE = 4.0
"""Seconds for which the server keeps a connection that it does not use."""
_libc = ctypes.CDLL(None, use_errno=True)


@pytest.fixture
def own_network() -> Iterator[None]:
    """This thread, and what it starts, in a network of its own."""
    outside = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        if _libc.unshare(_CLONE_NEWNET) != 0:
            pytest.skip("root is needed for a network of its own")
        with socket.socket() as any_socket:
            fcntl.ioctl(any_socket, _SIOCSIFFLAGS, struct.pack("16sh14x", b"lo", _IFF_UP))
        try:
            yield
        finally:
            assert _libc.setns(outside, _CLONE_NEWNET) == 0
    finally:
        os.close(outside)


@contextmanager
def all_ports_taken(port: int) -> Iterator[None]:
    """There are eight, and each is a connection to this one."""
    _RANGE.write_text("50000 50007")
    with ExitStack() as stack:
        with pytest.raises(OSError, match="Cannot assign requested address"):
            while True:
                taken = stack.enter_context(socket.socket())
                # Closed by a reset, none of them lingers.
                taken.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                taken.connect(("127.0.0.1", port))
        yield


@pytest.mark.usefixtures("own_network")
async def test_without_a_port_towards_the_node_jobs_wait_and_use_no_attempt_up(here: Place) -> None:
    node = here.node()
    server = here.server(nodes=[node.url])
    async with portal(server.url) as user:
        assert (await user.run("true"))["status"] == "Completed"
        said = server.errors()
        # What is open is used; only then a port is wanted.
        await trio.sleep(_IDLE)
        with all_ports_taken(int(node.port)):
            # Larger than what goes over the link, which needs no port.
            large = {"large": bytes(200_000)}
            job = await user.upload("true", files=large)
            await user.until(job, "Processing")
            unwanted = await user.upload("true", files=large)
            await user.until(unwanted, "Processing")
            assert (await user.http.post(f"/terminate/{unwanted}")).status_code == 200
            assert (await user.ended(unwanted))["status"] == "Killed"
            await until(lambda: "no local port" in server.errors(), here.directory)
        relieved = time.monotonic()
        end = await user.ended(job)
        assert time.monotonic() - relieved < promised()
        assert (end["status"], end["attempt"]) == ("Completed", 1)
        said = server.errors()[len(said) :]
        assert "Traceback" not in said and len(said.splitlines()) < 4, said
