"""A network of namespaces: each node on a host of its own, at a bridge, whose link goes down and up.

All of it lies in a network and a mount namespace that this program has entered by starting itself again
(`enter`), so that nothing of the machine's own network is touched, and all of it is gone when the last
process has ended. Needs root and `ip`. Disks of its own (see disks.py) need no more than user namespaces.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from typing import Final

import trio

from testbed.chaos.network import Place

INSIDE: Final = "CHAOS_INSIDE_NAMESPACE"
PORT: Final = 9000
LINK_DOWN: Final = "link down"
FLAP: Final = "link flapping"


def available() -> str:
    """Why it cannot be used here; empty if it can."""
    missing = [tool for tool in ("ip", "unshare", "nsenter", "mount") if shutil.which(tool) is None]
    if missing:
        return f"{', '.join(missing)} not found"
    return "" if os.geteuid() == 0 else "root is needed"


def enter(*, network: bool) -> bool:
    """Go on in namespaces of our own, one of mounts and, if need be, one of the network: starts this program
    again there, unless it is there already. False where that is not allowed."""
    if not os.environ.get(INSIDE):
        _start_inside(network=network)
    return bool(os.environ.get(INSIDE))


def _start_inside(*, network: bool) -> None:
    command = ["unshare", "--mount", "--propagation", "private"]
    command += [] if os.geteuid() == 0 else ["--map-root-user"]
    command += ["--net"] if network else []
    if (
        shutil.which(command[0]) is not None
        and not subprocess.run([*command, "true"], check=False).returncode
    ):
        os.environ[INSIDE] = "1"
        os.execvp(command[0], [*command, sys.executable, *sys.argv])


class Bridge:
    """See the module."""

    modes: Sequence[str] = (LINK_DOWN, FLAP)

    def __init__(self, nodes: int) -> None:
        # The names of namespaces are files below /run: hidden from everybody else.
        _run("mount", "-t", "tmpfs", "chaos", "/run")
        os.mkdir("/run/netns")
        _run("ip", "link", "set", "lo", "up")
        _run("ip", "link", "add", "br0", "type", "bridge")
        _run("ip", "addr", "add", "10.123.0.1/24", "dev", "br0")
        _run("ip", "link", "set", "br0", "up")
        for node in range(1, nodes + 1):
            name, outer = f"node-{node}", f"veth{node}"
            _run("ip", "netns", "add", name)
            _run("ip", "link", "add", outer, "type", "veth", "peer", "name", "eth0", "netns", name)
            _run("ip", "link", "set", outer, "master", "br0", "up")
            _run("ip", "-n", name, "addr", "add", f"{self.address(node)}/24", "dev", "eth0")
            _run("ip", "-n", name, "link", "set", "eth0", "up")
            _run("ip", "-n", name, "link", "set", "lo", "up")

    async def run(self) -> None:
        await trio.sleep_forever()

    def url(self, node: int) -> str:
        return f"http://{self.address(node)}:{PORT}"

    def place(self, node: int) -> Place:
        arguments = ("--host", self.address(node), "--port", str(PORT))
        return Place(arguments, ("nsenter", f"--net=/run/netns/node-{node}"))

    def node_up(self, node: int, url: str) -> None:
        """Its address is its own, whoever listens there."""

    def node_down(self, node: int) -> None: ...

    async def fail(self, node: int, mode: str, seconds: float) -> None:
        times = 4 if mode == FLAP else 1
        for number in range(times):
            if number:
                await trio.sleep(seconds / times / 2)
            self.set_link(node, up=False)
            try:
                await trio.sleep(seconds / times)
            finally:
                self.set_link(node, up=True)

    def set_link(self, node: int, *, up: bool) -> None:
        _run("ip", "link", "set", f"veth{node}", "up" if up else "down")

    def address(self, node: int) -> str:
        return f"10.123.0.{10 + node}"


def _run(*command: str) -> None:
    subprocess.run(command, check=True, stdin=subprocess.DEVNULL)
