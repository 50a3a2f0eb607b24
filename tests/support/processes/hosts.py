"""Hosts of a network of their own, as containers of a compose file are: network namespaces at a bridge, gone
with the processes that hold them. Nothing of the machine's own network is touched. Needs root and `ip`."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

PREFIX = "10.99.0."


class Host:
    """One of them, with its address."""

    def __init__(self, pid: int, address: str) -> None:
        self.address = address
        self.within: tuple[str, ...] = ("nsenter", "-t", str(pid), "--net")

    def run(self, *command: str, user: int | None = None) -> str:
        """What a command prints there, as another user too."""
        done = subprocess.run(
            [*self.within, *command] if user is None else [*self.within, *_as(user), *command],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def ask(self, url: str, *options: str, user: int | None = None) -> tuple[int, Any]:
        """The status and the JSON of an answer to curl there."""
        said = self.run("curl", "-sS", "-w", "\n%{http_code}", *options, url, user=user)
        body, _, status = said.rpartition("\n")
        try:
            return int(status), json.loads(body)
        except ValueError:
            return int(status), body


def _as(user: int) -> Sequence[str]:
    return ("setpriv", f"--reuid={user}", f"--regid={user}", "--clear-groups")


@contextmanager
def hosts(count: int) -> Iterator[list[Host]]:
    with ExitStack() as stack:
        bridge = stack.enter_context(_namespace())
        _within(bridge, "ip", "link", "add", "br0", "type", "bridge")
        _within(bridge, "ip", "link", "set", "br0", "up")
        found = []
        for number in range(1, count + 1):
            pid = stack.enter_context(_namespace())
            outer, address = f"veth{number}", f"{PREFIX}{number + 1}"
            link = ("ip", "link", "add", outer, "type", "veth", "peer", "name", "eth0")
            _within(bridge, *link, "netns", str(pid))
            _within(bridge, "ip", "link", "set", outer, "master", "br0", "up")
            _within(pid, "ip", "addr", "add", f"{address}/24", "dev", "eth0")
            _within(pid, "ip", "link", "set", "eth0", "up")
            found.append(Host(pid, address))
        yield found


@contextmanager
def _namespace() -> Iterator[int]:
    """The id of a process that holds a namespace of the network."""
    with subprocess.Popen(
        ["unshare", "--net", "bash", "-c", "ip link set lo up && echo && read"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None and process.stdout.read(1) == b"\n"
        try:
            yield process.pid
        finally:
            process.communicate(b"\n")


def _within(pid: int, *command: str) -> None:
    subprocess.run(["nsenter", "-t", str(pid), "--net", *command], check=True, stdin=subprocess.DEVNULL)
