"""A lively scene to look at: two services, one of them scaled, five nodes, and jobs in every state."""

from __future__ import annotations

import base64
import itertools
import math
import struct
import tempfile
import time
import zlib
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import psutil

from orchestrator.client import Client
from testbed.cluster import belonging, start, stop, wait_until_listening
from testbed.seeding import seed

NODES: Final = 4
SLOTS: Final = 3
LONG: Final = 600
PAST: Final = 800
"""Jobs that ended in the hour before."""

_CONFIG: Final = """
[services.docking]
nodes = {nodes}
runs_per_user = 4
max_runs = 10

[services.folding]
runs_per_user = 3
max_runs = 6

[scaling.folding]
provider = "local"
min_nodes = 1
max_nodes = 2
slots_per_node = 2
target_wait = 1
"""

_QUICK: Final = (
    "for n in 1 2 3; do echo pose $n: $((RANDOM % 9000)) kJ/mol; done; echo done > poses.tsv; sleep 0.{n}"
)
_BAD: Final = "echo reading receptor.pdb; echo 'line 118: no such atom' >&2; exit 3"
_DRAWN: Final = """
printf 'pose\\tenergy\\n1\\t-9.1\\n2\\t-8.7\\n3\\t-8.2\\n' > poses.tsv
echo 3 poses of 1,200 kept
base64 -d > energies.png <<end
{picture}
end
"""
_LONG: Final = r"""
mkdir -p models
for n in $(seq 1 {long}); do
    printf '\033[32mstep %4d\033[0m  energy %d.%02d kJ/mol\n' $n $((-2000 - n * 7)) $((RANDOM % 100))
    far=$(printf '0.%02d' $((20 + n % 80)))
    [ -z "$ORCHESTRATOR_PROGRESS" ] || echo "$far refining model $n" > "$ORCHESTRATOR_PROGRESS"
    [ $((n % 5)) != 0 ] || head -c 20000 /dev/urandom | base64 > models/model-$n.pdb
    sleep 0.3
done
"""


@dataclass(frozen=True, slots=True)
class Scene:
    """Where it is, and the jobs to look at, one in each state; a node that is drained."""

    url: str
    running: int
    failed: int
    done: int
    queued: int
    cancelled: int
    node: str


@contextmanager
def scene() -> Iterator[Scene]:
    """A scene from when there is something to see until all of it has ended."""
    with tempfile.TemporaryDirectory(prefix="scene-") as name, ExitStack() as stack:
        directory = Path(name)
        stack.callback(_end_the_rest, directory)
        urls = []
        for number in range(1, NODES + 1):
            arguments = ["node", "--port", "0", "--data", str(directory / f"node-{number}"), "--grace", "0.2"]
            arguments += ["--slots", str(SLOTS), "--on-stop", "kill"]
            node = start(f"node-{number}", arguments, {}, directory)
            stack.callback(stop, node)
            wait_until_listening(node)
            urls.append(node.url)
        config = directory / "server.toml"
        config.write_text(_CONFIG.format(nodes=urls))
        data = directory / "server"
        data.mkdir()
        seed(data / "db.sqlite", "docking", PAST, NODES)
        environ = {"PORT": "0", "DB_PATH": str(data / "db.sqlite"), "DATA_PATH": str(data / "data")}
        server = start("server", ["server", "--config", str(config)], environ, directory)
        stack.callback(stop, server)
        wait_until_listening(server)
        with Client(server.url) as client:
            yield _played(client, server.url)


def _played(client: Client, url: str) -> Scene:
    users = itertools.cycle((7, 12, 12, 31, 7, 104))
    names = itertools.cycle(("1acb with eglin", "2sni refinement", "barnase and barstar", "screen 14"))

    def hand_in(script: str, service: str = "docking", **more: str) -> int:
        files: Mapping[str, bytes] = {"run.sh": script.encode(), "receptor.pdb": b"ATOM\n" * 4000}
        tags = [f"project:{more.pop('project', 'thrombin')}", *more.values()]
        return client.submit(files, service=service, user=next(users), name=next(names), tags=tags).id

    quick = [hand_in(_QUICK.format(n=n % 9 + 1)) for n in range(24)]
    failed = hand_in(_BAD, project="cathepsin")
    for number in (*quick, failed):
        client.wait(number)
    drawn = _DRAWN.format(picture=base64.encodebytes(_drawn_picture()).decode())
    done = hand_in(drawn, project="cathepsin")
    client.wait(done)
    client.rerun(failed)
    long = _LONG.format(long=LONG)
    running = [hand_in(long, kind="long") for _ in range(14)]
    waiting = [hand_in(long, "folding", kind="night") for _ in range(9)]
    client.cancel(running[0])
    node = next(node.id for node in client.nodes() if "docking" in node.services)
    client.drain(node, "its disk is changed at noon")
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and not any(
        job.status == "Running" for job in client.jobs(service="folding")
    ):
        time.sleep(0.2)
    return Scene(url, running[3], failed, done, waiting[-1], running[0], node)


def _drawn_picture(width: int = 420, height: int = 240) -> bytes:
    """A PNG as a script may have drawn it: a curve that falls and levels out."""

    def dark(x: int, y: int) -> bool:
        at = height * (0.9 - 0.75 * math.exp(-x / 90)) + 6 * math.sin(x / 7)
        return abs(y - at) < 3 or x == 20 or y == height - 12

    rows = b"".join(b"\0" + bytes(40 if dark(x, y) else 255 for x in range(width)) for y in range(height))
    head = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    chunks = ((b"IHDR", head), (b"IDAT", zlib.compress(rows, 9)), (b"IEND", b""))
    parts = [
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in chunks
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def _end_the_rest(directory: Path) -> None:
    """Nodes that scaling made outlive the server."""
    for process in belonging(directory):
        try:
            process.terminate()
        except psutil.Error:
            continue  # it has ended meanwhile
    deadline = time.monotonic() + 5
    while belonging(directory) and time.monotonic() < deadline:
        time.sleep(0.1)
    for process in belonging(directory):
        try:
            process.kill()
        except psutil.Error:
            continue
